//! The busy API over two sockets, one for each half: the core half and `agent`. The socket of the edge serves none of it, so
//! that no request from outside can keep a tenant awake.
//!
//! The orchestrator reads the declarations over a socket of its own: see `orchestrator_api`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::RETRY_AFTER;
use hyper::{Method, StatusCode};
use protocol::Problem;
use protocol::busy::{BusyOwner, DeclareBusy, MAX_TTL_SECONDS, RenewBusy};
use protocol::gauges::{Gauge, GaugeName};
use service::connections::Connections;
use tenant_service::serve::Listener;
use tenant_service::{
    BoundedListener, Drain, Request, RequestContext, Response, TimedListener, body, response, serve,
};
use tokio::net::UnixListener;
use tokio::time::Instant;
use uuid::Uuid;

use super::orchestrator_api::{self, MAX_ORCHESTRATOR_CONNECTIONS, OrchestratorApi};
use crate::busy::{BusyError, BusyRegistry, Now};
use protocol::problem::Code;

pub(super) const PATH: &str = "/busy";
/// More than the longest reason takes in any encoding.
const MAX_BODY_BYTES: usize = 4 << 10;
/// The connections that the core half and `agent` may hold at once, and the time for one of `agent`.
const MAX_CORE_CONNECTIONS: usize = 16;
const MAX_AGENT_CONNECTIONS: usize = 8;
pub(super) const MAX_PRIVATE_CONNECTIONS: usize =
    MAX_CORE_CONNECTIONS + MAX_ORCHESTRATOR_CONNECTIONS + MAX_AGENT_CONNECTIONS;
const MAX_AGENT_CONNECTION_TIME: Duration = Duration::from_secs(10);

/// The listeners that no request from outside reaches: of the busy API, and of the API for the orchestrator.
pub struct PrivateListeners {
    pub core: UnixListener,
    pub agent: UnixListener,
    /// Absent where no ingress is mounted.
    pub orchestrator: Option<UnixListener>,
}

/// The declarations of both halves.
#[derive(Clone)]
pub(super) struct BusyDeclarations {
    registry: Arc<Mutex<BusyRegistry>>,
    started_at: Instant,
}

/// A declaration of core-back itself, which ends with this value.
pub(super) struct BusyGuard {
    declarations: BusyDeclarations,
    /// `None`: the core half has declared as much as it may.
    id: Option<Uuid>,
}

#[derive(Clone)]
pub(super) struct BusyService {
    declarations: BusyDeclarations,
    agent: Arc<Connections>,
}

/// Serves until the drain is requested and done.
pub(super) async fn run(
    listeners: PrivateListeners,
    declarations: BusyDeclarations,
    orchestrator_api: impl FnOnce(BusyService) -> OrchestratorApi,
    drain: Drain,
) {
    let core = BoundedListener::new(listeners.core, MAX_CORE_CONNECTIONS);
    let agent = TimedListener::new(listeners.agent, MAX_AGENT_CONNECTION_TIME);
    let agent = BoundedListener::new(agent, MAX_AGENT_CONNECTIONS);
    let service = BusyService { declarations, agent: agent.connections() };
    let orchestrator = async {
        if let Some(listener) = listeners.orchestrator {
            orchestrator_api::run(listener, orchestrator_api(service.clone()), &drain).await;
        }
    };
    tokio::join!(
        service.serve_on(core, BusyOwner::Core, &drain),
        service.serve_on(agent, BusyOwner::Agent, &drain),
        orchestrator,
    );
}

impl BusyService {
    async fn serve_on(
        &self,
        listener: BoundedListener<impl Listener>,
        owner: BusyOwner,
        drain: &Drain,
    ) {
        let service = self.clone();
        serve(listener, drain.clone(), move |context, request| {
            let service = service.clone();
            async move { service.handle(&context, owner, request).await }
        })
        .await;
    }

    /// `owner`: the half that calls, known by the socket.
    async fn handle(
        &self,
        context: &RequestContext,
        owner: BusyOwner,
        request: Request,
    ) -> Response {
        if let Err(error) = self.with(|registry, now| registry.check_rate(owner, now)) {
            return refuse(context, error);
        }
        let (path, method) = (request.uri().path(), request.method());
        let Some(rest) = path.strip_prefix(PATH) else { return context.not_found() };
        match rest {
            "" if matches!(*method, Method::GET | Method::HEAD) => match owner {
                BusyOwner::Core => self.list(None),
                BusyOwner::Agent => self.list(Some(BusyOwner::Agent)),
            },
            "" if method == Method::POST => self.declare(context, owner, request).await,
            "" => context.method_not_allowed("GET, POST"),
            id => match id.strip_prefix('/').map(Uuid::try_parse) {
                Some(Ok(id)) => self.change(context, owner, id, request).await,
                Some(Err(_)) | None => context.not_found(),
            },
        }
    }

