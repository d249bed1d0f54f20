//! A tenant's slug: the label in front of the domain, parsed once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `^[a-z0-9-]{2,40}$`. [`Slug::choose`] checks new slugs by rules that may grow; an assigned slug
/// stays valid.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[a-z0-9-]{2,40}$"))]
pub struct Slug(String);

/// Why a text is no slug. The message names the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidSlug {
    Length,
    Character,
    Edge,
    Punycode,
    Reserved,
}

/// Labels that would mislead as the first label of a tenant's host, and names that machines request
/// by themselves. The holder of `wpad` or `autodiscover` configures the proxies and mail clients of
/// others.
const RESERVED: &[&str] = &[
    "admin",
    "api",
    "app",
    "app-api",
    "assets",
    "auth",
    "autoconfig",
    "autodiscover",
    "blog",
    "cdn",
    "cial",
    "console",
    "dashboard",
    "docs",
    "edge",
    "enterpriseenrollment",
    "enterpriseregistration",
    "ftp",
    "health",
    "help",
    "host",
    "imap",
    "internal",
    "isatap",
    "local",
    "localhost",
    "login",
    "lyncdiscover",
    "mail",
    "metrics",
    "mta-sts",
    "new",
    "ns1",
    "ns2",
    "openpgpkey",
    "orchestrator",
    "pop",
    "postgres",
    "public",
    "root",
    "router",
    "sip",
    "smtp",
    "sso",
    "static",
    "status",
    "support",
    "system",
    "test",
    "wpad",
    "www",
];
const RESERVED_PREFIXES: &[&str] = &["pg-", "cial-", "core--"];

impl Slug {
    /// Parses a slug for a new tenant: no hyphen at either end, not reserved, not punycode.
    pub fn choose(text: &str) -> Result<Self, InvalidSlug> {
        let slug: Self = text.parse()?;
        if text.starts_with('-') || text.ends_with('-') {
            return Err(InvalidSlug::Edge);
        }
        // Every browser reads a label of this form as an internationalised name (RFC 5891
        // §4.2.3.1).
        if text.get(2..4) == Some("--") {
            return Err(InvalidSlug::Punycode);
        }
        if RESERVED.contains(&text) || RESERVED_PREFIXES.iter().any(|p| text.starts_with(p)) {
            return Err(InvalidSlug::Reserved);
        }
        Ok(slug)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Slug {
    type Err = InvalidSlug;

    fn from_str(text: &str) -> Result<Self, InvalidSlug> {
        if !(2..=40).contains(&text.chars().count()) {
            return Err(InvalidSlug::Length);
        }
        if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return Err(InvalidSlug::Character);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for InvalidSlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "must be 2 to 40 characters long",
            Self::Character => "may hold only a-z, 0-9 and hyphen",
            Self::Edge => "must not start or end with a hyphen",
            Self::Punycode => "must not have hyphens as both its third and fourth character",
            Self::Reserved => "is reserved; choose another",
        })
    }
}

impl std::error::Error for InvalidSlug {}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Slug {
    type Error = InvalidSlug;

    fn try_from(text: String) -> Result<Self, InvalidSlug> {
        text.parse()
    }
}

impl From<Slug> for String {
    fn from(slug: Slug) -> Self {
        slug.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_by_the_table() {
        let longest = "x".repeat(40);
        for good in ["ab", "acme", "a-b", "42", "0-0", "a--b", longest.as_str()] {
            assert!(Slug::choose(good).is_ok(), "{good}");
        }
        let too_long = "x".repeat(41);
        for (bad, why) in [
            ("", InvalidSlug::Length),
            ("a", InvalidSlug::Length),
            (too_long.as_str(), InvalidSlug::Length),
            ("Acme", InvalidSlug::Character),
            ("a_b", InvalidSlug::Character),
            ("a.b", InvalidSlug::Character),
            ("a/../b", InvalidSlug::Character),
            ("acme\n", InvalidSlug::Character),
            ("ümlaut", InvalidSlug::Character),
            ("-ab", InvalidSlug::Edge),
            ("ab-", InvalidSlug::Edge),
            ("xn--abc", InvalidSlug::Punycode),
            ("admin", InvalidSlug::Reserved),
            ("pg-temp", InvalidSlug::Reserved),
            ("wpad", InvalidSlug::Reserved),
            ("autodiscover", InvalidSlug::Reserved),
            ("autoconfig", InvalidSlug::Reserved),
            ("mta-sts", InvalidSlug::Reserved),
            ("isatap", InvalidSlug::Reserved),
            ("core--acme", InvalidSlug::Reserved),
            ("ab--cd", InvalidSlug::Punycode),
            ("_dmarc", InvalidSlug::Character),
        ] {
            assert_eq!(Slug::choose(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn what_was_given_out_reads_back_when_it_is_reserved_later() {
        assert_eq!("admin".parse::<Slug>().unwrap().as_str(), "admin");
        assert_eq!("a/b".parse::<Slug>(), Err(InvalidSlug::Character));
    }
}
