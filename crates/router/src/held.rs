//! One tenant as the thread that holds the leases knows it: the lease, the one ask, all who wait.

use std::sync::Arc;

use lease::{Holder, Millis, Moment};
use protocol::TenantId;
use protocol::leases::{LeaseUsage, RequestIntent};

use crate::clock;
use crate::leases::{Outcome, Refusal, Waiter};
use crate::tenure::{Tenure, Usage};

/// One tenant, as long as the table knows it.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) holder: Holder,
    pub(crate) tenure: Option<Arc<Tenure>>,
    /// Where it was before, while something is still under way there.
    former: Vec<Arc<Tenure>>,
    pub(crate) linger: Millis,
    /// The one ask that is under way, whoever waits for it.
    pub(crate) asking: Option<RequestIntent>,
    pub(crate) asked: Moment,
    pub(crate) waiters: Vec<Waiter>,
    /// Nobody was there to be asked: when to ask again for those who wait.
    pub(crate) again: Option<Moment>,
    /// Until then no background request asks again: it sleeps.
    pub(crate) asleep: Moment,
    /// Until then nobody asks again: it was not running, and nothing was heard since.
    pub(crate) absent: Moment,
    /// Until then nobody tries again who does not insist.
    pub(crate) failed: Option<(Moment, Arc<str>)>,
}

impl Held {
    /// What the table says of it now. A lease on something else is worth nothing: the table is newer, unless it was a
    /// lease that told the table.
    pub(crate) fn is_at(&mut self, known: Option<Arc<Tenure>>) {
        let is_same = |old: &Arc<Tenure>| known.as_ref().is_some_and(|t| Arc::ptr_eq(old, t));
        if let Some(old) = self.tenure.take_if(|old| !is_same(old)) {
            self.leave(old);
            self.holder.discard_lease();
        }
        if let Some(known) = &known {
            self.former.retain(|former| !Arc::ptr_eq(former, known));
        }
        self.tenure = known;
    }

    /// Nothing more may be sent there. What is under way there counts to its end.
    fn leave(&mut self, old: Arc<Tenure>) {
        old.set_until(Moment(0));
        self.former.retain(|former| !former.usage().is_over());
        self.former.push(old);
    }

    /// What it is used for, wherever.
    pub(crate) fn usage(&self) -> Usage {
        let all = self.former.iter().chain(&self.tenure);
        all.map(|tenure| tenure.usage()).fold(Usage::default(), Usage::and)
    }

    /// It turned out to be worthless at this place.
    pub(crate) fn lose(&mut self, lost: &Arc<Tenure>) {
        if let Some(tenure) = self.tenure.as_ref().filter(|tenure| Arc::ptr_eq(lost, tenure)) {
            tenure.set_until(Moment(0));
            self.holder.discard_lease();
        }
    }

    /// A lease on it at `tenure`. `true` when it was elsewhere before.
    pub(crate) fn moves_to(&mut self, tenure: &Arc<Tenure>) -> bool {
        self.former.retain(|former| !Arc::ptr_eq(former, tenure));
        let old = self.tenure.replace(tenure.clone()).filter(|old| !Arc::ptr_eq(old, tenure));
        old.map(|old| self.leave(old)).is_some()
    }

    pub(crate) fn live(&self, now: Moment) -> Option<&Arc<Tenure>> {
        self.tenure.as_ref().filter(|tenure| self.holder.may_send(now) && tenure.is_live(now))
    }

    pub(crate) fn publish(&self) {
        if let Some(tenure) = &self.tenure {
            tenure.set_until(self.holder.valid_until());
        }
    }

    pub(crate) fn refuse(&mut self, refusal: &Refusal) {
        for waiter in self.waiters.drain(..) {
            waiter.hears(Outcome::Refused(refusal.clone()));
        }
    }

    /// Gives the lease back, unless it was used since it was `seen` unused.
    pub(crate) fn give_back(&mut self, tenant: TenantId, seen: &Usage) -> Option<LeaseUsage> {
        let tenure = self.tenure.as_ref()?;
        tenure.set_until(Moment(0));
        let usage = self.usage();
        if usage.requests > seen.requests || usage.last > seen.last {
            self.publish();
            return None;
        }
        tenure.woke(Moment(0));
        let number = self.holder.begin_release()?;
        Some(self.used(tenant, number, &usage))
    }

    pub(crate) fn used(&self, tenant: TenantId, number: u64, usage: &Usage) -> LeaseUsage {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let idle = match usage.requests {
            0 => clock::now().since(usage.last),
            _ => 0,
        };
        LeaseUsage {
            tenant,
            number,
            idle_ms: u32::try_from(idle).unwrap_or(u32::MAX),
            requests: count(usage.requests),
            streams: count(usage.streams),
            first_byte_ms: self.tenure.as_ref().and_then(|tenure| tenure.take_first_byte()),
        }
    }
}

