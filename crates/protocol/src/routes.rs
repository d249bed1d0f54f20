//! app-api → router: the tenant of each host, and the tenant's upstream.
//!
//! `GET /v1/routes/watch` on app-api's internal listener, `Authorization: Bearer <CIAL_ROUTES_TOKEN>`,
//! responds with NDJSON of [`Message<Route>`](crate::watch::Message).

use serde::{Deserialize, Serialize};

use crate::orchestrator::Upstream;
use crate::spec::Desired;
use crate::watch::Keyed;
use crate::{Slug, State, TenantId};

/// The router's view of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub tenant: TenantId,
    pub slug: Slug,
    pub generation: i64,
    pub desired: Desired,
    pub state: State,
    pub upstream: Option<Upstream>,
    /// The page of the admin that signs visitors in. `None` from an older control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_in_url: Option<String>,
    /// Whether only signed-in members reach the tenant's own app.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub requires_sign_in: bool,
}

impl Keyed for Route {
    type Key = TenantId;

    fn key(&self) -> TenantId {
        self.tenant
    }
}
