//! A command in a tenant's platform half: `GET …/tenants/{tenant}/exec`, a WebSocket of the admin API, which the
//! orchestrator serves.
//!
//! The client sends input as binary messages and [`ClientMessage`]s as text. The server sends output as binary messages,
//! whose first byte names the [`Output`], and one [`ServerMessage`] as text, its last message.

use serde::{Deserialize, Serialize};

/// The query string.
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecQuery {
    /// Program and arguments as a JSON array of texts. Without it, the shell of the tenant's image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The width of the caller's terminal. With it and `rows`, the command has a terminal too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<u16>,
    /// The height of the caller's terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u16>,
}

/// A command to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecCommand {
    /// Program and arguments; empty for the shell of the tenant's image.
    pub argv: Vec<String>,
    /// `None` without a terminal.
    pub terminal: Option<TerminalSize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

/// The rule that a command breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecFault {
    pub field: &'static str,
    pub rule: &'static str,
}

/// All arguments of a command together, in bytes.
pub const MAX_COMMAND_BYTES: usize = 8 << 10;

impl ExecCommand {
    /// Checks a query. `argv`: the parameter `command`, decoded.
    ///
    /// # Errors
    /// The first rule that the query breaks.
    pub fn new(query: &ExecQuery, argv: Vec<String>) -> Result<Self, ExecFault> {
        let fault = |field, rule| Err(ExecFault { field, rule });
        if query.command.is_some() && argv.first().is_none_or(String::is_empty) {
            return fault("command", "must begin with a program");
        }
        if argv.iter().any(|argument| argument.contains('\0')) {
            return fault("command", "must not contain NUL");
        }
        if argv.iter().map(String::len).sum::<usize>() > MAX_COMMAND_BYTES {
            return fault("command", "must be at most 8 KiB; send more as input");
        }
        let terminal = match (query.columns, query.rows) {
            (None, None) => None,
            (Some(0), _) | (_, Some(0)) => return fault("columns", "and rows must not be 0"),
            (Some(columns), Some(rows)) => Some(TerminalSize { columns, rows }),
            (Some(_), None) | (None, Some(_)) => {
                return fault("columns", "and rows must be given together");
            }
        };
        Ok(Self { argv, terminal })
    }
}

/// Where a command writes. The discriminant is the first byte of a binary message. With a terminal there is no second
/// output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Standard = 1,
    Error = 2,
}

impl Output {
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Standard),
            2 => Some(Self::Error),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientMessage {
    Resize(TerminalSize),
    /// No more input follows.
    EndOfInput,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerMessage {
    /// The command ended with this exit code.
    Exited(i64),
    /// How the command ended is not known; the text says why.
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_checked() {
        let check = |command: &[&str], size: (Option<u16>, Option<u16>)| {
            let argv: Vec<_> = command.iter().map(ToString::to_string).collect();
            let (columns, rows) = size;
            let query = ExecQuery { command: Some(String::new()), columns, rows };
            ExecCommand::new(&query, argv)
                .map_err(|fault| format!("{} {}", fault.field, fault.rule))
        };
        let ls = check(&["ls", ""], (Some(80), Some(24))).unwrap();
        assert_eq!(ls.argv, ["ls", ""]);
        assert_eq!(ls.terminal, Some(TerminalSize { columns: 80, rows: 24 }));
        assert_eq!(ExecCommand::new(&ExecQuery::default(), Vec::new()), Ok(ExecCommand::default()));
        let long = "x".repeat(MAX_COMMAND_BYTES + 1);
        let faults = [
            check(&[], (None, None)),
            check(&["", "x"], (None, None)),
            check(&["a\0"], (None, None)),
            check(&[&long], (None, None)),
            check(&["ls"], (Some(80), None)),
            check(&["ls"], (Some(80), Some(0))),
        ];
        let faults: Vec<_> = faults.into_iter().map(Result::unwrap_err).collect();
        insta::assert_snapshot!(faults.join("\n"), @r"
        command must begin with a program
        command must begin with a program
        command must not contain NUL
        command must be at most 8 KiB; send more as input
        columns and rows must be given together
        columns and rows must not be 0
        ");
    }

    #[test]
    fn messages_are_short_json() {
        let size = TerminalSize { columns: 80, rows: 24 };
        let texts = [
            serde_json::to_string(&ClientMessage::Resize(size)),
            serde_json::to_string(&ClientMessage::EndOfInput),
            serde_json::to_string(&ServerMessage::Exited(127)),
            serde_json::to_string(&ServerMessage::Failed("Gone.".to_owned())),
        ];
        let texts: Vec<_> = texts.into_iter().map(Result::unwrap).collect();
        insta::assert_snapshot!(texts.join("\n"), @r#"
        {"resize":{"columns":80,"rows":24}}
        "end_of_input"
        {"exited":127}
        {"failed":"Gone."}
        "#);
    }
}
