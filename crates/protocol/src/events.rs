//! The stream of events: what changes about tenants, people, keys and apps, as far as a caller may see it.
//!
//! Each event is one of `text/event-stream` (HTML, server-sent events): `id` and `event` are the id and the kind, `data` is
//! the [`Event`] as JSON.

use serde::{Deserialize, Serialize};

use crate::spec::Desired;
use crate::{Slug, State, TenantId};

/// The kind of the one event that is no change: events were missed, so read what is shown anew. Its data is `{"id"}`.
pub const RESYNC: &str = "resync";

/// A change. Times are RFC 3339, UTC, with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// The place among all events of the installation, in the order of their commits.
    pub id: i64,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub at: String,
    /// The resource and its change, like `tenant.changed` or `membership.created`. Later versions have further kinds.
    pub kind: String,
    /// Null: the change concerns no tenant.
    pub tenant: Option<EventTenant>,
    /// Null: the tenant itself changed.
    pub resource: Option<EventResource>,
}

/// The tenant right after the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventTenant {
    pub id: TenantId,
    pub slug: Slug,
    pub name: String,
    pub desired: Desired,
    pub state: State,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub state_since: String,
    pub state_reason: Option<String>,
    pub revision: i64,
}

/// The resource right after the change or, where it is deleted, right before. The API shows the rest of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventResource {
    /// `membership`, `user`, `invitation`, `key`, `app`, `release` or `rollout`.
    pub kind: String,
    /// The id in the paths of the API: of a membership the user's, of an app its slug, of a release its name.
    pub id: String,
    /// The e-mail address of people, the image of a release, the release of a rollout. Absent: the person is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The role of a person or a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The app of a release or a rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The state of a rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}
