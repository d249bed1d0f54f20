//! The holder's side of one lease: whether requests may be sent to the tenant, and when to renew or release.

use crate::time::{Millis, Moment};

/// A holder renews a lease in use this many times before the lease would expire.
const RENEWALS_PER_LEASE: Millis = 3;
/// A holder retries a failed renewal at most this many times per lease.
const RENEWAL_RETRIES_PER_LEASE: Millis = 15;
/// The holder gives up this fraction of each lease, because two machines' clocks do not run equally
/// fast.
const CLOCK_DRIFT_DIVISOR: Millis = 60;
/// Minimum time between two lease requests on behalf of traffic that no lease covers.
const REQUEST_RETRY_DELAY: Millis = 1_000;

/// A call to the orchestrator that is in flight. The caller passes it back together with the response; a response that
/// never arrives needs no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseCall {
    /// `number` of `leases::LeaseRequest` and `leases::LeaseUsage`.
    pub number: u64,
    pub sent_at: Moment,
}

/// The terms of a grant: `expires_in_ms` and `linger_ms` of `leases::LeaseGrant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseTerms {
    pub expires_in: Millis,
    /// How long the holder keeps the lease after the last use before it releases it.
    pub linger: Millis,
}

/// The call that a holder must make now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DueAction {
    Nothing,
    /// Call [`Holder::begin_renewal`]; renewals that are due together share one call.
    Renew,
    /// Call [`Holder::begin_release`].
    Release,
    /// Call [`Holder::begin_request`]: traffic is in flight and no lease covers it.
    Request,
}

/// The lease of one router process on one tenant.
///
/// Two orders keep every request under a lease. A request counts itself *before* it reads [`Holder::valid_until`] (or the
/// caller's atomic copy). A caller that releases clears its copy *before* it counts requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Holder {
    pub(crate) lease: Option<HeldLease>,
    /// When the holder sent its last call, whatever the result of that call was.
    pub(crate) last_call_at: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HeldLease {
    pub(crate) number: u64,
    pub(crate) valid_until: Moment,
    pub(crate) terms: LeaseTerms,
    /// When the call that last extended the lease was sent.
    pub(crate) extended_at: Moment,
}

impl Holder {
    pub const fn may_send(&self, now: Moment) -> bool {
        match self.lease {
            Some(lease) => now.0 < lease.valid_until.0,
            None => false,
        }
    }

    /// Returns the moment until which requests may be sent; the epoch without a lease.
    pub const fn valid_until(&self) -> Moment {
        match self.lease {
            Some(lease) => lease.valid_until,
            None => Moment(0),
        }
    }

    /// Starts a lease request; the caller has at most one in flight.
    ///
    /// `number` grows from request to request, also beyond the life of this value: a release that is still in flight
    /// must not end a lease that was requested after it.
    pub fn begin_request(&mut self, now: Moment, number: u64) -> LeaseCall {
        self.last_call_at = Some(now);
        LeaseCall { number, sent_at: now }
    }

    /// Handles the grant of the lease request in flight. A grant of any earlier request comes too late: the lease may have
    /// been released since.
    pub fn on_granted(&mut self, call: LeaseCall, terms: LeaseTerms) {
        let old =
            self.lease.map_or((Moment(0), Moment(0)), |old| (old.valid_until, old.extended_at));
        self.lease = Some(HeldLease {
            number: call.number,
            valid_until: old.0.max(valid_until(call, terms.expires_in)),
            terms,
            // A renewal of the lease before may have been sent after the request.
            extended_at: old.1.max(call.sent_at),
        });
    }

    /// Starts a renewal; `None` without a lease.
    pub fn begin_renewal(&mut self, now: Moment) -> Option<LeaseCall> {
        let lease = self.lease?;
        self.last_call_at = Some(now);
        Some(LeaseCall { number: lease.number, sent_at: now })
    }

    /// Handles the response to a renewal: `leases::RenewedLease::expires_in_ms`; `None` ends the lease.
    pub fn on_renewed(&mut self, call: LeaseCall, expires_in: Option<Millis>) {
        let Some(lease) = self.lease.as_mut().filter(|lease| lease.number == call.number) else {
            return;
        };
        match expires_in {
            Some(time) => {
                lease.valid_until = lease.valid_until.max(valid_until(call, time));
                lease.extended_at = lease.extended_at.max(call.sent_at);
            }
            None => self.lease = None,
        }
    }

    /// Ends the lease and returns the number to release; `None` without a lease.
    ///
    /// The caller must clear its atomic copy before the release is sent: the tenant may be suspended on its arrival.
    pub fn begin_release(&mut self) -> Option<u64> {
        self.lease.take().map(|lease| lease.number)
    }

    /// Drops the lease without a release: the tenant has another generation or another upstream.
    pub fn discard_lease(&mut self) {
        self.lease = None;
    }

    /// Returns the call that must be made now.
    ///
    /// `in_use`: a request is in flight, or a stream had data within the last linger time. `last_used`: the end of the last
    /// request, or the last data of a stream.
    pub fn due_action(&self, now: Moment, in_use: bool, last_used: Moment) -> DueAction {
        match self.next_action(in_use, last_used) {
            Some((at, action)) if at <= now => action,
            Some(_) | None => DueAction::Nothing,
        }
    }

    /// Returns when [`Holder::due_action`] stops returning nothing, if no event comes first.
    pub fn next_deadline(&self, in_use: bool, last_used: Moment) -> Option<Moment> {
        self.next_action(in_use, last_used).map(|(at, _)| at)
    }

    fn next_action(&self, in_use: bool, last_used: Moment) -> Option<(Moment, DueAction)> {
        let Some(lease) = self.lease else {
            let at = self.last_call_at.map_or(Moment(0), |at| at.plus(REQUEST_RETRY_DELAY));
            return in_use.then_some((at, DueAction::Request));
        };
        let renewal = (in_use || last_used > lease.extended_at).then(|| {
            let retry_delay = lease.terms.expires_in / RENEWAL_RETRIES_PER_LEASE;
            let retry_at = self.last_call_at.map_or(Moment(0), |at| at.plus(retry_delay));
            let interval = lease.terms.expires_in / RENEWALS_PER_LEASE;
            (retry_at.max(lease.extended_at.plus(interval)), DueAction::Renew)
        });
        let release = (!in_use).then(|| {
            let at = last_used.max(lease.extended_at).plus(lease.terms.linger);
            (at, DueAction::Release)
        });
        match (renewal, release) {
            (Some(renewal), Some(release)) if release.0 <= renewal.0 => Some(release),
            (Some(renewal), _) => Some(renewal),
            (None, release) => release,
        }
    }
}

/// Counts from when the call was sent, so that the holder's lease ends before the authority's.
fn valid_until(call: LeaseCall, expires_in: Millis) -> Moment {
    call.sent_at.plus(expires_in - expires_in / CLOCK_DRIFT_DIVISOR)
}
