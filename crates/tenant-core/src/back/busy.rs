//! The busy API over three sockets, one for each caller: the core half, `agent`, and the orchestrator. The socket of
//! the edge serves none of it, so that no request from outside can keep a tenant awake.
//!
//! The orchestrator's socket also takes the ended admin sessions, whose tenant sessions end at once, and reports gauges and
//! summaries of conversations.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::RETRY_AFTER;
use hyper::{Method, StatusCode};
use protocol::Problem;
use protocol::busy::{BusyOwner, DeclareBusy, MAX_TTL_SECONDS, RenewBusy};
use protocol::gauges::{Gauge, GaugeName, GaugeReport};
use protocol::sessions::RevokeSessions;
use service::connections::Connections;
use tenant_service::serve::Listener;
use tenant_service::{
    BoundedListener, Drain, Request, RequestContext, Response, TimedListener, body, response, serve,
};
use tokio::net::UnixListener;
use tokio::time::Instant;
use uuid::Uuid;

use super::gauges::ReportedGauges;
use crate::busy::{BusyError, BusyRegistry, Now};
use crate::history::summaries::Summaries;
use protocol::problem::Code;

const PATH: &str = "/busy";
const GAUGES_PATH: &str = "/gauges";
const SUMMARIES_PATH: &str = "/summaries";
const REVOKE_PATH: &str = "/sessions/revoke";
/// More than the longest reason takes in any encoding.
const MAX_BODY_BYTES: usize = 4 << 10;
const MAX_REVOKE_BODY_BYTES: usize = 512 << 10;
/// The connections that the core half, the orchestrator and `agent` may hold at once, and the time for one of `agent`.
const MAX_CORE_CONNECTIONS: usize = 16;
const MAX_ORCHESTRATOR_CONNECTIONS: usize = 16;
const MAX_AGENT_CONNECTIONS: usize = 8;
pub(super) const MAX_BUSY_CONNECTIONS: usize =
    MAX_CORE_CONNECTIONS + MAX_ORCHESTRATOR_CONNECTIONS + MAX_AGENT_CONNECTIONS;
const MAX_AGENT_CONNECTION_TIME: Duration = Duration::from_secs(10);

/// The listeners of the busy API.
pub struct BusyListeners {
    pub core: UnixListener,
    pub agent: UnixListener,
    /// Absent where no ingress is mounted.
    pub orchestrator: Option<UnixListener>,
}

/// The caller, known by the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Half(BusyOwner),
    Orchestrator,
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
struct BusyService {
    declarations: BusyDeclarations,
    reported: ReportedGauges,
    summaries: Summaries,
    agent: Arc<Connections>,
}

/// Serves until the drain is requested and done.
pub(super) async fn run(
    listeners: BusyListeners,
    declarations: BusyDeclarations,
    (reported, summaries): (ReportedGauges, Summaries),
    drain: Drain,
) {
    let core = BoundedListener::new(listeners.core, MAX_CORE_CONNECTIONS);
    let agent = TimedListener::new(listeners.agent, MAX_AGENT_CONNECTION_TIME);
    let agent = BoundedListener::new(agent, MAX_AGENT_CONNECTIONS);
    let service = BusyService { declarations, reported, summaries, agent: agent.connections() };
    let orchestrator = async {
        if let Some(listener) = listeners.orchestrator {
            let listener = BoundedListener::new(listener, MAX_ORCHESTRATOR_CONNECTIONS);
            service.serve_on(listener, Caller::Orchestrator, &drain).await;
        }
    };
    tokio::join!(
        service.serve_on(core, Caller::Half(BusyOwner::Core), &drain),
        service.serve_on(agent, Caller::Half(BusyOwner::Agent), &drain),
        orchestrator,
    );
}

impl BusyService {
    async fn serve_on(
        &self,
        listener: BoundedListener<impl Listener>,
        caller: Caller,
        drain: &Drain,
    ) {
        let service = self.clone();
        serve(listener, drain.clone(), move |context, request| {
            let service = service.clone();
            async move { service.handle(&context, caller, request).await }
        })
        .await;
    }

