//! core-front: the core's pages, which are all paths under `/.cial` outside the API.

use std::path::Path;

use askama::Template;
use hyper::header::HOST;
use hyper::{HeaderMap, Method, StatusCode};
use protocol::gauges::{Gauge, GaugeName};
use protocol::inside::CORE_FRONT_GAUGES_SOCKET;
use protocol::site::{CORE_HOST_PREFIX, Site};
use service::{Env, ServiceError};
use tenant_service::gauges::serve_gauges;
use tenant_service::{
    BoundedListener, Drain, Request, RequestContext, Response, User, echo, page, response, serve,
    site_of,
};
use tokio::net::UnixListener;

#[derive(Template)]
#[template(path = "front.html")]
struct Page<'a> {
    style: &'static str,
    tenant: &'a str,
    path: &'a str,
    is_core_site: bool,
    /// The host of the tenant's other site.
    other_host: Option<String>,
    user: Option<User<'a>>,
}

/// Starts core-front under PID 1, with one unix listener and the readiness link.
///
/// # Errors
/// For missing settings or sockets.
pub fn start(env: &Env) -> Result<(), ServiceError> {
    tenant_service::start(env, crate::runtime(), |listener, tenant, drain| {
        report_gauges(&listener);
        run(listener, tenant, drain)
    })
}

fn report_gauges(listener: &BoundedListener<UnixListener>) {
    let connections = listener.connections();
    let name = GaugeName::CoreFrontConnections;
    let gauges = move || vec![Gauge::new(name, connections.current(), connections.limit())];
    // A tenant without gauges still serves.
    if let Err(error) = serve_gauges(Path::new(CORE_FRONT_GAUGES_SOCKET), gauges) {
        eprintln!("gauges not served: error={error}");
    }
}

/// Serves until the drain is requested and done.
pub async fn run(listener: BoundedListener<UnixListener>, tenant: String, drain: Drain) {
    let tenant: std::sync::Arc<str> = tenant.into();
    let sockets = drain.clone();
    serve(listener, drain, move |context, request| {
        let (tenant, sockets) = (tenant.clone(), sockets.clone());
        async move { handle(&context, request, &tenant, &sockets) }
    })
    .await;
}

fn handle(context: &RequestContext, request: Request, tenant: &str, drain: &Drain) -> Response {
    let path = request.uri().path();
    if path == "/.cial/ws" {
        return echo::upgrade(context, request, drain);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return context.method_not_allowed("GET");
    }
    let headers = request.headers();
    let site = site_of(headers);
    let (is_core_site, other_host) = (site == Site::Core, other_host(headers, site));
    let user = User::from_headers(headers);
    let page = Page { style: page::STYLE, tenant, path, is_core_site, other_host, user };
    match page.render() {
        Ok(text) => response::html(StatusCode::OK, text),
        Err(error) => context.internal(&error),
    }
}

/// The host of the other site of the tenant, from the host of this one.
fn other_host(headers: &HeaderMap, site: Site) -> Option<String> {
    let host = headers.get(HOST)?.to_str().ok()?;
    match site {
        Site::Tenant => Some(format!("{CORE_HOST_PREFIX}{host}")),
        Site::Core => host.get(CORE_HOST_PREFIX.len()..).map(str::to_owned),
    }
}
