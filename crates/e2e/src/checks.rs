//! Named checks of one test, one line each. A failed check does not end the test: further failures
//! are worth knowing.

use std::collections::BTreeSet;
use std::fmt::Display;

use anyhow::{Result, bail};

#[derive(Debug, Default)]
pub struct Checks {
    is_silent: bool,
    failed: BTreeSet<String>,
}

impl Checks {
    /// Checks that print `ok` or `FAILED` with their name.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks that print nothing: for images that are broken on purpose.
    pub fn silent() -> Self {
        Self { is_silent: true, ..Self::default() }
    }

    pub fn equal(&mut self, name: &str, expected: impl Display, actual: impl Display) {
        let (expected, actual) = (expected.to_string(), actual.to_string());
        let holds = expected == actual;
        self.holds(name, expected, actual, holds);
    }

    pub fn contains(&mut self, name: &str, part: &str, text: &str) {
        self.holds(name, format_args!("… {part} …"), shortened(text), text.contains(part));
    }

    pub fn holds(&mut self, name: &str, expected: impl Display, actual: impl Display, holds: bool) {
        if holds {
            self.print(format_args!("ok     {name}"));
        } else {
            self.failed.insert(name.to_owned());
            self.print(format_args!("FAILED {name}: expected {expected}, got {actual}"));
        }
    }

    /// Records an outcome under a name, and hands its value back.
    pub fn succeeds<T>(&mut self, name: &str, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.holds(name, "", "", true);
                Some(value)
            }
            Err(error) => {
                self.holds(name, "success", format_args!("{error:#}"), false);
                None
            }
        }
    }

    /// Like [`Self::succeeds`], for a step without which the test cannot go on.
    ///
    /// # Errors
    /// The outcome is an error.
    pub fn require<T>(&mut self, name: &str, outcome: Result<T>) -> Result<T> {
        match outcome {
            Ok(value) => Ok(self.succeeds(name, Ok(value)).expect("a success has a value")),
            Err(error) => {
                self.holds(name, "success", format_args!("{error:#}"), false);
                Err(error.context(name.to_owned()))
            }
        }
    }

    /// The names of the failed checks.
    pub const fn failed(&self) -> &BTreeSet<String> {
        &self.failed
    }

    /// # Errors
    /// A check failed.
    pub fn finish(self) -> Result<()> {
        if self.failed.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = self.failed.iter().map(String::as_str).collect();
        bail!("failed: {}", names.join("; "))
    }

    #[expect(clippy::print_stdout, reason = "people read the lines of `cargo xtask smoke-…`")]
    fn print(&self, line: impl Display) {
        if !self.is_silent {
            println!("{line}");
        }
    }
}

/// At most 300 characters, on one line.
fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_fails_the_test_under_its_name() {
        let mut checks = Checks::silent();
        checks.equal("the port", 8080, 8080);
        checks.contains("the page", "Tenant", "<h1>Tenant acme</h1>");
        assert!(checks.failed().is_empty());
        checks.equal("the user", 1000, 0);
        checks.succeeds("a call", Err::<(), _>(anyhow::anyhow!("refused")));
        let names: Vec<_> = checks.failed().iter().map(String::as_str).collect();
        assert_eq!(names, ["a call", "the user"]);
        assert_eq!(checks.finish().unwrap_err().to_string(), "failed: a call; the user");
    }
}
