//! The stream of events: what changes about the tenants that a caller may see.
//!
//! Each event is one of `text/event-stream` (HTML, server-sent events): `id` and `event` are the id and the kind, `data` is
//! the [`Event`] as JSON.

use serde::{Deserialize, Serialize};

use crate::spec::Desired;
use crate::{Slug, State, TenantId};

/// The kind of the one event that is no change: events were missed, so read what is shown anew. Its data is `{"id"}`.
pub const RESYNC: &str = "resync";

/// A change of a tenant. Times are RFC 3339, UTC, with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// The place among all events of the installation, in the order of their commits.
    pub id: i64,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub at: String,
    /// `tenant.created`, `tenant.changed` or `tenant.deleted`.
    pub kind: String,
    pub tenant: EventTenant,
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
