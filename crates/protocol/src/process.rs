//! The program of an app inside a tenant: as a release describes it, and as PID 1 starts it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::images::{PullPolicy, SealedLogin};
use crate::variables::{SealedAppEnv, SecretNames};

/// How the program of a release runs. An absent value is the image's own, or the platform's default.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AppSpec {
    /// Program and arguments, instead of the image's entrypoint and command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Answers with a status below 400 once the program is ready. Without it, a connection counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_path: Option<String>,
    /// Paths that clients reach without a session where the tenant requires sign-in: with a slash at the end whatever begins so, otherwise
    /// exactly this path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub public_paths: Vec<String>,
    /// Whether the program receives `DATABASE_URL`, with which it reaches the tenant's own schema on Postgres.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub database: bool,
    /// The path to which the core hands messages of the chat, or [`CHAT_MODEL`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat: Option<String>,
    /// Commands that run before the program.
    #[serde(skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// The names of the secrets that the program reads.
    #[serde(skip_serializing_if = "SecretNames::is_empty")]
    pub secrets: SecretNames,
}

/// In the place of a path: the model of the installation replies to messages of the chat. A path begins with a slash.
pub const CHAT_MODEL: &str = "model";

impl AppSpec {
    /// Whether the model of the installation replies in the chat.
    pub fn uses_model(&self) -> bool {
        self.chat.as_deref() == Some(CHAT_MODEL)
    }
}

/// Commands of a release that run before the program: as its user, in its environment and its working folder. A command
/// that fails is a failed start.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// Runs until it succeeded once in the tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_first_start: Option<Vec<String>>,
    /// Runs until it succeeded once since the tenant moved to this release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrate: Option<Vec<String>>,
    /// The longest time of one command; [`DEFAULT_HOOK_SECONDS`] unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

pub const DEFAULT_HOOK_SECONDS: u32 = 60;

impl Hooks {
    pub const fn is_empty(&self) -> bool {
        self.before_first_start.is_none() && self.migrate.is_none()
    }
}

/// The program as PID 1 starts it: image and release merged. Travels as JSON in the container's
/// variable [`APP_PROCESS`](crate::inside::APP_PROCESS).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppProcess {
    /// Program and arguments; never empty.
    pub command: Vec<String>,
    pub working_dir: String,
    pub env: BTreeMap<String, String>,
    /// The port of 127.0.0.1 on which the program must listen.
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<String>,
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// Differs between two releases with another image or another `migrate`; empty without hooks.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub release: String,
}

/// `POST /v1/images/prepare`: pulls an image for an app, checks it, wraps it, and tries its program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrepareImage {
    /// A name that the engine knows, or that mentions the registry that does.
    pub image: String,
    #[serde(default)]
    pub pull: PullPolicy,
    /// The credentials for the registry in the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<SealedLogin>,
    pub app: AppSpec,
    /// Start the program once in a throw-away tenant with these variables, and refuse an image whose program does not get
    /// ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoke_start: Option<BTreeMap<String, String>>,
    /// The variables and secrets of the app, for the throw-away tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_env: Option<SealedAppEnv>,
}

/// An image that tenants can run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedImage {
    /// The id of the image that the name meant: `sha256:…`.
    pub image_id: String,
    /// The image in the registry that the name mentioned: `registry.example/notes@sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_digest: Option<String>,
    pub command: Vec<String>,
    pub port: u16,
}
