//! app-api ↔ orchestrator. Every call carries `Authorization: Bearer <CIAL_ORCHESTRATOR_TOKEN>`.
//!
//! | call | body → response |
//! |---|---|
//! | `PUT /v1/tenants/{id}` | [`ApplyRequest`] → 200 [`TenantAtRevision`]: resources exist, the container of this generation exists and, if requested, its start call has returned |
//! | `POST /v1/tenants/{id}/prepare` | [`Spec`] → 204: a tenant without a container has its resources and its container, which was not started; nothing is done for one with a container |
//! | `POST /v1/tenants/{id}/stop` | → 200 [`ObservedTenant`] (404 when it does not exist) |
//! | `DELETE /v1/tenants/{id}` | → 204, also when nothing was left |
//! | `GET /v1/tenants` | → 200 [`ObservedTenantList`] |
//! | `GET /v1/tenants/watch` | → NDJSON of [`Message<ObservedTenant>`](crate::watch::Message) |
//! | `GET /v1/tenants/{id}/logs?tail=&since=&follow=` | → `text/plain` |
//! | `GET /v1/tenants/{id}/summaries?after=` | → 200 [`SummaryReport`](crate::summaries::SummaryReport); 409 for a tenant that does not run |
//! | `GET /v1/tenants/{id}/last-start` | → 200 [`LastStart`] |
//! | `GET /v1/tenants/{id}/disk` | → 200 [`DiskUse`] |
//! | `GET /v1/disk` | → 200 [`DiskUseList`] |
//! | `GET /v1/capacity` | → 200 [`Capacity`] |
//!
//! Only the watch reports readiness; no response to a call does.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::spec::Spec;
use crate::watch::Keyed;
use crate::{TenantId, Timestamp};

/// Applies a spec: the tenant's resources match `spec`, and its container runs or does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    pub spec: Spec,
    pub run: bool,
    /// Stops the running container first, so that a start really happens (the owner's restart).
    #[serde(default)]
    pub restart: bool,
    /// Admin sessions that ended: the tenant ends each of its own sessions whose SSO token carried
    /// such a `sid`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked_sessions: Vec<Uuid>,
}

/// The phase of a tenant on the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The container exists and was never started.
    Created,
    /// The container runs, and its health endpoint has not responded yet.
    Starting,
    /// The health endpoint responds.
    Ready,
    Frozen,
    /// Stopped for lack of use.
    Sleeping,
    /// Stopped on request.
    Stopped,
    /// The container exited by itself and is not restarting at this moment.
    Exited,
}

/// The address of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upstream {
    /// Path of a unix socket, as mounted in the router.
    Unix(String),
    /// `host:port`.
    Tcp(String),
}

/// A way in which a container differs from its spec or from the installation's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drift {
    /// The image tag now names another image.
    Image,
    /// The installation's settings changed since the container was created.
    Settings,
    /// The container is not attached to the tenant's network, or is also attached to others.
    Network,
    /// A volume or a directory is missing, or another one is mounted in its place.
    Mounts,
    /// The limits on the engine differ from those of the spec.
    Limits,
    /// A label that Cial sets is missing.
    Labels,
}

impl Drift {
    /// Describes the difference for a person, as a part of a sentence.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Image => "its image was rebuilt or replaced",
            Self::Settings => "the installation's settings changed",
            Self::Network => "it is not attached to its own network, or to that network only",
            Self::Mounts => "its volumes or directories are not the ones it must have",
            Self::Limits => "its limits were changed on the engine",
            Self::Labels => "its labels are incomplete",
        }
    }
}

/// A container that ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub at: Timestamp,
    pub code: i64,
    pub out_of_memory: bool,
    /// Whether the health endpoint had responded since that start.
    pub was_ready: bool,
}

/// The current state of one tenant on the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedTenant {
    pub id: TenantId,
    pub generation: i64,
    pub phase: Phase,
    pub container_id: String,
    /// The port on 127.0.0.1; changes at every start.
    pub container_port: Option<u16>,
    /// `None` while the tenant is unreachable.
    pub upstream: Option<Upstream>,
    /// The orchestrator has no spec of this tenant, because its state was lost. It starts nothing until the spec is applied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lacks_spec: bool,
    /// Whether the image tag now names another image.
    pub image_outdated: bool,
    /// How the container differs from its spec and the installation's settings; the next start
    /// corrects it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub drift: BTreeSet<Drift>,
    /// Exits of the container by itself since this orchestrator first saw it. Together with
    /// `last_exit`, callers can count crashes.
    pub exits: u32,
    pub last_exit: Option<Exit>,
    /// A message for a person: why the tenant is not ready, or the engine's last refusal.
    pub reason: Option<String>,
    /// The end of the tenant's log at its last exit without readiness. `None` once it got ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_lines: Option<String>,
}

/// A tenant as of a revision of the watch. An item of a later revision in the watch is newer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantAtRevision {
    pub revision: u64,
    pub tenant: ObservedTenant,
}

impl Keyed for ObservedTenant {
    type Key = TenantId;

    fn key(&self) -> TenantId {
        self.id
    }
}

/// The last start of a tenant's container, as the engine shows it at this moment. Two that are equal, both of a tenant whose
/// processes had ended, tell that no process of the tenant ran in between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastStart {
    pub container_id: String,
    /// By the engine's clock; `None` for a container that never started.
    pub at: Option<Timestamp>,
    /// Whether its processes have ended. A frozen tenant may go on without a start.
    pub has_ended: bool,
    /// Whether its processes run: neither frozen nor ended.
    #[serde(default)]
    pub is_running: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedTenantList {
    pub tenants: Vec<ObservedTenant>,
}

/// Room on the engine, so that operators see a shortage early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    pub networks_used: u32,
    pub networks_total: u32,
    pub engine_version: String,
    pub api_version: String,
    /// The disk that holds the engine's data; `None` from an orchestrator that does not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskCapacity>,
    #[serde(default)]
    pub quota: QuotaService,
}

/// The service `quota`, which lets the filesystem of the engine enforce disk limits, as the orchestrator last observed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "detail", rename_all = "snake_case")]
pub enum QuotaService {
    /// The installation does not run the service.
    #[default]
    Absent,
    /// The service does not respond, or a command of it failed, with the reason.
    Failed(String),
    /// The filesystem of the engine has no quotas that the service can set, with the reason.
    Unsupported(String),
    Ready,
}

/// What holds a tenant to its disk limit.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskEnforcement {
    /// The kernel refuses what a program inside writes beyond the limit.
    Filesystem,
    /// The volumes are measured now and then, and a tenant that is found above its limit is stopped.
    #[default]
    Measurement,
}

impl DiskEnforcement {
    /// How the limit is held, after the name of the tenant or its use.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Filesystem => "enforced by the file system",
            Self::Measurement => "measured",
        }
    }
}

/// Room on the disk that holds the engine's data, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCapacity {
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// With less than this free, no new tenant is created.
    pub reserve_bytes: u64,
}

/// The disk use of a tenant's volumes and their limit, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    pub tenant: TenantId,
    /// Both volumes together, as last observed; `None` before the first measurement.
    pub used_bytes: Option<u64>,
    pub limit_bytes: u64,
    #[serde(default)]
    pub enforced_by: DiskEnforcement,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUseList {
    pub tenants: Vec<DiskUse>,
}

/// A check of the installation for people, and what it found. `orchestrator report` prints a list of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    /// Empty if the check passes.
    pub problems: Vec<String>,
    /// Facts that are no problem.
    pub notes: Vec<String>,
}
