//! Stops tenants whose volumes hold more than they may, and refuses their starts until the limit was raised. Where the
//! filesystem enforces a limit, no tenant is stopped for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::TenantId;
use protocol::orchestrator::{DiskEnforcement, DiskUse};
use tokio::time::Instant;

use super::Operations;
use crate::driver::{DiskExcess, DiskGuard, DiskQuota, DriverError, DriverErrorCode, RunState};
use crate::tenants::TenantEntry;

/// The last measurement of all volumes. Its lock is never held across a call.
pub(super) struct DiskWatch {
    guard: Mutex<DiskGuard>,
    /// When the limits that the filesystem enforces were last observed.
    quotas_read_at: Mutex<Option<Duration>>,
    /// One check at a time, because a measurement may outlast several intervals. Holds the last reports to tenants.
    check: tokio::sync::Mutex<HashMap<TenantId, DiskUse>>,
    origin: Instant,
}

impl DiskWatch {
    pub(super) fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the clock of the measurements")]
        let origin = Instant::now();
        Self {
            guard: Mutex::default(),
            quotas_read_at: Mutex::default(),
            check: tokio::sync::Mutex::default(),
            origin,
        }
    }

    fn lock(&self) -> MutexGuard<'_, DiskGuard> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the limits that the filesystem enforces are to be observed again; the caller does so.
    fn begin_quota_read(&self, now: Duration) -> bool {
        let mut read_at = self.quotas_read_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = read_at.is_none_or(|at| now.saturating_sub(at) >= QUOTA_INTERVAL);
        if is_due {
            *read_at = Some(now);
        }
        is_due
    }
}

/// How long a tenant is shown as held to its limit by the filesystem after that ended.
const QUOTA_INTERVAL: Duration = Duration::from_secs(15);

impl Operations {
    /// The time since the operations began.
    pub(super) fn uptime(&self) -> Duration {
        self.disk.origin.elapsed()
    }

    pub(crate) fn check_disk_later(self: &Arc<Self>) {
        let operations = self.clone();
        tokio::spawn(async move { operations.check_disk().await });
    }

    /// Observes the limits that the filesystem enforces, reads the free space, measures the volumes when that is due,
    /// stops tenants over their limit, and lets tenants know what changed. Returns at once while another check is under
    /// way.
    pub async fn check_disk(self: &Arc<Self>) {
        let Ok(mut reported) = self.disk.check.try_lock() else { return };
        self.enforce_disk_limits().await;
        self.report_disk(&mut reported).await;
    }

    /// A tenant that could not be notified is notified at the next check.
    async fn report_disk(&self, reported: &mut HashMap<TenantId, DiskUse>) {
        let Ok(current) = self.list_disk_use() else { return };
        let is_new = |disk_use: &&DiskUse| reported.get(&disk_use.tenant) != Some(*disk_use);
        let changed: Vec<_> = current.iter().filter(is_new).copied().collect();
        reported.retain(|id, _| current.binary_search_by_key(id, |found| found.tenant).is_ok());
        if !changed.is_empty() {
            let known = self.driver.report_disk(changed).await;
            reported.extend(known.into_iter().map(|disk_use| (disk_use.tenant, disk_use)));
        }
    }

    async fn enforce_disk_limits(self: &Arc<Self>) {
        let now = self.disk.origin.elapsed();
        if self.disk.begin_quota_read(now) {
            self.refresh_quotas().await;
        }
        let space = match self.driver.disk_space() {
            Ok(space) => space,
            Err(error) => return tracing::warn!(%error, "free disk space not read"),
        };
        if !self.disk.lock().is_measurement_due(now, space) {
            return;
        }
        self.disk.lock().begin(now);
        match self.driver.measure_disk().await {
            Ok(used_bytes) => self.disk.lock().record(now, space, used_bytes),
            Err(error) => return tracing::warn!(%error, "disk measurement failed"),
        }
        let over = self.store.read_all(|id, entry| self.running_excess(id, entry).map(|_| id));
        for id in over.into_iter().flatten() {
            self.stop_over_limit(id).await;
        }
    }