    async fn handle(&self, context: &RequestContext, caller: Caller, request: Request) -> Response {
        if let Caller::Half(owner) = caller
            && let Err(why) = self.with(|registry, now| registry.check_rate(owner, now))
        {
            return refuse(context, why);
        }
        let (path, method) = (request.uri().path(), request.method());
        if caller == Caller::Orchestrator && path == REVOKE_PATH {
            return self.revoke_sessions(context, request).await;
        }
        if caller == Caller::Orchestrator && path == GAUGES_PATH {
            return match *method {
                Method::GET | Method::HEAD => self.report_gauges().await,
                _ => context.method_not_allowed("GET"),
            };
        }
        if caller == Caller::Orchestrator && path == SUMMARIES_PATH {
            return match *method {
                Method::GET | Method::HEAD => self.report_summaries(context, &request).await,
                _ => context.method_not_allowed("GET"),
            };
        }
        let Some(rest) = path.strip_prefix(PATH) else { return context.not_found() };
        match (rest, caller) {
            ("", _) if matches!(*method, Method::GET | Method::HEAD) => self.list(caller),
            ("", Caller::Orchestrator) => context.method_not_allowed("GET"),
            ("", Caller::Half(owner)) if method == Method::POST => {
                self.declare(context, owner, request).await
            }
            ("", Caller::Half(_)) => context.method_not_allowed("GET, POST"),
            (_, Caller::Orchestrator) => context.not_found(),
            (id, Caller::Half(owner)) => match id.strip_prefix('/').map(Uuid::try_parse) {
                Some(Ok(id)) => self.change(context, owner, id, request).await,
                Some(Err(_)) | None => context.not_found(),
            },
        }
    }

    async fn revoke_sessions(&self, context: &RequestContext, request: Request) -> Response {
        if request.method() != Method::POST {
            return context.method_not_allowed("POST");
        }
        let body = request.into_body();
        let revoked = match body::read_json::<RevokeSessions>(body, MAX_REVOKE_BODY_BYTES).await {
            Ok(revoked) => revoked.sessions,
            Err(error) => return context.body_error(&error),
        };
        let revoked: Vec<_> = revoked.iter().map(Uuid::to_string).collect();
        match self.reported.sessions.revoke(&revoked).await {
            Ok(()) => response::empty(StatusCode::NO_CONTENT),
            Err(error) => context.internal(&error),
        }
    }

    async fn report_summaries(&self, context: &RequestContext, request: &Request) -> Response {
        let after = request.uri().query().and_then(|query| query.strip_prefix("after="));
        let Some(Ok(after)) = after.map(str::parse::<i64>) else {
            return context.problem(Code::InvalidQuery, "after must be the position of a report");
        };
        match self.summaries.report(after).await {
            Ok(report) => response::json(StatusCode::OK, &report),
            Err(error) => context.internal(&error),
        }
    }

    async fn report_gauges(&self) -> Response {
        let mut gauges = self.reported.read().await;
        let (current, limit) = (self.agent.current(), self.agent.limit());
        gauges.push(Gauge::new(GaugeName::AgentBusyConnections, current, limit));
        gauges.extend(self.with(|registry, now| registry.gauges(now)));
        response::json(StatusCode::OK, &GaugeReport { gauges })
    }

    fn list(&self, caller: Caller) -> Response {
        let owner = match caller {
            Caller::Half(BusyOwner::Agent) => Some(BusyOwner::Agent),
            Caller::Half(BusyOwner::Core) | Caller::Orchestrator => None,
        };
        response::json(StatusCode::OK, &self.with(|registry, now| registry.list(owner, now)))
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
                Err(why) => return context.body_error(&why),
            };
        let id = Uuid::new_v4();
        match self.with(|registry, now| registry.declare(owner, id, declaration, now)) {
            Ok(declared) => response::json(StatusCode::CREATED, &declared),
            Err(why) => refuse(context, why),
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
            Err(why) => return context.body_error(&why),
        };
        match self.with(|registry, now| registry.renew(owner, id, ttl, now)) {
            Ok(declared) => response::json(StatusCode::OK, &declared),
            Err(why) => refuse(context, why),
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

fn refuse(context: &RequestContext, why: BusyError) -> Response {
    match why {
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
fn retry_after(mut response: Response, wait: Duration) -> Response {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
    response
}

#[expect(
    clippy::disallowed_methods,
    reason = "the shell reads the clock; the registry receives the time"
)]
fn monotonic_now() -> Instant {
    Instant::now()
}
