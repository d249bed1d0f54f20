//! The manager's state of one tenant.

use std::sync::Arc;

use protocol::leases::RequestIntent;

use crate::holder::command::RouteStatus;
use crate::holder::error::LeaseError;
use crate::holder::lease::{Holder, LeaseCall};
use crate::time::{Millis, Moment};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PendingRequest {
    pub(crate) call: LeaseCall,
    pub(crate) intent: RequestIntent,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LeaseEntry<W> {
    pub(crate) holder: Holder,
    pub(crate) linger: Millis,
    pub(crate) route: RouteStatus,
    /// The one lease request in flight, for all waiters.
    pub(crate) request: Option<PendingRequest>,
    pub(crate) waiters: Vec<(W, RequestIntent)>,
    /// The orchestrator was unreachable: when to send the next request for the waiters.
    pub(crate) retry_at: Option<Moment>,
    /// The manager refuses background requests until then: the tenant sleeps.
    pub(crate) sleeping_until: Moment,
    /// The manager refuses requests until then: the tenant does not run.
    pub(crate) not_running_until: Moment,
    /// The manager refuses requests until then, with this reason: the last wake failed.
    pub(crate) failure: Option<(Moment, Arc<str>)>,
}

impl<W> Default for LeaseEntry<W> {
    fn default() -> Self {
        Self {
            holder: Holder::default(),
            linger: 0,
            route: RouteStatus::Unlisted,
            request: None,
            waiters: Vec::new(),
            retry_at: None,
            sleeping_until: Moment(0),
            not_running_until: Moment(0),
            failure: None,
        }
    }
}

impl<W> LeaseEntry<W> {
    pub(crate) fn is_running(&self) -> bool {
        self.route == RouteStatus::Running
    }

    /// Returns the refusal that the manager knows without a call.
    pub(crate) fn known_error(&self, now: Moment, intent: RequestIntent) -> Option<LeaseError> {
        match &self.failure {
            // The tenant runs: earlier refusals are outdated.
            _ if self.is_running() => None,
            Some((until, reason)) if *until > now => Some(LeaseError::WakeFailed(reason.clone())),
            _ if self.not_running_until > now => Some(LeaseError::NotRunning),
            _ if intent == RequestIntent::Background && self.sleeping_until > now => {
                Some(LeaseError::WakeRequired)
            }
            Some(_) | None => None,
        }
    }

    pub(crate) fn may_request(&self) -> bool {
        self.request.is_none() && self.retry_at.is_none()
    }

    /// Whether the manager needs the entry of a tenant that the route table does not list.
    pub(crate) fn is_needed(&self, now: Moment) -> bool {
        self.holder.may_send(now) || !self.waiters.is_empty() || self.request.is_some()
    }
}
