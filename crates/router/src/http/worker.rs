//! The state that all requests of one serving thread share. No other thread sees it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use protocol::leases::RequestIntent;
use protocol::{Domain, TenantId};
use proxy::{Action, PendingAction, ProxyError, Response};
use service::forwarded::{Origin, TrustedProxies};

use crate::http::exchange::TenantExchange;
use crate::http::rate_limit::RateLimit;
use crate::http::request_id::{RequestId, RequestIds};
use crate::http::responses::{self, ResponseFormat};
use crate::http::waiting_page::{self, WaitingState};
use crate::http::wake_progress::ProgressWatchers;
use crate::leases::{LeaseHandle, LeaseResult, RetryLimit};
use crate::metrics::RequestCounters;
use crate::routes::cached_lease::LeaseGuard;
use crate::routes::store::RouteReader;
use crate::routes::table::{RouteEntry, RouteTable};
use crate::settings::{Exposure, WaitTimes};
use lease::LeaseError;

pub(crate) struct Worker {
    /// The index among all serving threads.
    pub(crate) number: usize,
    /// This thread's own reference. Replaced between two requests, never while a request reads the table.
    pub(crate) table: RefCell<Arc<RouteTable>>,
    pub(crate) reader: RouteReader,
    pub(crate) domain: Domain,
    pub(crate) trusted: TrustedProxies,
    pub(crate) rate_limit: Option<Arc<RateLimit>>,
    pub(crate) exposure: Exposure,
    pub(crate) wait_times: WaitTimes,
    pub(crate) request_ids: RequestIds,
    pub(crate) leases: LeaseHandle,
    pub(crate) watchers: ProgressWatchers,
    pub(crate) retry_limit: Arc<RetryLimit>,
    pub(crate) counters: Arc<RequestCounters>,
}

/// The facts of a request that outlive its head.
#[derive(Clone, Copy)]
pub(crate) struct RequestContext {
    pub(crate) id: RequestId,
    pub(crate) format: ResponseFormat,
    /// The request reads and changes nothing.
    pub(crate) is_get: bool,
    pub(crate) sign_in: SignIn,
    /// Only an edge that knows its duties may serve the request: see [`STRICT_ROUTE_TOKEN`](protocol::headers::STRICT_ROUTE_TOKEN).
    pub(crate) is_strict: bool,
    /// `None` for a request that found a lease: only a waiting request is classified.
    pub(crate) intent: Option<RequestIntent>,
    /// `None` over a unix socket.
    pub(crate) origin: Option<Origin>,
}

/// The sign-in policy that the edge enforces for one request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignIn {
    Optional,
    /// Only signed-in members reach the tenant's own app.
    Required,
    /// A sign-in begins: where is the admin?
    Begins,
}

impl Worker {
    /// Forwards a request. `is_leased` is `false` where the orchestrator is unreachable and the table
    /// shows that the tenant runs.
    pub(crate) fn forward(
        self: &Rc<Self>,
        guard: LeaseGuard,
        context: RequestContext,
        is_leased: bool,
    ) -> TenantExchange {
        if !is_leased {
            self.counters.unleased();
        }
        let _in_flight = self.counters.enter();
        TenantExchange { guard, context, worker: self.clone(), _in_flight }
    }

    /// A response of the router in place of the tenant's.
    pub(crate) fn refuse(&self, refusal: &LeaseError, context: &RequestContext) -> Response {
        self.counters.refused(refusal.code().as_str());
        let response = responses::lease_refused(refusal, context.id.as_str(), context.format);
        self.counters.responded(response.status);
        response
    }

    /// Waits for a lease. `page_target` is the address that the waiting page leads to, where a page may come in
    /// between.
    pub(crate) fn wait_for_lease(
        self: &Rc<Self>,
        entry: &RouteEntry,
        intent: RequestIntent,
        context: RequestContext,
        page_target: Option<String>,
    ) -> PendingAction<TenantExchange> {
        let (worker, tenant) = (self.clone(), entry.route.tenant);
        let context = RequestContext { intent: Some(intent), ..context };
        let wait_time =
            if page_target.is_some() { self.wait_times.pages } else { self.wait_times.others };
        Box::pin(async move {
            let outcome =
                worker.leases.wait_for_lease(tenant, worker.number, intent, None, wait_time).await;
            match outcome {
                LeaseResult::Leased(guard) => Action::Forward(worker.forward(guard, context, true)),
                LeaseResult::Unleased(guard) => {
                    Action::Forward(worker.forward(guard, context, false))
                }
                LeaseResult::Refused(refusal) => Action::Respond(match page_target {
                    Some(target) => worker.waiting_page(&refusal, &context, &target),
                    None => worker.refuse(&refusal, &context),
                }),
            }
        })
    }

    /// The waiting page, where there is something to wait for.
    fn waiting_page(
        &self,
        refusal: &LeaseError,
        context: &RequestContext,
        target: &str,
    ) -> Response {
        let state = match refusal {
            LeaseError::Waking { queue_position: ahead } => WaitingState::Waking { ahead: *ahead },
            // A page that stays must not keep a one-time token in its address.
            _ if context.format == ResponseFormat::RedirectToRoot => {
                return self.refuse(refusal, context);
            }
            LeaseError::WakeQueueFull { .. }
            | LeaseError::RouterQueueFull
            | LeaseError::OutOfResources => WaitingState::Busy,
            LeaseError::OrchestratorUnavailable => WaitingState::Unreachable,
            LeaseError::WakeFailed(reason) => WaitingState::Failed(reason),
            LeaseError::Stopped | LeaseError::NotRunning | LeaseError::WakeRequired => {
                return self.refuse(refusal, context);
            }
        };
        self.counters.refused(refusal.code().as_str());
        self.counters.waiting_page();
        self.counters.responded(503);
        waiting_page::render(state, target, context.id.as_str())
    }

    /// The response to a request that was under way when its tenant failed.
    pub(crate) fn failed(
        &self,
        error: &ProxyError,
        context: &RequestContext,
        tenant: TenantId,
    ) -> Response {
        let (code, request_id) = (error.code(), context.id.as_str());
        tracing::warn!(code, %tenant, request_id, cause = ?error, "request to tenant failed");
        self.counters.proxy_error(error);
        self.counters.responded(error.status());
        responses::render(responses::proxy_error(error), request_id, context.format)
    }
}
