//! router → orchestrator: the right to send a tenant requests, which also keeps the tenant awake.
//!
//! Every call carries `Authorization: Bearer <CIAL_LEASES_TOKEN>`, a token that opens nothing else.
//! All durations are relative, so no clocks of two machines are compared. A holder counts its lease
//! from the time it *sent* the call, the orchestrator from the time it responded; the holder's
//! lease therefore ends first.
//!
//! | call | body → response |
//! |---|---|
//! | `POST /v1/leases` | [`LeaseRequest`] → 200 [`LeaseGrant`]; wakes a frozen or sleeping tenant first; otherwise a problem, below |
//! | `POST /v1/leases/renew` | [`RenewRequest`] → 200 [`RenewResponse`]; 503 `not_listed` before the orchestrator has listed its tenants, which ends no lease |
//! | `POST /v1/leases/release` | [`ReleaseRequest`] → 204, also for expired leases |
//! | `GET /v1/leases/{tenant}/progress` | → NDJSON of [`WakeProgress`], one line per change, until `ready` or `failed`; wakes no tenant |
//!
//! The problems that refuse a lease:
//!
//! | code | when |
//! |---|---|
//! | [`NoSuchTenant`](crate::problem::Code::NoSuchTenant) | the engine has no such tenant |
//! | [`TenantStopped`](crate::problem::Code::TenantStopped) | the owner stopped the tenant; no request wakes it |
//! | [`TenantNotRunning`](crate::problem::Code::TenantNotRunning) | the tenant is not ready, and a wake does not help (first start, owner's start, crash) |
//! | [`WakeRequired`](crate::problem::Code::WakeRequired) | the tenant sleeps, and this request does not wake it |
//! | [`Waking`](crate::problem::Code::Waking) + `Retry-After` | the tenant is waking; `wait_ms` ran out first |
//! | [`Leaving`](crate::problem::Code::Leaving) + `Retry-After` | the orchestrator is shutting down. The router treats it as unreachable: running tenants are served without it, and leases for resting tenants are requested again |
//! | [`WakeQueueFull`](crate::problem::Code::WakeQueueFull) + `Retry-After` | too many requests wait already |
//! | [`WakeFailed`](crate::problem::Code::WakeFailed) | the tenant did not get ready. `detail` is the reason in the engine's words, for the owner only. `errors` carries the kind of the failure as `code` of the field `wake`: one of [`wake_failure`] |

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::TenantId;
use crate::orchestrator::Upstream;

/// Kinds of failed wakes, as any client may see them.
pub mod wake_failure {
    use crate::problem::FieldCode;

    /// The field of the problem that carries the kind.
    pub const FIELD: &str = "wake";
    /// The engine did not start the tenant.
    pub const REFUSED: FieldCode = FieldCode::Refused;
    /// The tenant exited while it started.
    pub const DIED: FieldCode = FieldCode::Died;
    /// Some services of the tenant did not respond in time.
    pub const SLOW: FieldCode = FieldCode::Slow;
}

/// The number of wakes ahead of a slow wake, in a problem with the code `waking` or
/// `wake_queue_full`.
pub mod queue_position {
    use crate::Problem;
    use crate::problem::FieldCode;

    /// The field of the problem that carries the number as its message.
    pub const FIELD: &str = "ahead";
    pub const CODE: FieldCode = FieldCode::Waits;

    pub fn from_problem(problem: &Problem) -> Option<u32> {
        let told = problem.errors.iter().find(|error| error.field == FIELD)?;
        told.message.parse().ok()
    }
}

/// How a request relates to a *sleeping* tenant. Both kinds wake a frozen tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestIntent {
    /// Somebody needs the tenant now: a page navigation, a client that is no browser, a call with
    /// `Authorization`.
    Visit,
    /// A request that no person waits for: a poll, a reconnect, a prefetch, a probe.
    Background,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    pub tenant: TenantId,
    /// Identifies the router process: a new id at each start.
    pub holder: Uuid,
    /// Grows with each request of this holder for this tenant.
    pub number: u64,
    pub intent: RequestIntent,
    /// The longest wait for the response while the tenant wakes; at most 60,000.
    pub wait_ms: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGrant {
    pub tenant: TenantId,
    pub generation: i64,
    pub upstream: Upstream,
    pub expires_in_ms: u32,
    /// How long the holder may keep an unused lease before the release: always well below the
    /// tenant's freeze time.
    pub linger_ms: u32,
    /// Whether this lease woke the tenant. If so, the holder reports the first byte of the
    /// response.
    pub woke: bool,
}

/// At most 1,000 leases per call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    pub holder: Uuid,
    pub leases: Vec<LeaseUsage>,
}

/// At most 1,000 leases per call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    pub holder: Uuid,
    pub leases: Vec<LeaseUsage>,
}

/// The use of a lease since the holder's last report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseUsage {
    pub tenant: TenantId,
    /// [`LeaseRequest::number`] of the newest grant. A release that a newer request has overtaken
    /// ends nothing.
    pub number: u64,
    /// The time since the last byte of the last request, or the last data of a tunnel; 0 while a
    /// request or tunnel is active.
    pub idle_ms: u32,
    /// Describes the active requests, tunnels and streams for people.
    #[serde(default)]
    pub requests: u32,
    #[serde(default)]
    pub streams: u32,
    /// The time from the grant that woke the tenant to the first byte of its response; reported
    /// once per wake.
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
    /// `None` when the lease expired or the tenant is going away: the holder must not send more
    /// requests under it.
    pub expires_in_ms: Option<u32>,
}

/// The progress of a wake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeProgress {
    pub step: WakeStep,
    /// The number of wakes ahead, while `queued`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u32>,
    /// The time since the wake was requested.
    pub elapsed_ms: u32,
    /// The reason for a person, when `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WakeStep {
    /// No wake is in progress.
    Asleep,
    Queued,
    /// The engine received the start call.
    Starting,
    /// The container runs, and some of its services have not responded yet.
    Booting,
    Ready,
    Failed,
}
