//! The busy declarations of the two halves, which keep the tenant awake. Pure: time and ids are arguments.
//!
//! A declaration ends by itself, and each half changes its own only. `agent` is not trusted: a quota and a rate limit
//! bound its use, and a declaration does nothing but keep this tenant awake.

use std::time::Duration;

use protocol::Timestamp;
use protocol::busy::{Busy, BusyLease, BusyList, BusyOwner, DeclareBusy, MAX_TTL_SECONDS};
use protocol::gauges::{Gauge, GaugeName};
use protocol::problem::{FieldCode, FieldError};
use protocol::text::check_line;
use uuid::Uuid;

/// The maximum number of active declarations of `agent`.
pub const MAX_AGENT_DECLARATIONS: usize = 16;
/// The same for the core half; it bounds the damage of a bug.
pub const MAX_CORE_DECLARATIONS: usize = 256;
/// The requests that `agent` may make at once; after them, one each [`REQUEST_INTERVAL`].
pub const REQUEST_BURST: u32 = 32;
pub const REQUEST_INTERVAL: Duration = Duration::from_millis(500);

const MAX_REASON_CHARS: usize = 200;

/// The current time on two clocks: declarations end by `monotonic`; people read `wall`.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub monotonic: Duration,
    pub wall: Timestamp,
}

/// Why a request to the busy API failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusyError {
    Fields(Vec<FieldError>),
    /// `max` declarations are active; the first of them ends after `wait` unless it is renewed.
    QuotaReached {
        max: usize,
        wait: Duration,
    },
    /// The declaration has ended, never existed, or belongs to the other half.
    NotFound,
    RateLimited {
        wait: Duration,
    },
}

#[derive(Debug, Default)]
pub struct BusyRegistry {
    /// In order of declaration. Ended entries are removed at the next change.
    entries: Vec<Entry>,
    /// The time at which the rate limit has no debt of `agent` left.
    debt_until: Duration,
}

#[derive(Debug)]
struct Entry {
    id: Uuid,
    busy: Busy,
    ends_at: Duration,
}

impl BusyRegistry {
    /// The rate limit. Call first for every request.
    ///
    /// # Errors
    /// `RateLimited`; a refused request costs nothing.
    pub fn check_rate(&mut self, owner: BusyOwner, now: Now) -> Result<(), BusyError> {
        match owner {
            BusyOwner::Core => return Ok(()),
            BusyOwner::Agent => {}
        }
        let debt_until = self.debt_until.max(now.monotonic);
        let credit = REQUEST_INTERVAL * (REQUEST_BURST - 1);
        let wait = debt_until.saturating_sub(now.monotonic + credit);
        if !wait.is_zero() {
            return Err(BusyError::RateLimited { wait });
        }
        self.debt_until = debt_until + REQUEST_INTERVAL;
        Ok(())
    }

    /// Adds a declaration.
    ///
    /// # Errors
    /// `Fields` or `QuotaReached`.
    pub fn declare(
        &mut self,
        owner: BusyOwner,
        id: Uuid,
        declaration: DeclareBusy,
        now: Now,
    ) -> Result<BusyLease, BusyError> {
        let ttl = ttl(declaration.ttl_seconds);
        let errors: Vec<_> =
            reason_error(&declaration.reason).into_iter().chain(ttl.clone().err()).collect();
        let (Ok(ttl), []) = (ttl, errors.as_slice()) else { return Err(BusyError::Fields(errors)) };
        self.prune(now);
        let own = || self.entries.iter().filter(|entry| entry.busy.owner == owner);
        let max = match owner {
            BusyOwner::Core => MAX_CORE_DECLARATIONS,
            BusyOwner::Agent => MAX_AGENT_DECLARATIONS,
        };
        if own().count() >= max {
            let first = own().map(|entry| entry.ends_at).min().unwrap_or_default();
            return Err(BusyError::QuotaReached { max, wait: first.saturating_sub(now.monotonic) });
        }
        let busy =
            Busy { reason: declaration.reason.trim().to_owned(), owner, until: now.wall + ttl };
        self.entries.push(Entry { id, busy: busy.clone(), ends_at: now.monotonic + ttl });
        Ok(BusyLease { id, busy })
    }

    /// Sets a new end, which may be earlier or later than before.
    ///
    /// # Errors
    /// `Fields` or `NotFound`.
    pub fn renew(
        &mut self,
        owner: BusyOwner,
        id: Uuid,
        ttl_seconds: u32,
        now: Now,
    ) -> Result<BusyLease, BusyError> {
        let ttl = ttl(ttl_seconds).map_err(|fault| BusyError::Fields(vec![fault]))?;
        self.prune(now);
        let is_it = |entry: &&mut Entry| entry.id == id && entry.busy.owner == owner;
        let entry = self.entries.iter_mut().find(is_it).ok_or(BusyError::NotFound)?;
        entry.ends_at = now.monotonic + ttl;
        entry.busy.until = now.wall + ttl;
        Ok(BusyLease { id, busy: entry.busy.clone() })
    }

    /// Ends a declaration. Without effect on an unknown one or one of the other half.
    pub fn withdraw(&mut self, owner: BusyOwner, id: Uuid) {
        self.entries.retain(|entry| entry.id != id || entry.busy.owner != owner);
    }

    /// The active declarations, of one half when `owner` is given.
    pub fn list(&self, owner: Option<BusyOwner>, now: Now) -> BusyList {
        let alive = self.entries.iter().filter(|entry| entry.is_active(now));
        let shown = alive.filter(|entry| owner.is_none_or(|owner| entry.busy.owner == owner));
        BusyList { busy: shown.map(|entry| entry.busy.clone()).collect() }
    }

    /// The active declarations of each half, and their bounds.
    pub fn gauges(&self, now: Now) -> [Gauge; 2] {
        let count = |owner| self.list(Some(owner), now).busy.len();
        let (core, agent) = (count(BusyOwner::Core), count(BusyOwner::Agent));
        [
            Gauge::new(GaugeName::CoreBusyDeclarations, core, MAX_CORE_DECLARATIONS),
            Gauge::new(GaugeName::AgentBusyDeclarations, agent, MAX_AGENT_DECLARATIONS),
        ]
    }

    fn prune(&mut self, now: Now) {
        self.entries.retain(|entry| entry.is_active(now));
    }
}

impl Entry {
    fn is_active(&self, now: Now) -> bool {
        now.monotonic < self.ends_at
    }
}

fn ttl(seconds: u32) -> Result<Duration, FieldError> {
    if (1..=MAX_TTL_SECONDS).contains(&seconds) {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let rule = format!("must be 1 to {MAX_TTL_SECONDS}; renew the declaration for longer work");
    Err(FieldError::new("ttl_seconds", FieldCode::OutOfRange, rule))
}

fn reason_error(reason: &str) -> Option<FieldError> {
    let rule = format!(
        "must be 1 to {MAX_REASON_CHARS} characters, at least one of them visible and none a control or format character"
    );
    let is_refused = check_line(reason, MAX_REASON_CHARS).is_err();
    is_refused.then(|| FieldError::new("reason", FieldCode::InvalidText, rule))
}

#[cfg(test)]
mod tests;
