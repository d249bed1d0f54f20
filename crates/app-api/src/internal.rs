//! The internal listener: the route feed for the router, and metrics.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use protocol::State as TenantState;
use service::Secret;
use service::api_error::ApiError;
use service::secret::constant_time_eq;

use crate::app::App;

pub fn internal_service(app: App, token: Secret) -> Router {
    let require_token = move |headers: HeaderMap, request: Request, next: Next| {
        let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let given = given.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
        let fits = constant_time_eq(given, token.reveal());
        async move { if fits { Ok(next.run(request).await) } else { Err(invalid_token()) } }
    };
    Router::new()
        .route("/v1/routes/watch", get(watch_routes).route_layer(from_fn(require_token)))
        .route("/metrics", get(metrics))
        .route("/healthz", get(crate::api::health::healthz))
        .fallback(async || {
            ApiError::new(StatusCode::NOT_FOUND, "not_found", "There is nothing here.")
        })
        .layer(from_fn(service::request_id::layer))
        .with_state(app)
}

fn invalid_token() -> ApiError {
    let detail = "Send the routes token as Authorization: Bearer.";
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
}

async fn watch_routes(State(app): State<App>) -> Result<Response, ApiError> {
    app.routes.watch_response()
}

async fn metrics(State(app): State<App>) -> String {
    let mut counts: BTreeMap<_, u32> = TenantState::ALL.map(|s| (s.as_str(), 0)).into();
    for route in app.routes.list() {
        *counts.entry(route.state.as_str()).or_default() += 1;
    }
    let mut text = String::from("# TYPE cial_tenants gauge\n");
    for (state, count) in counts {
        let _ = writeln!(text, "cial_tenants{{state=\"{state}\"}} {count}");
    }
    let gauges = [
        ("cial_routes_revision", app.routes.revision()),
        ("cial_database_ready", u64::from(app.is_database_ready())),
        ("cial_orchestrator_connected", u64::from(app.observed.is_connected())),
    ];
    for (name, value) in gauges {
        let _ = writeln!(text, "# TYPE {name} gauge\n{name} {value}");
    }
    let verifications = app.passwords.verifications();
    let name = "cial_password_verifications_total";
    let _ = writeln!(text, "# TYPE {name} counter\n{name} {verifications}");
    text
}
