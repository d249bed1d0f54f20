//! The names of a tenant's schema and role. Pure.
//!
//! A slug holds `a-z`, `0-9` and hyphens, and no underscore. A hyphen becomes an underscore, so two slugs never share a
//! name, and the prefix keeps every name away from those that Postgres reserves.

use std::fmt;
use std::str::FromStr;

use protocol::Slug;
use protocol::text::describe_bytes;
use serde::{Deserialize, Serialize};

const SCHEMA_PREFIX: &str = "t_";
const MAX_ERROR_CHARACTERS: usize = 500;
/// With the 40 characters of the longest slug, a name stays within the 63 bytes that Postgres keeps.
const MAX_PREFIX: usize = 23;

/// The names of a tenant's schema and role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseNames {
    pub schema: String,
    pub user: String,
}

/// The objects of a tenant on the database server, beside its schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvisionedDatabase {
    /// The role. A later prefix does not rename it.
    pub user: String,
    /// The last tenant migration that the schema has.
    pub version: String,
    /// Why the latest migration failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Why the schema is closed: no program of the tenant reaches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excess: Option<DatabaseExcess>,
}

/// The size of a schema above its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseExcess {
    pub used_bytes: u64,
    pub limit_bytes: u64,
}

impl DatabaseExcess {
    /// The reason that the owner reads.
    pub fn describe(self) -> String {
        format!(
            "Its tables use {} and may use {}, so nothing connects to its database. Raise its database limit \
             (limits.database_bytes), then delete what it does not need.",
            describe_bytes(self.used_bytes),
            describe_bytes(self.limit_bytes)
        )
    }
}

/// The consequence of a measurement of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeStep {
    Stay,
    /// Also for a schema that is closed already, when its limit was changed and it still does not fit.
    Close(DatabaseExcess),
    Open,
}

/// `excess`: the one for which the schema is closed at the moment. A closed schema does not grow, so that it is opened as soon as
/// it fits.
pub fn next_size_step(
    excess: Option<DatabaseExcess>,
    used_bytes: u64,
    limit_bytes: u64,
) -> SizeStep {
    let is_limit_shown = excess.is_some_and(|excess| excess.limit_bytes == limit_bytes);
    match (excess, used_bytes > limit_bytes) {
        (Some(_), true) if is_limit_shown => SizeStep::Stay,
        (_, true) => SizeStep::Close(DatabaseExcess { used_bytes, limit_bytes }),
        (Some(_), false) => SizeStep::Open,
        (None, false) => SizeStep::Stay,
    }
}

impl ProvisionedDatabase {
    pub fn names(&self, slug: &Slug) -> DatabaseNames {
        DatabaseNames { schema: schema_name(slug), user: self.user.clone() }
    }
}

/// Makes an error of a tenant's database fit for logs and answers: the tenant's own functions and names may have written it.
/// Characters that are not printable become spaces.
pub fn bounded_error(error: &anyhow::Error) -> String {
    let printable = |c: char| {
        let is_plain = c.escape_debug().len() == 1 || matches!(c, '"' | '\'' | '\\');
        if is_plain { c } else { ' ' }
    };
    let text = format!("{error:#}");
    let mut bounded: String = text.chars().take(MAX_ERROR_CHARACTERS).map(printable).collect();
    if text.chars().nth(MAX_ERROR_CHARACTERS).is_some() {
        bounded.pop();
        bounded.push('…');
    }
    bounded
}

/// The first part of the names of tenants' roles. Roles belong to the whole server: each installation on one server
/// needs another prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolePrefix(String);

impl FromStr for RolePrefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        let is_word =
            text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let begins = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
        let fits = is_word && begins && text.ends_with('_') && text.len() <= MAX_PREFIX;
        if fits && !text.starts_with("pg_") {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidPrefix)
        }
    }
}

/// Why a text is no [`RolePrefix`]. The message names the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPrefix;

impl fmt::Display for InvalidPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "must be a-z, 0-9 and _, begin with a letter, end with _, not begin with pg_, and have at most {MAX_PREFIX} characters"
        )
    }
}

