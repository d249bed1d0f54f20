//! Apps and their releases: what tenants run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Slug;
use crate::images::PullPolicy;
use crate::process::Hooks;
use crate::variables::SecretNames;

/// The app of every tenant that follows no other. It has no releases.
pub const BUILT_IN_APP: &str = "hello";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewApp {
    /// The handler checks the text against [`Slug`], so that the error names this field.
    pub slug: String,
    pub name: String,
}

/// An app. Times are RFC 3339, UTC, with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct App {
    pub slug: Slug,
    pub name: String,
    /// The name of the latest release, like `v2`; null before the first.
    pub latest_release: Option<String>,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AppList {
    pub apps: Vec<App>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewRelease {
    /// The name of an image that the engine has, or one that begins with a registry, like `registry.example.com/notes:1.4`. Empty
    /// with an `upload`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Instead of a name: the id of an upload that is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<Uuid>,
    /// When the image is pulled from the registry in its name.
    #[serde(default)]
    pub pull: PullPolicy,
    /// The text of a `cial.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Try the program in a throw-away tenant first, and refuse an image whose program does not get ready. The tenant has
    /// the variables of the app. A program is not tried if it wants a database, or a required secret that the app lacks.
    #[serde(default = "yes")]
    pub smoke_start: bool,
}

const fn yes() -> bool {
    true
}

/// A release of an app. It never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Release {
    pub app: Slug,
    /// `v1`, `v2`, …
    pub release: String,
    /// The image as its release named it.
    pub image: String,
    /// The id of the image that the name meant: `sha256:…`. Tenants run this image.
    pub digest: String,
    /// The image in the registry that its name mentions, like `registry.example.com/notes@sha256:…`; null for one that names
    /// no registry.
    #[serde(default)]
    pub repository_digest: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    pub port: u16,
    pub health_path: Option<String>,
    /// Paths that clients reach without a session where a tenant requires sign-in.
    #[serde(default)]
    pub public_paths: Vec<String>,
    /// Whether the program receives `DATABASE_URL`.
    #[serde(default)]
    pub database: bool,
    /// The path that takes messages of the chat, or `model`: the model of the installation replies.
    #[serde(default)]
    pub chat: Option<String>,
    /// Commands that run before the program.
    #[serde(default)]
    pub hooks: Hooks,
    /// The names of the secrets that the program reads.
    #[serde(default)]
    pub secrets: SecretNames,
    /// The required secrets for which the app has no value: each tenant needs one of its own to start.
    #[serde(default)]
    pub missing_secrets: Vec<String>,
    /// Why the program was not tried. Only the response to the creation says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untried_because: Option<String>,
    pub env: BTreeMap<String, String>,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReleaseList {
    /// The latest first.
    pub releases: Vec<Release>,
}

/// Moves a tenant to another release of its app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetRelease {
    pub release: String,
}
