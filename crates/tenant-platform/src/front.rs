//! platform-front: the tenant's home page, with who is signed in and a fact fetched on the server's side.

use std::net::SocketAddr;
use std::sync::Arc;

use askama::Template;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, StatusCode};
use protocol::inside::PLATFORM_BACK;
use service::inside::{Answer, Asker, Drain, User, answer, echo, fetch, page, serve};
use service::{Env, Failed};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::back::Facts;

/// Questions to platform-back at once: what a burst takes, this process keeps until it ends.
const FETCHES: usize = 4;

/// What every request is answered from.
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

/// Started by PID 1: one TCP listener on loopback and the link.
pub fn start(env: &Env) -> Result<(), Failed> {
    let back = PLATFORM_BACK.parse()?;
    service::inside::start(env, crate::runtime(), |listener, tenant, drain| {
        run(listener, Front::new(tenant, back, drain))
    })
}

/// Serves until the drain is asked for and done.
pub async fn run(listener: TcpListener, front: Front) {
    let drain = front.drain.clone();
    let front = Arc::new(front);
    serve(listener, drain, move |asker, request| {
        let front = front.clone();
        async move { front.answer(&asker, request).await }
    })
    .await;
}

impl Front {
    /// Asks the platform-back that listens at `back`.
    pub fn new(tenant: String, back: SocketAddr, drain: Drain) -> Self {
        Self { tenant, back, fetches: Semaphore::new(FETCHES), drain }
    }

    async fn answer(&self, asker: &Asker, request: Request<Incoming>) -> Answer {
        match (request.method(), request.uri().path()) {
            (_, "/ws") => echo::upgrade(asker, request, &self.drain),
            (&Method::GET | &Method::HEAD, "/") => self.show_home(asker, request.headers()).await,
            (_, "/") => asker.method_not_allowed("GET"),
            _ => asker.not_found(),
        }
    }

    async fn show_home(&self, asker: &Asker, headers: &HeaderMap) -> Answer {
        // The page does without a fact when platform-back is busy or broken.
        let fact = self.fetch_fact().await;
        let fact = fact.inspect_err(|error| eprintln!("request {}: {error}", asker.request_id));
        let home = Home {
            style: page::STYLE,
            tenant: &self.tenant,
            user: User::of(headers),
            fact: fact.as_deref().ok(),
        };
        match home.render() {
            Ok(text) => answer::html(StatusCode::OK, text),
            Err(error) => asker.internal(&error),
        }
    }

    async fn fetch_fact(&self) -> anyhow::Result<String> {
        let _turn = self.fetches.acquire().await?;
        let (status, body) = fetch::get(TcpStream::connect(self.back), "/facts", []).await?;
        anyhow::ensure!(status == StatusCode::OK, "platform-back answered {status}");
        Ok(serde_json::from_slice::<Facts>(&body)?.fact)
    }
}
