//! The way to sleep, one tenant: decide, ask it whether it is busy, recheck, fall.

use crate::planted::planted;
use crate::rest::{Busy, Depth, Fall, Rest, Step};
use crate::time::{Millis, Moment};
use crate::why::{Awake, Heard, Slept};

/// How long a tenant's answer to "are you busy" is waited for here; the shell gives up long before.
const PATIENCE: Millis = 5_000;

/// What [`Rest`] wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    Nothing,
    /// Ask the tenant whether it is busy; then [`Rest::heard`].
    AskBusy {
        generation: u64,
    },
    /// Take the right to change the tenant, [`Rest::begin`], call the engine, [`Rest::fell`].
    Fall {
        generation: u64,
        fall: Fall,
    },
}

impl<H: Copy + Ord> Rest<H> {
    /// What it is to be asked or told now; moves on by itself, so that each is said once.
    pub fn decide(&mut self, now: Moment) -> Decision {
        self.prune(now);
        if matches!(self.step, Step::Asking { until, .. } if until <= now) {
            return self.heard(now, self.generation, Heard::Silent);
        }
        let generation = self.generation;
        match self.next_fall() {
            Some((at, fall)) if at <= now && self.step == Step::Settled => match fall {
                Fall::Freeze | Fall::Stop => {
                    self.step = Step::Asking { generation, until: now.plus(PATIENCE) };
                    Decision::AskBusy { generation }
                }
                // It cannot say anything before it is thawed; then [`Rest::thawed`].
                Fall::ThawThenStop => self.agree(fall, Heard::Nothing),
            },
            Some(_) | None => Decision::Nothing,
        }
    }

    /// What it answered when asked whether it is busy.
    pub fn heard(&mut self, now: Moment, generation: u64, heard: Heard) -> Decision {
        if generation != self.generation || !matches!(self.step, Step::Asking { .. }) {
            return Decision::Nothing;
        }
        self.step = Step::Settled;
        let Some(heard) = self.listen(now, heard) else { return Decision::Nothing };
        // How deep it falls follows from its idle time alone.
        let busy = self.busy.take();
        let fall = self.next_fall();
        self.busy = busy;
        match fall {
            Some((at, fall)) if at <= now => self.agree(fall, heard),
            Some(_) | None => Decision::Nothing,
        }
    }

    /// Takes its answer down; `None`: it is busy and stays awake.
    ///
    /// Since when it is busy is forgotten only when it says that it is not, or has fallen: neither a visit nor an engine
    /// that refuses gives it its whole time anew.
    fn listen(&mut self, now: Moment, heard: Heard) -> Option<Heard> {
        match heard {
            Heard::Busy { until } if !planted!(BusyIgnored) => {
                let since = self.busy.map_or(now, |busy| busy.since);
                if self.policy.max_awake.is_some_and(|most| now >= since.plus(most)) {
                    return Some(Heard::TooLong { since });
                }
                self.busy = Some(Busy { since, heard: now, until });
                None
            }
            Heard::Free => {
                self.busy = None;
                Some(heard)
            }
            Heard::Busy { .. } | Heard::Silent | Heard::TooLong { .. } | Heard::Nothing => {
                Some(heard)
            }
        }
    }

    fn agree(&mut self, fall: Fall, heard: Heard) -> Decision {
        let generation = self.generation;
        self.step = Step::Agreed { generation, fall, heard };
        Decision::Fall { generation, fall }
    }

    /// The recheck, right before the engine is called. `false`: it was used since, or its owner wants something else.
    pub fn begin(&mut self, now: Moment, of: u64) -> bool {
        let Step::Agreed { generation, fall, heard } = self.step else { return false };
        if generation != of {
            return false;
        }
        let used = generation != self.generation || self.has_lease(now);
        if used && !planted!(RecheckSkipped) {
            self.step = Step::Settled;
            return false;
        }
        self.step = Step::Falling { generation, fall, heard };
        true
    }

    /// Whether what was begun is still to be done: nobody has asked for it since.
    pub fn still_unwanted(&self) -> bool {
        matches!(self.step, Step::Falling { generation, .. } if generation == self.generation)
    }

    /// The recheck between thawing and stopping, with what it answered when it was asked in between: work may have been
    /// declared right before it froze. `false`: it stays awake.
    pub fn thawed(&mut self, now: Moment, heard: Heard) -> bool {
        let Step::Falling { generation, fall, .. } = self.step else { return false };
        if generation != self.generation {
            return false;
        }
        let heard = if planted!(BusyWhenThawed) { Some(heard) } else { self.listen(now, heard) };
        if let Some(heard) = heard {
            self.step = Step::Falling { generation, fall, heard };
        }
        heard.is_some()
    }