impl RolePrefix {
    /// The schema and the role of a tenant.
    pub fn names(&self, slug: &Slug) -> DatabaseNames {
        let name = slug.as_str().replace('-', "_");
        DatabaseNames { schema: schema_name(slug), user: format!("{}{name}", self.0) }
    }
}

/// The schema of a tenant, like `t_acme`.
fn schema_name(slug: &Slug) -> String {
    format!("{SCHEMA_PREFIX}{}", slug.as_str().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(slug: &str) -> DatabaseNames {
        "t_".parse::<RolePrefix>().unwrap().names(&slug.parse().unwrap())
    }

    #[test]
    fn a_schema_is_closed_above_its_limit_and_open_within_it() {
        let excess = DatabaseExcess { used_bytes: 11, limit_bytes: 10 };
        for (closed, used, limit, step) in [
            (None, 0, 10, SizeStep::Stay),
            (None, 10, 10, SizeStep::Stay),
            (None, 11, 10, SizeStep::Close(excess)),
            (Some(excess), 11, 10, SizeStep::Stay),
            (Some(excess), 12, 10, SizeStep::Stay),
            // The owner reads the limit of today.
            (
                Some(excess),
                13,
                12,
                SizeStep::Close(DatabaseExcess { used_bytes: 13, limit_bytes: 12 }),
            ),
            (Some(excess), 11, 11, SizeStep::Open),
            (Some(excess), 0, 10, SizeStep::Open),
        ] {
            assert_eq!(next_size_step(closed, used, limit), step, "{closed:?} {used} {limit}");
        }
        let reason = DatabaseExcess { used_bytes: 5 << 28, limit_bytes: 1 << 30 }.describe();
        assert!(reason.starts_with("Its tables use 1.2 GiB and may use 1.0 GiB, so"), "{reason}");
    }

    #[test]
    fn hyphens_become_underscores() {
        let DatabaseNames { schema, user } = names("acme-2");
        assert_eq!((schema.as_str(), user.as_str()), ("t_acme_2", "t_acme_2"));
    }

    #[test]
    fn an_error_is_printable_and_short() {
        let bounded = |text: &str| bounded_error(&anyhow::anyhow!("{}", text.to_owned()));
        let plain = "permission denied for table \"größe\" of 'acme' \\";
        assert_eq!(bounded(plain), plain);
        assert_eq!(bounded("a\n\x1b[31mb\u{202e}c\0"), "a  [31mb c ");
        assert_eq!(bounded(&"ä".repeat(500)), "ä".repeat(500));
        assert_eq!(bounded(&"ä".repeat(1_000_000)), "ä".repeat(499) + "…");
    }

    #[test]
    fn a_prefix_keeps_names_valid() {
        for valid in ["t_", "cial2_t_", "abcdefghijklmnopqrstuv_"] {
            assert!(valid.parse::<RolePrefix>().is_ok(), "{valid}");
        }
        for invalid in
            ["", "_", "t", "pg_", "pg_t_", "T_", "2_", "t-_", "t\"_", "abcdefghijklmnopqrstuvw_"]
        {
            assert_eq!(invalid.parse::<RolePrefix>(), Err(InvalidPrefix), "{invalid}");
        }
    }

    proptest! {
        #[test]
        fn names_are_injective_short_and_never_reserved(
            a in "[a-z0-9-]{2,40}",
            b in "[a-z0-9-]{2,40}",
            prefix in "[a-z][a-z0-9_]{0,21}_",
        ) {
            prop_assume!(!prefix.starts_with("pg_"));
            let prefix: RolePrefix = prefix.parse().unwrap();
            let (of_a, of_b) = (prefix.names(&a.parse().unwrap()), prefix.names(&b.parse().unwrap()));
            prop_assert_eq!(a == b, of_a.schema == of_b.schema);
            prop_assert_eq!(a == b, of_a.user == of_b.user);
            for name in [of_a.schema, of_a.user] {
                prop_assert!(name.len() <= 63);
                prop_assert!(!name.starts_with("pg_") && name != "public" && name != "none");
                prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            }
        }
    }
}
