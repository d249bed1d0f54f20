//! One row of the route table.

use axum::http::Method;
use axum::routing::MethodRouter;

use crate::access::Access;
use crate::app::App;

pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    /// The summary in the API's description; empty for a route that is no API.
    pub summary: &'static str,
    pub handler: fn() -> MethodRouter<App>,
}
