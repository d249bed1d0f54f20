//! Identities, and the names on the engine that follow from them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A tenant's identity: a UUID that never changes and is never reused. Displays lower-case and hyphenated.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(Uuid);

impl TenantId {
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    pub const fn uuid(self) -> Uuid {
        self.0
    }

    /// The container's name on the engine.
    pub fn container(self) -> String {
        format!("cial-tenant-{self}")
    }

    /// The bridge network's name on the engine.
    pub fn network(self) -> String {
        format!("cial-net-{self}")
    }

    /// The volume of the core half: sessions, history.
    pub fn data_volume(self) -> String {
        format!("cial-tenant-{self}-data")
    }

    /// The volume of the tenant's own files.
    pub fn files_volume(self) -> String {
        format!("cial-tenant-{self}-files")
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for TenantId {
    type Err = uuid::Error;

    /// Accepts the hyphenated form only, in either case.
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse::<uuid::fmt::Hyphenated>().map(|id| Self(id.into_uuid()))
    }
}

/// The name of an installation on an engine: several may share one engine without touching each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstallName(String);

/// A text that is not an [`InstallName`].
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidInstallName;

impl fmt::Display for InvalidInstallName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be 1 to 40 of a-z, 0-9 and hyphen, and start with a letter or digit")
    }
}

impl std::error::Error for InvalidInstallName {}

impl InstallName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The volume that holds one directory with the ingress socket for each tenant.
    pub fn sockets_volume(&self) -> String {
        format!("cial-{}-sockets", self.0)
    }

    /// The volume that holds one directory with secret files for each tenant.
    pub fn tenant_secrets_volume(&self) -> String {
        format!("cial-{}-tenant-secrets", self.0)
    }

    /// The volume that holds one directory for each tenant whose app wants a database, with the socket of the database proxy.
    pub fn tenant_databases_volume(&self) -> String {
        format!("cial-{}-tenant-databases", self.0)
    }

    /// The volume that holds the socket on which app-api takes calls of the model.
    pub fn models_volume(&self) -> String {
        format!("cial-{}-models", self.0)
    }
}

impl fmt::Display for InstallName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for InstallName {
    type Err = InvalidInstallName;

    fn from_str(text: &str) -> Result<Self, InvalidInstallName> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let fits = (1..=40).contains(&text.len()) && text.chars().all(plain);
        if fits && !text.starts_with('-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidInstallName)
        }
    }
}

impl TryFrom<String> for InstallName {
    type Error = InvalidInstallName;

    fn try_from(text: String) -> Result<Self, InvalidInstallName> {
        text.parse()
    }
}

impl From<InstallName> for String {
    fn from(name: InstallName) -> Self {
        name.0
    }
}

/// Labels on every object of an installation on the engine. An object without [`MANAGED`](labels::MANAGED) *and* the
/// installation's [`INSTALL`](labels::INSTALL) is never changed.
pub mod labels {
    pub const MANAGED: &str = "cial.managed";
    pub const INSTALL: &str = "cial.install";
    pub const TENANT: &str = "cial.tenant";
    pub const SLUG: &str = "cial.slug";
    pub const GENERATION: &str = "cial.generation";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_id_parses_its_own_form_only() {
        let text = "0192f0c1-2345-7abc-8def-0123456789ab";
        assert_eq!(text.parse::<TenantId>().unwrap().to_string(), text);
        assert!("0192f0c123457abc8def0123456789ab".parse::<TenantId>().is_err());
        assert!("{0192f0c1-2345-7abc-8def-0123456789ab}".parse::<TenantId>().is_err());
        assert!("../0192f0c1".parse::<TenantId>().is_err());
    }

    #[test]
    fn install_names_by_the_table() {
        for good in ["local", "smoke-1", "0"] {
            assert!(good.parse::<InstallName>().is_ok(), "{good}");
        }
        for bad in ["", "-x", "A", "a_b", "a/b", &"x".repeat(41)] {
            assert!(bad.parse::<InstallName>().is_err(), "{bad}");
        }
    }
}
