//! core-back: health, sessions, SSO. Paths arrive without their `/.cial/api`; only `/.cial/sso` comes whole.

pub mod busy;
mod cookie;
mod health;
mod origin;
mod sessions;
mod settings;
mod sso;

use std::sync::Arc;

use hyper::{HeaderMap, Method, StatusCode};
use serde_json::json;
use service::{Env, ServiceError, shutdown_token};
use tenant_service::inherited::{Inherited, ReadinessLink};
use tenant_service::start::InheritedListener as _;
use tenant_service::{Drain, Request, RequestContext, Response, echo, response, serve};
use tokio::net::UnixListener;

pub use health::{AllReady, Readiness};
pub use settings::Settings;

use crate::token::Verifier;
use sessions::Sessions;

/// What every request is answered from.
pub struct Back {
    tenant: String,
    sessions: Sessions,
    verifier: Option<Verifier>,
    readiness: Readiness,
    drain: Drain,
}

/// Started by PID 1: the unix listener for the edge, those of [`busy::Doors`] in their order, the last of them only
/// where there is an ingress, and the link.
pub fn start(env: &Env) -> Result<(), ServiceError> {
    let settings = Settings::read(env)?;
    crate::runtime()?.block_on(async {
        let mut inherited = Inherited::take();
        let mut listener = |place| UnixListener::take(&mut inherited, place);
        let (edge, core, agent) = (listener(0)?, listener(1)?, listener(2)?);
        let has_ingress = inherited.listener_count() > 3;
        let orchestrator =
            has_ingress.then(|| UnixListener::take(&mut inherited, 3)).transpose()?;
        let drain = Drain::new(shutdown_token()?);
        let (readiness, all_ready) = Readiness::new();
        let back = Back::open(settings, readiness, drain)?;
        let waiting = health::wait_on(announce(inherited.readiness_link()?)?, all_ready);
        tokio::spawn(waiting);
        run(edge, busy::Doors { core, agent, orchestrator }, back).await;
        Ok(())
    })
}

fn announce(link: ReadinessLink) -> std::io::Result<tokio::net::UnixDatagram> {
    link.notify_ready()?;
    tokio::net::UnixDatagram::from_std(link.into_socket()?)
}

/// Serves the edge, and whoever is or asks about busy, until the drain is asked for and done.
pub async fn run(listener: UnixListener, busy: busy::Doors, back: Back) {
    let drain = back.drain.clone();
    let back = Arc::new(back);
    let edge = serve(listener, drain.clone(), move |context, request| {
        let back = back.clone();
        async move { back.answer(&context, request).await }
    });
    tokio::join!(edge, busy::run(busy, drain));
}

impl Back {
    /// Reads what an earlier run left on disk.
    pub fn open(settings: Settings, readiness: Readiness, drain: Drain) -> std::io::Result<Self> {
        let Settings { tenant, verifier, data } = settings;
        Ok(Self { tenant, sessions: Sessions::open(&data)?, verifier, readiness, drain })
    }

    async fn answer(&self, context: &RequestContext, request: Request) -> Response {
        let (path, get) = (request.uri().path(), is_read(request.method()));
        match path {
            "/healthz" | "/health" | "/session" if !get => context.method_not_allowed("GET"),
            "/healthz" | "/health" => self.answer_health(context).await,
            "/session" => self.answer_session(context, request.headers()).await,
            "/sign-out" => self.sign_out(context, &request).await,
            sso::PATH => self.sign_in(context, &request).await,
            "/ws" => echo::upgrade(context, request, &self.drain),
            _ if is_within(path, "/echo-path") => {
                response::json(StatusCode::OK, &json!({ "path": path }))
            }
            _ if LATER.iter().any(|stub| is_within(path, stub)) => context.problem(
                StatusCode::NOT_IMPLEMENTED,
                "not_implemented",
                "This part of the core is not built yet.",
            ),
            _ => context.not_found(),
        }
    }

    async fn answer_health(&self, context: &RequestContext) -> Response {
        if !self.readiness.all_ready().await {
            return context.problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "not_ready",
                "Not all services of this tenant have started.",
            );
        }
        let version = env!("CARGO_PKG_VERSION");
        response::json(
            StatusCode::OK,
            &json!({ "status": "ok", "tenant": self.tenant, "version": version }),
        )
    }

    async fn answer_session(&self, context: &RequestContext, headers: &HeaderMap) -> Response {
        let Some(session) = self.sessions.who(headers).await else {
            return context.problem(
                StatusCode::UNAUTHORIZED,
                "not_signed_in",
                "Nobody is signed in: open the tenant from the admin.",
            );
        };
        let (sub, email, role) = (&session.sub, &session.email, &session.role);
        response::json(
            StatusCode::OK,
            &json!({ "sub": sub, "email": email, "role": role, "tenant": self.tenant }),
        )
    }

    async fn sign_out(&self, context: &RequestContext, request: &Request) -> Response {
        if request.method() != Method::POST {
            return context.method_not_allowed("POST");
        }
        let headers = request.headers();
        if !origin::is_own(headers) {
            return context.problem(
                StatusCode::FORBIDDEN,
                "cross_site",
                "This request came from another site.",
            );
        }
        if let Err(error) = self.sessions.close(headers).await {
            return context.internal(&error);
        }
        let mut answer = match context.is_navigation {
            true => response::see_other("/"),
            false => response::empty(StatusCode::NO_CONTENT),
        };
        cookie::clear(&mut answer, cookie::Scheme::of(headers));
        answer
    }
}

/// Answered 501 until their issue.
const LATER: [&str; 3] = ["/chat", "/agent", "/deploy"];

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// Whether `path` is `root` or below it, by whole segments.
fn is_within(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
