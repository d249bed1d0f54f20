//! core-back: health, sessions, SSO, and the API of the tenant's history. Paths arrive without their `/.cial/api`; those of signing in and out come whole.

mod assertion;
pub mod busy;
mod cookie;
mod file_server;
mod gauges;
mod health;
mod orchestrator_api;
mod same_origin;
mod sessions;
mod settings;
mod sign_in;
mod v1;

use std::path::PathBuf;
use std::sync::Arc;

use hyper::{HeaderMap, Method, StatusCode};
use serde_json::json;
use service::descriptors::{connection_limit, raise_open_file_limit};
use service::{Env, ServiceError, shutdown_token};
use tenant_service::inherited::{Inherited, ReadinessLink};
use tenant_service::start::InheritedListener as _;
use tenant_service::start::MAX_CONNECTIONS;
use tenant_service::{
    BoundedListener, Drain, Request, RequestContext, Response, echo, response, serve,
};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

pub use busy::PrivateListeners;
pub use health::{Readiness, ReadinessReporter};
pub use settings::{SETTINGS, Settings};
pub use v1::chat::{ChatHandler, ModelHandler};

use crate::history::History;
use crate::history::summaries::Summaries;
use crate::now;
use crate::token::Verifier;
use assertion::Assertions;
use busy::BusyDeclarations;
use file_server::FileServer;
use gauges::ReportedGauges;
use orchestrator_api::OrchestratorApi;
use protocol::problem::Code;
use protocol::sign_in::{END_PATH, SIGN_OUT_PATH, START_PATH};
use sessions::Sessions;
use tenant_service::user::{SESSION_END_PATH, SESSION_PATH};
use v1::chat::MAX_REPLIES;
use v1::files::{MAX_TRANSFERS, Transfers};

/// The shared state of all requests.
pub struct Back {
    tenant: String,
    sessions: Sessions,
    verifier: Option<Verifier>,
    assertions: Assertions,
    readiness: Readiness,
    drain: Drain,
    gauges_sockets: [PathBuf; 2],
    history: History,
    /// `None`: the app takes no messages.
    chat: Option<ChatHandler>,
    replies: Arc<Semaphore>,
    busy: BusyDeclarations,
    summaries: Summaries,
    files: FileServer,
    transfers: Transfers,
    disk_share: PathBuf,
}

/// Standard streams, listeners, the link, epoll, the session file, the history with its log, and the connections of the private listeners.
/// Then the file of each transfer, and the one call of the file server with what it opened.
const RESERVED_DESCRIPTORS: usize =
    36 + busy::MAX_PRIVATE_CONNECTIONS + MAX_REPLIES + MAX_TRANSFERS;

/// Starts core-back under PID 1. It inherits the unix listener for the edge, the listeners of [`PrivateListeners`] in
/// order, of which the last exists only with an ingress, and the readiness link.
///
/// # Errors
/// For missing settings or sockets, an unreadable session file, or a limit of open files that is too low.
pub fn start(env: &Env) -> Result<(), ServiceError> {
    let settings = Settings::read(env)?;
    let connections = connection_limit(raise_open_file_limit(), RESERVED_DESCRIPTORS, 1)?;
    crate::runtime()?.block_on(async {
        let mut inherited = Inherited::take();
        let mut listener = |place| UnixListener::take(&mut inherited, place);
        let (edge, core, agent) = (listener(0)?, listener(1)?, listener(2)?);
        let has_ingress = inherited.listener_count() > 3;
        let orchestrator =
            has_ingress.then(|| UnixListener::take(&mut inherited, 3)).transpose()?;
        let edge = BoundedListener::new(edge, connections.min(MAX_CONNECTIONS));
        let drain = Drain::new(shutdown_token()?);
        let (readiness, reporter) = Readiness::new();
        let back = Back::open(settings, readiness, drain)?;
        let link = notify_ready(inherited.readiness_link()?)?;
        tokio::spawn(health::watch_link(link, reporter));
        run(edge, PrivateListeners { core, agent, orchestrator }, back).await;
        Ok(())
    })
}

