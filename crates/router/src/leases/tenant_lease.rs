//! The lease of one tenant as the manager loop knows it: the current target, and former ones that are still in use.

use std::sync::Arc;

use lease::Moment;
use protocol::TenantId;
use protocol::leases::LeaseUsage;

use crate::clock;
use crate::routes::cached_lease::{CachedLease, Usage};

#[derive(Default)]
pub(crate) struct TenantLease {
    pub(crate) current: Option<Arc<CachedLease>>,
    /// Former targets with requests or streams in flight.
    former_targets: Vec<Arc<CachedLease>>,
}

impl TenantLease {
    /// Sets the target of the route table. Returns `true` when a lease at another target ended.
    ///
    /// The table is newer than the lease, unless the lease's grant changed the table.
    pub(crate) fn follow_route(&mut self, routed: Option<Arc<CachedLease>>) -> bool {
        let is_same =
            |old: &Arc<CachedLease>| routed.as_ref().is_some_and(|lease| Arc::ptr_eq(old, lease));
        let replaced = self.current.take_if(|old| !is_same(old));
        let has_moved = replaced.is_some();
        replaced.into_iter().for_each(|old| self.retire(old));
        if let Some(routed) = &routed {
            self.former_targets.retain(|former| !Arc::ptr_eq(former, routed));
        }
        self.current = routed;
        has_moved
    }

    /// Ends the lease at a former target. Requests in flight there count to their end.
    fn retire(&mut self, old: Arc<CachedLease>) {
        old.set_valid_until(Moment(0));
        self.former_targets.retain(|former| !former.usage().is_unused());
        self.former_targets.push(old);
    }

    /// Returns how the tenant is used, at all its targets.
    pub(crate) fn usage(&self) -> Usage {
        let all = self.former_targets.iter().chain(&self.current);
        all.map(|lease| lease.usage()).fold(Usage::default(), Usage::plus)
    }

    /// Ends the lease if `failed` is the current one, because the tenant did not answer there.
    pub(crate) fn end_if_current(&mut self, failed: &Arc<CachedLease>) -> bool {
        let is_current = self.current.as_ref().is_some_and(|lease| Arc::ptr_eq(failed, lease));
        if is_current {
            failed.set_valid_until(Moment(0));
        }
        is_current
    }

    /// Sets the target of a grant. Returns `true` when the tenant was at another target before.
    pub(crate) fn move_to(&mut self, granted: &Arc<CachedLease>) -> bool {
        self.former_targets.retain(|former| !Arc::ptr_eq(former, granted));
        let old = self.current.replace(granted.clone()).filter(|old| !Arc::ptr_eq(old, granted));
        old.map(|old| self.retire(old)).is_some()
    }

    /// Lets requests be sent under a grant. `woke_for_waiter`: the tenant was woken, and a request waits for it.
    pub(crate) fn adopt_grant(&self, valid_until: Moment, woke_for_waiter: bool) {
        if let Some(lease) = &self.current {
            lease.allow_report();
            lease.set_woken_at(if woke_for_waiter { clock::now() } else { Moment(0) });
            lease.set_valid_until(valid_until);
        }
    }

    pub(crate) fn publish(&self, valid_until: Moment) {
        if let Some(lease) = &self.current {
            lease.set_valid_until(valid_until);
        }
    }

    /// Clears the published lease, then counts its uses. Returns the usage if the tenant is unused since `last_used`, `None`
    /// when the caller must [publish](Self::publish) the lease again.
    pub(crate) fn clear_if_unused(&self, last_used: Moment) -> Option<Usage> {
        self.publish(Moment(0));
        let usage = self.usage();
        if usage.requests > 0 || usage.last_used > last_used {
            return None;
        }
        if let Some(lease) = &self.current {
            lease.set_woken_at(Moment(0));
        }
        Some(usage)
    }

