//! Calls to the orchestrator about leases, and what its refusals mean.

use std::time::Duration;

use hyper::Method;
use protocol::TenantId;
use protocol::leases::{
    LeaseGrant, LeaseRequest, ReleaseRequest, RenewRequest, RenewResponse, RequestIntent, code,
    queue_position,
};
use service::client::{CallError, Client};
use uuid::Uuid;

use crate::http::responses;
use crate::leases::Refusal;

#[derive(Clone)]
pub(crate) struct Keeper {
    pub(crate) client: Client,
    /// This process.
    pub(crate) holder: Uuid,
}

/// How long one ask may wait for a wake. Shorter than a lease, which counts from when it was asked for: what is granted
/// after a wait must still be worth something. Whoever waits longer asks again.
pub(crate) const SLICE_MS: u32 = 10_000;
const HERE: Duration = Duration::from_secs(2);
/// How long a call may take beyond what it is meant to.
const PATIENCE: Duration = Duration::from_secs(3);

impl Keeper {
    pub(crate) async fn ask(
        &self,
        tenant: TenantId,
        number: u64,
        intent: RequestIntent,
    ) -> Result<LeaseGrant, CallError> {
        let ask = LeaseRequest { tenant, holder: self.holder, number, intent, wait_ms: SLICE_MS };
        let patience = Duration::from_millis(SLICE_MS.into()) + PATIENCE;
        let grant: LeaseGrant =
            self.client.call(Method::POST, "/v1/leases", Some(&ask), patience).await?;
        match grant.tenant == tenant {
            true => Ok(grant),
            false => Err(CallError::Unexpected("a lease on another tenant".to_owned())),
        }
    }

    pub(crate) async fn renew(&self, renew: &RenewRequest) -> Result<RenewResponse, CallError> {
        self.client.call(Method::POST, "/v1/leases/renew", Some(renew), PATIENCE).await
    }

    /// Whether anybody is there.
    pub(crate) async fn listen(&self) -> Result<RenewResponse, CallError> {
        let nothing = RenewRequest { holder: self.holder, leases: Vec::new() };
        self.client.call(Method::POST, "/v1/leases/renew", Some(&nothing), HERE).await
    }

    /// A release that does not arrive is no loss: the lease runs out.
    pub(crate) async fn release(&self, release: &ReleaseRequest) {
        let path = "/v1/leases/release";
        let said = self.client.call::<()>(Method::POST, path, Some(release), PATIENCE).await;
        if let Err(error) = said {
            tracing::debug!(%error, "a release was not heard");
        }
    }
}

/// What a call that came to nothing says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A word about the tenant.
    Refused(Refusal),
    /// Nobody is there who keeps tenants: it does not answer, it leaves, or it knows none yet.
    Nobody,
    /// It is there and did not take the call: our token or our build is wrong, or it is broken. It goes on keeping, so
    /// that nothing may be sent without its leave.
    Fault,
}

pub(crate) fn meaning(error: &CallError) -> Meaning {
    let problem = match error {
        CallError::Unreachable(_) | CallError::TimedOut(_) => return Meaning::Nobody,
        CallError::Unexpected(_) => return Meaning::Fault,
        CallError::Refused(problem) => problem,
    };
    Meaning::Refused(match problem.code.as_str() {
        code::STOPPED => Refusal::Stopped,
        code::NOT_RUNNING | code::NO_SUCH_TENANT => Refusal::NotRunning,
        code::WAKE_REQUIRED => Refusal::WakeRequired,
        code::WAKING => Refusal::Waking { ahead: queue_position::told(problem) },
        code::WAKE_QUEUE_FULL => Refusal::QueueFull { ahead: queue_position::told(problem) },
        code::WAKE_FAILED => Refusal::Failed(responses::wake_failure_reason(problem).into()),
        // `leaving`, `not_listed`, and whatever stands in its queue_position.
        _ if matches!(problem.status, 502..=504) => return Meaning::Nobody,
        _ => return Meaning::Fault,
    })
}

#[cfg(test)]
mod tests {
    use protocol::Problem;

    use super::*;

    #[test]
    fn what_a_refused_call_says_by_the_table() {
        let of = |status, code| {
            let problem = Problem::new(status, code, "", "");
            meaning(&CallError::Refused(Box::new(problem)))
        };
        for (status, code, meaning) in [
            (409, "tenant_stopped", Meaning::Refused(Refusal::Stopped)),
            (503, "waking", Meaning::Refused(Refusal::Waking { ahead: None })),
            (503, "wake_queue_full", Meaning::Refused(Refusal::QueueFull { ahead: None })),
            (503, "leaving", Meaning::Nobody),
            (503, "not_listed", Meaning::Nobody),
            (503, "engine_unreachable", Meaning::Nobody),
            (502, "unknown", Meaning::Nobody),
            (401, "unauthorized", Meaning::Fault),
            (403, "forbidden", Meaning::Fault),
            (422, "invalid", Meaning::Fault),
            (409, "something_else", Meaning::Fault),
            (500, "internal", Meaning::Fault),
        ] {
            assert_eq!(of(status, code), meaning, "{status} {code}");
        }
        for (code, refusal) in [
            ("waking", Refusal::Waking { ahead: Some(3) }),
            ("wake_queue_full", Refusal::QueueFull { ahead: Some(3) }),
        ] {
            let problem = Problem::new(503, code, "", "").field(
                queue_position::FIELD,
                queue_position::CODE,
                "3",
            );
            let refused = CallError::Refused(Box::new(problem));
            assert_eq!(meaning(&refused), Meaning::Refused(refusal));
        }
        let late = CallError::TimedOut(Duration::from_secs(1));
        assert_eq!(meaning(&late), Meaning::Nobody);
    }
}