fn notify_ready(link: ReadinessLink) -> std::io::Result<tokio::net::UnixDatagram> {
    link.notify_ready()?;
    tokio::net::UnixDatagram::from_std(link.into_socket()?)
}

/// Serves the edge and the private listeners until the drain is requested and done.
pub async fn run(listener: BoundedListener<UnixListener>, busy: PrivateListeners, back: Back) {
    let drain = back.drain.clone();
    let reported = ReportedGauges {
        sessions: back.sessions.clone(),
        edge: listener.connections(),
        sockets: back.gauges_sockets.clone(),
    };
    let summaries = back.summaries.clone();
    let declarations = back.busy.clone();
    let orchestrator_api = |busy| OrchestratorApi { busy, reported, summaries };
    let back = Arc::new(back);
    let edge = serve(listener.cancel_on_disconnect(), drain.clone(), move |context, request| {
        let back = back.clone();
        async move { back.handle(&context, request).await }
    });
    tokio::join!(edge, busy::run(busy, declarations, orchestrator_api, drain));
}

impl Back {
    /// Reads the sessions and the key of an earlier run.
    ///
    /// # Errors
    /// When the session file or the key cannot be read.
    pub fn open(settings: Settings, readiness: Readiness, drain: Drain) -> std::io::Result<Self> {
        let Settings {
            tenant,
            verifier,
            data,
            gauges_sockets,
            chat,
            files_socket,
            files_dir,
            disk_share,
        } = settings;
        let history = History::new(&data);
        let summaries = Summaries::open(&data, history.clone());
        Ok(Self {
            assertions: Assertions::open(&data, &tenant)?,
            tenant,
            sessions: Sessions::open(&data)?,
            verifier,
            readiness,
            drain,
            gauges_sockets,
            history,
            chat,
            replies: Arc::new(Semaphore::new(MAX_REPLIES)),
            busy: BusyDeclarations::default(),
            summaries,
            files: FileServer::new(files_socket, &files_dir)?,
            transfers: Transfers::default(),
            disk_share,
        })
    }

    async fn handle(&self, context: &RequestContext, request: Request) -> Response {
        let (path, get) = (request.uri().path(), is_read(request.method()));
        match path {
            "/healthz" | "/health" | KEY_SET_PATH | SESSION_PATH | SESSION_END_PATH if !get => {
                context.method_not_allowed("GET")
            }
            "/healthz" | "/health" => self.get_health(context).await,
            KEY_SET_PATH => response::json(StatusCode::OK, &json!(self.assertions.key_set())),
            SESSION_PATH => self.get_session(context, request.headers()).await,
            SESSION_END_PATH => self.get_session_end(context, request.headers()).await,
            START_PATH => self.start_sign_in(context, &request),
            END_PATH => self.end_sign_in(context, &request).await,
            SIGN_OUT_PATH => self.sign_out(context, &request).await,
            "/chat" => self.handle_v1(context, request).await,
            _ if is_within(path, v1::ROOT) => self.handle_v1(context, request).await,
            "/ws" => echo::upgrade(context, request, &self.drain),
            _ if is_within(path, "/echo-path") => {
                response::json(StatusCode::OK, &json!({ "path": path }))
            }
            _ if NOT_IMPLEMENTED.iter().any(|stub| is_within(path, stub)) => {
                context.problem(Code::NotImplemented, "This part of the core is not built yet.")
            }
            _ => context.not_found(),
        }
    }

    async fn get_health(&self, context: &RequestContext) -> Response {
        if !self.readiness.wait_ready().await {
            return context
                .problem(Code::NotReady, "Not all services of this tenant have started.");
        }
        let version = env!("CARGO_PKG_VERSION");
        response::json(
            StatusCode::OK,
            &json!({ "status": "ok", "tenant": self.tenant, "version": version }),
        )
    }

