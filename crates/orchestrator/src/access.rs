//! Authorisation of callers. Every route needs the control plane's token unless the access table names another one. So does every
//! path outside the table: a caller without a token must not learn which paths exist.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use protocol::problem::Code;
use service::Secret;
use service::api_error::ApiError;
use service::secret::constant_time_eq;

/// The callers that may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody who reaches the listener: health and metrics.
    Open,
    /// app-api, with `CIAL_ORCHESTRATOR_TOKEN`.
    Control,
    /// A router, with `CIAL_LEASES_TOKEN`. Neither token is accepted in place of the other.
    Leases,
}

/// The bearer tokens of the callers.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub control: Secret,
    pub leases: Secret,
}

/// The access of each route, by method and path, and the tokens.
#[derive(Clone)]
pub struct AccessTable {
    routes: Vec<(Method, &'static str, Access)>,
    tokens: Tokens,
}

impl AccessTable {
    pub fn new(routes: Vec<(Method, &'static str, Access)>, tokens: Tokens) -> Self {
        Self { routes, tokens }
    }

    fn access(&self, method: &Method, path: Option<&str>) -> Access {
        let route = self.routes.iter().find(|(m, p, _)| m == method && Some(*p) == path);
        route.map_or(Access::Control, |(_, _, access)| *access)
    }

    fn is_authorized(&self, access: Access, authorization: Option<&str>) -> bool {
        let expected = match access {
            Access::Open => return true,
            Access::Control => &self.tokens.control,
            Access::Leases => &self.tokens.leases,
        };
        let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
        token.is_some_and(|token| constant_time_eq(token, expected.reveal()))
    }
}

/// Middleware around every route and every fallback: responds 401 to an unauthorised caller.
pub async fn check_access(
    State(table): State<AccessTable>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    if table.is_authorized(table.access(request.method(), path), authorization) {
        next.run(request).await
    } else {
        unauthorized().into_response()
    }
}

fn unauthorized() -> ApiError {
    ApiError::new(
        Code::Unauthenticated,
        "Send the token of your service as Authorization: Bearer: app-api its orchestrator token, a router its leases token.",
    )
}
