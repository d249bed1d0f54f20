//! Backups of tenants, as the API and the command line share them. Times are RFC 3339, UTC, with milliseconds.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Slug, TenantId};

/// The state of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BackupState {
    /// The tenant is copied as soon as it rests.
    Waiting,
    /// The tenant is being copied.
    Running,
    /// The store holds the whole archive.
    Complete,
    /// The store has lost the archive.
    Missing,
}

impl BackupState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Missing => "missing",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Backup {
    pub id: Uuid,
    /// The slug of the tenant, which may be deleted.
    pub tenant: Slug,
    pub tenant_id: TenantId,
    pub state: BackupState,
    /// The time of the schedule, or of the request.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub due_at: String,
    /// The requester of the backup; null: the schedule.
    pub requested_by: Option<String>,
    /// Whether it has waited for too long.
    pub overdue: bool,
    /// The time of the tenant's data; null before they are copied.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub taken_at: Option<String>,
    /// The last time of the schedule at which the tenant had not changed since.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub current_at: Option<String>,
    pub bytes: Option<i64>,
    /// The checksum of the archive, hexadecimal.
    pub sha256: Option<String>,
    /// The name of the archive below the store's address.
    pub object: String,
    /// Why the last attempt failed; of a complete backup, what it lacks and why.
    pub failure: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackupList {
    /// The newest first.
    pub backups: Vec<Backup>,
    /// The `?cursor=` value for the next page; null on the last page.
    pub next: Option<Uuid>,
}

/// The schedule of the backups, and those that need attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackupStatus {
    /// Whether the installation has a store for backups.
    pub enabled: bool,
    /// The next time of the schedule.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub next_due_at: Option<String>,
    /// Backups that have waited for too long, that failed, that lack the tenant's schema, or that the store has lost; at most 100, the oldest
    /// first. A tenant without any backup is not among them.
    pub problems: Vec<Backup>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RestoreBackup {
    /// The slug of the new tenant.
    #[serde(rename = "as")]
    pub slug: String,
}
