//! The shell around [`lease::Authority`]: one lock, one clock, one timer. What it wants done goes to the loop in
//! [`Keeper::follow`](super::Keeper::follow), answers go straight to whoever waits.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lease::{CallId, Command, EngineCall, LeaseResponse, Millis, Moment, Waiter, WakeTimings};
use protocol::{TenantId, Timestamp};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::rules::{Rules, millis};

pub(super) type Authority = lease::Authority<TenantId, Uuid, u64>;

/// What the loop is to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    AskBusy {
        tenant: TenantId,
        generation: u64,
    },
    Act {
        tenant: TenantId,
        act: EngineCall,
        ticket: CallId,
    },
    Woke {
        tenant: TenantId,
        woke: WakeTimings,
    },
    /// All who waited for it were told that it came to nothing.
    Failed {
        tenant: TenantId,
    },
}

/// What becomes of somebody who waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    Said(LeaseResponse),
    /// This process is going.
    Leaving,
}

pub(super) struct Desk {
    state: Mutex<State>,
    clock: Clock,
    orders: mpsc::UnboundedSender<Order>,
    /// Rings when the timer must be set anew.
    bell: Notify,
    /// Counts whatever may have moved a wake on.
    moves: watch::Sender<u64>,
}

struct State {
    authority: Authority,
    waiting: BTreeMap<u64, (TenantId, oneshot::Sender<Word>)>,
    last_waiter: u64,
    leaving: bool,
    /// Whose note is older than their last use.
    used: HashSet<TenantId>,
}

/// Milliseconds since 1970 when this process began, and a monotonic clock from there on.
#[derive(Clone, Copy, Debug)]
struct Clock {
    began: Moment,
    at: Instant,
}

impl Clock {
    fn now(&self) -> Moment {
        self.began.plus(millis(self.at.elapsed()))
    }
}

impl Desk {
    pub(super) fn new(began: Millis, rules: &Rules) -> (Self, mpsc::UnboundedReceiver<Order>) {
        let began = Moment(began);
        #[expect(clippy::disallowed_methods, reason = "the shell's clock")]
        let clock = Clock { began, at: Instant::now() };
        let (orders, inbox) = mpsc::unbounded_channel();
        let state = State {
            authority: Authority::new(began, rules.settings()),
            waiting: BTreeMap::new(),
            last_waiter: 0,
            leaving: false,
            used: HashSet::new(),
        };
        let desk = Self {
            state: Mutex::new(state),
            clock,
            orders,
            bell: Notify::new(),
            moves: watch::channel(0).0,
        };
        (desk, inbox)
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Looks, and changes nothing.
    pub(super) fn see<R>(&self, look: impl FnOnce(&Authority, Moment) -> R) -> R {
        look(&self.lock().authority, self.now())
    }

    /// Tells it something, and passes on what it then wants. May be called with the book held, never the other way round.
    pub(super) fn tell<R>(&self, event: impl FnOnce(&mut Authority, Moment) -> R) -> R {
        let mut state = self.lock();
        let result = self.feed(&mut state, event);
        drop(state);
        self.moves.send_modify(|count| *count += 1);
        result
    }

    /// The same for what moves no wake: renewals, which are many.
    pub(super) fn tell_of_use<R>(
        &self,
        tenant: TenantId,
        event: impl FnOnce(&mut Authority, Moment) -> R,
    ) -> R {
        let mut state = self.lock();
        state.used.insert(tenant);
        self.feed(&mut state, event)
    }

    fn feed<R>(&self, state: &mut State, event: impl FnOnce(&mut Authority, Moment) -> R) -> R {
        let before = state.authority.next_deadline();
        let result = event(&mut state.authority, self.now());
        let mut failed = HashSet::new();
        while let Some(command) = state.authority.next_command() {
            failed.extend(self.pass_on(state, command));
        }
        // Without a loop nothing is done, as after a kill.
        for tenant in failed {
            let _ = self.orders.send(Order::Failed { tenant });
        }
        let after = state.authority.next_deadline();
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.bell.notify_one();
        }
        result
    }

