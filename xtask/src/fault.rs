//! A failure that a person can act on: what is wrong, and what to do about it.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub cause: String,
    pub fix: String,
}

impl Fault {
    pub fn new(cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { cause: cause.into(), fix: fix.into() }
    }

    /// All of them in one, a line each; nothing when there are none.
    pub fn joined(faults: Vec<Self>) -> Option<Self> {
        let join = |part: fn(&Self) -> &str| {
            faults.iter().map(part).collect::<Vec<_>>().join("\n         ")
        };
        (!faults.is_empty())
            .then(|| Self::new(join(|fault| &fault.cause), join(|fault| &fault.fix)))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (fix: {})", self.cause, self.fix)
    }
}

impl std::error::Error for Fault {}
