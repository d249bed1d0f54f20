//! Inputs and outputs of [`LeaseManager`](crate::LeaseManager).

use protocol::leases::RequestIntent;

use crate::holder::error::LeaseError;
use crate::holder::lease::{LeaseCall, LeaseTerms};
use crate::holder::outage::{CallHealth, OrchestratorStatus};
use crate::time::{Millis, Moment};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ManagerSettings {
    pub waiters_per_tenant: usize,
    /// How long one lease request may wait for a wake at the orchestrator: [`REQUEST_WAIT`](crate::REQUEST_WAIT).
    pub request_wait: Millis,
    /// A restart of the orchestrator takes at most this long. Requests for a tenant that does not run wait that long, and
    /// are refused at once after that.
    pub outage_grace: Millis,
}

/// The status of a tenant in the route table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RouteStatus {
    #[default]
    Unlisted,
    NotRunning,
    /// The tenant runs, at a known address.
    Running,
}

/// A request that wants a tenant. `W` identifies its waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TenantRequest<W> {
    pub intent: RequestIntent,
    pub route: RouteStatus,
    /// The sender knows that the last wake failed, and requests another wake.
    pub retries_failure: bool,
    /// `None`: no waiter needs the result.
    pub waiter: Option<W>,
}

/// How a lease request ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RequestOutcome {
    Granted {
        terms: LeaseTerms,
        /// The tenant was woken for this lease.
        woke: bool,
    },
    /// The lease is for a tenant that the route table does not know.
    UnknownRoute,
    /// The orchestrator refused the lease.
    Refused(LeaseError),
    /// The call failed: everything but [`CallHealth::Responded`].
    CallFailed(CallHealth),
}

/// How a tenant is used at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CurrentUsage {
    /// A request is in flight, or a stream had data within the last linger time.
    pub in_use: bool,
    /// The end of the last request, or the last data of a stream.
    pub last_used: Moment,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ManagerCommand<T, W> {
    /// Send a lease request, then call [`LeaseManager::on_request_finished`](crate::LeaseManager::on_request_finished).
    SendRequest {
        tenant: T,
        call: LeaseCall,
        intent: RequestIntent,
    },
    /// Renew the lease, together with others, then call [`LeaseManager::on_renewed`](crate::LeaseManager::on_renewed).
    SendRenewal {
        tenant: T,
        call: LeaseCall,
    },
    /// Clear the published lease, then check that no request has used the tenant after `last_used`.
    /// If so call [`LeaseManager::begin_release`](crate::LeaseManager::begin_release) and send the release, otherwise
    /// [`LeaseManager::keep_lease`](crate::LeaseManager::keep_lease).
    Release {
        tenant: T,
        last_used: Moment,
    },
    /// Make a call that the orchestrator always answers at once, then call
    /// [`LeaseManager::on_probe_finished`](crate::LeaseManager::on_probe_finished).
    SendProbe,
    /// Let requests be sent until this moment, at the address of the grant.
    AdoptGrant {
        tenant: T,
        valid_until: Moment,
        woke: bool,
        is_awaited: bool,
    },
    /// Requests may be sent until this moment; the epoch stops them.
    Publish {
        tenant: T,
        valid_until: Moment,
    },
    /// Let the waiter send its request under the lease.
    ServeLeased {
        tenant: T,
        waiter: W,
    },
    /// Let the waiter send its request without a lease: the orchestrator is unreachable, and the tenant runs.
    ServeUnleased {
        tenant: T,
        waiter: W,
    },
    Refuse {
        waiter: W,
        error: LeaseError,
    },
    /// The number of wakes before that of the tenant; `None` once the number is unknown.
    SetQueuePosition {
        tenant: T,
        queue_position: Option<u32>,
    },
    /// The status of the orchestrator changed.
    SetStatus(OrchestratorStatus),
    /// The route table does not list the tenant, and the manager holds no more state of it.
    Forget {
        tenant: T,
    },
}
