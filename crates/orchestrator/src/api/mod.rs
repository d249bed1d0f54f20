//! The HTTP API of [`protocol::orchestrator`], [`protocol::leases`] and [`protocol::sleep`]: one table, from which the server is built and which tests walk.

mod input;
mod leases;
mod sleep;
mod tenants;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRef, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Json, Router, middleware};
use protocol::orchestrator::Capacity;
use service::failure::Failure;
use service::request_id;

use crate::access::{Access, Guard, Tokens, guard};
use crate::driver::Refusal;
use crate::images::Images;
use crate::keeper::Keeper;

type App = State<Arc<Keeper>>;

#[derive(Clone)]
struct Parts {
    keeper: Arc<Keeper>,
    images: Arc<Images>,
}

impl FromRef<Parts> for Arc<Keeper> {
    fn from_ref(parts: &Parts) -> Self {
        parts.keeper.clone()
    }
}

impl FromRef<Parts> for Arc<Images> {
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

/// Bodies are small, but for batches of leases. What is larger is refused before it is read whole.
const BODY_LIMIT: usize = 64 << 10;

pub fn routes() -> Vec<Route> {
    use Access::{Control, Leases, Open};
    let row = |method, path, access, handler| Route { method, path, access, handler };
    vec![
        row(Method::GET, "/healthz", Open, get(show_health)),
        row(Method::GET, "/readyz", Open, get(show_readiness)),
        row(Method::GET, "/metrics", Open, get(show_metrics)),
        row(Method::GET, "/v1/capacity", Control, get(show_capacity)),
        row(Method::GET, "/v1/tenants", Control, get(tenants::list)),
        row(Method::GET, "/v1/tenants/watch", Control, get(tenants::watch)),
        row(Method::PUT, "/v1/tenants/{id}", Control, put(tenants::apply)),
        row(Method::DELETE, "/v1/tenants/{id}", Control, delete(tenants::remove)),
        row(Method::POST, "/v1/tenants/{id}/stop", Control, post(tenants::stop)),
        row(Method::POST, "/v1/tenants/{id}/wake", Control, post(sleep::wake)),
        row(Method::GET, "/v1/tenants/{id}/sleep", Control, get(sleep::show)),
        row(Method::GET, "/v1/sleep", Control, get(sleep::list)),
        row(Method::GET, "/v1/tenants/{id}/logs", Control, get(tenants::logs)),
        row(Method::GET, "/v1/tenants/{id}/stats", Control, get(tenants::stats)),
        row(Method::POST, "/v1/leases", Leases, post(leases::ask)),
        row(Method::POST, "/v1/leases/renew", Leases, large(post(leases::renew))),
        row(Method::POST, "/v1/leases/release", Leases, large(post(leases::release))),
        row(Method::GET, "/v1/leases/{id}/progress", Leases, get(leases::progress)),
    ]
}

fn large(handler: MethodRouter<Parts>) -> MethodRouter<Parts> {
    handler.layer(DefaultBodyLimit::max(leases::BODY_LIMIT))
}

pub fn router(keeper: Arc<Keeper>, images: Images, tokens: Tokens) -> Router {
    let table = routes();
    let access = table.iter().map(|r| (r.method.clone(), r.path, r.access)).collect();
    let router = table.into_iter().fold(Router::new(), |router, r| router.route(r.path, r.handler));
    router
        .fallback(async || Failure::new(StatusCode::NOT_FOUND, "not_found", "No such path."))
        .method_not_allowed_fallback(async || {
            let detail = "This path does not take that method.";
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(Guard::new(access, tokens), guard))
        .layer(middleware::from_fn(request_id::layer))
        .with_state(Parts { keeper, images: Arc::new(images) })
}

async fn show_health() -> &'static str {
    "ok\n"
}

/// 503 names what is missing.
async fn show_readiness(State(keeper): App) -> Result<&'static str, Failure> {
    match keeper.engine() {
        Ok(()) => Ok("ok\n"),
        Err(why) => Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "engine_unreachable", why)),
    }
}

async fn show_metrics(State(keeper): App) -> Response {
    let mut answer = keeper.figures().into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

async fn show_capacity(State(keeper): App) -> Result<Json<Capacity>, Failure> {
    Ok(Json(keeper.driver().capacity().await.map_err(refused)?))
}

/// A refusal's words are for app-api and, through it, for a person: they are the answer, not its cause.
fn refused(refusal: Refusal) -> Failure {
    let status =
        StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status.is_server_error() {
        tracing::warn!(code = refusal.code.as_str(), %refusal, "refused");
    }
    Failure::new(status, refusal.code.as_str(), refusal.detail)
}
