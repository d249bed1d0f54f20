//! A router's shell: one tenant, one client.

use super::world::{Message, UNIT, World};
use crate::holder::{DueAction, Holder, LeaseCall, LeaseTerms};
use crate::time::Moment;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Router {
    pub(super) tenant: usize,
    /// Each start of the router has a new id.
    pub(super) id: u8,
    pub(super) holder: Holder,
    /// A request is in flight.
    pub(super) guard: bool,
    pub(super) last_used: Moment,
    /// A request waits for this lease request, until this deadline.
    pub(super) pending: Option<(LeaseCall, Moment)>,
}

/// How long a router holds a request.
pub(super) const HOLD: u64 = 2 * UNIT;

impl Router {
    pub(super) fn new(router: usize, tenant: usize) -> Self {
        let id = u8::try_from(router * 8).unwrap_or(u8::MAX);
        let (holder, last_used) = (Holder::default(), Moment(0));
        Self { tenant, id, holder, guard: false, last_used, pending: None }
    }

    /// Returns the action that is due.
    pub(super) fn due(&self, now: Moment) -> DueAction {
        self.holder.due_action(now, self.guard, self.last_used)
    }
}

impl World {
    pub(super) fn request(&mut self, router: usize) {
        let now = self.now;
        self.budget.requests -= 1;
        let it = &mut self.routers[router];
        if it.holder.may_send(now) {
            it.guard = true;
            return;
        }
        let call = it.holder.begin_request(now);
        it.pending = Some((call, now.plus(HOLD)));
        let holder = it.id;
        self.send(Message::LeaseRequest { router, holder, call, is_visit: true });
    }

    pub(super) fn finish(&mut self, router: usize) {
        let it = &mut self.routers[router];
        (it.guard, it.last_used) = (false, self.now);
    }

    pub(super) fn take_due_action(&mut self, router: usize) {
        let now = self.now;
        let it = &mut self.routers[router];
        let holder = it.id;
        let idle = if it.guard { 0 } else { now.since(it.last_used) };
        match it.due(now) {
            DueAction::Nothing => {}
            DueAction::Renew => {
                if let Some(call) = it.holder.begin_renewal(now) {
                    self.send(Message::Renew { router, holder, call, idle });
                }
            }
            DueAction::Release => {
                if let Some(number) = it.holder.begin_release() {
                    self.send(Message::Release { router, holder, number, idle });
                }
            }
            DueAction::Request => {
                let call = it.holder.begin_request(now);
                self.send(Message::LeaseRequest { router, holder, call, is_visit: false });
            }
        }
    }

    /// Takes a response of the orchestrator.
    pub(super) fn on_response(&mut self, message: Message) {
        let now = self.now;
        match message {
            Message::Granted { router, holder, call, expires_in, linger } => {
                let it = &mut self.routers[router];
                if it.id != holder {
                    return;
                }
                it.holder.on_granted(call, LeaseTerms { expires_in, linger });
                let served = it.pending.is_some() && it.holder.may_send(now);
                if served {
                    (it.guard, it.pending) = (true, None);
                }
            }
            Message::Refused { router, holder, call } => {
                let it = &mut self.routers[router];
                if it.id == holder && it.pending.is_some_and(|(of, _)| of == call) {
                    it.pending = None;
                }
            }
            Message::Renewed { router, holder, call, expires_in } => {
                let it = &mut self.routers[router];
                if it.id == holder {
                    it.holder.on_renewed(call, expires_in);
                }
            }
            Message::LeaseRequest { .. } | Message::Renew { .. } | Message::Release { .. } => {}
        }
    }

    pub(super) fn router_crashes(&mut self, router: usize) {
        let it = &mut self.routers[router];
        it.id += 1;
        it.holder = Holder::default();
        (it.guard, it.pending, it.last_used) = (false, None, Moment(0));
        self.budget.router_crashes -= 1;
        self.network.retain(|message| !message.is_answer_to(router));
    }
}
