//! Leases as routers ask for them, and the wakes that asks cause.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use lease::{LeaseResponse, WakeError};
use protocol::TenantId;
use protocol::leases::{
    LeaseGrant, LeaseRequest, LeaseUsage, ReleaseRequest, RenewRequest, RenewResponse,
    RenewedLease, RequestIntent, WakeProgress, WakeStep, code,
};
use protocol::orchestrator::{ObservedTenant, Phase};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::Keeper;
use super::desk::{Wanted, Word};
use crate::driver::{DriverError, DriverErrorCode};

/// Why a lease was not given.
#[derive(Debug)]
pub struct LeaseError {
    pub status: u16,
    /// One of [`code`], or of [`DriverErrorCode`].
    pub code: &'static str,
    pub detail: String,
    pub retry_after: Option<Duration>,
    /// How many wakes, or requests, are before this one; `None` where it does not wait.
    pub queue_position: Option<usize>,
}

/// An owner's hand holds no lease: it asks for one and gives it back at once.
const OWNER: Uuid = Uuid::nil();
/// How long an owner's wake is waited for by nobody but us.
const OWNERS_PATIENCE: Duration = Duration::from_secs(60);
/// Between two asks of one who was told to wait.
const SOON: Duration = Duration::from_secs(1);

impl Keeper {
    /// Wakes the tenant first if it sleeps. Whoever drops this does not wait any more; the wake goes on.
    pub async fn lease(self: &Arc<Self>, ask: LeaseRequest) -> Result<LeaseGrant, LeaseError> {
        let wait = Duration::from_millis(ask.wait_ms.into());
        let asked = self.desk.now();
        self.listed_within(wait).await?;
        let waited = Duration::from_millis(self.desk.now().since(asked));
        self.remember(ask.tenant);
        let wanted = Wanted {
            tenant: ask.tenant,
            visit: ask.intent == RequestIntent::Visit,
            holder: ask.holder,
            number: ask.number,
            wait: wait.saturating_sub(waited),
        };
        let (id, told) = self.desk.ask(wanted);
        let waiting = Waiting { keeper: self, tenant: ask.tenant, id };
        let word = told.await.unwrap_or(Word::Leaving);
        drop(waiting);
        let granted = self.told(ask.tenant, word)?;
        let Some((generation, upstream)) = self.way_in(ask.tenant) else {
            return Err(self.refusal(ask.tenant, LeaseResponse::NotRunning));
        };
        Ok(LeaseGrant {
            tenant: ask.tenant,
            generation,
            upstream,
            expires_in_ms: short(granted.expires_in),
            linger_ms: short(granted.linger),
            woke: granted.woke,
        })
    }

    /// Before the first list nothing is said: `None` would end leases that an earlier process granted.
    pub fn renew(&self, renew: &RenewRequest) -> Result<RenewResponse, LeaseError> {
        self.listed()?;
        let standing = |used: &LeaseUsage| {
            self.first_byte(used);
            let left = self.desk.tell_of_use(used.tenant, |authority, now| {
                authority.renew_lease(now, used.tenant, renew.holder, use_of(used))
            });
            RenewedLease { tenant: used.tenant, expires_in_ms: left.map(short) }
        };
        Ok(RenewResponse { leases: renew.leases.iter().map(standing).collect() })
    }

    pub fn release(&self, release: &ReleaseRequest) {
        for used in &release.leases {
            self.first_byte(used);
            self.desk.tell_of_use(used.tenant, |authority, now| {
                authority.release_lease(now, used.tenant, release.holder, use_of(used));
            });
        }
    }

    /// The owner's hand. Answers at once: what comes of a wake is told by the watch. Counts as use of one that is awake.
    pub async fn wake(self: &Arc<Self>, id: TenantId) -> Result<ObservedTenant, LeaseError> {
        self.listed_within(Duration::ZERO).await?;
        self.remember(id);
        let number = self.now();
        let wait = OWNERS_PATIENCE;
        let wanted = Wanted { tenant: id, visit: true, holder: OWNER, number, wait };
        let (_, mut told) = self.desk.ask(wanted);
        match told.try_recv() {
            Ok(word) => {
                self.told(id, word)?;
                self.give_back(id, number);
            }
            Err(_) => {
                let keeper = self.clone();
                tokio::spawn(async move { keeper.give_back_later(id, number, told).await });
            }
        }
        let observed = self.observed(id);
        observed.ok_or_else(|| self.refusal(id, LeaseResponse::Unknown))
    }

    /// This process is going: whoever waits is told, in the order in which they came.
    pub fn drain(&self) {
        self.desk.drain();
    }