    /// Lists the declarations of one half, or of both.
    pub(super) fn list(&self, owner: Option<BusyOwner>) -> Response {
        response::json(StatusCode::OK, &self.with(|registry, now| registry.list(owner, now)))
    }

    pub(super) fn gauges(&self) -> impl Iterator<Item = Gauge> {
        let (current, limit) = (self.agent.current(), self.agent.limit());
        let connections = Gauge::new(GaugeName::AgentBusyConnections, current, limit);
        [connections].into_iter().chain(self.with(|registry, now| registry.gauges(now)))
    }

    async fn declare(
        &self,
        context: &RequestContext,
        owner: BusyOwner,
        request: Request,
    ) -> Response {
        let declaration =
            match body::read_json::<DeclareBusy>(request.into_body(), MAX_BODY_BYTES).await {
                Ok(declaration) => declaration,
                Err(error) => return context.body_error(&error),
            };
        let id = Uuid::new_v4();
        match self.with(|registry, now| registry.declare(owner, id, declaration, now)) {
            Ok(declared) => response::json(StatusCode::CREATED, &declared),
            Err(error) => refuse(context, error),
        }
    }

    async fn change(
        &self,
        context: &RequestContext,
        owner: BusyOwner,
        id: Uuid,
        request: Request,
    ) -> Response {
        if request.method() == Method::DELETE {
            self.with(|registry, _| registry.withdraw(owner, id));
            return response::empty(StatusCode::NO_CONTENT);
        }
        if request.method() != Method::PUT {
            return context.method_not_allowed("PUT, DELETE");
        }
        let ttl = match body::read_json::<RenewBusy>(request.into_body(), MAX_BODY_BYTES).await {
            Ok(renew) => renew.ttl_seconds,
            Err(error) => return context.body_error(&error),
        };
        match self.with(|registry, now| registry.renew(owner, id, ttl, now)) {
            Ok(declared) => response::json(StatusCode::OK, &declared),
            Err(error) => refuse(context, error),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut BusyRegistry, Now) -> T) -> T {
        self.declarations.with(act)
    }
}

impl Default for BusyDeclarations {
    fn default() -> Self {
        Self { registry: Arc::default(), started_at: monotonic_now() }
    }
}

impl BusyDeclarations {
    /// Declares work of core-back itself. Must be renewed within [`MAX_TTL_SECONDS`].
    pub(super) fn declare(&self, reason: &str) -> BusyGuard {
        let id = Uuid::new_v4();
        let work = DeclareBusy { reason: reason.to_owned(), ttl_seconds: MAX_TTL_SECONDS };
        let declared = self.with(|registry, now| registry.declare(BusyOwner::Core, id, work, now));
        BusyGuard { declarations: self.clone(), id: declared.is_ok().then_some(id) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut BusyRegistry, Now) -> T) -> T {
        let now = Now { monotonic: monotonic_now() - self.started_at, wall: crate::wall_clock() };
        // A panic ends the process, so no caller sees a half-made change.
        act(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

impl BusyGuard {
    pub(super) fn renew(&self) {
        let Some(id) = self.id else { return };
        let renew = |registry: &mut BusyRegistry, now| {
            registry.renew(BusyOwner::Core, id, MAX_TTL_SECONDS, now)
        };
        // An end that was not noticed in time costs the rest of the declaration only.
        let _ = self.declarations.with(renew);
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        self.declarations.with(|registry, _| registry.withdraw(BusyOwner::Core, id));
    }
}

fn refuse(context: &RequestContext, error: BusyError) -> Response {
    match error {
        BusyError::Fields(errors) => {
            let detail = "The declaration breaks the rules of its fields.";
            let problem = Problem::new(Code::InvalidFields, detail);
            context.problem_response(Problem { errors, ..problem })
        }
        BusyError::NotFound => context.problem(
            Code::BusyEnded,
            "This declaration has ended or belongs to the other half. Declare again.",
        ),
        BusyError::QuotaReached { max, wait } => {
            let detail = format!(
                "{max} declarations are active, which is the limit. Withdraw or renew one of them."
            );
            let problem = context.problem(Code::BusyQuota, &detail);
            retry_after(problem, wait)
        }
        BusyError::RateLimited { wait } => retry_after(
            context.problem(
                Code::BusyRate,
                "Too many requests. Declare for a longer time, and renew when half of it has passed.",
            ),
            wait,
        ),
    }
}

/// Adds `Retry-After` in whole seconds, rounded up.
fn retry_after(mut answer: Response, wait: Duration) -> Response {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    answer
}

#[expect(clippy::disallowed_methods, reason = "the registry is pure and receives the time")]
fn monotonic_now() -> Instant {
    Instant::now()
}
