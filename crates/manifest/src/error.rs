//! Errors of a manifest, with their places.

use std::fmt;
use std::ops::Range;

/// One error of a manifest. Lines and columns count from 1; a column counts characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    pub line: usize,
    pub column: usize,
    /// The key, like `health.path`; empty where the text is no TOML.
    pub key: String,
    pub message: String,
}

impl ManifestError {
    pub(crate) fn new(text: &str, span: Option<Range<usize>>, key: &str, message: &str) -> Self {
        let at = text.floor_char_boundary(span.map_or(0, |span| span.start));
        let before = &text[..at];
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: key.to_owned(),
            message: message.to_owned(),
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, key, message } = self;
        if key.is_empty() {
            write!(f, "line {line}, column {column}: {message}")
        } else {
            write!(f, "line {line}, column {column}: {key} {message}")
        }
    }
}