    /// Who was told of a wake that came to nothing.
    fn pass_on(&self, state: &mut State, command: Command<TenantId, u64>) -> Option<TenantId> {
        let order = match command {
            Command::Respond { waiter, response: answer } => {
                let (tenant, waiting) = state.waiting.remove(&waiter)?;
                // Whoever has left needs no answer.
                let _ = waiting.send(Word::Said(answer));
                return matches!(answer, LeaseResponse::Failed(_)).then_some(tenant);
            }
            Command::QueryBusy { tenant, generation } => Order::AskBusy { tenant, generation },
            Command::CallEngine { tenant, call, call_id } => {
                Order::Act { tenant, act: call, ticket: call_id }
            }
            Command::RecordWake { tenant, timings } => Order::Woke { tenant, woke: timings },
        };
        let _ = self.orders.send(order);
        None
    }

    /// Asks for a lease; what becomes of it comes through the receiver.
    pub(super) fn ask(&self, ask: Wanted) -> (u64, oneshot::Receiver<Word>) {
        let (tell, told) = oneshot::channel();
        let mut state = self.lock();
        state.last_waiter += 1;
        let id = state.last_waiter;
        if state.leaving {
            let _ = tell.send(Word::Leaving);
            return (id, told);
        }
        state.waiting.insert(id, (ask.tenant, tell));
        state.used.insert(ask.tenant);
        let Wanted { tenant, visit, holder, number, wait } = ask;
        self.feed(&mut state, |authority, now| {
            let waiter = Waiter { id, holder, number, deadline: now.plus(millis(wait)) };
            authority.request_lease(now, lease::LeaseRequest { tenant, is_visit: visit, waiter });
        });
        drop(state);
        self.moves.send_modify(|count| *count += 1);
        (id, told)
    }

    /// Whoever asked does not wait any more.
    pub(super) fn leave(&self, tenant: TenantId, waiter: u64) {
        let mut state = self.lock();
        if state.waiting.remove(&waiter).is_some() {
            self.feed(&mut state, |authority, now| authority.remove_waiter(now, tenant, waiter));
        }
    }

    /// Nobody waits from here on: those who do are told in the order in which they came.
    pub(super) fn drain(&self) {
        let mut state = self.lock();
        state.leaving = true;
        for (_, (_, waiting)) in std::mem::take(&mut state.waiting) {
            let _ = waiting.send(Word::Leaving);
        }
        drop(state);
        self.moves.send_modify(|count| *count += 1);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.lock().leaving
    }

    /// Who was used since this was last asked.
    pub(super) fn used(&self) -> HashSet<TenantId> {
        std::mem::take(&mut self.lock().used)
    }

    pub(super) fn moves(&self) -> watch::Receiver<u64> {
        self.moves.subscribe()
    }

    /// Ends when the next deadline has come, or may have changed. Cancel-safe.
    pub(super) async fn due(&self) {
        let next = self.see(|authority, now| authority.next_deadline().map(|at| at.since(now)));
        match next {
            Some(wait) => tokio::select! {
                // Never a spin, whatever is overdue.
                () = tokio::time::sleep(Duration::from_millis(wait.max(1))) => {
                    self.tell(|authority, now| authority.tick(now));
                }
                () = self.bell.notified() => {}
            },
            None => self.bell.notified().await,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An ask as the desk takes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) tenant: TenantId,
    pub(super) visit: bool,
    pub(super) holder: Uuid,
    pub(super) number: u64,
    pub(super) wait: Duration,
}

pub(super) fn timestamp(at: Moment) -> Timestamp {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    chrono::DateTime::from_timestamp_millis(millis).unwrap_or(Timestamp::MAX_UTC)
}

pub(super) fn moment(at: Timestamp) -> Moment {
    Moment(u64::try_from(at.timestamp_millis()).unwrap_or_default())
}