    async fn give_back_later(&self, id: TenantId, number: u64, told: oneshot::Receiver<Word>) {
        if let Ok(Word::Said(LeaseResponse::Granted(_))) = told.await {
            self.give_back(id, number);
        }
    }

    fn give_back(&self, id: TenantId, number: u64) {
        self.desk.tell(|authority, now| {
            authority.release_lease(
                now,
                id,
                OWNER,
                lease::HolderUsage { number, ..lease::HolderUsage::default() },
            );
        });
    }

    /// One for each change, until it is ready or has failed. Wakes nobody.
    pub fn progress(
        self: &Arc<Self>,
        id: TenantId,
    ) -> Result<impl Stream<Item = WakeProgress> + use<>, DriverError> {
        self.remember(id);
        self.step(id, false).ok_or_else(|| DriverError::no_such_tenant(id))?;
        let start = Watched { keeper: self.clone(), moves: self.desk.moves(), last: None };
        Ok(stream::unfold(start, move |mut watched| async move {
            let step = watched.next(id).await?;
            Some((step, watched))
        }))
    }

    /// `woken`: it was on its way, so that resting means that this came to nothing.
    fn step(&self, id: TenantId, woken: bool) -> Option<WakeProgress> {
        let progress = self.desk.see(|authority, now| authority.wake_progress(now, id))?;
        let at = |step, elapsed, ahead: Option<usize>| WakeProgress {
            step,
            ahead: ahead.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            elapsed_ms: short(elapsed),
            reason: None,
        };
        Some(match progress {
            lease::WakeProgress::Queued { queue_position: ahead, elapsed } => {
                at(WakeStep::Queued, elapsed, Some(ahead))
            }
            lease::WakeProgress::Starting { elapsed } => at(WakeStep::Starting, elapsed, None),
            lease::WakeProgress::Booting { elapsed } => at(WakeStep::Booting, elapsed, None),
            lease::WakeProgress::NotWaking(Phase::Ready) => at(WakeStep::Ready, 0, None),
            lease::WakeProgress::NotWaking(Phase::Starting) if !woken => {
                at(WakeStep::Booting, 0, None)
            }
            lease::WakeProgress::NotWaking(Phase::Sleeping | Phase::Frozen) if !woken => {
                at(WakeStep::Asleep, 0, None)
            }
            lease::WakeProgress::NotWaking(Phase::Stopped) => {
                let reason = Some(STOPPED.to_owned());
                WakeProgress { reason, ..at(WakeStep::Failed, 0, None) }
            }
            lease::WakeProgress::NotWaking(
                Phase::Created | Phase::Exited | Phase::Sleeping | Phase::Frozen | Phase::Starting,
            ) => WakeProgress { reason: Some(self.reason(id)), ..at(WakeStep::Failed, 0, None) },
        })
    }

    /// Unknown is not gone: before the first list nothing can be said of anybody.
    async fn listed_within(&self, wait: Duration) -> Result<(), LeaseError> {
        let listed = async {
            let mut moves = self.desk.moves();
            while self.feed().is_err() && moves.changed().await.is_ok() {}
        };
        let _ = tokio::time::timeout(wait, listed).await;
        self.listed()
    }

    fn listed(&self) -> Result<(), LeaseError> {
        self.feed().map(drop).map_err(|refusal| LeaseError {
            status: refusal.code.status(),
            code: refusal.code.as_str(),
            detail: refusal.detail,
            retry_after: Some(SOON),
            queue_position: None,
        })
    }

    fn told(&self, id: TenantId, word: Word) -> Result<lease::Grant, LeaseError> {
        match word {
            Word::Said(LeaseResponse::Granted(grant)) => Ok(grant),
            Word::Said(answer) => Err(self.refusal(id, answer)),
            Word::Leaving => Err(LeaseError {
                status: 503,
                code: code::LEAVING,
                detail: "The orchestrator is being restarted. LeaseRequest again.".to_owned(),
                retry_after: Some(SOON),
                queue_position: None,
            }),
        }
    }

