//! The holder's side, one tenant: may it be sent a request, and what must be said to its keeper.

use crate::planted::planted;
use crate::time::{Millis, Moment};

/// How a holder paces itself, in parts of what it was granted.
const RENEWALS: Millis = 3;
const RETRIES: Millis = 15;
/// So much sooner than granted it ends here: two machines' clocks do not run equally fast.
const MARGIN: Millis = 60;

/// A call to the keeper that is under way. Its answer is given back with it; an answer that never comes needs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    /// `Ask::number`, `Used::number`.
    pub number: u64,
    pub sent: Moment,
}

/// What the keeper granted: `Grant::expires_in_ms`, `Grant::linger_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    pub expires_in: Millis,
    pub linger: Millis,
}

/// What is to be said to the keeper now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    Nothing,
    /// [`Holder::renew`], together with all others that are due.
    Renew,
    /// [`Holder::release`].
    Release,
    /// [`Holder::ask`]: something is under way and no lease covers it.
    Ask,
}

/// What one router process may do with one tenant.
///
/// The order that keeps a request from slipping through: a request takes its guard *before* it reads [`Holder::until`]
/// (or the shell's atomic copy), and a shell that releases sets its copy to 0 *before* it looks for guards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Holder {
    /// Of the last ask.
    pub(crate) asked: u64,
    /// Answers to asks up to this number came too late: what they granted was given back.
    pub(crate) over: u64,
    pub(crate) live: Option<Live>,
    /// When the keeper was last called, for whatever answer.
    pub(crate) tried: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Live {
    pub(crate) number: u64,
    pub(crate) until: Moment,
    pub(crate) terms: Terms,
    /// When the call that last prolonged it was sent.
    pub(crate) spoken: Moment,
}

impl Holder {
    pub const fn may_send(&self, now: Moment) -> bool {
        match self.live {
            Some(live) => now.0 < live.until.0,
            None => false,
        }
    }

    /// Until then requests may be sent; the epoch itself when not at all. For the shell's atomic.
    pub const fn until(&self) -> Moment {
        match self.live {
            Some(live) => live.until,
            None => Moment(0),
        }
    }

    /// A call for a lease is about to be sent. Several may be under way at once.
    pub fn ask(&mut self, now: Moment) -> Call {
        self.asked += 1;
        self.tried = Some(now);
        Call { number: self.asked, sent: now }
    }

    /// An ask was granted. `false` when that is too late to be of use.
    pub fn granted(&mut self, call: Call, terms: Terms) -> bool {
        if call.number <= self.over && !planted!(LateGrantCounts) {
            return false;
        }
        let fresh = Live {
            number: call.number,
            until: ends(call, terms.expires_in),
            terms,
            spoken: call.sent,
        };
        self.live = Some(match self.live {
            Some(old) => Live {
                number: old.number.max(fresh.number),
                until: old.until.max(fresh.until),
                spoken: old.spoken.max(fresh.spoken),
                terms,
            },
            None => fresh,
        });
        true
    }

    /// A renewal is about to be sent; `None` when there is nothing to renew.
    pub fn renew(&mut self, now: Moment) -> Option<Call> {
        let live = self.live?;
        self.tried = Some(now);
        Some(Call { number: live.number, sent: now })
    }

    /// A renewal was answered: `Standing::expires_in_ms`.
    pub fn renewed(&mut self, call: Call, expires_in: Option<Millis>) {
        let Some(live) = self.live.as_mut().filter(|live| live.number == call.number) else {
            return;
        };
        match expires_in {
            Some(time) => {
                live.until = live.until.max(ends(call, time));
                live.spoken = live.spoken.max(call.sent);
            }
            None => self.live = None,
        }
    }

    /// A release is about to be sent, with this number; `None` when there is nothing to release. Nothing may be sent from
    /// here on: the call must not leave before the shell's atomic says so too.
    pub fn release(&mut self) -> Option<u64> {
        let live = self.live.take()?;
        self.over = live.number;
        Some(live.number)
    }

    /// Something shows that the lease is worth nothing: another generation, another upstream.
    pub fn lost(&mut self) {
        self.live = None;
    }

    /// What is to be said now. `in_use`: something is under way (a request, a tunnel with data in the last linger time);
    /// `last_used`: when something last was.
    pub fn due(&self, now: Moment, in_use: bool, last_used: Moment) -> Due {
        match self.next(in_use, last_used) {
            Some((at, due)) if at <= now => due,
            Some(_) | None => Due::Nothing,
        }
    }

    /// When [`Holder::due`] says something else than nothing, if nothing happens until then.
    pub fn next_deadline(&self, in_use: bool, last_used: Moment) -> Option<Moment> {
        self.next(in_use, last_used).map(|(at, _)| at)
    }

    fn next(&self, in_use: bool, last_used: Moment) -> Option<(Moment, Due)> {
        let Some(live) = self.live else {
            let again = self.tried.map_or(Moment(0), |at| at.plus(RETRY));
            return in_use.then_some((again, Due::Ask));
        };
        let renewal = (in_use || last_used > live.spoken).then(|| {
            let pause = live.terms.expires_in / RETRIES;
            let again = self.tried.map_or(Moment(0), |at| at.plus(pause));
            let part = live.terms.expires_in / RENEWALS;
            (again.max(live.spoken.plus(part)), Due::Renew)
        });
        let release =
            (!in_use).then(|| (last_used.max(live.spoken).plus(live.terms.linger), Due::Release));
        match (renewal, release) {
            (Some(renewal), Some(release)) if release.0 <= renewal.0 => Some(release),
            (Some(renewal), _) => Some(renewal),
            (None, release) => release,
        }
    }
}

/// Between two asks on behalf of what is under way without a lease.
const RETRY: Millis = 1_000;

fn ends(call: Call, expires_in: Millis) -> Moment {
    let sent = if planted!(CountsFromArrival) { call.sent.plus(1_000) } else { call.sent };
    sent.plus(expires_in - expires_in / MARGIN)
}
