//! Workflows of one tenant, and their executions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// A workflow: of several packages with one of this name, the package that was uploaded last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Workflow {
    pub name: String,
    pub about: String,
    /// Like `acme-etl-1.2.0`.
    pub package: String,
    /// The names of the values that an execution must be given.
    pub inputs: Vec<String>,
    /// The names of its tasks, in the order in which they run.
    pub tasks: Vec<String>,
    /// A paused workflow begins no execution, and no further task of one.
    pub paused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkflowList {
    pub items: Vec<Workflow>,
    pub total: usize,
    /// Always null: the list has one page.
    pub next: Option<Uuid>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RunWorkflow {
    /// The values of the workflow's inputs: each of them, and no others.
    #[serde(default)]
    pub context: BTreeMap<String, Value>,
}

/// The response to a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScheduledExecution {
    pub execution_id: Uuid,
    pub workflow_name: String,
    pub tenant_id: Uuid,
    pub status: ExecutionState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ExecutionState {
    Scheduled,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl ExecutionState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub const fn is_open(self) -> bool {
        matches!(self, Self::Scheduled | Self::Running)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    Waiting,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl TaskState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// An execution in a list. Times are RFC 3339, UTC, with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecutionSummary {
    pub id: Uuid,
    pub workflow: String,
    pub package: String,
    pub state: ExecutionState,
    /// Why it failed.
    pub reason: Option<String>,
    pub created_by: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub started_at: Option<String>,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub finished_at: Option<String>,
}

/// The executions of a tenant, the latest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecutionList {
    pub items: Vec<ExecutionSummary>,
    /// All executions, those of other pages included.
    pub total: i64,
    /// The cursor of the next page.
    pub next: Option<Uuid>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Execution {
    #[serde(flatten)]
    pub summary: ExecutionSummary,
    pub context: BTreeMap<String, Value>,
    pub tasks: Vec<ExecutionTask>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecutionTask {
    pub name: String,
    pub state: TaskState,
    /// The attempts that began.
    pub attempts: i32,
    /// Why the last attempt failed.
    pub reason: Option<String>,
    /// The result of the task.
    pub output: Option<Value>,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub started_at: Option<String>,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub finished_at: Option<String>,
}