impl Waiter {
    /// Whoever does not wait any more needs no answer.
    pub(crate) fn hears(self, outcome: Outcome) {
        let _ = self.reply.send(outcome);
    }

    /// The right to send.
    pub(crate) fn gets(self, tenure: &Arc<Tenure>) {
        let used = tenure.begin(self.thread);
        self.hears(Outcome::Leased(used));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;

    use lease::LeaseTerms;
    use protocol::orchestrator::Upstream;

    use super::*;
    use crate::routes::keys::TenantKeys;

    fn leased() -> (Held, Arc<Tenure>) {
        let keys = Arc::new(TenantKeys { route_token: String::new(), route_proof: String::new() });
        let tenant = TenantId::new(uuid::Uuid::from_u128(1));
        let tenure = Tenure::new(tenant, keys, (1, Upstream::Unix("/1".to_owned())), 2);
        let mut held = Held { tenure: Some(tenure.clone()), ..Held::default() };
        grant(&mut held);
        (held, tenure)
    }

    fn grant(held: &mut Held) {
        let call = held.holder.begin_request(clock::now());
        assert!(held.holder.on_granted(call, LeaseTerms { expires_in: 60_000, linger: 100 }));
        held.publish();
    }

    #[test]
    fn what_is_in_use_is_not_given_back() {
        let (mut held, tenure) = leased();
        let unused = tenure.usage();
        let used = tenure.begin(0);
        assert!(used.is_leased());
        assert_eq!(held.give_back(tenure.tenant, &unused), None, "a request is under way");
        assert!(used.is_leased(), "and stays right");
        drop(used);
        assert_eq!(held.give_back(tenure.tenant, &unused), None, "it was, a moment ago");
        let now = tenure.usage();
        assert!(held.give_back(tenure.tenant, &now).is_some());
        assert!(!tenure.begin(0).is_leased());
    }

    #[test]
    fn what_is_under_way_where_it_was_before_counts_to_its_end() {
        let (mut held, old) = leased();
        let used = old.begin(0);
        let there = (2, Upstream::Unix("/2".to_owned()));
        let new = Tenure::new(old.tenant, old.keys.clone(), there, 2);
        held.is_at(Some(new.clone()));
        assert!(!used.is_leased() && held.live(clock::now()).is_none());
        grant(&mut held);
        assert!(new.begin(1).is_leased());
        assert_eq!(held.usage().requests, 1);
        let there = (3, Upstream::Unix("/3".to_owned()));
        let newer = Tenure::new(old.tenant, old.keys.clone(), there, 2);
        assert!(held.moves_to(&newer));
        held.publish();
        assert_eq!(held.usage().requests, 1);
        let unused = Usage { last: held.usage().last, ..Usage::default() };
        assert_eq!(held.give_back(old.tenant, &unused), None, "a request is under way");
        assert!(newer.begin(0).is_leased());
        drop(used);
        assert_eq!(held.usage().requests, 0);
        let now = held.usage();
        assert!(held.give_back(old.tenant, &now).is_some());
    }

    #[test]
    fn no_request_slips_through_while_a_lease_is_given_back() {
        let (mut held, tenure) = leased();
        let (inside, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (mut slipped, mut releases, begun) = (0, 0, AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (tenure, inside, begun, over) = (&tenure, &inside, &begun, &over);
                scope.spawn(move || {
                    while !over.load(SeqCst) {
                        let used = tenure.begin(thread);
                        if used.is_leased() {
                            inside.fetch_add(1, SeqCst);
                            begun.fetch_add(1, SeqCst);
                            std::thread::yield_now();
                            inside.fetch_sub(1, SeqCst);
                        }
                        drop(used);
                        std::thread::yield_now();
                    }
                });
            }
            // As often as it takes for both to have happened many times.
            while releases < 500 || begun.load(SeqCst) < 500 {
                let usage = tenure.usage();
                // Time for somebody to come.
                std::thread::yield_now();
                if usage.requests == 0 && held.give_back(tenure.tenant, &usage).is_some() {
                    // From here on it may freeze.
                    releases += 1;
                    slipped += inside.load(SeqCst);
                    std::thread::yield_now();
                    slipped += inside.load(SeqCst);
                    grant(&mut held);
                }
            }
            over.store(true, SeqCst);
        });
        assert_eq!(slipped, 0, "requests under way without a lease");
    }
}
