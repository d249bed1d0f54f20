//! The filesystem below the engine's volumes, and who sets its quotas.

use std::path::Path;

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, statfs};
use protocol::TenantId;
use tokio_util::sync::CancellationToken;

use super::btrfs::BtrfsVolumes;
use super::project::ProjectVolumes;
use super::wire::{QuotaError, TenantQuota, VolumeUse};

/// Limits of tenants that one kind of filesystem enforces.
pub(super) trait VolumeQuotas {
    /// Removes what an earlier process left of deleted tenants.
    ///
    /// # Errors
    /// The filesystem is mounted without quotas, or refuses the call; the same below.
    fn prepare(&self) -> Result<(), QuotaError>;

    /// Lists the limits that the filesystem enforces.
    fn list(&self) -> Result<Vec<TenantQuota>, QuotaError>;

    /// Sets the limit of a tenant where the filesystem can enforce it, and returns it if it is in force. Leaves the
    /// directories as they were once the call is `abandoned`, because the tenant's container may start then.
    fn set(
        &self,
        tenant: TenantId,
        limit_bytes: u64,
        volume_use: VolumeUse,
        abandoned: &CancellationToken,
    ) -> Result<Option<TenantQuota>, QuotaError>;

    /// Removes the limit of a tenant whose volumes the engine removes next. Their content may go with it.
    fn remove(&self, tenant: TenantId) -> Result<(), QuotaError>;
}

/// Finds out anew with each call what the volumes are on: a filesystem may be mounted over them.
pub(super) fn quotas_of(path: &Path) -> Result<Box<dyn VolumeQuotas>, QuotaError> {
    let shown = path.display();
    let found = statfs(path).map_err(|error| {
        let hint = "is it mounted? (CIAL_ENGINE_VOLUMES)";
        QuotaError::Failed(format!("{shown} cannot be read: {error}; {hint}"))
    })?;
    match found.filesystem_type() {
        BTRFS_SUPER_MAGIC => Ok(Box::new(BtrfsVolumes::new(path.to_owned()))),
        XFS_SUPER_MAGIC | EXT4_SUPER_MAGIC => Ok(Box::new(ProjectVolumes::new(path.to_owned()))),
        _ => Err(QuotaError::Unsupported(format!("{shown} is on neither btrfs, XFS nor ext4"))),
    }
}
