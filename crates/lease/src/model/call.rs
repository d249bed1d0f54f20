//! A call from a router to the orchestrator, on its way there or back.

use crate::authority::command::{Grant, LeaseResponse};
use crate::authority::wake_queue::Waiter;
use crate::holder::command::RequestOutcome;
use crate::holder::error::LeaseError;
use crate::holder::lease::{LeaseCall, LeaseTerms};
use crate::holder::outage::CallHealth;
use crate::time::Millis;

use super::system::{System, UNIT};
use crate::authority::command::LeaseRequest;
use crate::authority::sleep_state::HolderUsage;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Call {
    pub(super) router: usize,
    /// The id of the router's process that made the call.
    pub(super) holder: u8,
    pub(super) kind: CallKind,
    pub(super) call: LeaseCall,
    pub(super) stage: Stage,
    /// The router waits for the response. A call whose router gave up may still arrive.
    pub(super) is_open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum CallKind {
    Request { is_visit: bool },
    Renewal { idle: Millis },
    Release { idle: Millis },
    Probe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Stage {
    Sent,
    /// The orchestrator holds the lease request until the tenant is ready.
    Waiting,
    Responded(Response),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Response {
    Granted {
        expires_in: Millis,
        linger: Millis,
        woke: bool,
    },
    Refused(RequestError),
    Renewed(Option<Millis>),
    Probed,
    /// The orchestrator crashed while it held the call.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum RequestError {
    NotRunning,
    Stopped,
    WakeRequired,
    Waking,
    QueueFull,
    Failed,
}

/// How long a lease request may wait at the orchestrator.
pub(super) const REQUEST_WAIT: Millis = 2 * UNIT;

impl Call {
    pub(super) fn is_request(&self) -> bool {
        matches!(self.kind, CallKind::Request { .. })
    }

    pub(super) fn is_probe(&self) -> bool {
        self.kind == CallKind::Probe
    }
}

impl Response {
    pub(super) fn of(response: LeaseResponse) -> Self {
        Self::Refused(match response {
            LeaseResponse::Granted(Grant { expires_in, linger, woke }) => {
                return Self::Granted { expires_in, linger, woke };
            }
            LeaseResponse::Unknown | LeaseResponse::NotRunning => RequestError::NotRunning,
            LeaseResponse::Stopped => RequestError::Stopped,
            LeaseResponse::WakeRequired => RequestError::WakeRequired,
            LeaseResponse::Waking { .. } => RequestError::Waking,
            LeaseResponse::QueueFull { .. } => RequestError::QueueFull,
            LeaseResponse::Failed(_) => RequestError::Failed,
        })
    }

    /// Returns the outcome of a lease request.
    fn outcome(self) -> RequestOutcome {
        match self {
            Self::Granted { expires_in, linger, woke } => {
                RequestOutcome::Granted { terms: LeaseTerms { expires_in, linger }, woke }
            }
            Self::Refused(error) => RequestOutcome::Refused(match error {
                RequestError::NotRunning => LeaseError::NotRunning,
                RequestError::Stopped => LeaseError::Stopped,
                RequestError::WakeRequired => LeaseError::WakeRequired,
                RequestError::Waking => LeaseError::Waking { queue_position: None },
                RequestError::QueueFull => LeaseError::WakeQueueFull { queue_position: None },
                RequestError::Failed => LeaseError::WakeFailed("failed".into()),
            }),
            Self::Renewed(_) | Self::Probed | Self::Broken => {
                RequestOutcome::CallFailed(CallHealth::NoResponse)
            }
        }
    }
}

impl System {
    pub(super) fn send(&mut self, router: usize, kind: CallKind, call: LeaseCall) {
        let holder = self.routers[router].holder;
        let is_open = !matches!(kind, CallKind::Release { .. });
        self.insert(Call { router, holder, kind, call, stage: Stage::Sent, is_open });
    }

    fn insert(&mut self, call: Call) -> u8 {
        let id = (0..).find(|id| !self.calls.contains_key(id)).unwrap_or(u8::MAX);
        self.calls.insert(id, call);
        id
    }

    /// Moves a call to its next stage: to the orchestrator, or back to its router.
    pub(super) fn deliver(&mut self, id: u8) -> Result<(), String> {
        match self.calls[&id].stage {
            Stage::Sent => self.arrive(id),
            Stage::Waiting => Ok(()),
            Stage::Responded(response) => self.finish_call(id, response),
        }
    }

    /// Delivers a copy of the call, whose response reaches no router.
    pub(super) fn repeat(&mut self, id: u8) -> Result<(), String> {
        let copy = self.insert(Call { is_open: false, ..self.calls[&id] });
        self.arrive(copy)
    }

    fn arrive(&mut self, id: u8) -> Result<(), String> {
        let Call { router, holder, kind, call, .. } = self.calls[&id];
        let (now, tenant) = (self.now, self.routers[router].tenant);
        let core = &mut self.orchestrator.core;
        let usage = |idle| HolderUsage { number: call.number, idle, requests: 0, streams: 0 };
        match kind {
            CallKind::Request { is_visit } => {
                self.set_stage(id, Stage::Waiting);
                let deadline = now.plus(REQUEST_WAIT);
                let waiter = Waiter { id, holder, number: call.number, deadline };
                let request = LeaseRequest { tenant, is_visit, waiter };
                self.orchestrator.core.request_lease(now, request);
            }
            CallKind::Renewal { idle } => {
                let renewed = core.renew_lease(now, tenant, holder, usage(idle));
                self.complete_call(id, Response::Renewed(renewed));
            }
            CallKind::Release { idle } => {
                core.release_lease(now, tenant, holder, usage(idle));
                self.calls.remove(&id);
            }
            CallKind::Probe => self.complete_call(id, Response::Probed),
        }
        self.pump()
    }

    fn set_stage(&mut self, id: u8, stage: Stage) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.stage = stage;
        }
    }

    /// Sends the response, unless the router gave up.
    pub(super) fn complete_call(&mut self, id: u8, response: Response) {
        match self.calls[&id].is_open {
            true => self.set_stage(id, Stage::Responded(response)),
            false => {
                self.calls.remove(&id);
            }
        }
    }

    fn finish_call(&mut self, id: u8, response: Response) -> Result<(), String> {
        let Some(call) = self.calls.remove(&id) else { return Ok(()) };
        let now = self.now;
        let Call { router: index, kind, call, .. } = call;
        let router = &mut self.routers[index];
        let (manager, tenant) = (&mut router.manager, router.tenant);
        match (kind, response) {
            (CallKind::Request { .. }, response) => {
                manager.on_request_finished(now, tenant, call, response.outcome());
            }
            (CallKind::Renewal { .. }, Response::Renewed(expires_in)) => {
                manager.on_call_health(now, CallHealth::Responded);
                manager.on_renewed(now, tenant, call, expires_in);
            }
            (CallKind::Probe, Response::Probed) => {
                manager.on_probe_finished(now, CallHealth::Responded);
            }
            (CallKind::Renewal { .. } | CallKind::Release { .. } | CallKind::Probe, _) => {}
        }
        self.execute(index)
    }

    /// Ends a call at its router without a response. A `late` call still arrives at the orchestrator.
    pub(super) fn fail(&mut self, id: u8, health: CallHealth, late: bool) -> Result<(), String> {
        let Some(call) = self.calls.get_mut(&id) else { return Ok(()) };
        let was_open = std::mem::replace(&mut call.is_open, false);
        let Call { router: index, kind, call, stage, .. } = *call;
        if stage == Stage::Waiting {
            // The connection ends with the call.
            let tenant = self.routers[index].tenant;
            self.orchestrator.core.remove_waiter(self.now, tenant, id);
        }
        if !(late && stage == Stage::Sent) {
            self.calls.remove(&id);
        }
        if was_open {
            let (now, router) = (self.now, &mut self.routers[index]);
            match kind {
                CallKind::Request { .. } => {
                    let outcome = RequestOutcome::CallFailed(health);
                    router.manager.on_request_finished(now, router.tenant, call, outcome);
                }
                CallKind::Renewal { .. } => router.manager.on_call_health(now, health),
                CallKind::Probe => router.manager.on_probe_finished(now, health),
                CallKind::Release { .. } => {}
            }
            self.execute(index)?;
        }
        self.pump()
    }

    /// The router's process ends: its calls arrive late or not at all.
    pub(super) fn close_calls_of(&mut self, router: usize) {
        let of_it: Vec<u8> = self
            .calls
            .iter()
            .filter(|(_, call)| call.router == router)
            .map(|(id, _)| *id)
            .collect();
        for id in of_it {
            let Call { stage, .. } = self.calls[&id];
            if stage == Stage::Waiting {
                let tenant = self.routers[router].tenant;
                self.orchestrator.core.remove_waiter(self.now, tenant, id);
            }
            match stage {
                Stage::Sent => {
                    self.calls.entry(id).and_modify(|call| call.is_open = false);
                }
                Stage::Waiting | Stage::Responded(_) => {
                    self.calls.remove(&id);
                }
            }
        }
    }

    /// The orchestrator's process ended: each call that it held ends for its router sooner or later.
    pub(super) fn break_held_calls(&mut self) {
        self.calls.retain(|_, call| call.is_open || call.stage != Stage::Waiting);
        for call in self.calls.values_mut().filter(|call| call.stage == Stage::Waiting) {
            call.stage = Stage::Responded(Response::Broken);
        }
    }
}
