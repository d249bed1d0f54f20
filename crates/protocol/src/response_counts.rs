//! How tenants answer, as a router counts it. The router reports to app-api's internal listener, for the tenants that a
//! rollout has moved.

use serde::{Deserialize, Serialize};

use crate::TenantId;

/// The path of a report, as `POST` of [`ResponseCounts`]; the response is [`CountedTenants`].
pub const PATH: &str = "/v1/response-counts";

/// The most tenants of one report.
pub const MAX_TENANTS: usize = 400;

/// The responses of one tenant since the router's last report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponseCount {
    pub tenant: TenantId,
    /// The generation of the container that was meant: it changes with the release.
    pub generation: i64,
    /// The server errors included.
    pub responses: u64,
    /// Responses with a status of 5xx, and requests that the tenant failed to answer.
    pub server_errors: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponseCounts {
    /// At most [`MAX_TENANTS`].
    pub tenants: Vec<ResponseCount>,
}

/// The tenants whose counts the next report has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedTenants {
    pub tenants: Vec<TenantId>,
}
