//! What the serving threads ask of the thread that holds the leases, and how long they wait for it.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lease::{Millis, Moment};
use protocol::TenantId;
use protocol::leases::RequestIntent;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::clock;
use crate::tenure::{Tenure, Use};

/// Bounds of what waits here. Not settings of an installation: they bound memory, not service.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that wait for a tenant, all together and for one.
    pub held: usize,
    pub held_for_one: usize,
    /// Waiting pages that watch a wake, all together and of one tenant.
    pub watchers: usize,
    pub watchers_of_one: usize,
    /// Pairs of tenant and client of which the rate limit keeps count.
    pub clients: usize,
    /// A restart of the orchestrator: whoever comes for a sleeper while it is away for longer is sent away at once.
    pub restart: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            held: 16_384,
            // A sixteenth: nobody's visitors take the room of the others.
            held_for_one: 1_024,
            watchers: 1_024,
            watchers_of_one: 64,
            clients: 65_536,
            restart: Duration::from_secs(10),
        }
    }
}

/// A thread's way to the leases.
#[derive(Clone)]
pub(crate) struct Leases {
    wants: mpsc::UnboundedSender<Want>,
    pub(crate) room: Arc<Room>,
}

/// What all threads see of the keeper and of those who wait for it. Touched only by requests without a lease.
pub(crate) struct Room {
    pub(crate) held: Arc<Semaphore>,
    pub(crate) limits: Limits,
    /// The orchestrator did not answer, and has not since.
    away: AtomicBool,
    /// The orchestrator answers, and does not take our calls.
    shut_out: AtomicBool,
    /// When a request that does without may be the reason to ask it again.
    probe: AtomicU64,
    /// Tunnels that wait.
    thaws: Mutex<Thaws>,
    /// How many wakes were before that of a tenant when its keeper last spoke of it.
    places: Mutex<HashMap<TenantId, u32>>,
}

/// By thread and tenant; `None` until it is known.
type Thaws = HashMap<(usize, TenantId), watch::Receiver<Option<Result<Arc<Tenure>, Refusal>>>>;

/// A request that wants a tenant.
pub(crate) struct Want {
    pub(crate) tenant: TenantId,
    pub(crate) intent: RequestIntent,
    /// This one was leased, and worthless.
    pub(crate) lost: Option<Arc<Tenure>>,
    /// Its sender knows that the last wake failed.
    pub(crate) insists: bool,
    /// Of one that nobody waits for: until it is looked at.
    pub(crate) place: Option<OwnedSemaphorePermit>,
    /// `None`: nobody waits for the answer.
    pub(crate) waiter: Option<Waiter>,
}

pub(crate) struct Waiter {
    /// The thread that will send the request.
    pub(crate) thread: usize,
    pub(crate) intent: RequestIntent,
    pub(crate) reply: oneshot::Sender<Outcome>,
}

/// How a want ended.
pub(crate) enum Outcome {
    Leased(Use),
    /// The orchestrator is away, and by the table the tenant runs.
    Unleased(Use),
    Refused(Refusal),
}

/// Why a request does not get to its tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Stopped,
    NotRunning,
    WakeRequired,
    /// It is on its way, and this request waited for as long as it may. `ahead`: so many wakes are before it, as far as
    /// its keeper has told.
    Waking {
        ahead: Option<u32>,
    },
    /// `ahead`: so many requests wait already.
    QueueFull {
        ahead: Option<u32>,
    },
    /// Why, in words that strangers may read.
    Failed(Arc<str>),
    /// Its keeper is away.
    Unavailable,
    /// Too many wait here already.
    Crowded,
}

impl Refusal {
    /// For metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::NotRunning => "not_running",
            Self::WakeRequired => "wake_required",
            Self::Waking { .. } => "waking",
            Self::QueueFull { .. } => "wake_queue_full",
            Self::Failed(_) => "wake_failed",
            Self::Unavailable => "wake_unavailable",
            Self::Crowded => "too_many_waiting",
        }
    }
}

/// Between two looks whether the orchestrator is back.
const PROBE: Millis = 1_000;

impl Leases {
    pub(crate) fn new(limits: Limits) -> (Self, mpsc::UnboundedReceiver<Want>) {
        // Every message has a place, or is one of a few a second: the room bounds the queue.
        let (wants, wanted) = mpsc::unbounded_channel();
        let room = Room {
            held: Arc::new(Semaphore::new(limits.held)),
            limits,
            away: AtomicBool::new(false),
            shut_out: AtomicBool::new(false),
            probe: AtomicU64::new(0),
            thaws: Mutex::default(),
            places: Mutex::default(),
        };
        (Self { wants, room: Arc::new(room) }, wanted)
    }

