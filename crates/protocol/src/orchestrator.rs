//! app-api ↔ orchestrator. Every call carries `Authorization: Bearer <CIAL_ORCHESTRATOR_TOKEN>`.
//!
//! | call | body → answer |
//! |---|---|
//! | `PUT /v1/tenants/{id}` | [`ApplyRequest`] → 200 [`ObservedTenant`]: resources exist, container of this generation exists and, if asked, its start call has returned |
//! | `POST /v1/tenants/{id}/stop` | → 200 [`ObservedTenant`] (404 when it does not exist) |
//! | `DELETE /v1/tenants/{id}` | → 204, also when nothing was left |
//! | `GET /v1/tenants` | → 200 [`ObservedTenantList`] |
//! | `GET /v1/tenants/watch` | → NDJSON of [`Message<ObservedTenant>`](crate::watch::Message) |
//! | `GET /v1/tenants/{id}/logs?tail=&since=&follow=` | → `text/plain` |
//! | `GET /v1/capacity` | → 200 [`Capacity`] |
//!
//! Readiness never arrives as the answer to a call: it is pushed through the watch.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::spec::Spec;
use crate::watch::Keyed;
use crate::{TenantId, Timestamp};

/// Make it so: the tenant's resources as `spec` says, its container running or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    pub spec: Spec,
    pub run: bool,
    /// End what runs now first, so that a start really happens (the owner's restart).
    #[serde(default)]
    pub restart: bool,
    /// Admin sessions that ended: the tenant ends each of its own sessions whose SSO token carried such a `sid`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked_sessions: Vec<Uuid>,
}

/// What the engine shows of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The container exists and was never started.
    Created,
    /// It runs; its health has not answered yet.
    Starting,
    /// Its health answers.
    Ready,
    Frozen,
    /// Stopped for want of use.
    Sleeping,
    /// Stopped on request.
    Stopped,
    /// It ended by itself and is not being restarted at this moment.
    Exited,
}

/// Where a tenant is reached.
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
    /// The image's tag names another image by now.
    Image,
    /// The installation's settings changed since the container was created.
    Settings,
    /// The container is not attached to the tenant's network, or also to others.
    Network,
    /// A volume or a directory is missing, or another one is mounted in its place.
    Mounts,
    /// Limits on the engine are not those of the spec.
    Limits,
    /// A label that Cial sets is missing.
    Labels,
}

/// A container that ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub at: Timestamp,
    pub code: i64,
    pub out_of_memory: bool,
    /// Whether its health had answered since that start.
    pub was_ready: bool,
}

/// What is true of one tenant on the engine, now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedTenant {
    pub id: TenantId,
    pub generation: i64,
    pub phase: Phase,
    pub container_id: String,
    /// Published on 127.0.0.1; changes at every start.
    pub container_port: Option<u16>,
    /// `None` while it cannot be reached.
    pub upstream: Option<Upstream>,
    /// Whether the tag of its image names another image by now.
    pub image_outdated: bool,
    /// How the container differs from its spec and the installation's settings; the next start corrects it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub drift: BTreeSet<Drift>,
    /// Exits by itself since this orchestrator first saw the container; with `last_exit` enough to count crashes.
    pub exits: u32,
    pub last_exit: Option<Exit>,
    /// What a person should know: why it is not ready, or what the engine last refused.
    pub reason: Option<String>,
}

impl Keyed for ObservedTenant {
    type Key = TenantId;

    fn key(&self) -> TenantId {
        self.id
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedTenantList {
    pub tenants: Vec<ObservedTenant>,
}

/// Room on the engine, shown before it runs out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    pub networks_used: u32,
    pub networks_total: u32,
    pub engine_version: String,
    pub api_version: String,
    /// The disk that holds the engine's data; `None` from an orchestrator that does not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskCapacity>,
}

/// Room on the disk that holds the engine's data, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCapacity {
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// With less than this free, no new tenant is created.
    pub reserve_bytes: u64,
}