    async fn get_session(&self, context: &RequestContext, headers: &HeaderMap) -> Response {
        let Some(session) = self.sessions.find(headers).await else {
            return context.problem(Code::NotSignedIn, "Nobody is signed in here.");
        };
        let assertion = match self.assertions.issue(&session, now()) {
            Ok(assertion) => assertion,
            Err(error) => return context.internal(&error),
        };
        let (sub, email, name, role) = (session.sub, session.email, session.name, session.role);
        let tenant = &self.tenant;
        response::json(
            StatusCode::OK,
            &json!({
                "sub": sub, "email": email, "name": name, "role": role, "tenant": tenant,
                "assertion": assertion,
            }),
        )
    }

    /// Responds once the session has ended, or after a while with the session.
    async fn get_session_end(&self, context: &RequestContext, headers: &HeaderMap) -> Response {
        tokio::select! {
            () = self.sessions.wait_for_end(headers) => {}
            () = self.drain.requested() => {}
        }
        self.get_session(context, headers).await
    }

    async fn sign_out(&self, context: &RequestContext, request: &Request) -> Response {
        if request.method() != Method::POST {
            return context.method_not_allowed("POST");
        }
        let headers = request.headers();
        if !same_origin::is_allowed(headers) {
            return context.problem(Code::CrossSite, "This request came from another site.");
        }
        if let Err(error) = self.sessions.sign_out(headers).await {
            return context.internal(&error);
        }
        let mut response = match context.is_navigation {
            true => response::see_other("/"),
            false => response::empty(StatusCode::NO_CONTENT),
        };
        cookie::clear_session(&mut response, headers);
        response
    }
}

/// The public keys of the tenant's assertions. The edge strips `/.cial/api` and asks for no route token, so that the
/// tenant's own program reads them, too.
const KEY_SET_PATH: &str = "/jwks.json";

/// Answered with 501: not built yet.
const NOT_IMPLEMENTED: [&str; 2] = ["/agent", "/deploy"];

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// Whether `path` is `root` or below it, by whole segments.
fn is_within(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::people::MemberRole;
    use protocol::site::Site;
    use testkit::eventually;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::now;
    use crate::token::VerifiedToken;

    fn token() -> VerifiedToken {
        let text = str::to_owned;
        VerifiedToken {
            sub: text("u-1"),
            email: text("a@b.c"),
            name: text("A"),
            role: MemberRole::Member,
            jti: text("a"),
            sid: None,
            nonce: text("n"),
            site: Site::Tenant,
            to: None,
            iat: now(),
            exp: now() + 60,
        }
    }

    /// The edge waits for the end of a session only as long as a WebSocket is open under it.
    #[tokio::test]
    async fn a_wait_for_the_end_of_a_session_ends_with_its_client() {
        let dir = tempfile::tempdir().unwrap();
        let listen = |name: &str| UnixListener::bind(dir.path().join(name)).unwrap();
        let data = dir.path().to_owned();
        let gauges_sockets = ["edge", "front"].map(|name| dir.path().join(name));
        let tenant = "acme".to_owned();
        let settings = Settings {
            tenant,
            verifier: None,
            data,
            gauges_sockets,
            chat: None,
            files_socket: dir.path().join("files.sock"),
            files_dir: dir.path().join("files"),
            disk_share: dir.path().join("disk-share.json"),
        };
        let back =
            Back::open(settings, Readiness::new().0, Drain::new(CancellationToken::new())).unwrap();
        let sessions = back.sessions.clone();
        let busy =
            PrivateListeners { core: listen("core"), agent: listen("agent"), orchestrator: None };
        tokio::spawn(run(BoundedListener::new(listen("back"), 1_000), busy, back));
        let secret = sessions.sign_in(token(), &HeaderMap::new()).await.unwrap();
        let request = format!(
            "GET {SESSION_END_PATH} HTTP/1.1\r\nHost: a\r\nCookie: cial_session={secret}\r\n\r\n"
        );
        let count = async |expected| {
            let reached = async || Ok(sessions.waiting() == expected);
            eventually("the count of waits", Duration::from_secs(60), reached).await.unwrap();
        };
        let mut clients = Vec::new();
        for _ in 0..200 {
            let mut client = UnixStream::connect(dir.path().join("back")).await.unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            clients.push(client);
        }
        count(200).await;
        clients.truncate(1);
        count(1).await;
    }
}
