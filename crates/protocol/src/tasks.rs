//! One attempt of a task inside a tenant: what app-api sends to the program that runs it, and what that reports.
//!
//! Standard input: [frames](frame) of bytes. The first is a [`TaskJob`] as JSON, the others are the tar of the package; an
//! empty frame ends it. The input stays open as long as somebody waits for the result. Standard output: a
//! [`TaskMessage`] as JSON on each line; the last is [`TaskMessage::Ended`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest [`TaskJob`].
pub const MAX_JOB_BYTES: usize = 1 << 20;
/// The longest frame of the package.
pub const MAX_FRAME_BYTES: usize = 256 << 10;
/// The longest line of output; a longer one is cut into several.
pub const MAX_LINE_BYTES: usize = 4 << 10;
/// The output of one attempt that is kept; what follows is dropped.
pub const MAX_OUTPUT_BYTES: usize = 1 << 20;
/// A shorter line counts as this many bytes: its row takes as many.
const MIN_COUNTED_BYTES: usize = 100;
/// The largest result that a task may leave.
pub const MAX_RESULT_BYTES: usize = 64 << 10;

/// Returns the bytes that a line of this length counts against [`MAX_OUTPUT_BYTES`].
pub const fn counted_bytes(length: usize) -> usize {
    if length < MIN_COUNTED_BYTES { MIN_COUNTED_BYTES } else { length + 1 }
}

/// Variables of a task.
pub mod variables {
    pub const EXECUTION: &str = "CIAL_EXECUTION_ID";
    pub const WORKFLOW: &str = "CIAL_WORKFLOW";
    pub const TASK: &str = "CIAL_TASK";
    /// Counts from 1.
    pub const ATTEMPT: &str = "CIAL_ATTEMPT";
    /// The path of a file with the inputs as JSON.
    pub const INPUT: &str = "CIAL_INPUT";
    /// The path of the file into which the task may write its result as JSON.
    pub const OUTPUT: &str = "CIAL_OUTPUT";
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskJob {
    pub execution: String,
    pub workflow: String,
    pub task: String,
    pub attempt: i32,
    /// The folder of the package in its tar.
    pub folder: String,
    /// A program below the folder, then arguments.
    pub command: Vec<String>,
    pub timeout_seconds: u32,
    /// `context`: the inputs of the task; `outputs`: the results of the tasks before it.
    pub input: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TaskOutput {
    Stdout,
    Stderr,
    /// From the platform, about the attempt.
    Platform,
}

impl TaskOutput {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Platform => "platform",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskMessage {
    Line {
        output: TaskOutput,
        text: String,
    },
    /// The attempt has ended: with success exactly if `failure` is absent.
    Ended {
        #[serde(default)]
        failure: Option<String>,
        /// The result that the task wrote.
        #[serde(default)]
        result: Option<Value>,
    },
}

/// Puts the length in front of `bytes`: four bytes, the most significant first.
pub fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), bytes].concat()
}
