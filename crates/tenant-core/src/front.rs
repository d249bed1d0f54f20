//! core-front: the core's own pages, everything under `/.cial` that is no API.

use askama::Template;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use service::inside::{Answer, Asker, Drain, User, answer, echo, page, serve};
use service::{Env, Failed};
use tokio::net::UnixListener;

#[derive(Template)]
#[template(path = "front.html")]
struct Page<'a> {
    style: &'static str,
    tenant: &'a str,
    path: &'a str,
    user: Option<User<'a>>,
}

/// Started by PID 1: one unix listener and the link.
pub fn start(env: &Env) -> Result<(), Failed> {
    service::inside::start(env, crate::runtime(), run)
}

/// Serves until the drain is asked for and done.
pub async fn run(listener: UnixListener, tenant: String, drain: Drain) {
    let tenant: std::sync::Arc<str> = tenant.into();
    let sockets = drain.clone();
    serve(listener, drain, move |asker, request| {
        let (tenant, sockets) = (tenant.clone(), sockets.clone());
        async move { respond(&asker, request, &tenant, &sockets) }
    })
    .await;
}

fn respond(asker: &Asker, request: Request<Incoming>, tenant: &str, drain: &Drain) -> Answer {
    let path = request.uri().path();
    if path == "/.cial/ws" {
        return echo::upgrade(asker, request, drain);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return asker.method_not_allowed("GET");
    }
    let page = Page { style: page::STYLE, tenant, path, user: User::of(request.headers()) };
    match page.render() {
        Ok(text) => answer::html(StatusCode::OK, text),
        Err(error) => asker.internal(&error),
    }
}
