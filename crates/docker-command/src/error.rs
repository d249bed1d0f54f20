//! An error that a person can act on: the cause, and the way to remove it.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionableError {
    pub cause: String,
    pub fix: String,
}

impl ActionableError {
    pub fn new(cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { cause: cause.into(), fix: fix.into() }
    }

    /// Joins all errors into one, a line each; `None` when there are none.
    pub fn joined(errors: Vec<Self>) -> Option<Self> {
        let join = |part: fn(&Self) -> &str| {
            errors.iter().map(part).collect::<Vec<_>>().join("\n         ")
        };
        (!errors.is_empty())
            .then(|| Self::new(join(|error| &error.cause), join(|error| &error.fix)))
    }
}

impl fmt::Display for ActionableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (fix: {})", self.cause, self.fix)
    }
}

impl std::error::Error for ActionableError {}
