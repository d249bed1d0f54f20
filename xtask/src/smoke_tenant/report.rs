//! What was checked, one line a check. A check never stops the run: what else is wrong is worth knowing.

use std::collections::BTreeSet;
use std::fmt::Display;

use anyhow::Result;

use crate::world;

/// The outcome of a run so far.
pub(crate) struct Report {
    is_loud: bool,
    passed: usize,
    failed: BTreeSet<String>,
}

impl Report {
    pub(crate) const fn loud() -> Self {
        Self { is_loud: true, passed: 0, failed: BTreeSet::new() }
    }

    /// For runs that are meant to fail.
    pub(crate) const fn silent() -> Self {
        Self { is_loud: false, passed: 0, failed: BTreeSet::new() }
    }

    /// `row` is the acceptance row that the check belongs to.
    pub(crate) fn same(
        &mut self,
        row: &str,
        what: &str,
        expected: impl Display,
        seen: impl Display,
    ) {
        let (expected, seen) = (expected.to_string(), seen.to_string());
        let holds = expected == seen;
        self.holds(row, what, expected, seen, holds);
    }

    pub(crate) fn has(&mut self, row: &str, what: &str, part: &str, seen: &str) {
        self.holds(row, what, format_args!("… {part} …"), shorten(seen), seen.contains(part));
    }

    pub(crate) fn holds(
        &mut self,
        row: &str,
        what: &str,
        expected: impl Display,
        seen: impl Display,
        holds: bool,
    ) {
        if holds {
            self.passed += 1;
            self.say(format_args!("ok      {row:<4} {what}"));
        } else {
            self.failed.insert(row.to_owned());
            self.say(format_args!("FAILED  {row:<4} {what}: expected {expected}, seen {seen}"));
        }
    }

    /// A check that could not even be made is a check that failed.
    pub(crate) fn made(&mut self, row: &str, what: &str, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.holds(row, what, "the check can be made", format_args!("{error:#}"), false);
        }
    }

    pub(crate) fn passed(&self) -> usize {
        self.passed
    }

    /// The rows with a failed check.
    pub(crate) fn failed(&self) -> &BTreeSet<String> {
        &self.failed
    }

    fn say(&self, line: impl Display) {
        if self.is_loud {
            world::say(line);
        }
    }
}

fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line,
    }
}
