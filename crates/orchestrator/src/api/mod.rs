//! The HTTP API of [`protocol::orchestrator`], [`protocol::leases`] and [`protocol::sleep`]. One table of routes builds the server; tests walk the same table.

mod exec;
mod images;
mod input;
mod leases;
mod sleep;
mod tasks;
mod tenants;
mod volumes;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRef, State};
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Json, Router, middleware};
use protocol::orchestrator::Capacity;
use protocol::problem::Code;
use service::api_error::ApiError;
use service::connections::Connections;
use service::{metrics, request_id};

use crate::access::{Access, AccessTable, Tokens, check_access};
use crate::allowed_images::AllowedImages;
use crate::commands::Commands;
use crate::controller::Controller;
use crate::driver::DriverError;
use crate::listener;
use crate::metrics::tenants as tenant_metrics;
use crate::operations::Operations;
use crate::sleep::SleepController;
use crate::tenants::TenantStore;

/// A handler extracts the one part that it may use.
#[derive(Clone)]
struct Parts {
    controller: Arc<Controller>,
    images: Arc<AllowedImages>,
    connections: Arc<Connections>,
}

impl FromRef<Parts> for Arc<Connections> {
    fn from_ref(parts: &Parts) -> Self {
        parts.connections.clone()
    }
}

impl FromRef<Parts> for Arc<Controller> {
    fn from_ref(parts: &Parts) -> Self {
        parts.controller.clone()
    }
}

impl FromRef<Parts> for Arc<TenantStore> {
    fn from_ref(parts: &Parts) -> Self {
        parts.controller.store.clone()
    }
}

impl FromRef<Parts> for Arc<Operations> {
    fn from_ref(parts: &Parts) -> Self {
        parts.controller.operations.clone()
    }
}

impl FromRef<Parts> for Arc<SleepController> {
    fn from_ref(parts: &Parts) -> Self {
        parts.controller.sleep.clone()
    }
}

impl FromRef<Parts> for Arc<Commands> {
    fn from_ref(parts: &Parts) -> Self {
        parts.controller.commands.clone()
    }
}

impl FromRef<Parts> for Arc<AllowedImages> {
    fn from_ref(parts: &Parts) -> Self {
        parts.images.clone()
    }
}

pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    handler: MethodRouter<Parts>,
}

/// The limit of all bodies but batches of leases: a spec holds the variables of an app and of a tenant, and those of its
/// release. A larger body is refused before it is read as a whole.
const MAX_BODY_BYTES: usize = 128 << 10;

pub fn routes() -> Vec<Route> {
    use Access::{Control, Leases, Open};
    let route = |method, path, access, handler| Route { method, path, access, handler };
    vec![
        route(Method::GET, "/healthz", Open, get(show_health)),
        route(Method::GET, "/readyz", Open, get(show_readiness)),
        route(Method::GET, "/metrics", Open, get(show_metrics)),
        route(Method::GET, "/metrics/tenants", Open, get(show_tenant_metrics)),
        route(Method::GET, "/v1/capacity", Control, get(show_capacity)),
        route(Method::POST, "/v1/images/prepare", Control, post(images::prepare)),
        route(Method::PUT, "/v1/images/uploads/{digest}", Control, put(images::load)),
        route(Method::GET, "/v1/images/pulls", Control, get(images::show_pull)),
        route(Method::GET, "/v1/images", Control, get(images::list)),
        route(Method::DELETE, "/v1/images/{id}", Control, delete(images::remove)),
        route(Method::GET, "/v1/tenants", Control, get(tenants::list)),
        route(Method::GET, "/v1/tenants/watch", Control, get(tenants::watch)),
        route(Method::PUT, "/v1/tenants/{id}", Control, put(tenants::apply)),
        route(Method::DELETE, "/v1/tenants/{id}", Control, delete(tenants::remove)),
        route(Method::POST, "/v1/tenants/{id}/prepare", Control, post(tenants::prepare)),
        route(Method::POST, "/v1/tenants/{id}/stop", Control, post(tenants::stop)),
        route(Method::POST, "/v1/tenants/{id}/wake", Control, post(sleep::wake)),
        route(Method::GET, "/v1/tenants/{id}/sleep", Control, get(sleep::show)),
        route(Method::GET, "/v1/sleep", Control, get(sleep::list)),
        route(Method::GET, "/v1/tenants/{id}/disk", Control, get(tenants::show_disk_use)),
        route(Method::GET, "/v1/disk", Control, get(tenants::list_disk_use)),
        route(Method::GET, "/v1/tenants/{id}/exec", Control, get(exec::exec)),
        route(Method::GET, "/v1/tenants/{id}/last-start", Control, get(volumes::show_last_start)),
        route(Method::GET, "/v1/tenants/{id}/volumes", Control, get(volumes::export)),
        route(Method::PUT, "/v1/tenants/{id}/volumes", Control, put(volumes::import)),
        route(Method::POST, "/v1/tenants/{id}/tasks", Control, post(tasks::run)),
        route(Method::GET, "/v1/tenants/{id}/logs", Control, get(tenants::logs)),
        route(Method::GET, "/v1/tenants/{id}/stats", Control, get(tenants::stats)),
        route(Method::GET, "/v1/tenants/{id}/summaries", Control, get(tenants::summaries)),
        route(Method::POST, "/v1/leases", Leases, post(leases::request_lease)),
        route(
            Method::POST,
            "/v1/leases/renew",
            Leases,
            with_large_body(post(leases::renew_leases)),
        ),
        route(
            Method::POST,
            "/v1/leases/release",
            Leases,
            with_large_body(post(leases::release_leases)),
        ),
        route(Method::GET, "/v1/leases/{id}/progress", Leases, get(leases::stream_progress)),
    ]
}

