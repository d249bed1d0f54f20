//! What keeps the tenant awake, as its two halves declare it. Pure: time and ids are arguments.
//!
//! A declaration ends by itself. Each half touches its own; `agent`, which is not trusted, may have few and may ask
//! seldom, so that all it can do is to keep its own tenant awake.

use std::time::Duration;

use protocol::Timestamp;
use protocol::busy::{
    Busy, BusyLease, BusyList, BusyOwner, DeclareBusy, MAX_TTL_SECONDS, is_printable,
};
use protocol::problem::FieldError;
use uuid::Uuid;

/// Live declarations of one half at most. The core's bound is there for its faults alone.
pub const MOST_OF_AGENT: usize = 16;
pub const MOST_OF_CORE: usize = 256;
/// Requests that `agent` may make at once, and then one in each [`EVERY`].
pub const BURST: u32 = 32;
pub const EVERY: Duration = Duration::from_millis(500);

const LONGEST_REASON: usize = 200;

/// Now, on two clocks: by `steady`, which only goes forward, things end; `wall` is what people are told.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub steady: Duration,
    pub wall: Timestamp,
}

/// Why nothing came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    Fields(Vec<FieldError>),
    /// `most` are alive; the first of them ends after `wait` unless it is renewed.
    Full {
        most: usize,
        wait: Duration,
    },
    /// It ran out, or never was, or is not the context's.
    Ended,
    TooOften {
        wait: Duration,
    },
}

#[derive(Debug, Default)]
pub struct Registry {
    /// In the order of their making. Those that ended go with the next change.
    all: Vec<Entry>,
    /// When all that `agent` has asked so far is paid for.
    paid_until: Duration,
}

#[derive(Debug)]
struct Entry {
    id: Uuid,
    busy: Busy,
    ends: Duration,
}

impl Registry {
    /// To be asked before all else: may this half ask now?
    pub fn admit(&mut self, owner: BusyOwner, now: Moment) -> Result<(), Refused> {
        match owner {
            BusyOwner::Core => return Ok(()),
            BusyOwner::Agent => {}
        }
        let paid_until = self.paid_until.max(now.steady);
        let credit = EVERY * (BURST - 1);
        let wait = paid_until.saturating_sub(now.steady + credit);
        if !wait.is_zero() {
            return Err(Refused::TooOften { wait });
        }
        self.paid_until = paid_until + EVERY;
        Ok(())
    }

    pub fn declare(
        &mut self,
        owner: BusyOwner,
        id: Uuid,
        wish: DeclareBusy,
        now: Moment,
    ) -> Result<BusyLease, Refused> {
        let ttl = ttl(wish.ttl_seconds);
        let faults: Vec<_> =
            reason_fault(&wish.reason).into_iter().chain(ttl.clone().err()).collect();
        let (Ok(ttl), []) = (ttl, faults.as_slice()) else { return Err(Refused::Fields(faults)) };
        self.prune(now);
        let own = || self.all.iter().filter(|entry| entry.busy.owner == owner);
        let most = match owner {
            BusyOwner::Core => MOST_OF_CORE,
            BusyOwner::Agent => MOST_OF_AGENT,
        };
        if own().count() >= most {
            let first = own().map(|entry| entry.ends).min().unwrap_or_default();
            return Err(Refused::Full { most, wait: first.saturating_sub(now.steady) });
        }
        let busy = Busy { reason: wish.reason, owner, until: now.wall + ttl };
        self.all.push(Entry { id, busy: busy.clone(), ends: now.steady + ttl });
        Ok(BusyLease { id, busy })
    }

    /// From now on it holds for this long, be that longer or shorter than before.
    pub fn renew(
        &mut self,
        owner: BusyOwner,
        id: Uuid,
        ttl_seconds: u32,
        now: Moment,
    ) -> Result<BusyLease, Refused> {
        let ttl = ttl(ttl_seconds).map_err(|fault| Refused::Fields(vec![fault]))?;
        self.prune(now);
        let is_it = |entry: &&mut Entry| entry.id == id && entry.busy.owner == owner;
        let entry = self.all.iter_mut().find(is_it).ok_or(Refused::Ended)?;
        entry.ends = now.steady + ttl;
        entry.busy.until = now.wall + ttl;
        Ok(BusyLease { id, busy: entry.busy.clone() })
    }

    /// Of what is not there, or another's, nothing happens.
    pub fn withdraw(&mut self, owner: BusyOwner, id: Uuid) {
        self.all.retain(|entry| entry.id != id || entry.busy.owner != owner);
    }

    /// What is alive; of one half only where that is given.
    pub fn list(&self, of: Option<BusyOwner>, now: Moment) -> BusyList {
        let alive = self.all.iter().filter(|entry| entry.lives(now));
        let shown = alive.filter(|entry| of.is_none_or(|owner| entry.busy.owner == owner));
        BusyList { busy: shown.map(|entry| entry.busy.clone()).collect() }
    }

    fn prune(&mut self, now: Moment) {
        self.all.retain(|entry| entry.lives(now));
    }
}

impl Entry {
    fn lives(&self, now: Moment) -> bool {
        now.steady < self.ends
    }
}

fn ttl(seconds: u32) -> Result<Duration, FieldError> {
    if (1..=MAX_TTL_SECONDS).contains(&seconds) {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let rule = format!("must be 1 to {MAX_TTL_SECONDS}; whoever works longer renews it");
    Err(fault("ttl_seconds", "out_of_range", rule))
}

fn reason_fault(reason: &str) -> Option<FieldError> {
    let length = reason.chars().count();
    let holds = (1..=LONGEST_REASON).contains(&length) && reason.chars().all(is_printable);
    let rule = format!(
        "must be 1 to {LONGEST_REASON} characters, none of them a control or format character"
    );
    (!holds).then(|| fault("reason", "invalid_text", rule))
}

fn fault(field: &str, code: &str, message: String) -> FieldError {
    FieldError { field: field.to_owned(), code: code.to_owned(), message }
}

#[cfg(test)]
mod tests;
