//! The domain below which the tenants' hosts lie, parsed once.

use std::fmt;
use std::str::FromStr;

/// A DNS domain in lower case, without a dot at either end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(String);

/// A text that is not a domain.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidDomain;

impl Domain {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `localhost`: browsers resolve every name below it to the loopback address.
impl Default for Domain {
    fn default() -> Self {
        Self("localhost".to_owned())
    }
}

impl FromStr for Domain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let text = text.to_ascii_lowercase();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let label = |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(plain);
        if text.len() <= 200 && text.split('.').all(label) {
            Ok(Self(text))
        } else {
            Err(InvalidDomain)
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for InvalidDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be labels of a-z, 0-9 and hyphen with dots between them")
    }
}

impl std::error::Error for InvalidDomain {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_by_the_table() {
        for (text, read) in
            [("localhost", "localhost"), ("Cial.EXAMPLE", "cial.example"), ("a-b.c1", "a-b.c1")]
        {
            assert_eq!(text.parse::<Domain>().unwrap().as_str(), read);
        }
        let (label, whole) = ("x".repeat(64), "x.".repeat(100) + "x");
        for bad in [
            "",
            ".",
            ".example",
            "example.",
            "a..b",
            "a_b.example",
            "a b",
            "a;b",
            "example/x",
            "example:8080",
            "*.example",
            "bücher.example",
            "example\n",
            &label,
            &whole,
        ] {
            assert_eq!(bad.parse::<Domain>(), Err(InvalidDomain), "{bad:?}");
        }
    }
}
