//! The admin API that owners, the CLI and scripts use.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::orchestrator::DiskEnforcement;
use crate::sleep::{IdleState, WakePhases};
use crate::spec::{Desired, Limits, Policy, WakeOn};
use crate::{Slug, State, TenantId};

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignUp {
    pub email: String,
    pub password: String,
    pub name: String,
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    pub email: String,
    pub password: String,
    /// The code of the account's second factor, or a recovery code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: Uuid,
    pub email: String,
    pub name: String,
    pub role: String,
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedIn {
    pub user: User,
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// The handler checks the text against [`Slug`], so that the error names this field.
    pub slug: String,
    pub name: String,
    /// The app that the tenant runs; by default the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// A release of the app; by default its latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
}

/// A tenant as its owner sees it. Times are RFC 3339, UTC, with milliseconds.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub id: TenantId,
    pub slug: Slug,
    pub name: String,
    /// The person who created the tenant; null when a key did.
    pub owner_id: Option<Uuid>,
    #[cfg_attr(feature = "openapi", schema(format = "uri"))]
    pub url: String,
    /// The slug of the tenant's app.
    #[serde(default)]
    pub app: String,
    /// Like `v2`; null for the built-in app.
    #[serde(default)]
    pub release: Option<String>,
    #[serde(default)]
    pub database: TenantDatabase,
    /// Whether rollouts leave the tenant alone.
    #[serde(default)]
    pub pinned: bool,
    pub desired: Desired,
    pub state: State,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub state_since: String,
    pub state_reason: Option<String>,
    pub revision: i64,
    pub generation: i64,
    pub container_id: Option<String>,
    pub container_port: Option<u16>,
    pub limits: Limits,
    pub policy: Policy,
    /// `policy`, completed with the installation's settings.
    #[serde(default)]
    pub effective_policy: EffectivePolicy,
    /// This field and the following ones show the orchestrator's current state. They are empty
    /// while the orchestrator is unreachable.
    #[serde(default)]
    pub awake_because: Vec<String>,
    #[serde(default)]
    pub asleep_because: Option<String>,
    /// The time at which the tenant freezes if it is not used before.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub freezes_at: Option<String>,
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub sleeps_at: Option<String>,
    #[serde(default)]
    pub last_wake: Option<LastWake>,
    #[serde(default)]
    pub disk: Option<TenantDisk>,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub updated_at: String,
}

/// The schema and the role of a tenant on the database server. The password is never part of a response.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantDatabase {
    pub schema: String,
    pub user: String,
    /// The last migration that the schema has; null while there is no schema.
    #[serde(default)]
    pub version: Option<String>,
    /// Why the schema does not have the migrations of this release yet.
    #[serde(default)]
    pub failure: Option<String>,
    /// The size of the schema as last measured; the limit is `limits.database_bytes`.
    #[serde(default)]
    pub used_bytes: Option<u64>,
    /// Why nothing connects to the schema.
    #[serde(default)]
    pub closed_because: Option<String>,
}

/// The disk use of a tenant. The limit is `limits.disk_bytes`.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantDisk {
    /// Both volumes together, as last observed; null before the first measurement.
    pub used_bytes: Option<u64>,
    pub enforced_by: DiskEnforcement,
}

/// How a tenant last woke.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWake {
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub at: String,
    pub from: IdleState,
    pub total_ms: u32,
    #[cfg_attr(feature = "openapi", schema(inline))]
    pub phases_ms: WakePhases,
}

/// A [`Policy`] without open fields. 0 seconds means never; for `max_awake_seconds`, 0 means no
/// limit.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectivePolicy {
    pub freeze_after_seconds: u32,
    pub sleep_after_seconds: u32,
    pub max_awake_seconds: u32,
    pub wake_on: WakeOn,
}

/// The policy of an installation that sets nothing.
impl Default for EffectivePolicy {
    fn default() -> Self {
        Self {
            freeze_after_seconds: 60,
            sleep_after_seconds: 1_200,
            max_awake_seconds: 0,
            wake_on: WakeOn::Visits,
        }
    }
}

impl EffectivePolicy {
    /// Returns the values of `policy`, and this policy's values for its open fields.
    #[must_use]
    pub fn under(self, policy: &Policy) -> Self {
        Self {
            freeze_after_seconds: policy.freeze_after_seconds.unwrap_or(self.freeze_after_seconds),
            sleep_after_seconds: policy.sleep_after_seconds.unwrap_or(self.sleep_after_seconds),
            max_awake_seconds: policy.max_awake_seconds.unwrap_or(self.max_awake_seconds),
            wake_on: policy.wake_on.unwrap_or(self.wake_on),
        }
    }
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantList {
    pub tenants: Vec<Tenant>,
    /// The `?cursor=` value for the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
