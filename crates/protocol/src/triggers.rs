//! Triggers of one tenant: what runs its workflows by time, or by a call.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::executions::ExecutionState;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TriggerKind {
    /// Fires at the times of a cron expression.
    Cron,
    /// Fires by a `POST` to its address.
    Webhook,
}

impl TriggerKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cron => "cron",
            Self::Webhook => "webhook",
        }
    }
}

/// Decides about times that passed during an outage of the control plane, when nothing could fire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Each that is at most ten minutes old fires, and one that was tried already; the others do not.
    #[default]
    Skip,
    /// Each of the last seven days fires, of more than 100 the latest 100.
    RunAll,
}

impl CatchUp {
    pub const ALL: [Self; 2] = [Self::Skip, Self::RunAll];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::RunAll => "run_all",
        }
    }
}

impl std::str::FromStr for CatchUp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|known| known.as_str() == text);
        found.ok_or_else(|| "must be skip or run_all".to_owned())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewTrigger {
    /// `^[a-z][a-z0-9_-]{0,62}$`, unique in its tenant.
    pub name: String,
    /// The name of a workflow of the tenant.
    pub workflow: String,
    pub kind: TriggerKind,
    /// Five fields: minute, hour, day of the month, month, day of the week. Of the kind `cron` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The name of a time zone like `Europe/Berlin`; `UTC` without it. Of the kind `cron` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Without it `skip`. Of the kind `cron` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<CatchUp>,
    /// The values of the workflow's inputs. The input `body` of a webhook may be left out: it is the body of the call.
    #[serde(default)]
    pub context: BTreeMap<String, Value>,
}

/// A trigger. Times are RFC 3339, UTC, with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Trigger {
    pub id: Uuid,
    pub name: String,
    pub workflow: String,
    pub kind: TriggerKind,
    /// Null for a webhook, like `time_zone` and `catch_up`.
    pub cron: Option<String>,
    pub time_zone: Option<String>,
    pub catch_up: Option<CatchUp>,
    /// Not in a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<BTreeMap<String, Value>>,
    /// A paused trigger does not fire. The times that pass meanwhile never fire.
    pub paused: bool,
    /// Null when it is paused, when no time follows, and for a webhook.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub next_fire_at: Option<String>,
    /// The time of the latest fire, also of one that ran nothing.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub last_fire_at: Option<String>,
    /// The execution of the latest fire.
    pub last_execution_id: Option<Uuid>,
    /// Why the latest fire ran nothing, or is being tried again.
    pub last_failure: Option<String>,
    pub created_by: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
    /// The address of a webhook, which holds its secret; only in the response to the creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// The triggers of a tenant, by their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TriggerList {
    pub items: Vec<Trigger>,
    pub total: usize,
    /// Always null: the list has one page.
    pub next: Option<Uuid>,
}

/// The response to a call of a trigger's webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CalledTrigger {
    pub execution_id: Uuid,
    pub status: ExecutionState,
}