fn with_large_body(handler: MethodRouter<Parts>) -> MethodRouter<Parts> {
    handler.layer(DefaultBodyLimit::max(leases::MAX_BODY_BYTES))
}

pub fn router(
    controller: Arc<Controller>,
    images: AllowedImages,
    tokens: Tokens,
    connections: Arc<Connections>,
) -> Router {
    let table = routes();
    let access = table.iter().map(|r| (r.method.clone(), r.path, r.access)).collect();
    let router = table.into_iter().fold(Router::new(), |router, r| router.route(r.path, r.handler));
    router
        .fallback(async || ApiError::new(Code::NotFound, "No such path."))
        .method_not_allowed_fallback(async || {
            let detail = "This path does not take that method.";
            ApiError::new(Code::MethodNotAllowed, detail)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(AccessTable::new(access, tokens), check_access))
        .layer(middleware::from_fn(listener::track_request))
        .layer(middleware::from_fn(service::unread_body::layer))
        .layer(middleware::from_fn(request_id::layer))
        .with_state(Parts { controller, images: Arc::new(images), connections })
}

async fn show_health() -> &'static str {
    "ok\n"
}

/// A 503 response names the missing part.
async fn show_readiness(State(store): State<Arc<TenantStore>>) -> Result<&'static str, ApiError> {
    match store.engine_status() {
        Ok(()) => Ok("ok\n"),
        Err(reason) => Err(ApiError::new(Code::EngineUnreachable, reason)),
    }
}

async fn show_metrics(
    State(controller): State<Arc<Controller>>,
    State(connections): State<Arc<Connections>>,
) -> Response {
    exposition(controller.metrics_text(Some(&connections)))
}

/// Asks every running tenant, and wakes none.
async fn show_tenant_metrics(State(operations): State<Arc<Operations>>) -> Response {
    exposition(tenant_metrics::text(&operations.fetch_tenant_gauges().await))
}

fn exposition(text: String) -> Response {
    let mut response = text.into_response();
    let content_type = HeaderValue::from_static(metrics::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

async fn show_capacity(
    State(operations): State<Arc<Operations>>,
) -> Result<Json<Capacity>, ApiError> {
    Ok(Json(operations.capacity().await.map_err(driver_failure)?))
}

/// The detail of a driver's error is the response, not its hidden cause: app-api shows the text to a person.
fn driver_failure(refusal: DriverError) -> ApiError {
    let code = refusal.code.problem_code();
    if code.status() >= 500 {
        tracing::warn!(code = code.as_str(), error = %refusal, "request failed");
    }
    ApiError::new(code, refusal.detail)
}
