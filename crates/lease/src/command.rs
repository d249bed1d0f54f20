//! What [`Authority`](crate::Authority) is told and what it says.

use crate::rest::Depth;
use crate::time::Millis;
use crate::wake::{Limits, Waiter, Woke};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How long a lease lasts.
    pub lease: Millis,
    /// After the engine refused to put a tenant to sleep.
    pub pause: Millis,
    pub limits: Limits,
}

/// Somebody asks for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ask<T, H, W> {
    pub tenant: T,
    /// It would wake the tenant from sleep: `Intent::Visit`.
    pub visit: bool,
    pub waiter: Waiter<H, W>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    pub expires_in: Millis,
    pub linger: Millis,
    pub woke: bool,
}

/// What becomes of an ask: each gets exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    Granted(Grant),
    /// This keeper knows no such tenant.
    Unknown,
    /// Its owner stopped it.
    Stopped,
    NotRunning,
    WakeRequired,
    /// The deadline came first; how many wakes are before it.
    Waking {
        ahead: usize,
    },
    /// `seed` differs from answer to answer: for the jitter of `Retry-After`.
    QueueFull {
        seed: u64,
    },
    Failed(Failure),
}

/// Why a wake failed; the text is the shell's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The engine refused.
    Refused,
    /// It was started and ended.
    Died,
    /// It runs and was not ready in time.
    Slow,
}

/// A call to the engine. Its steps are the same for all:
///
/// 1. take the right to change the tenant (whatever is under way is waited for, a wake
///    [put off](crate::Authority::put_off) meanwhile);
/// 2. [`begin`](crate::Authority::begin) with the ticket; `false`: let go, it is not wanted any more;
/// 3. write down what must be known after a crash, call the engine (for [`Act::ThawThenStop`]: thaw, ask it whether it
///    is busy as for [`Command::AskBusy`], then [`goes_on`](crate::Authority::goes_on); `true`: stop);
/// 4. [`done`](crate::Authority::done), let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    Freeze,
    Stop,
    ThawThenStop,
    Thaw,
    Start,
}

/// Names one [`Act`] of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command<T, W> {
    /// Ask the tenant itself; then [`heard`](crate::Authority::heard).
    AskBusy {
        tenant: T,
        generation: u64,
    },
    Act {
        tenant: T,
        act: Act,
        ticket: Ticket,
    },
    Answer {
        waiter: W,
        answer: Answer,
    },
    /// It is awake: for histograms and people.
    Woke {
        tenant: T,
        woke: Woke,
    },
}

/// How a call to the engine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Done,
    Refused,
}

/// Where a wake is: `leases::Step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Progress {
    /// Nobody wakes it.
    Resting(Depth),
    Queued {
        ahead: usize,
        elapsed: Millis,
    },
    Starting {
        elapsed: Millis,
    },
    Booting {
        elapsed: Millis,
    },
}
