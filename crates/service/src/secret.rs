//! Secrets: a value that does not print itself, and a comparison that does not leak by its timing.

use std::fmt;

use subtle::ConstantTimeEq;

/// A value that `Debug` never shows and that therefore reaches no log.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Never pass it to a log or to an error.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Whether two values are equal, in time that depends on their lengths alone.
pub fn constant_time_eq(left: impl AsRef<[u8]>, right: impl AsRef<[u8]>) -> bool {
    left.as_ref().ct_eq(right.as_ref()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_does_not_show_a_secret() {
        assert_eq!(format!("{:?}", Secret::new("hush")), "Secret(…)");
    }

    #[test]
    fn equal_values_only_are_equal() {
        assert!(constant_time_eq("token", b"token"));
        for other in ["", "toke", "tokens", "tokeN"] {
            assert!(!constant_time_eq("token", other), "{other}");
        }
    }
}