    fn refusal(&self, id: TenantId, answer: LeaseResponse) -> LeaseError {
        let no = |status, code, detail: String| LeaseError {
            status,
            code,
            detail,
            retry_after: None,
            queue_position: None,
        };
        match answer {
            LeaseResponse::Unknown => {
                let refusal = DriverError::no_such_tenant(id);
                no(404, DriverErrorCode::NoSuchTenant.as_str(), refusal.detail)
            }
            LeaseResponse::Stopped => no(409, code::STOPPED, STOPPED.to_owned()),
            // A grant for what is not reachable any more is none.
            LeaseResponse::NotRunning | LeaseResponse::Granted(_) => {
                no(409, code::NOT_RUNNING, self.reason(id))
            }
            LeaseResponse::WakeRequired => {
                let detail = "It sleeps, and this request is none that wakes it. Open it in a browser, or call it with Authorization.";
                no(409, code::WAKE_REQUIRED, detail.to_owned())
            }
            LeaseResponse::Waking { queue_position: ahead } => LeaseError {
                retry_after: Some(after(ahead, 0)),
                queue_position: Some(ahead),
                ..no(503, code::WAKING, format!("It is being woken; {ahead} wakes are before it."))
            },
            LeaseResponse::QueueFull { seed } => {
                self.metrics.sleep.count_wake_queue_full();
                let ahead = self.desk.see(|authority, _| authority.wake_queue().waiter_count());
                let detail = format!("{ahead} requests wait for a wake already. Try again later.");
                let retry_after = Some(after(ahead, seed));
                let ahead = Some(ahead);
                LeaseError {
                    retry_after,
                    queue_position: ahead,
                    ..no(503, code::WAKE_QUEUE_FULL, detail)
                }
            }
            LeaseResponse::Failed(WakeError::ReadinessTimeout) => {
                let seconds = self.rules.boot.as_secs();
                let detail = format!(
                    "It was started, and its services have not all answered within {seconds} s. Look at its log."
                );
                no(502, code::WAKE_FAILED, detail)
            }
            LeaseResponse::Failed(WakeError::EngineRefused) => {
                let told = self.book().tenants.get(&id).and_then(|entry| entry.unwoken.clone());
                no(502, code::WAKE_FAILED, told.unwrap_or_else(|| self.reason(id)))
            }
            LeaseResponse::Failed(WakeError::Exited) => no(502, code::WAKE_FAILED, self.reason(id)),
        }
    }

    /// Why it is not ready, for a person.
    fn reason(&self, id: TenantId) -> String {
        let told = self.observed(id).and_then(|observed| observed.reason);
        told.unwrap_or_else(|| "It is not running. Look at its log, or start it.".to_owned())
    }
}

const STOPPED: &str = "Its owner stopped it. No request wakes it: start it in the admin.";

/// When to come back: later the more are before, and not all at once.
fn after(ahead: usize, seed: u64) -> Duration {
    const JITTER: u64 = 5;
    let behind = u64::try_from(ahead / 10).unwrap_or(u64::MAX).min(20);
    // Neighbours in the order of refusal come back at different times.
    SOON + Duration::from_secs(behind + seed.wrapping_mul(7) % JITTER)
}

fn use_of(used: &LeaseUsage) -> lease::HolderUsage {
    lease::HolderUsage {
        number: used.number,
        idle: used.idle_ms.into(),
        requests: used.requests,
        streams: used.streams,
    }
}

fn short(millis: u64) -> u32 {
    u32::try_from(millis).unwrap_or(u32::MAX)
}

/// Leaves the queue when its caller does.
struct Waiting<'a> {
    keeper: &'a Keeper,
    tenant: TenantId,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.keeper.desk.leave(self.tenant, self.id);
    }
}

/// One who looks how far a wake is.
struct Watched {
    keeper: Arc<Keeper>,
    moves: tokio::sync::watch::Receiver<u64>,
    last: Option<WakeProgress>,
}

impl Watched {
    async fn next(&mut self, id: TenantId) -> Option<WakeProgress> {
        if self
            .last
            .as_ref()
            .is_some_and(|last| matches!(last.step, WakeStep::Ready | WakeStep::Failed))
        {
            return None;
        }
        while !self.keeper.desk.is_leaving() {
            self.moves.mark_unchanged();
            let woken = self.last.as_ref().is_some_and(|last| {
                matches!(last.step, WakeStep::Queued | WakeStep::Starting | WakeStep::Booting)
            });
            let step = self.keeper.step(id, woken)?;
            let told = self.last.as_ref().map(|last| (last.step, last.ahead));
            if told != Some((step.step, step.ahead)) {
                self.last = Some(step.clone());
                return Some(step);
            }
            self.moves.changed().await.ok()?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_sent_away_comes_back_later_the_more_are_before_and_not_all_at_once() {
        let seconds = |ahead, seed| after(ahead, seed).as_secs();
        assert_eq!((seconds(0, 0), seconds(100, 0), seconds(100_000, 0)), (1, 11, 21));
        let five: std::collections::BTreeSet<_> = (0..5).map(|seed| seconds(0, seed)).collect();
        assert_eq!(five.len(), 5);
    }
}
