//! The two sites of a tenant, each an origin of its own for browsers.

use serde::{Deserialize, Serialize};

/// The prefix of the host label of [`Site::Core`]. No slug begins so.
pub const CORE_HOST_PREFIX: &str = "core--";

/// A site of a tenant. Code of the tenant's own app runs in its visitors' browsers on [`Site::Tenant`], so that a session
/// there names a user and permits nothing.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Site {
    /// `{slug}.{domain}`: the tenant's own app, and the public paths of the core half.
    #[default]
    Tenant,
    /// `core--{slug}.{domain}`: the core half alone. A session there acts with a person's authority.
    Core,
}

impl Site {
    /// The site of a `Host` value.
    pub fn of_host(host: &str) -> Self {
        let start = host.get(..CORE_HOST_PREFIX.len());
        match start.is_some_and(|start| start.eq_ignore_ascii_case(CORE_HOST_PREFIX)) {
            true => Self::Core,
            false => Self::Tenant,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Core => "core",
        }
    }

    /// The name of the cookie of a session on this site, as a browser knows it that came by `scheme`: `http` or `https`.
    pub fn session_cookie(self, scheme: &str) -> &'static str {
        match (self, scheme) {
            (Self::Tenant, "https") => "__Host-cial_session",
            (Self::Tenant, _) => "cial_session",
            (Self::Core, "https") => "__Host-cial_core",
            (Self::Core, _) => "cial_core",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Slug;

    #[test]
    fn the_prefix_decides_and_no_slug_has_it() {
        for host in ["core--acme.localhost:8080", "CORE--acme", "core--"] {
            assert_eq!(Site::of_host(host), Site::Core, "{host}");
        }
        for host in
            ["acme.localhost", "core-acme.localhost", "a.core--b.localhost", "", "core-\u{e9}"]
        {
            assert_eq!(Site::of_host(host), Site::Tenant, "{host}");
        }
        assert!(Slug::choose("core--acme").is_err());
    }
}
