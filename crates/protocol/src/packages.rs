//! Packages of one tenant, and the workflows in them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The response to an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UploadedPackage {
    pub package_id: Uuid,
    pub tenant_id: Uuid,
    pub name: String,
    pub version: String,
    /// The names of its workflows.
    pub workflows: Vec<String>,
}

/// A package. Times are RFC 3339, UTC, with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Package {
    pub id: Uuid,
    pub name: String,
    pub version: String,
    pub about: String,
    /// The size of the archive as it was uploaded.
    pub bytes: i64,
    /// The checksum of the uploaded archive, in hexadecimal.
    pub sha256: String,
    /// The names of its workflows.
    pub workflows: Vec<String>,
    /// The uploader: an e-mail address or the name of a key.
    pub created_by: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
}

/// All packages of a tenant, the latest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PackageList {
    pub items: Vec<Package>,
    pub total: usize,
    /// Always null: the list has one page.
    pub next: Option<Uuid>,
}