    /// A limit that was changed during an outage of the service `quota` takes effect here.
    async fn refresh_quotas(&self) {
        self.driver.refresh_quotas().await;
        let differs = |id, entry: &TenantEntry| {
            let limit_bytes = entry.record.spec()?.limits.disk_bytes;
            let quota = self.driver.quota(id)?;
            (!quota.is_of_limit(limit_bytes)).then_some((id, limit_bytes))
        };
        for (id, limit_bytes) in self.store.read_all(differs).into_iter().flatten() {
            self.driver.set_quota(id, limit_bytes).await;
        }
    }

    /// # Errors
    /// Before the first listing, and for an unknown tenant.
    pub fn disk_use(&self, id: TenantId) -> Result<DiskUse, DriverError> {
        self.store.feed()?;
        self.store.load(id);
        let disk_use = self.store.read(id, |entry| self.disk_use_of(id, entry)).flatten();
        disk_use.ok_or_else(|| DriverError::no_such_tenant(id))
    }

    /// # Errors
    /// Before the first listing.
    pub fn list_disk_use(&self) -> Result<Vec<DiskUse>, DriverError> {
        self.store.feed()?;
        let list = self.store.read_all(|id, entry| self.disk_use_of(id, entry));
        let mut list: Vec<_> = list.into_iter().flatten().collect();
        list.sort_by_key(|disk_use| disk_use.tenant);
        Ok(list)
    }

    fn disk_use_of(&self, id: TenantId, entry: &TenantEntry) -> Option<DiskUse> {
        let limit_bytes = entry.record.spec()?.limits.disk_bytes;
        let enforced_by = match self.enforced_quota(id, limit_bytes) {
            Some(_) => DiskEnforcement::Filesystem,
            None => DiskEnforcement::Measurement,
        };
        Some(DiskUse { tenant: id, used_bytes: self.disk_bytes(id), limit_bytes, enforced_by })
    }

    /// The filesystem's own count where there is one, otherwise the bytes that the tenant's volumes held when they were last
    /// measured.
    pub(super) fn disk_bytes(&self, id: TenantId) -> Option<u64> {
        let counted = self.driver.quota(id).map(|quota| quota.used_bytes);
        counted.or_else(|| self.disk.lock().used_bytes(id))
    }

    /// A filesystem that enforces another limit than the tenant's own does not count.
    fn enforced_quota(&self, id: TenantId, limit_bytes: u64) -> Option<DiskQuota> {
        self.driver.quota(id).filter(|quota| quota.is_of_limit(limit_bytes))
    }

    /// # Errors
    /// [`DriverErrorCode::DiskLimitReached`] for a tenant that used more than its current limit when it was last measured.
    pub(super) fn check_disk_limit(&self, id: TenantId) -> Result<(), DriverError> {
        let excess = self.store.read(id, |entry| self.excess(id, entry)).flatten();
        excess.map_or(Ok(()), |excess| Err(limit_error(excess)))
    }

    fn excess(&self, id: TenantId, entry: &TenantEntry) -> Option<DiskExcess> {
        let limit_bytes = entry.record.spec()?.limits.disk_bytes;
        if self.enforced_quota(id, limit_bytes).is_some() {
            return None;
        }
        self.disk.lock().excess(id, limit_bytes)
    }

    /// A paused container writes nothing, and a stop would have to thaw it first.
    fn running_excess(&self, id: TenantId, entry: &TenantEntry) -> Option<DiskExcess> {
        let status = entry.record.status()?;
        matches!(status.run, RunState::Running | RunState::Restarting)
            .then(|| self.excess(id, entry))
            .flatten()
    }

    async fn stop_over_limit(self: &Arc<Self>, id: TenantId) {
        let turn = self.acquire_turn(id).await;
        // The limit may have been raised, or the tenant stopped, while this waited for its turn.
        let excess = self.store.read(id, |entry| self.running_excess(id, entry)).flatten();
        let Some(excess) = excess else { return self.release_turn(turn) };
        let DiskExcess { used_bytes, limit_bytes } = excess;
        tracing::warn!(tenant = %id, used_bytes, limit_bytes, "tenant stopped at its disk limit");
        let result = turn.stop_if_present().await.and(Err(limit_error(excess)));
        if let Err(error) = self.finish(turn, result).await
            && error.code != DriverErrorCode::DiskLimitReached
        {
            tracing::warn!(tenant = %id, %error, "tenant over its disk limit not stopped");
        }
    }
}

fn limit_error(excess: DiskExcess) -> DriverError {
    DriverError::new(DriverErrorCode::DiskLimitReached, excess.describe())
}
