//! Rollouts: the tenants of an app move to another release, wave by wave.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Slug;

/// How the tenants are divided into waves. A wave begins once the wave before it is healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Waves {
    /// The first wave has this many tenants, the second has all others.
    Canary(u32),
    /// Each wave has this share of the tenants, at least one.
    Percent(u32),
    /// Each wave has this many tenants.
    Size(u32),
}

impl Default for Waves {
    fn default() -> Self {
        Self::Canary(1)
    }
}

/// Moves all tenants of an app to one of its releases, an earlier one included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewRollout {
    pub release: String,
    /// By default a canary of one tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waves: Option<Waves>,
    /// When running tenants may be replaced: `idle` for never, or times of day in UTC like `02:00-04:00`. By default at
    /// any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<String>,
    /// The number of tenants that may fail, and move back alone, before the rollout stops. A release that runs nowhere
    /// stops it at once.
    #[serde(default)]
    pub max_failures: u32,
    /// A wave whose tenants answer more than this share of their requests with a status of 5xx moves back, and the rollout
    /// stops: 1 to 100. Fewer than 20 responses show nothing. 100 permits everything.
    #[serde(default = "default_max_error_percent")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 100))]
    pub max_error_percent: u32,
    /// How long a tenant must run on the release before the next wave begins: 5 to 86,400 seconds.
    #[serde(default = "default_watch_seconds")]
    #[cfg_attr(feature = "openapi", schema(minimum = 5, maximum = 86400))]
    pub watch_seconds: u32,
}

pub const DEFAULT_MAX_ERROR_PERCENT: u32 = 10;
/// Also the least.
pub const DEFAULT_WATCH_SECONDS: u32 = 5;
pub const MAX_WATCH_SECONDS: u32 = 86_400;

const fn default_max_error_percent() -> u32 {
    DEFAULT_MAX_ERROR_PERCENT
}

const fn default_watch_seconds() -> u32 {
    DEFAULT_WATCH_SECONDS
}

macro_rules! string_enums {
    ($($(#[$attribute:meta])* $name:ident { $($(#[$variant_attribute:meta])* $variant:ident = $name_on_wire:literal,)+ })+) => {$(
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$variant_attribute])* $variant,)+
        }

        impl $name {
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name_on_wire,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )+};
}

string_enums! {
    RolloutState {
        Running = "running",
        /// No tenant begins to move; those that move finish.
        Paused = "paused",
        /// Too many tenants failed, and the wave of the last one moves back.
        RollingBack = "rolling_back",
        Done = "done",
        /// Too many tenants failed, and the wave of the last one is back on the earlier releases.
        Failed = "failed",
        /// Stopped by a person. Tenants that moved stay on the new release.
        Aborted = "aborted",
    }
    /// A tenant within a rollout.
    MemberState {
        Waiting = "waiting",
        Moving = "moving",
        Moved = "moved",
        Failed = "failed",
        RolledBack = "rolled_back",
        /// Left alone; the reason says why.
        Skipped = "skipped",
    }
    WaveState {
        Waiting = "waiting",
        Moving = "moving",
        Done = "done",
        Failed = "failed",
    }
}

impl RolloutState {
    /// Whether the rollout may still change tenants. An app has at most one such rollout.
    pub const fn is_active(self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::RollingBack => true,
            Self::Done | Self::Failed | Self::Aborted => false,
        }
    }
}

/// A rollout. Times are RFC 3339, UTC, with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Rollout {
    pub id: Uuid,
    pub app: Slug,
    pub release: String,
    pub state: RolloutState,
    pub window: Option<String>,
    /// The number of tenants that may fail before the rollout stops.
    pub max_failures: u32,
    /// The share of 5xx among the responses of a wave above which the rollout stops.
    #[serde(default)]
    pub max_error_percent: u32,
    /// How long a tenant must run on the release before the next wave begins.
    #[serde(default)]
    pub watch_seconds: u32,
    /// The number of tenants.
    pub tenants: usize,
    /// The number of tenants that moved.
    pub moved: usize,
    pub waves: Vec<Wave>,
    /// The last failure of a tenant.
    pub reason: Option<String>,
    /// The last lines of the log of the tenant that failed.
    pub log: Option<String>,
    /// The person or the key that started the rollout.
    pub created_by: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub finished_at: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Wave {
    pub state: WaveState,
    /// The responses of the wave's tenants since their moves, as the routers counted them.
    #[serde(default)]
    pub responses: u64,
    /// Those of them with a status of 5xx, and requests that a tenant failed to answer.
    #[serde(default)]
    pub server_errors: u64,
    pub tenants: Vec<WaveTenant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WaveTenant {
    pub slug: Slug,
    /// The release before the rollout.
    pub from: String,
    pub state: MemberState,
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RolloutList {
    /// The latest ten, the latest first.
    pub rollouts: Vec<Rollout>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_the_one_on_the_wire() {
        for state in [RolloutState::Running, RolloutState::RollingBack, RolloutState::Aborted] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for state in [MemberState::Waiting, MemberState::RolledBack, MemberState::Skipped] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        let new: NewRollout =
            serde_json::from_str(r#"{"release":"v2","waves":{"percent":10}}"#).unwrap();
        assert_eq!(new.waves, Some(Waves::Percent(10)));
        assert_eq!((new.max_error_percent, new.watch_seconds), (10, 5));
    }
}
