//! The deciding half of [`Authority`]: level-triggered, so that no order of events matters but what is so now.

use crate::authority::Authority;
use crate::command::{Act, Answer, Command, Failure, Grant, Ticket};
use crate::fall::Decision;
use crate::planted::planted;
use crate::rest::{Depth, Fall, Policy};
use crate::time::{Millis, Moment};
use crate::wake::{Rouse, Waiter};

impl<T: Copy + Ord, H: Copy + Ord, W: Copy + Eq> Authority<T, H, W> {
    /// What is decided about an ask at once; `None`: it waits.
    pub(crate) fn answered(
        &mut self,
        now: Moment,
        tenant: T,
        visit: bool,
        waiter: Waiter<H, W>,
    ) -> Option<Answer> {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return Some(Answer::Unknown) };
        let rest = &mut entry.rest;
        if rest.is_stopping() {
            return Some(Answer::Stopped);
        }
        if rest.is_open() && self.wake.flight(tenant).is_none() {
            rest.grant(now, waiter.holder, waiter.number, self.settings.lease);
            let linger = linger(rest.policy());
            let grant = Grant { expires_in: self.settings.lease, linger, woke: false };
            return Some(Answer::Granted(grant));
        }
        let under_way = self.wake.flight(tenant).is_some() || rest.is_falling();
        match rest.depth() {
            // Booting without a flight: a start of before this keeper's own is waited for while its leases would be.
            Depth::Booting if !under_way && self.floor <= now => return Some(Answer::NotRunning),
            Depth::Down | Depth::Stopped if !under_way => return Some(Answer::NotRunning),
            Depth::Asleep if !under_way && !visit && !rest.policy().wake_on_any => {
                return Some(Answer::WakeRequired);
            }
            Depth::Down
            | Depth::Booting
            | Depth::Awake
            | Depth::Frozen
            | Depth::Asleep
            | Depth::Stopped => {}
        }
        if rest.is_falling() && planted!(LostWhileFalling) {
            return None;
        }
        rest.touch(now);
        let from = rest.depth();
        self.wake.join(now, tenant, from, waiter).err().map(|_| {
            self.refusals += 1;
            Answer::QueueFull { seed: self.refusals }
        })
    }

    pub(crate) fn begins(&mut self, now: Moment, tenant: T, ticket: Ticket) -> bool {
        let Some(entry) = self.tenants.get_mut(&tenant) else {
            self.wake.forget(tenant);
            return false;
        };
        if let Some((_, generation)) = entry.fall.filter(|(of, _)| *of == ticket) {
            let begun = entry.rest.begin(now, generation);
            if !begun {
                entry.fall = None;
            }
            return begun;
        }
        let Some(told) = self.wake.told(tenant).filter(|t| t.ticket == ticket.0) else {
            return false;
        };
        let wanted = self.wake.flight(tenant).is_some() && !entry.rest.is_stopping();
        let rests = match told.rouse {
            Rouse::Thaw => entry.rest.depth() == Depth::Frozen,
            Rouse::Start => entry.rest.depth() == Depth::Asleep,
        };
        if wanted && rests {
            self.wake.begin(now, tenant, entry.rest.depth());
        } else {
            self.wake.forget(tenant);
        }
        wanted && rests
    }

    /// Brings one tenant as far as it gets by itself, from whatever is so: level-triggered.
    pub(crate) fn settle(&mut self, now: Moment, tenant: T) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.rest.prune(now);
            // Somebody else put it to sleep, or a call of an earlier keeper took effect late: its holders do not ask.
            let rescue = entry.rest.rescue_at().is_some_and(|at| at <= now);
            if rescue && self.wake.flight(tenant).is_none() {
                self.wake.launch(now, tenant, entry.rest.depth());
            }
        }
        for waiter in self.wake.overdue(now, tenant) {
            let answer = Answer::Waking { ahead: self.wake.ahead(tenant).unwrap_or(0) };
            self.commands.push_back(Command::Answer { waiter: waiter.id, answer });
        }
        if self.wake.flight(tenant).is_some() {
            self.fly(now, tenant);
        }
        if self.wake.flight(tenant).is_none()
            && let Some(entry) = self.tenants.get_mut(&tenant)
        {
            let decision = entry.rest.decide(now);
            self.follow(tenant, decision);
        }
        self.pump();
        self.set_timer(tenant);
    }

    pub(crate) fn follow(&mut self, tenant: T, decision: Decision) {
        match decision {
            Decision::Nothing => {}
            Decision::AskBusy { generation } => {
                self.commands.push_back(Command::AskBusy { tenant, generation });
            }
            Decision::Fall { generation, fall } => {
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                if let Some(entry) = self.tenants.get_mut(&tenant) {
                    entry.fall = Some((ticket, generation));
                }
                let act = match fall {
                    Fall::Freeze => Act::Freeze,
                    Fall::Stop => Act::Stop,
                    Fall::ThawThenStop => Act::ThawThenStop,
                };
                self.commands.push_back(Command::Act { tenant, act, ticket });
            }
        }
    }
    /// A flight as far as it gets.
    fn fly(&mut self, now: Moment, tenant: T) {
        let Some(entry) = self.tenants.get(&tenant) else {
            return self.end(tenant, Answer::Unknown);
        };
        let (depth, told) = (entry.rest.depth(), self.wake.told(tenant));
        if entry.rest.is_stopping() {
            return self.end(tenant, Answer::Stopped);
        }
        if entry.rest.is_falling() {
            return;
        }
        if depth == Depth::Awake {
            return self.land(now, tenant);
        }
        if told.is_some() && !planted!(SecondCall) {
            return;
        }
        let returned = self.wake.flight(tenant).is_some_and(|flight| flight.returned.is_some());
        match depth {
            Depth::Frozen => self.wake.want(tenant, Rouse::Thaw),
            Depth::Asleep if !returned => self.wake.want(tenant, Rouse::Start),
            Depth::Booting if !returned => self.wake.returned(now, tenant),
            Depth::Booting => {
                if self.wake.boots_until(tenant).is_some_and(|until| until <= now) {
                    self.fail(now, tenant, Failure::Slow);
                }
            }
            Depth::Down | Depth::Asleep | Depth::Stopped if returned => {
                self.fail(now, tenant, Failure::Died);
            }
            Depth::Down | Depth::Stopped => self.end(tenant, Answer::NotRunning),
            Depth::Awake | Depth::Asleep => {}
        }
    }

    /// It is awake: all who waited get their leases.
    fn land(&mut self, now: Moment, tenant: T) {
        let Some(flight) = self.wake.end(tenant) else { return };
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        let was_woken = flight.was_woken();
        if was_woken {
            self.commands.push_back(Command::Woke { tenant, woke: flight.woke(now) });
        }
        for waiter in flight.waiters {
            entry.rest.grant(now, waiter.holder, waiter.number, self.settings.lease);
            let linger = linger(entry.rest.policy());
            let grant = Grant { expires_in: self.settings.lease, linger, woke: was_woken };
            let answer = Answer::Granted(grant);
            self.commands.push_back(Command::Answer { waiter: waiter.id, answer });
        }
    }

    pub(crate) fn fail(&mut self, now: Moment, tenant: T, failure: Failure) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.rest.set_retry(now.plus(self.settings.pause));
        }
        self.end(tenant, Answer::Failed(failure));
    }

    /// A flight that came to nothing.
    pub(crate) fn end(&mut self, tenant: T, answer: Answer) {
        if planted!(ForgottenOnFailure) && matches!(answer, Answer::Failed(_)) {
            self.wake.end(tenant);
            return;
        }
        for waiter in self.wake.end(tenant).into_iter().flat_map(|flight| flight.waiters) {
            self.commands.push_back(Command::Answer { waiter: waiter.id, answer });
        }
    }

    /// Calls for which there is room.
    pub(crate) fn pump(&mut self) {
        while let Some((tenant, told)) = self.wake.next_call(self.tickets + 1) {
            self.tickets += 1;
            let act = match told.rouse {
                Rouse::Thaw => Act::Thaw,
                Rouse::Start => Act::Start,
            };
            self.commands.push_back(Command::Act { tenant, act, ticket: Ticket(told.ticket) });
        }
    }

    fn set_timer(&mut self, tenant: T) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        let at = match self.wake.flight(tenant) {
            Some(_) => self.wake.next_deadline(tenant),
            None => entry.rest.next_deadline(),
        };
        if at == entry.timer {
            return;
        }
        if let Some(old) = std::mem::replace(&mut entry.timer, at) {
            self.timers.remove(&(old, tenant));
        }
        self.timers.extend(at.map(|at| (at, tenant)));
    }
}

/// How long a lease may be kept without use: well below the time to the first depth of sleep.
fn linger(policy: Policy) -> Millis {
    let first = [policy.freeze_after, policy.sleep_after].into_iter().flatten().min();
    first.map_or(LINGER_MOST, |first| (first / 4).clamp(LINGER_LEAST, LINGER_MOST))
}

const LINGER_LEAST: Millis = 100;
const LINGER_MOST: Millis = 10_000;
