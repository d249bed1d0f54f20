//! The steps of a wait, one line each with its time.

use std::io::Write as _;
use std::time::Duration;

use super::color::{self, paint};

#[derive(Debug)]
pub(crate) struct Progress {
    is_hidden: bool,
    is_coloured: bool,
}

impl Progress {
    pub(super) fn new(is_hidden: bool, is_coloured: bool) -> Self {
        Self { is_hidden, is_coloured }
    }

    pub(crate) fn done(&self, step: &str, took: Duration) {
        self.line(&paint(color::GOOD, "✔", self.is_coloured), step, took);
    }

    pub(crate) fn failed(&self, step: &str, took: Duration) {
        self.line(&paint(color::BAD, "✘", self.is_coloured), step, took);
    }

    fn line(&self, mark: &str, step: &str, took: Duration) {
        if !self.is_hidden {
            // Standard error that is closed loses its text, and changes nothing else.
            let _ =
                writeln!(std::io::stderr().lock(), "{mark} {step} ({:.1} s)", took.as_secs_f32());
        }
    }
}
