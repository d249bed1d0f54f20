//! Who is busy, over sockets that each say whose word it is: the core's, `agent`'s, and one where the orchestrator
//! asks. None of it is served on the socket that the edge uses: what keeps a tenant awake has no way in from outside.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::RETRY_AFTER;
use hyper::{Method, StatusCode};
use protocol::Problem;
use protocol::busy::{BusyOwner, DeclareBusy, RenewBusy};
use tenant_service::serve::Listener;
use tenant_service::{
    BoundedListener, Drain, Request, RequestContext, Response, body, response, serve,
};
use tokio::net::UnixListener;
use tokio::time::Instant;
use uuid::Uuid;

use crate::busy::{Moment, Refused, Registry};

const PATH: &str = "/busy";
/// The longest reason, whatever it is made of, and room to spare.
const LONGEST_BODY: usize = 4 << 10;
/// What `agent` may hold of this process: connections at once, and how long each.
const SEATS: usize = 8;
const LONGEST_SEAT: Duration = Duration::from_secs(10);

/// Where is asked.
pub struct Doors {
    pub core: UnixListener,
    pub agent: UnixListener,
    /// Absent where no ingress is mounted.
    pub orchestrator: Option<UnixListener>,
}

/// Whose word it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Half(BusyOwner),
    Orchestrator,
}

#[derive(Clone)]
struct Desk {
    registry: Arc<Mutex<Registry>>,
    opened: Instant,
}

/// Serves until the drain is asked for and done.
pub(super) async fn run(doors: Doors, drain: Drain) {
    let desk = Desk { registry: Arc::default(), opened: steady() };
    let agent = BoundedListener::new(doors.agent, SEATS, LONGEST_SEAT);
    let orchestrator = async {
        if let Some(listener) = doors.orchestrator {
            desk.open(listener, Door::Orchestrator, &drain).await;
        }
    };
    tokio::join!(
        desk.open(doors.core, Door::Half(BusyOwner::Core), &drain),
        desk.open(agent, Door::Half(BusyOwner::Agent), &drain),
        orchestrator,
    );
}

impl Desk {
    async fn open(&self, listener: impl Listener, door: Door, drain: &Drain) {
        let desk = self.clone();
        serve(listener, drain.clone(), move |context, request| {
            let desk = desk.clone();
            async move { desk.answer(&context, door, request).await }
        })
        .await;
    }

    async fn answer(&self, context: &RequestContext, door: Door, request: Request) -> Response {
        if let Door::Half(owner) = door
            && let Err(why) = self.with(|registry, now| registry.admit(owner, now))
        {
            return refuse(context, why);
        }
        let (path, method) = (request.uri().path(), request.method());
        let Some(rest) = path.strip_prefix(PATH) else { return context.not_found() };
        match (rest, door) {
            ("", _) if matches!(*method, Method::GET | Method::HEAD) => self.list(door),
            ("", Door::Orchestrator) => context.method_not_allowed("GET"),
            ("", Door::Half(owner)) if method == Method::POST => {
                self.declare(context, owner, request).await
            }
            ("", Door::Half(_)) => context.method_not_allowed("GET, POST"),
            (_, Door::Orchestrator) => context.not_found(),
            (id, Door::Half(owner)) => match id.strip_prefix('/').map(Uuid::try_parse) {
                Some(Ok(id)) => self.change(context, owner, id, request).await,
                Some(Err(_)) | None => context.not_found(),
            },
        }
    }

    fn list(&self, door: Door) -> Response {
        let of = match door {
            Door::Half(BusyOwner::Agent) => Some(BusyOwner::Agent),
            Door::Half(BusyOwner::Core) | Door::Orchestrator => None,
        };
        response::json(StatusCode::OK, &self.with(|registry, now| registry.list(of, now)))
    }

    async fn declare(
        &self,
        context: &RequestContext,
        owner: BusyOwner,
        request: Request,
    ) -> Response {
        let wish = match body::read_json::<DeclareBusy>(request.into_body(), LONGEST_BODY).await {
            Ok(wish) => wish,
            Err(why) => return context.body_error(&why),
        };
        let id = Uuid::new_v4();
        match self.with(|registry, now| registry.declare(owner, id, wish, now)) {
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
        let ttl = match body::read_json::<RenewBusy>(request.into_body(), LONGEST_BODY).await {
            Ok(renew) => renew.ttl_seconds,
            Err(why) => return context.body_error(&why),
        };
        match self.with(|registry, now| registry.renew(owner, id, ttl, now)) {
            Ok(declared) => response::json(StatusCode::OK, &declared),
            Err(why) => refuse(context, why),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Registry, Moment) -> T) -> T {
        let now = Moment { steady: steady() - self.opened, wall: crate::wall() };
        // A panic ends the process; there is no half-made change to be met here.
        act(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

fn refuse(context: &RequestContext, why: Refused) -> Response {
    match why {
        Refused::Fields(errors) => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            let detail = "The declaration breaks the rules of its fields.";
            let problem = Problem::new(status.as_u16(), "invalid_fields", "Invalid fields", detail);
            context.problem_response(status, Problem { errors, ..problem })
        }
        Refused::Ended => context.problem(
            StatusCode::NOT_FOUND,
            "busy_ended",
            "This declaration ran out, or was none of yours. DeclareBusy anew.",
        ),
        Refused::Full { most, wait } => {
            let detail = format!(
                "{most} declarations are alive, and more cannot be. Withdraw one, or renew one instead."
            );
            let problem = context.problem(StatusCode::TOO_MANY_REQUESTS, "busy_quota", &detail);
            retry_after(problem, wait)
        }
        Refused::TooOften { wait } => retry_after(
            context.problem(
                StatusCode::TOO_MANY_REQUESTS,
                "busy_rate",
                "You ask too often. DeclareBusy for longer, and renew when half of it has passed.",
            ),
            wait,
        ),
    }
}

/// In whole seconds, and never too early.
fn retry_after(mut answer: Response, wait: Duration) -> Response {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    answer
}

#[expect(clippy::disallowed_methods, reason = "the shell reads the clock; the registry is told")]
fn steady() -> Instant {
    Instant::now()
}
