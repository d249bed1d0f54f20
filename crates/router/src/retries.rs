//! How often somebody may insist on a wake that failed a moment ago. Pure, but for the lock.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use lease::{Millis, Moment};
use protocol::TenantId;

/// Between two of one tenant: nobody makes a back-off that holds for all visitors void by asking on and on.
const PAUSE: Millis = 3_000;

/// When each tenant may be insisted on again. Those that may at once are not kept.
#[derive(Default)]
pub(crate) struct Retries(Mutex<HashMap<TenantId, Moment>>);

impl Retries {
    pub(crate) fn may(&self, tenant: TenantId, now: Moment) -> bool {
        let mut again = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        again.retain(|_, at| *at > now);
        let may = !again.contains_key(&tenant);
        again.entry(tenant).or_insert_with(|| now.plus(PAUSE));
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenant_is_insisted_on_once_in_a_while() {
        let (retries, [one, other]) = (Retries::default(), [1, 2].map(uuid::Uuid::from_u128));
        let may = |tenant, at| retries.may(TenantId::new(tenant), Moment(at));
        assert!(may(one, 0) && !may(one, 1) && may(other, 1));
        assert!(!may(one, PAUSE - 1) && may(one, PAUSE) && !may(one, PAUSE + 1));
        assert!(may(one, 100 * PAUSE));
        assert_eq!(retries.0.lock().unwrap().len(), 1, "nothing is kept for ever");
    }
}
