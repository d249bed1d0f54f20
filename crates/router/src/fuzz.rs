//! Entry points of the package `fuzz` into private parsers.

use crate::http::host::{self, Host};

/// Returns the label that a `Host` value names below `domain`.
pub fn label(value: &[u8], domain: &str) -> Option<String> {
    match host::parse(value, domain) {
        Host::Label(label) => Some(label.into_owned()),
        Host::Bare | Host::Unknown | Host::Invalid => None,
    }
}
