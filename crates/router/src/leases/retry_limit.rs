//! How often a visitor may retry a wake that failed a moment ago. Pure, but for the lock.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use lease::{Millis, Moment};
use protocol::TenantId;

/// Minimum time between two retries for one tenant: each retry cancels the back-off after a failed wake for all visitors.
const MIN_WAKE_RETRY_INTERVAL: Millis = 3_000;

/// When each tenant's wake may be retried again. Holds only tenants whose interval is not over.
#[derive(Default)]
pub(crate) struct RetryLimit(Mutex<HashMap<TenantId, Moment>>);

impl RetryLimit {
    /// Returns whether the wake may be retried now; `true` starts a new interval.
    pub(crate) fn try_retry(&self, tenant: TenantId, now: Moment) -> bool {
        let mut retry_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        retry_at.retain(|_, at| *at > now);
        let is_allowed = !retry_at.contains_key(&tenant);
        retry_at.entry(tenant).or_insert_with(|| now.plus(MIN_WAKE_RETRY_INTERVAL));
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenant_is_retried_once_per_interval() {
        let (limit, [one, other]) = (RetryLimit::default(), [1, 2].map(uuid::Uuid::from_u128));
        let retry = |tenant, at| limit.try_retry(TenantId::new(tenant), Moment(at));
        assert!(retry(one, 0) && !retry(one, 1) && retry(other, 1));
        assert!(!retry(one, MIN_WAKE_RETRY_INTERVAL - 1) && retry(one, MIN_WAKE_RETRY_INTERVAL));
        assert!(!retry(one, MIN_WAKE_RETRY_INTERVAL + 1));
        assert!(retry(one, 100 * MIN_WAKE_RETRY_INTERVAL));
        assert_eq!(limit.0.lock().unwrap().len(), 1, "expired entries are dropped");
    }
}
