//! Parses a streamed chat completion of the OpenAI API: text, tokens, and whether it ended. Pure.

use protocol::model::MAX_REPLY_BYTES;
use serde::Deserialize;

use super::sse::{EventSplitter, EventTooLong};

/// Ends the stream.
const DONE: &str = "[DONE]";
/// An endpoint that counts more counts wrong.
const MAX_TOKENS: u64 = 100_000_000;

/// A completion that is under way.
#[derive(Debug, Default)]
pub struct Completion {
    events: EventSplitter,
    text_bytes: usize,
    usage: Option<Usage>,
    is_finished: bool,
    is_done: bool,
}

/// The tokens that the endpoint counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

impl Usage {
    pub const fn total(self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// Why a stream is no completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// An event is no chunk of a completion, or too long.
    Malformed,
    /// The endpoint reports an error of its own.
    Reported,
    TooLong,
}

impl From<EventTooLong> for StreamError {
    fn from(_: EventTooLong) -> Self {
        Self::Malformed
    }
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
}

impl Completion {
    /// Adds bytes of the stream, and to `text` the text that they hold.
    ///
    /// # Errors
    /// [`StreamError`], after the text before it.
    pub fn push(&mut self, bytes: &[u8], text: &mut String) -> Result<(), StreamError> {
        let mut events = Vec::new();
        let split = self.events.push(bytes, &mut events);
        for data in events {
            if data.trim() == DONE {
                self.is_finished = true;
                self.is_done = true;
            } else if !data.is_empty() {
                let chunk = serde_json::from_str(&data).map_err(|_| StreamError::Malformed)?;
                self.add(chunk, text)?;
            }
        }
        Ok(split?)
    }

    fn add(&mut self, chunk: Chunk, text: &mut String) -> Result<(), StreamError> {
        if chunk.error.is_some() {
            return Err(StreamError::Reported);
        }
        if let Some(usage) = chunk.usage {
            self.usage = Some(Usage {
                prompt_tokens: usage.prompt_tokens.min(MAX_TOKENS),
                completion_tokens: usage.completion_tokens.min(MAX_TOKENS),
            });
        }
        // One reply was requested.
        for choice in chunk.choices.into_iter().take(1) {
            let new = choice.delta.content.unwrap_or_default();
            if self.text_bytes + new.len() > MAX_REPLY_BYTES {
                return Err(StreamError::TooLong);
            }
            self.text_bytes += new.len();
            text.push_str(&new);
            self.is_finished |= choice.finish_reason.is_some();
        }
        Ok(())
    }

    /// Whether the endpoint said that the reply is whole. A stream that ends before broke off.
    pub const fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Whether nothing follows. The tokens come after the text and before this.
    pub const fn is_done(&self) -> bool {
        self.is_done
    }

    /// `None` where the endpoint did not count.
    pub const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    pub const fn text_bytes(&self) -> usize {
        self.text_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(events: &[&str]) -> String {
        events.iter().map(|data| format!("data: {data}\n\n")).collect()
    }

    #[test]
    fn text_tokens_and_the_end_are_read() {
        let mut completion = Completion::default();
        let begun = stream(&[
            r#"{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#,
            r#"{"choices":[{"delta":{"content":"Grü"}}]}"#,
            r#"{"choices":[{"delta":{"content":"ße"}},{"delta":{"content":"another reply"}}]}"#,
        ]);
        let mut text = String::new();
        completion.push(begun.as_bytes(), &mut text).unwrap();
        assert_eq!(text, "Grüße");
        assert!(!completion.is_finished());
        let ended = stream(&[
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#,
            "[DONE]",
        ]);
        completion.push(ended.as_bytes(), &mut text).unwrap();
        assert!(completion.is_finished() && completion.is_done());
        let usage = Usage { prompt_tokens: 7, completion_tokens: 2 };
        assert_eq!((completion.usage(), completion.text_bytes()), (Some(usage), "Grüße".len()));
    }

    #[test]
    fn what_is_no_completion_is_refused() {
        let long =
            format!(r#"{{"choices":[{{"delta":{{"content":"{}"}}}}]}}"#, "x".repeat(200_000));
        let half = r#"{"choices":[{"delta":{"content":"Half of"}}]}"#;
        let endless = "x".repeat(300_000);
        for (events, begun, expected) in [
            (vec!["hello"], 0, StreamError::Malformed),
            (vec![half, r#"{"choices":"none"}"#], 7, StreamError::Malformed),
            (vec![half, r#"{"error":{"message":"sk-1 is wrong"}}"#], 7, StreamError::Reported),
            (vec![half, &endless], 7, StreamError::Malformed),
            (vec![&long; 6], 1_000_000, StreamError::TooLong),
        ] {
            let mut text = String::new();
            let pushed = Completion::default().push(stream(&events).as_bytes(), &mut text);
            assert_eq!((pushed, text.len()), (Err(expected), begun), "what came before is kept");
        }
    }

    #[test]
    fn a_count_beyond_reason_is_bounded() {
        let mut completion = Completion::default();
        let counted = stream(&[r#"{"usage":{"prompt_tokens":18446744073709551615}}"#]);
        completion.push(counted.as_bytes(), &mut String::new()).unwrap();
        assert_eq!(completion.usage().unwrap().prompt_tokens, MAX_TOKENS);
    }
}