    /// The engine's call has ended; `depth` is what it shows now. A refusal is tried again after `pause`.
    pub fn fell(&mut self, now: Moment, depth: Depth, refused: bool, pause: Millis) {
        let Step::Falling { generation, heard, .. } = self.step else { return };
        self.step = Step::Settled;
        if refused {
            self.retry = now.plus(pause);
        }
        let unasked_for = generation == self.generation;
        let counts_on = depth == self.depth
            || match (self.depth, depth) {
                // What was frozen for being busy too long gets no more time by the thaw before its stop.
                (_, Depth::Frozen) => matches!(heard, Heard::TooLong { .. }),
                (Depth::Frozen, Depth::Awake) => unasked_for,
                (_, _) => false,
            };
        if !counts_on {
            self.busy = None;
        }
        if matches!(depth, Depth::Frozen | Depth::Asleep) && depth != self.depth {
            self.slept = Some(Slept { at: now, depth, idle: now.since(self.last_use), heard });
        }
        self.depth = depth;
        self.generation += 1;
    }

    /// When to ask [`Rest::decide`], if nothing happens until then.
    pub fn next_deadline(&self) -> Option<Moment> {
        match self.step {
            Step::Settled => {
                self.next_fall().map(|(at, _)| at).into_iter().chain(self.rescue_at()).min()
            }
            Step::Asking { until, .. } => Some(until),
            Step::Agreed { .. } | Step::Falling { .. } => None,
        }
    }

    fn next_fall(&self) -> Option<(Moment, Fall)> {
        if self.stopping {
            return None;
        }
        let freeze = self.policy.freeze_after.map(|after| (self.idle_at(after), Fall::Freeze));
        let stop = self.policy.sleep_after.map(|after| self.idle_at(after));
        match self.depth {
            Depth::Awake => match (freeze, stop) {
                (Some(freeze), Some(stop)) if freeze.0 < stop => Some(freeze),
                (_, Some(stop)) => Some((stop, Fall::Stop)),
                (freeze, None) => freeze,
            },
            Depth::Frozen => stop.map(|stop| (stop, Fall::ThawThenStop)),
            Depth::Down | Depth::Booting | Depth::Asleep | Depth::Stopped => None,
        }
    }

    /// When it will have been idle for this long and nothing else speaks against sleep.
    fn idle_at(&self, after: Millis) -> Moment {
        let busy = self.busy.map_or(Moment(0), |busy| {
            let again = busy.heard.plus(after);
            self.policy.max_awake.map_or(again, |most| again.min(busy.since.plus(most)))
        });
        let leased = self.leases.values().map(|lease| lease.until).max().unwrap_or_default();
        self.last_use.plus(after).max(busy).max(leased).max(self.floor).max(self.retry)
    }

    /// When it will freeze; `None`: never, or something keeps it awake, or it does not run.
    pub fn freezes_at(&self, now: Moment) -> Option<Moment> {
        let (at, fall) = self.next_fall().filter(|_| self.awake_because(now).is_empty())?;
        (fall == Fall::Freeze).then_some(at)
    }

    /// When it will be stopped; `None` as for [`Rest::freezes_at`].
    pub fn sleeps_at(&self, now: Moment) -> Option<Moment> {
        self.next_fall().filter(|_| self.awake_because(now).is_empty())?;
        self.policy.sleep_after.map(|after| self.idle_at(after))
    }

    /// What keeps it awake besides its idle time.
    pub fn awake_because(&self, now: Moment) -> Vec<Awake> {
        let mut because = Vec::new();
        if self.depth != Depth::Awake {
            return because;
        }
        let live = || self.leases.values().filter(|lease| lease.until > now);
        if let Some(until) = live().map(|lease| lease.until).max() {
            let requests = live().map(|lease| lease.requests).sum();
            let streams = live().map(|lease| lease.streams).sum();
            because.push(Awake::Leased { holders: live().count(), requests, streams, until });
        }
        // What it said before it was last used keeps nothing awake; it is asked again.
        if let Some(Busy { since, until, .. }) =
            self.busy.filter(|busy| busy.heard >= self.last_use)
        {
            because.push(Awake::Busy { since, until });
        }
        if self.floor > now {
            because.push(Awake::KeeperStarted { until: self.floor });
        }
        if self.retry > now {
            because.push(Awake::EngineRefused { until: self.retry });
        }
        if self.policy.freeze_after.is_none() && self.policy.sleep_after.is_none() {
            because.push(Awake::Always);
        }
        because
    }
}
