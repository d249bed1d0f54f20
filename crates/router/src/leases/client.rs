//! Lease calls to the orchestrator, and the meaning of their failures.

use std::time::Duration;

use hyper::Method;
use lease::{CallHealth, LeaseError};
use protocol::leases::{
    LeaseGrant, LeaseRequest, ReleaseRequest, RenewRequest, RenewResponse, RequestIntent,
    queue_position, wake_failure,
};
use protocol::problem::{Code, FieldCode};
use protocol::{Problem, TenantId};
use service::client::{CallError, Client};
use uuid::Uuid;

#[derive(Clone)]
pub(crate) struct LeaseClient {
    pub(crate) client: Client,
    /// Identifies this process.
    pub(crate) holder: Uuid,
}

const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// A call may take this long beyond the wait that the call requests.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

impl LeaseClient {
    pub(crate) async fn request_lease(
        &self,
        tenant: TenantId,
        number: u64,
        intent: RequestIntent,
    ) -> Result<LeaseGrant, CallError> {
        let wait_ms = u32::try_from(lease::REQUEST_WAIT).unwrap_or(u32::MAX);
        let request = LeaseRequest { tenant, holder: self.holder, number, intent, wait_ms };
        let timeout = Duration::from_millis(lease::REQUEST_WAIT) + CALL_TIMEOUT;
        let grant: LeaseGrant =
            self.client.call(Method::POST, "/v1/leases", Some(&request), timeout).await?;
        match grant.tenant == tenant {
            true => Ok(grant),
            false => Err(CallError::Unexpected("a lease on another tenant".to_owned())),
        }
    }

    pub(crate) async fn renew(&self, renew: &RenewRequest) -> Result<RenewResponse, CallError> {
        self.client.call(Method::POST, "/v1/leases/renew", Some(renew), CALL_TIMEOUT).await
    }

    /// Finds out whether the orchestrator answers, by a renewal of no leases.
    pub(crate) async fn probe(&self) -> Result<RenewResponse, CallError> {
        let nothing = RenewRequest { holder: self.holder, leases: Vec::new() };
        self.client.call(Method::POST, "/v1/leases/renew", Some(&nothing), PROBE_TIMEOUT).await
    }

    /// Releases leases. A release that does not arrive is no loss: the lease expires.
    pub(crate) async fn release(&self, release: &ReleaseRequest) {
        let path = "/v1/leases/release";
        let call = self.client.call::<()>(Method::POST, path, Some(release), CALL_TIMEOUT);
        if let Err(error) = call.await {
            tracing::debug!(%error, "lease release failed");
        }
    }
}

/// The meaning of a failed call: about its tenant, or about the orchestrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LeaseCallError {
    Refused(LeaseError),
    Health(CallHealth),
}

impl LeaseCallError {
    /// Returns the meaning for the orchestrator, for a call that concerns no single tenant.
    pub(crate) fn health(self) -> CallHealth {
        match self {
            Self::Refused(_) => CallHealth::Failed { rejects_calls: false },
            Self::Health(health) => health,
        }
    }
}

pub(crate) fn classify_error(error: &CallError) -> LeaseCallError {
    let problem = match error {
        CallError::Unreachable(_) | CallError::TimedOut(_) => {
            return LeaseCallError::Health(CallHealth::NoResponse);
        }
        CallError::OutOfResources(_) => return LeaseCallError::Health(CallHealth::OutOfResources),
        CallError::Unexpected(_) => {
            return LeaseCallError::Health(CallHealth::Failed { rejects_calls: true });
        }
        CallError::Refused(problem) => problem,
    };
    LeaseCallError::Refused(match Code::parse(&problem.code) {
        Some(Code::TenantStopped) => LeaseError::Stopped,
        Some(Code::TenantNotRunning | Code::NoSuchTenant) => LeaseError::NotRunning,
        Some(Code::WakeRequired) => LeaseError::WakeRequired,
        Some(Code::Waking) => {
            LeaseError::Waking { queue_position: queue_position::from_problem(problem) }
        }
        Some(Code::WakeQueueFull) => {
            LeaseError::WakeQueueFull { queue_position: queue_position::from_problem(problem) }
        }
        Some(Code::WakeFailed) => LeaseError::WakeFailed(wake_failure_reason(problem).into()),
        // `leaving`, `not_listed`, and a proxy in front of an orchestrator that is unreachable.
        _ if matches!(problem.status, 502..=504) => {
            return LeaseCallError::Health(CallHealth::NoResponse);
        }
        _ => {
            let rejects_calls = matches!(problem.status, 401 | 403 | 422);
            return LeaseCallError::Health(CallHealth::Failed { rejects_calls });
        }
    })
}

/// The reason of a failed wake for visitors. The orchestrator's own text names paths, images and sockets, which only
/// the owner may read.
fn wake_failure_reason(problem: &Problem) -> &'static str {
    let kind = problem.errors.iter().find(|error| error.field == wake_failure::FIELD);
    match kind.and_then(|error| FieldCode::parse(&error.code)) {
        Some(wake_failure::REFUSED) => "It could not be started. Its owner can see why.",
        Some(wake_failure::DIED) => "It ended while it started. Its owner can see why.",
        Some(wake_failure::SLOW) => "It was started, and did not get ready in time.",
        _ => "It could not be woken. Its owner can see why.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_calls_are_classified_by_status_and_code() {
        let classify = |status, code| {
            let problem = Problem { code: str::to_owned(code), ..Problem::about_blank(status) };
            classify_error(&CallError::Refused(Box::new(problem)))
        };
        let unreachable = LeaseCallError::Health(CallHealth::NoResponse);
        let fault = |rejects_calls| LeaseCallError::Health(CallHealth::Failed { rejects_calls });
        let waking = LeaseError::Waking { queue_position: None };
        let full = LeaseError::WakeQueueFull { queue_position: None };
        for (status, code, failure) in [
            (409, "tenant_stopped", LeaseCallError::Refused(LeaseError::Stopped)),
            (503, "waking", LeaseCallError::Refused(waking)),
            (503, "wake_queue_full", LeaseCallError::Refused(full)),
            (503, "leaving", unreachable.clone()),
            (503, "not_listed", unreachable.clone()),
            (503, "engine_unreachable", unreachable.clone()),
            (502, "unknown", unreachable.clone()),
            (401, "unauthorized", fault(true)),
            (403, "forbidden", fault(true)),
            (422, "invalid", fault(true)),
            (409, "something_else", fault(false)),
            (500, "internal", fault(false)),
        ] {
            assert_eq!(classify(status, code), failure, "{status} {code}");
        }
        for (code, error) in [
            (Code::Waking, LeaseError::Waking { queue_position: Some(3) }),
            (Code::WakeQueueFull, LeaseError::WakeQueueFull { queue_position: Some(3) }),
        ] {
            let problem =
                Problem::new(code, "").field(queue_position::FIELD, queue_position::CODE, "3");
            let refused = CallError::Refused(Box::new(problem));
            assert_eq!(classify_error(&refused), LeaseCallError::Refused(error));
        }
        assert_eq!(classify_error(&CallError::TimedOut(Duration::from_secs(1))), unreachable);
    }

    #[test]
    fn an_error_of_this_process_says_nothing_about_the_orchestrator() {
        let error = CallError::OutOfResources("Too many open files".to_owned());
        let failure = LeaseCallError::Health(CallHealth::OutOfResources);
        assert_eq!(classify_error(&error), failure);
    }
}
