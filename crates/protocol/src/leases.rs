//! router → orchestrator: the right to send a tenant requests, and with it to keep it awake.
//!
//! Every call carries `Authorization: Bearer <CIAL_LEASES_TOKEN>`, a token that opens nothing else. All durations are
//! relative, so no clocks of two machines are compared. A holder counts its lease from the time it *sent* the call, the
//! orchestrator from the time it responded; the holder's lease therefore ends first.
//!
//! | call | body → answer |
//! |---|---|
//! | `POST /v1/leases` | [`LeaseRequest`] → 200 [`LeaseGrant`]; a frozen or sleeping tenant is woken first; otherwise a problem, its code one of [`code`] |
//! | `POST /v1/leases/renew` | [`RenewRequest`] → 200 [`RenewResponse`]; 503 `not_listed` while the orchestrator does not know its tenants yet, which ends no lease |
//! | `POST /v1/leases/release` | [`ReleaseRequest`] → 204, also for leases that ran out |
//! | `GET /v1/leases/{tenant}/progress` | → NDJSON of [`WakeProgress`], one a change, until `ready` or `failed`; wakes nobody |

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::TenantId;
use crate::orchestrator::Upstream;

/// Why a lease was not given: `code` of the problem.
pub mod code {
    /// 404: no such tenant on this engine.
    pub const NO_SUCH_TENANT: &str = "no_such_tenant";
    /// 409: its owner stopped it; no request wakes it.
    pub const STOPPED: &str = "tenant_stopped";
    /// 409: it is not ready, and no wake is what it waits for (first start, owner's start, crash).
    pub const NOT_RUNNING: &str = "tenant_not_running";
    /// 409: it sleeps, and this request is none that wakes it.
    pub const WAKE_REQUIRED: &str = "wake_required";
    /// 503 + `Retry-After`: it is being woken; `wait_ms` ran out first.
    pub const WAKING: &str = "waking";
    /// 503 + `Retry-After`: the orchestrator is ending. As good as nobody there: what runs is served without it, what
    /// rests is asked for again.
    pub const LEAVING: &str = "leaving";
    /// 503 + `Retry-After`: too many wait already.
    pub const WAKE_QUEUE_FULL: &str = "wake_queue_full";
    /// 502: it was woken and did not get ready. `detail` is the reason in the engine's words, for its owner and nobody
    /// else; `errors` says in `code` of the field `wake` which kind of wake_failure it was: one of [`super::wake_failure`].
    pub const WAKE_FAILED: &str = "wake_failed";
}

/// How a wake failed, as strangers may know it.
pub mod wake_failure {
    /// The field of the problem that says it.
    pub const FIELD: &str = "wake";
    /// The engine did not start it.
    pub const REFUSED: &str = "refused";
    /// It ended while it started.
    pub const DIED: &str = "died";
    /// Its services had not all answered in time.
    pub const SLOW: &str = "slow";
}

/// How many are before one whose wake takes long, in a problem of [`code::WAKING`] or [`code::WAKE_QUEUE_FULL`].
pub mod queue_position {
    use crate::Problem;

    /// The field of the problem that says it: the number is the message.
    pub const FIELD: &str = "ahead";
    pub const CODE: &str = "waits";

    pub fn told(problem: &Problem) -> Option<u32> {
        let told = problem.errors.iter().find(|error| error.field == FIELD)?;
        told.message.parse().ok()
    }
}

/// How a request relates to a *sleeping* tenant. A frozen one wakes for either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestIntent {
    /// Somebody wants the tenant now: a page navigation, a client that is no browser, a call with `Authorization`.
    Visit,
    /// It happened to be sent: a poll, a reconnect, a prefetch, a probe.
    Background,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    pub tenant: TenantId,
    /// Which router process: made anew at each start.
    pub holder: Uuid,
    /// Grows with each ask of this holder for this tenant.
    pub number: u64,
    pub intent: RequestIntent,
    /// How long the answer may take while the tenant is woken; at most 60,000.
    pub wait_ms: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGrant {
    pub tenant: TenantId,
    pub generation: i64,
    pub upstream: Upstream,
    pub expires_in_ms: u32,
    /// How long it may be kept without use before it should be released: always well below the tenant's freeze time.
    pub linger_ms: u32,
    /// Whether the tenant had to be woken for it: then the holder reports its first byte.
    pub woke: bool,
}

/// At most 1,000 leases a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    pub holder: Uuid,
    pub leases: Vec<LeaseUsage>,
}

/// At most 1,000 leases a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    pub holder: Uuid,
    pub leases: Vec<LeaseUsage>,
}

/// What a lease was used for since it was last spoken of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseUsage {
    pub tenant: TenantId,
    /// [`LeaseRequest::number`] of the newest grant: a release that a newer ask has overtaken ends nothing.
    pub number: u64,
    /// Since the last byte of the last request, or the last data of a tunnel; 0 while something is under way.
    pub idle_ms: u32,
    /// What is under way now, for people: requests, and tunnels or streams.
    #[serde(default)]
    pub requests: u32,
    #[serde(default)]
    pub streams: u32,
    /// From the grant that woke it to the first byte of its answer; once a wake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewResponse {
    /// In the order of the call.
    pub leases: Vec<RenewedLease>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewedLease {
    pub tenant: TenantId,
    /// `None`: it ran out, or its tenant is going: nothing more may be sent under it.
    pub expires_in_ms: Option<u32>,
}

/// Where a wake is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeProgress {
    pub step: WakeStep,
    /// Wakes before this one, while `queued`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u32>,
    /// Since the wake was asked for.
    pub elapsed_ms: u32,
    /// For a person, when `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WakeStep {
    /// Nobody wakes it.
    Asleep,
    Queued,
    /// The engine was told to start it.
    Starting,
    /// Its container runs; its services have not all answered.
    Booting,
    Ready,
    Failed,
}
