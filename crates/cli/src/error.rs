//! A failed command: what failed, why, what to do next, and the exit code.

use std::fmt::{self, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

/// The exit codes of `cial help exit-codes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Success = 0,
    Failed = 1,
    /// The command line or a required answer is missing or wrong.
    Usage = 2,
    /// The person said no, or a wait took longer than `--timeout`.
    Cancelled = 3,
    /// There is no key, or the server does not accept the key.
    NotAuthenticated = 4,
    /// Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The error of a command. Each part is one plain sentence or command without a full stop.
#[derive(Debug)]
pub struct CliError {
    pub exit: Exit,
    what: String,
    why: Vec<String>,
    next: Option<String>,
    response: Option<Box<ResponseFacts>>,
    is_connection_fault: bool,
}

/// The facts of an error response, for reports and for scripts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseFacts {
    pub status: u16,
    pub code: String,
    pub request_id: String,
    pub retry_after: Option<u64>,
    pub fields: Vec<protocol::problem::FieldError>,
    /// The page of the server about the code.
    pub docs: Option<String>,
}

impl CliError {
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            why: Vec::new(),
            next: None,
            response: None,
            is_connection_fault: false,
        }
    }

    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(Exit::Failed, what)
    }

    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// An exit without a message.
    pub fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    pub fn is_silent(&self) -> bool {
        self.what.is_empty()
    }

    /// Adds a reason below the reasons so far.
    #[must_use]
    pub fn because(mut self, why: impl fmt::Display) -> Self {
        self.why.push(why.to_string());
        self
    }

    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    #[must_use]
    pub fn with_response(mut self, facts: ResponseFacts) -> Self {
        self.response = Some(Box::new(facts));
        self
    }

    /// Marks an error of the connection.
    #[must_use]
    pub fn of_connection(mut self) -> Self {
        self.is_connection_fault = true;
        self
    }

    /// Whether a later attempt may succeed without anybody's help.
    pub fn is_transient(&self) -> bool {
        self.is_connection_fault || matches!(self.status(), Some(429 | 502 | 503 | 504))
    }

    /// The facts of the response that the error stems from.
    pub fn response(&self) -> Option<&ResponseFacts> {
        self.response.as_deref()
    }

    /// The code of the problem; empty without one.
    pub fn code(&self) -> &str {
        self.response().map_or("", |facts| &facts.code)
    }

    pub fn status(&self) -> Option<u16> {
        self.response().map(|facts| facts.status)
    }

    /// Returns one line with the failure, its reason and the next step.
    pub fn into_parts(self) -> (String, String) {
        let detail = [vec![self.what], self.why].concat().join(": ");
        (detail, self.next.unwrap_or_default())
    }

    /// The error as one object, for `-o json`.
    pub fn to_json(&self) -> Value {
        let facts = self.response();
        let fields = facts.map(|facts| &facts.fields).filter(|fields| !fields.is_empty());
        json!({ "error": {
            "what": self.what,
            "why": self.why,
            "next": self.next,
            "status": facts.map(|facts| facts.status),
            "code": facts.map(|facts| &facts.code).filter(|code| !code.is_empty()),
            "request_id": facts.map(|facts| &facts.request_id).filter(|id| !id.is_empty()),
            "retry_after": facts.and_then(|facts| facts.retry_after),
            "errors": fields,
            "docs": facts.and_then(|facts| facts.docs.as_ref()),
            "exit_code": self.exit as u8,
        }})
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        for why in &self.why {
            write!(f, "\n  why:  {why}")?;
        }
        if let Some(facts) = self.response() {
            for field in &facts.fields {
                write!(f, "\n        {}: {}", field.field, field.message)?;
            }
        }
        if let Some(next) = &self.next {
            write!(f, "\n  next: {next}")?;
        }
        if let Some(facts) = self.response() {
            if let Some(docs) = &facts.docs {
                write!(f, "\n  docs: {docs}")?;
            }
            write!(f, "\n  response: {}", facts.summary())?;
        }
        Ok(())
    }
}

impl ResponseFacts {
    /// For example `403 Forbidden, code forbidden, request id 0192…`.
    fn summary(&self) -> String {
        let phrase = protocol::problem::reason_phrase(self.status);
        let mut text = format!("{} {phrase}", self.status);
        if !self.code.is_empty() {
            let _ = write!(text, ", code {}", self.code);
        }
        if !self.request_id.is_empty() {
            let _ = write!(text, ", request id {}", self.request_id);
        }
        text
    }
}
