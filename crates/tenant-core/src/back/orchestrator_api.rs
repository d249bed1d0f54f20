//! The API for the orchestrator, on [`ORCHESTRATOR_SOCKET`](protocol::inside::ORCHESTRATOR_SOCKET). No request from outside
//! reaches that socket.
//!
//! The orchestrator reads the busy declarations, the gauges and the summaries of conversations, and delivers the ended admin
//! sessions, whose tenant sessions end at once.

use hyper::{Method, StatusCode};
use protocol::gauges::GaugeReport;
use protocol::problem::Code;
use protocol::sessions::RevokeSessions;
use tenant_service::{
    BoundedListener, Drain, Request, RequestContext, Response, body, response, serve,
};
use tokio::net::UnixListener;
use uuid::Uuid;

use super::busy::{self, BusyService};
use super::gauges::ReportedGauges;
use crate::history::summaries::Summaries;

const GAUGES_PATH: &str = "/gauges";
const SUMMARIES_PATH: &str = "/summaries";
const REVOKE_PATH: &str = "/sessions/revoke";
const MAX_REVOKE_BODY_BYTES: usize = 512 << 10;
/// The connections that the orchestrator may hold at once.
pub(super) const MAX_ORCHESTRATOR_CONNECTIONS: usize = 16;

#[derive(Clone)]
pub(super) struct OrchestratorApi {
    pub(super) busy: BusyService,
    pub(super) reported: ReportedGauges,
    pub(super) summaries: Summaries,
}

/// Serves until the drain is requested and done.
pub(super) async fn run(listener: UnixListener, api: OrchestratorApi, drain: &Drain) {
    let listener = BoundedListener::new(listener, MAX_ORCHESTRATOR_CONNECTIONS);
    serve(listener, drain.clone(), move |context, request| {
        let api = api.clone();
        async move { api.handle(&context, request).await }
    })
    .await;
}

impl OrchestratorApi {
    async fn handle(&self, context: &RequestContext, request: Request) -> Response {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            REVOKE_PATH => self.revoke_sessions(context, request).await,
            GAUGES_PATH | SUMMARIES_PATH | busy::PATH if !is_read => {
                context.method_not_allowed("GET")
            }
            GAUGES_PATH => self.report_gauges().await,
            SUMMARIES_PATH => self.report_summaries(context, &request).await,
            busy::PATH => self.busy.list(None),
            _ => context.not_found(),
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
        gauges.extend(self.busy.gauges());
        response::json(StatusCode::OK, &GaugeReport { gauges })
    }
}