    pub(crate) fn report_usage(&self, tenant: TenantId, number: u64, usage: &Usage) -> LeaseUsage {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let idle = match usage.requests {
            0 => clock::now().since(usage.last_used),
            _ => 0,
        };
        LeaseUsage {
            tenant,
            number,
            idle_ms: u32::try_from(idle).unwrap_or(u32::MAX),
            requests: count(usage.requests),
            streams: count(usage.streams),
            first_byte_ms: self.current.as_ref().and_then(|lease| lease.take_first_byte_ms()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use protocol::orchestrator::Upstream;

    use super::*;
    use crate::routes::keys::TenantKeys;

    fn leased() -> (TenantLease, Arc<CachedLease>) {
        let keys = Arc::new(TenantKeys { route_token: String::new(), route_proof: String::new() });
        let tenant = TenantId::new(uuid::Uuid::from_u128(1));
        let lease = CachedLease::new(tenant, keys, (1, Upstream::Unix("/1".to_owned())), 2);
        let tenant_lease = TenantLease { current: Some(lease.clone()), ..TenantLease::default() };
        grant(&tenant_lease);
        (tenant_lease, lease)
    }

    fn grant(tenant_lease: &TenantLease) {
        tenant_lease.publish(clock::now().plus(60_000));
    }

    /// Clears the lease as the loop does: published again when the tenant is in use.
    fn release(tenant_lease: &TenantLease, last_used: Moment) -> bool {
        let is_released = tenant_lease.clear_if_unused(last_used).is_some();
        if !is_released {
            grant(tenant_lease);
        }
        is_released
    }

    #[test]
    fn a_lease_in_use_is_not_released() {
        let (tenant_lease, lease) = leased();
        let last_used = lease.usage().last_used;
        let guard = lease.begin_request(0);
        assert!(guard.is_leased());
        assert!(!release(&tenant_lease, last_used), "a request is in flight");
        assert!(guard.is_leased(), "and stays leased");
        drop(guard);
        assert!(!release(&tenant_lease, last_used), "a request ended since the usage was read");
        assert!(release(&tenant_lease, lease.usage().last_used));
        assert!(!lease.begin_request(0).is_leased());
    }

    #[test]
    fn a_request_at_a_former_target_counts_to_its_end() {
        let (mut tenant_lease, old) = leased();
        let guard = old.begin_request(0);
        let target = (2, Upstream::Unix("/2".to_owned()));
        let new = CachedLease::new(old.tenant, old.keys.clone(), target, 2);
        assert!(tenant_lease.follow_route(Some(new.clone())));
        assert!(!guard.is_leased());
        grant(&tenant_lease);
        assert!(new.begin_request(1).is_leased());
        assert_eq!(tenant_lease.usage().requests, 1);
        let target = (3, Upstream::Unix("/3".to_owned()));
        let newest = CachedLease::new(old.tenant, old.keys.clone(), target, 2);
        assert!(tenant_lease.move_to(&newest));
        grant(&tenant_lease);
        assert_eq!(tenant_lease.usage().requests, 1);
        let last_used = tenant_lease.usage().last_used;
        assert!(!release(&tenant_lease, last_used), "a request is in flight");
        assert!(newest.begin_request(0).is_leased());
        drop(guard);
        assert_eq!(tenant_lease.usage().requests, 0);
        assert!(release(&tenant_lease, tenant_lease.usage().last_used));
    }

    /// Few enough for one busy core, on which every round costs several turns of three threads.
    const ROUNDS: usize = 50;

    #[test]
    fn no_request_is_sent_while_a_lease_is_being_released() {
        let (tenant_lease, lease) = leased();
        let (inside, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (mut unleased, mut releases, begun) = (0, 0, AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (lease, inside, begun, over) = (&lease, &inside, &begun, &over);
                scope.spawn(move || {
                    while !over.load(SeqCst) {
                        let guard = lease.begin_request(thread);
                        if guard.is_leased() {
                            inside.fetch_add(1, SeqCst);
                            begun.fetch_add(1, SeqCst);
                            std::thread::yield_now();
                            inside.fetch_sub(1, SeqCst);
                        }
                        drop(guard);
                        std::thread::yield_now();
                    }
                });
            }
            // Until both have happened many times.
            while releases < ROUNDS || begun.load(SeqCst) < ROUNDS {
                let usage = lease.usage();
                // Lets a request begin in between.
                std::thread::yield_now();
                if usage.requests == 0 && release(&tenant_lease, usage.last_used) {
                    // From here on the tenant may be frozen.
                    releases += 1;
                    unleased += inside.load(SeqCst);
                    std::thread::yield_now();
                    unleased += inside.load(SeqCst);
                    grant(&tenant_lease);
                }
            }
            over.store(true, SeqCst);
        });
        assert_eq!(unleased, 0, "requests in flight without a lease");
    }
}
