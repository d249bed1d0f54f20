//! The calls of the orchestrator to the service `quota`.

use protocol::TenantId;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum QuotaRequest {
    /// Lists the limits that the filesystem enforces.
    List,
    /// Sets a tenant's limit, and returns it if the filesystem enforces it now.
    Set { tenant: TenantId, limit_bytes: u64, volume_use: VolumeUse },
    /// Removes the limit of the tenant's volumes, and their content where that is quick. The engine removes them next.
    Remove { tenant: TenantId },
}

/// Whether containers use the volumes of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VolumeUse {
    /// The tenant has no container: the directories may be replaced.
    New,
    /// The tenant's container is stopped: the directories stay, and nothing in them is open.
    Unmounted,
    /// The tenant's container runs, or may do so.
    Mounted,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum QuotaResponse {
    Quotas(Vec<TenantQuota>),
    Error(QuotaError),
}

/// A limit that the filesystem enforces for both volumes of a tenant together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TenantQuota {
    pub(super) tenant: TenantId,
    pub(super) used_bytes: u64,
    pub(super) limit_bytes: u64,
}

/// Why a call changed nothing, or not everything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum QuotaError {
    #[error("{0}")]
    Unsupported(String),
    #[error("{0}")]
    Failed(String),
}
