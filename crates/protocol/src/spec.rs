//! The desired state of a tenant.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::process::AppSpec;
use crate::variables::SealedAppEnv;
use crate::{Slug, TenantId};

/// The owner's wish: the input of reconciliation. [`State`](crate::State) is what the owner sees of its outcome.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    Running,
    Stopped,
    Deleted,
}

impl Desired {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
        }
    }
}

/// Everything that the orchestrator needs to create a tenant's container and to compare an existing one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub id: TenantId,
    pub slug: Slug,
    /// Grows only when the container must be recreated (image, env, mounts).
    pub generation: i64,
    /// The tag of the image, or its id for an app; `None` is the installation's default. A rebuilt image takes effect
    /// at the next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Variables of the tenant's own app. Never secrets, because `inspect` shows them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The tenant's own variables and secrets of the app's program, encrypted with a key of the tenant. They reach the
    /// program at its next start, and no inspection shows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_env: Option<String>,
    /// The variables and secrets of the tenant's app. The tenant's own variables of the same names replace them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_env: Option<SealedAppEnv>,
    /// The tenant's role on Postgres, if its app wants a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_user: Option<String>,
    /// The program of an app in the image; `None` is an image whose entry point is our supervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppSpec>,
    /// Without `database_bytes`, which concerns no container.
    #[serde(default, with = "container_limits")]
    pub limits: Limits,
    #[serde(default)]
    pub policy: Policy,
}

impl Spec {
    /// Whether the model of the installation replies in the tenant's chat.
    pub fn uses_model(&self) -> bool {
        self.app.as_ref().is_some_and(AppSpec::uses_model)
    }
}

/// The resources that one tenant may use.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Thousandths of a CPU.
    #[cfg_attr(feature = "openapi", schema(minimum = 10, maximum = 1024000))]
    pub cpu_millis: u32,
    /// Swap is none: the same number bounds memory and swap together.
    #[cfg_attr(feature = "openapi", schema(minimum = 33554432, maximum = 4398046511104_u64))]
    pub memory_bytes: u64,
    #[cfg_attr(feature = "openapi", schema(minimum = 32, maximum = 1000000))]
    pub pids: u32,
    /// Both volumes together. Enforced by the filesystem where it can. Otherwise measured now and then: a tenant over its
    /// limit is stopped and not started again.
    #[cfg_attr(feature = "openapi", schema(minimum = 67108864, maximum = 1125899906842624_u64))]
    pub disk_bytes: u64,
    /// The tenant's schema with its indexes. Measured: nothing connects to a schema above its limit.
    // Rows and archives of earlier releases lack the field: their schemas stay as large as they are.
    #[cfg_attr(feature = "openapi", schema(minimum = 16777216, maximum = 1125899906842624_u64))]
    #[serde(default = "max_database_bytes")]
    pub database_bytes: u64,
}

const fn max_database_bytes() -> u64 {
    Limits::MAX_DATABASE_BYTES
}

impl Limits {
    /// 1 PiB: no bound.
    pub const MAX_DATABASE_BYTES: u64 = 1 << 50;
}

/// [`Limits`] as the orchestrator receives them. It refuses fields that it does not know, so that each field here makes every tenant
/// wait until the orchestrator is upgraded, too.
mod container_limits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Limits;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct ContainerLimits {
        cpu_millis: u32,
        memory_bytes: u64,
        pids: u32,
        disk_bytes: u64,
    }

    impl From<&Limits> for ContainerLimits {
        fn from(limits: &Limits) -> Self {
            let &Limits { cpu_millis, memory_bytes, pids, disk_bytes, database_bytes: _ } = limits;
            Self { cpu_millis, memory_bytes, pids, disk_bytes }
        }
    }

    impl Default for ContainerLimits {
        fn default() -> Self {
            Self::from(&Limits::default())
        }
    }

    pub(super) fn serialize<S: Serializer>(limits: &Limits, to: S) -> Result<S::Ok, S::Error> {
        ContainerLimits::from(limits).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Limits, D::Error> {
        let ContainerLimits { cpu_millis, memory_bytes, pids, disk_bytes } =
            ContainerLimits::deserialize(from)?;
        Ok(Limits { cpu_millis, memory_bytes, pids, disk_bytes, ..Limits::default() })
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_millis: 2_000,
            memory_bytes: 4 << 30,
            pids: 512,
            disk_bytes: 10 << 30,
            database_bytes: 1 << 30,
        }
    }
}

/// When a tenant freezes and sleeps, which requests wake it, and whether it requires sign-in. `None` is the
/// installation's setting; 0 seconds is never.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    pub freeze_after_seconds: Option<u32>,
    pub sleep_after_seconds: Option<u32>,
    /// How long busy leases from inside may keep it awake without a break; `None` and 0: as long as they like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_awake_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wake_on: Option<WakeOn>,
    /// Whether only signed-in members reach the tenant's own app.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub require_sign_in: bool,
}

/// The requests that wake a *sleeping* tenant. Every request wakes a frozen one.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WakeOn {
    /// A request of somebody who wants the tenant now; see [`Intent::Visit`](crate::leases::RequestIntent::Visit).
    #[default]
    Visits,
    /// Every request.
    AnyRequest,
}
