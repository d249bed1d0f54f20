//! Reasons as data; the shell makes sentences of them.

use crate::rest::Depth;
use crate::time::{Millis, Moment};

/// What a tenant said when it was asked whether it is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Heard {
    Free,
    Busy {
        /// The latest of what it declared.
        until: Moment,
    },
    /// It did not answer in time, which is an answer.
    Silent,
    /// It was busy, for longer than its owner allows.
    TooLong {
        since: Moment,
    },
    /// It was not asked yet: it is frozen.
    Nothing,
}

/// What keeps a tenant awake besides its idle time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Awake {
    /// By people or programs outside. What is under way, as far as was told.
    Leased { holders: usize, requests: u32, streams: u32, until: Moment },
    /// By work inside.
    Busy { since: Moment, until: Moment },
    /// Leases of before its keeper's start may be live.
    KeeperStarted { until: Moment },
    /// The engine would not put it to sleep and will be asked again.
    EngineRefused { until: Moment },
    /// Its policy.
    Always,
}

/// How it last fell asleep for want of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slept {
    pub at: Moment,
    /// [`Depth::Frozen`] or [`Depth::Asleep`].
    pub depth: Depth,
    pub idle: Millis,
    pub heard: Heard,
}
