//! When the orchestrator is not there: who is served without it, who waits until it is back, who finds that out.

use lease::{Millis, Moment};
use protocol::TenantId;
use protocol::leases::RequestIntent;
use service::client::CallError;

use super::{Keeping, Said};
use crate::asking::{self, Meaning};
use crate::clock;
use crate::held::Held;
use crate::leases::Outcome;
use crate::routes::table::Availability;

/// So long an ask may go without a word from the orchestrator.
pub(super) const SILENCE: Millis = 1_000;
/// All tenants are looked at no more often than this while it is away.
pub(super) const BREATH: Millis = 100;
/// Between two asks for one tenant while it is away.
const AGAIN: Millis = 1_000;
/// So many asks at a look while it is away: enough to notice that it is back.
const PROBES: usize = 4;

impl Keeping {
    pub(super) fn heard(&mut self) {
        self.heard = clock::now();
        if self.room.set_shut_out(false) {
            tracing::info!("the orchestrator takes our calls again");
        }
        self.is_there();
    }

    fn is_there(&mut self) {
        if self.room.set_away(false) {
            tracing::info!("the orchestrator answers again");
            // For all who waited for that.
            self.look_by(clock::now());
        }
    }

    /// It answers, and not what was asked.
    pub(super) fn faulty(&mut self, error: &CallError) {
        self.heard = clock::now();
        let is_ours = match error {
            CallError::Refused(problem) => matches!(problem.status, 401 | 403 | 422),
            CallError::Unexpected(_) => true,
            CallError::Unreachable(_) | CallError::TimedOut(_) => false,
        };
        if !is_ours {
            tracing::error!(%error, "the orchestrator failed at a call about leases");
        } else if self.room.set_shut_out(true) {
            tracing::error!(%error, "the orchestrator takes no call of ours: compare the leases token and the builds");
        }
        self.is_there();
    }

    /// A call that was about no tenant alone.
    pub(super) fn came_to_nothing(&mut self, error: &CallError) {
        match asking::meaning(error) {
            Meaning::Nobody => {
                self.silent(error);
                self.see_to_all();
            }
            Meaning::Refused(_) | Meaning::Fault => self.faulty(error),
        }
    }

    pub(super) fn silent(&mut self, error: &CallError) {
        if self.room.set_away(true) {
            self.lost = clock::now();
            tracing::warn!(%error, "the orchestrator does not answer; what runs is served without leases");
            self.see_to_all();
        }
    }

    fn see_to_all(&mut self) {
        let waiting = self.tenants.iter().filter(|(_, held)| !held.waiters.is_empty());
        let waiting: Vec<TenantId> = waiting.map(|(tenant, _)| *tenant).collect();
        waiting.into_iter().for_each(|tenant| self.without_keeper(tenant));
    }

    /// Whoever waits for a tenant that runs is served without a lease; all others wait on, each for as long as he
    /// would have: a restart is over in less.
    pub(super) fn without_keeper(&mut self, tenant: TenantId) {
        let now = clock::now();
        let entry = self.directory.get(tenant);
        let running = entry.filter(|entry| entry.availability() == Availability::Running);
        let Some(held) = self.tenants.get_mut(&tenant) else { return };
        match running.and_then(|entry| entry.tenure.clone()) {
            Some(tenure) => {
                for waiter in held.waiters.drain(..) {
                    let used = tenure.begin(waiter.thread);
                    waiter.hears(Outcome::Unleased(used));
                }
            }
            None if held.asking.is_none() && held.again.is_none() && !held.waiters.is_empty() => {
                held.again = Some(now.plus(AGAIN));
            }
            None => {}
        }
        self.look_by(now.plus(super::BREATH));
    }

    /// For longer than a restart takes.
    pub(super) fn is_gone(&self, now: Moment) -> bool {
        let restart = u64::try_from(self.room.limits.restart.as_millis()).unwrap_or(u64::MAX);
        self.room.is_away() && self.lost.plus(restart) <= now
    }

    /// For what is under way without a lease (`used`), and for those who wait since nobody was there.
    pub(super) fn ask_for(&mut self, now: Moment, used: Vec<TenantId>) {
        let is_away = self.room.is_away();
        let is_due = |held: &Held| held.again.is_some_and(|at| at <= now || !is_away);
        let due = self.tenants.iter().filter(|(_, held)| held.asking.is_none() && is_due(held));
        let awaited: Vec<TenantId> = due.map(|(tenant, _)| *tenant).collect();
        let most = if is_away { PROBES } else { usize::MAX };
        awaited.into_iter().take(most).for_each(|tenant| self.ask_again(tenant));
        used.into_iter().take(most).for_each(|tenant| self.ask(tenant, RequestIntent::Background));
    }

    /// An ask may be silent for long, because a tenant wakes or because nobody is there: a call that is always answered
    /// at once tells which.
    pub(super) fn listen(&mut self, now: Moment) {
        if self.next_listen().is_some_and(|at| at <= now) {
            (self.is_listening, self.listened) = (true, now);
            let keeper = self.keeper.clone();
            self.calls.spawn(async move { Said::Listened(keeper.listen().await) });
        }
    }

    fn next_listen(&self) -> Option<Moment> {
        if self.is_listening {
            return None;
        }
        let asked = self.tenants.values().filter(|held| held.asking.is_some());
        let first = asked.map(|held| held.asked).min()?;
        Some(first.max(self.heard).max(self.listened).plus(SILENCE))
    }

    /// When to look again for the sake of those who wait.
    pub(super) fn next_look(&self) -> Option<Moment> {
        let idle = self.tenants.values().filter(|held| held.asking.is_none());
        let again = idle.filter_map(|held| held.again).min();
        again.into_iter().chain(self.next_listen()).min()
    }
}
