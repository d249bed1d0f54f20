//! The manifest: the archive's description of itself and of its tenant.

use protocol::spec::{Limits, Policy};
use protocol::{Slug, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Fault;

/// The format that this build writes, and the latest that it reads. Grows with each change that an older reader would get
/// wrong.
pub const FORMAT: u64 = 2;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`] of the writer.
    pub format: u64,
    /// The product's version, for people.
    pub version: String,
    pub exported_at: Timestamp,
    pub tenant: TenantFacts,
    /// `None`: the archive holds no schema. Format 1 has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseFacts>,
}

/// The names by which the parts below [`DATABASE`](crate::DATABASE) call the schema and its role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseFacts {
    pub schema: String,
    pub user: String,
}

impl DatabaseFacts {
    /// As every installation makes them. Others may mean anything in a statement.
    fn are_plain(&self) -> bool {
        [&self.schema, &self.user].into_iter().all(|name| {
            let is_word =
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            is_word
                && name.len() <= 63
                && name.starts_with(|first: char| first.is_ascii_lowercase())
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantFacts {
    pub id: TenantId,
    pub slug: Slug,
    pub name: String,
    pub limits: Limits,
    pub policy: Policy,
    /// The slug of the app; `None` is the built-in one.
    pub app: Option<String>,
    /// The release of the app, like `v2`.
    pub release: Option<String>,
    /// The names of the program's variables, without their values.
    pub variables: Vec<String>,
    /// The names of the program's secrets, without their values.
    pub secrets: Vec<String>,
}

/// The part of a manifest that every format has.
#[derive(Deserialize)]
struct AnyManifest {
    format: u64,
}

impl Manifest {
    pub(crate) fn read(json: &[u8]) -> Result<Self, Fault> {
        let why = |error| Fault::corrupt(format!("has an invalid manifest.json: {error}"));
        let AnyManifest { format } = serde_json::from_slice(json).map_err(why)?;
        if format > FORMAT {
            return Err(Fault::UnknownFormat(format));
        }
        let manifest: Self = serde_json::from_slice(json).map_err(why)?;
        if manifest.database.as_ref().is_some_and(|facts| !facts.are_plain()) {
            return Err(Fault::corrupt(
                "has an invalid manifest.json: no names of a schema and a role",
            ));
        }
        Ok(manifest)
    }
}

/// The content of [`CHECKSUMS`](crate::CHECKSUMS).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Checksums {
    /// In hexadecimal: SHA-256 of the tar before this entry, with headers as this crate writes them.
    pub(crate) sha256: String,
    pub(crate) entries: u64,
}