    /// Waits for the right to send a request of `thread`, for at most `patience`.
    pub(crate) async fn wait(
        &self,
        tenant: TenantId,
        thread: usize,
        intent: RequestIntent,
        lost: Option<Arc<Tenure>>,
        patience: Duration,
    ) -> Outcome {
        // Held until the answer is here or nobody wants it any more.
        let Ok(_place) = self.room.held.clone().try_acquire_owned() else {
            return Outcome::Refused(Refusal::Crowded);
        };
        let (reply, answer) = oneshot::channel();
        let waiter = Some(Waiter { thread, intent, reply });
        self.send(Want { tenant, intent, lost, insists: false, place: None, waiter });
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Outcome::Refused(Refusal::Unavailable),
            Err(_) if self.room.is_away() => Outcome::Refused(Refusal::Unavailable),
            Err(_) => Outcome::Refused(Refusal::Waking {
                ahead: self.room.places().get(&tenant).copied(),
            }),
        }
    }

    /// Where a tenant is that may have fallen asleep under a tunnel, once it may be sent to. However many tunnels of a
    /// thread have something to send, they take one place.
    pub(crate) async fn thaw(
        &self,
        tenant: TenantId,
        thread: usize,
        patience: Duration,
    ) -> Result<Arc<Tenure>, Refusal> {
        let mut told = {
            let mut thaws = self.room.thaws();
            let told = thaws.entry((thread, tenant)).or_insert_with(|| {
                let (tell, told) = watch::channel(None);
                let leases = self.clone();
                tokio::spawn(async move {
                    let intent = RequestIntent::Background;
                    let outcome = leases.wait(tenant, thread, intent, None, patience).await;
                    leases.room.thaws().remove(&(thread, tenant));
                    tell.send_replace(Some(match outcome {
                        Outcome::Leased(used) | Outcome::Unleased(used) => Ok(used.tenure.clone()),
                        Outcome::Refused(refusal) => Err(refusal),
                    }));
                });
                told
            });
            told.clone()
        };
        let told = told.wait_for(Option::is_some).await.ok().and_then(|told| told.clone());
        told.unwrap_or(Err(Refusal::Unavailable))
    }

    /// Somebody wants it, and comes back by himself: where there is no place for it now, then.
    pub(crate) fn wake(&self, tenant: TenantId) {
        let intent = RequestIntent::Visit;
        let Ok(place) = self.room.held.clone().try_acquire_owned() else { return };
        let place = Some(place);
        self.send(Want { tenant, intent, lost: None, insists: true, place, waiter: None });
    }

    /// Somebody else answered in its place. Said again at the next answer where there is no place for it now.
    pub(crate) fn lost(&self, tenure: &Arc<Tenure>) {
        let (tenant, lost) = (tenure.tenant, Some(tenure.clone()));
        let intent = RequestIntent::Background;
        let Ok(place) = self.room.held.clone().try_acquire_owned() else { return };
        let place = Some(place);
        self.send(Want { tenant, intent, lost, insists: false, place, waiter: None });
    }

    /// It is used without a lease: one is asked for as soon as there is somebody to ask.
    pub(crate) fn note(&self, tenure: &Tenure) {
        if tenure.make_known() || self.room.is_probe_due() {
            let (tenant, intent) = (tenure.tenant, RequestIntent::Background);
            let (lost, place, waiter) = (None, None, None);
            self.send(Want { tenant, intent, lost, insists: false, place, waiter });
        }
    }

    /// Data of a stream came, and nothing keeps its tenant from freezing under the next: one asks on behalf of all that
    /// flows, and again at later data where that was refused.
    pub(crate) fn flows(&self, tenure: &Tenure) {
        if !tenure.may_tell(clock::now(), PROBE) || self.room.is_away() && !self.room.is_probe_due()
        {
            return;
        }
        let (tenant, intent) = (tenure.tenant, RequestIntent::Background);
        let Ok(place) = self.room.held.clone().try_acquire_owned() else { return };
        let (lost, place, waiter) = (None, Some(place), None);
        self.send(Want { tenant, intent, lost, insists: false, place, waiter });
    }

    fn send(&self, want: Want) {
        // Only at the very end nobody listens; then the waiter is told by its reply being dropped.
        let _ = self.wants.send(want);
    }
}

impl Room {
    pub(crate) fn is_away(&self) -> bool {
        self.away.load(Relaxed)
    }

    pub(crate) fn is_shut_out(&self) -> bool {
        self.shut_out.load(Relaxed)
    }

    /// `true` when that is news.
    pub(crate) fn set_shut_out(&self, shut_out: bool) -> bool {
        self.shut_out.swap(shut_out, Relaxed) != shut_out
    }

    /// `true` for one of all who ask within a while.
    pub(crate) fn is_probe_due(&self) -> bool {
        let (now, due) = (clock::now(), self.probe.load(Relaxed));
        let next = now.plus(PROBE).0;
        due <= now.0 && self.probe.compare_exchange(due, next, Relaxed, Relaxed).is_ok()
    }

    /// `true` when that is news.
    pub(crate) fn set_away(&self, away: bool) -> bool {
        if away {
            self.probe.store(clock::now().plus(PROBE).0, Relaxed);
        }
        self.away.swap(away, Relaxed) != away
    }

    fn places(&self) -> MutexGuard<'_, HashMap<TenantId, u32>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_place(&self, tenant: TenantId, ahead: Option<u32>) {
        match ahead {
            Some(ahead) => self.places().insert(tenant, ahead),
            None => self.places().remove(&tenant),
        };
    }

    fn thaws(&self) -> MutexGuard<'_, Thaws> {
        self.thaws.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn holds(&self) -> usize {
        self.limits.held.saturating_sub(self.held.available_permits())
    }
}

/// For a holder's deadlines, which are moments.
pub(crate) fn until(at: Moment) -> Duration {
    Duration::from_millis(at.since(clock::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waited_for_long_hears_what_was_last_told_of_its_place() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (leases, _wanted) = Leases::new(Limits::default());
        let tenant = TenantId::new(uuid::Uuid::from_u128(1));
        for ahead in [None, Some(4), None] {
            leases.room.set_place(tenant, ahead);
            let wait = leases.wait(tenant, 0, RequestIntent::Visit, None, Duration::from_millis(1));
            let outcome = runtime.block_on(wait);
            assert!(
                matches!(outcome, Outcome::Refused(Refusal::Waking { ahead: told }) if told == ahead)
            );
        }
    }

    #[test]
    fn nobodys_visitors_take_more_than_a_share_of_the_room() {
        let limits = Limits::default();
        // A stampede of a thousand on one sleeper is served whole.
        assert!(limits.held_for_one >= 1_024 && limits.held_for_one <= limits.held / 16);
        assert!(limits.watchers_of_one <= limits.watchers / 16);
    }
}
