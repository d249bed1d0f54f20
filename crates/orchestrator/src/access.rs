//! Who may call what. Everything needs the control plane's token unless the table says otherwise; what is not in
//! the table needs it too, so that a stranger does not learn what exists.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use service::failure::Failure;
use service::{Secret, keys};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone who reaches the listener: health and figures.
    Open,
    /// app-api, by `CIAL_ORCHESTRATOR_TOKEN`.
    Control,
    /// A router, by `CIAL_LEASES_TOKEN`. Neither token opens what the other does.
    Leases,
}

/// What callers show.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub control: Secret,
    pub leases: Secret,
}

/// The access of each route, and the tokens.
#[derive(Clone)]
pub struct Guard {
    table: Vec<(Method, &'static str, Access)>,
    tokens: Tokens,
}

impl Guard {
    pub fn new(table: Vec<(Method, &'static str, Access)>, tokens: Tokens) -> Self {
        Self { table, tokens }
    }

    fn access(&self, method: &Method, path: Option<&str>) -> Access {
        let row = self.table.iter().find(|(m, p, _)| m == method && Some(*p) == path);
        row.map_or(Access::Control, |(_, _, access)| *access)
    }

    fn lets_in(&self, access: Access, shown: Option<&str>) -> bool {
        let wanted = match access {
            Access::Open => return true,
            Access::Control => &self.tokens.control,
            Access::Leases => &self.tokens.leases,
        };
        let shown = shown.and_then(|value| value.strip_prefix("Bearer "));
        shown.is_some_and(|token| keys::same(token, wanted.reveal()))
    }
}

/// Middleware around every route and every fallback.
pub async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    if guard.lets_in(guard.access(request.method(), path), shown) {
        next.run(request).await
    } else {
        unauthorized().into_response()
    }
}

fn unauthorized() -> Failure {
    Failure::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "Send the token of your service as Authorization: Bearer: app-api its orchestrator token, a router its leases token.",
    )
}
