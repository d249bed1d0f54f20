//! platform-front serves the tenant's home page. The page names the signed-in user and shows a fact
//! that the server fetches.

use std::net::SocketAddr;
use std::sync::Arc;

use askama::Template;
use hyper::{HeaderMap, Method, StatusCode};
use protocol::inside::PLATFORM_BACK;
use service::{Env, ServiceError};
use tenant_service::{
    BoundedListener, Drain, Request, RequestContext, Response, User, echo, fetch, page, response,
    serve,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::back::Facts;

/// The maximum number of concurrent requests to platform-back: this process keeps the memory of a
/// burst until it exits.
const FETCHES: usize = 4;

/// The state behind every response.
pub struct Front {
    tenant: String,
    back: SocketAddr,
    fetches: Semaphore,
    drain: Drain,
}

#[derive(Template)]
#[template(path = "home.html")]
struct Home<'a> {
    style: &'static str,
    tenant: &'a str,
    user: Option<User<'a>>,
    fact: Option<&'a str>,
}

/// Starts under PID 1 with one TCP listener on loopback and the link.
pub fn start(env: &Env) -> Result<(), ServiceError> {
    let back = PLATFORM_BACK.parse()?;
    tenant_service::start(env, crate::runtime(), |listener, tenant, drain| {
        run(listener, Front::new(tenant, back, drain))
    })
}

/// Serves until the drain is requested and complete.
pub async fn run(listener: BoundedListener<TcpListener>, front: Front) {
    let drain = front.drain.clone();
    let front = Arc::new(front);
    serve(listener, drain, move |context, request| {
        let front = front.clone();
        async move { front.answer(&context, request).await }
    })
    .await;
}

impl Front {
    /// Creates a front that requests facts from the platform-back at `back`.
    pub fn new(tenant: String, back: SocketAddr, drain: Drain) -> Self {
        Self { tenant, back, fetches: Semaphore::new(FETCHES), drain }
    }

    async fn answer(&self, context: &RequestContext, request: Request) -> Response {
        match (request.method(), request.uri().path()) {
            (_, "/ws") => echo::upgrade(context, request, &self.drain),
            (&Method::GET | &Method::HEAD, "/") => self.show_home(context, request.headers()).await,
            (_, "/") => context.method_not_allowed("GET"),
            _ => context.not_found(),
        }
    }

    async fn show_home(&self, context: &RequestContext, headers: &HeaderMap) -> Response {
        // The page renders without a fact when platform-back is busy or broken.
        let fact = self.fetch_fact().await;
        let fact = fact.inspect_err(|error| eprintln!("request {}: {error}", context.request_id));
        let home = Home {
            style: page::STYLE,
            tenant: &self.tenant,
            user: User::from_headers(headers),
            fact: fact.as_deref().ok(),
        };
        match home.render() {
            Ok(text) => response::html(StatusCode::OK, text),
            Err(error) => context.internal(&error),
        }
    }

    async fn fetch_fact(&self) -> anyhow::Result<String> {
        let _turn = self.fetches.acquire().await?;
        let (status, body) = fetch::get(TcpStream::connect(self.back), "/facts", []).await?;
        anyhow::ensure!(status == StatusCode::OK, "platform-back answered {status}");
        Ok(serde_json::from_slice::<Facts>(&body)?.fact)
    }
}
