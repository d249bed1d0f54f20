//! The reasons why tenants are awake or asleep, for their owners.

use protocol::TenantId;
use protocol::orchestrator::Phase;
use protocol::sleep::SleepStatus;

use super::lease_service::to_timestamp;
use super::{SleepController, sleep_reasons};
use crate::driver::DriverError;
use crate::tenants::TenantEntry;

impl SleepController {
    /// # Errors
    /// Before the first listing, and for an unknown tenant.
    pub fn status(&self, id: TenantId) -> Result<SleepStatus, DriverError> {
        self.store.feed()?;
        self.store.load(id);
        let status = self.store.read(id, |entry| self.status_of(id, entry)).flatten();
        status.ok_or_else(|| DriverError::no_such_tenant(id))
    }

    /// # Errors
    /// Before the first listing.
    pub fn list_status(&self) -> Result<Vec<SleepStatus>, DriverError> {
        self.store.feed()?;
        let statuses = self.store.read_all(|id, entry| self.status_of(id, entry));
        let mut statuses: Vec<_> = statuses.into_iter().flatten().collect();
        statuses.sort_by_key(|status| status.tenant);
        Ok(statuses)
    }

    /// Read-only: does not reset the idle time.
    fn status_of(&self, id: TenantId, entry: &TenantEntry) -> Option<SleepStatus> {
        let forecast = self.leases.forecast(id)?;
        let persisted = &entry.record.persisted;
        let mut awake_because =
            sleep_reasons::awake(&forecast.awake_reasons, entry.busy_response.as_ref());
        if awake_because.is_empty() && forecast.phase == Phase::Ready {
            awake_because.push(sleep_reasons::idle(forecast.last_use));
        }
        Some(SleepStatus {
            tenant: id,
            phase: entry.record.observed(None).map(|observed| observed.phase),
            awake_because,
            asleep_because: persisted.asleep_because.clone(),
            freezes_at: forecast.freezes_at.map(to_timestamp),
            sleeps_at: forecast.sleeps_at.map(to_timestamp),
            last_wake: persisted.last_wake.clone(),
        })
    }
}
