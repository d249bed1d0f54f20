//! What all requests of one serving thread share. Nothing of it is known to another thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use protocol::leases::RequestIntent;
use protocol::{Domain, TenantId};
use proxy::{Action, PendingAction, ProxyError, Response};
use service::forwarded::{Origin, Trusted};

use crate::http::exchange::TenantExchange;
use crate::http::rate_limit;
use crate::http::request_id::{RequestId, RequestIds};
use crate::http::responses::{self, ResponseFormat};
use crate::http::waiting_page;
use crate::http::wake_progress::Watchers;
use crate::leases::{Leases, Outcome, Refusal};
use crate::metrics::Counters;
use crate::retries::Retries;
use crate::routes::store::RouteReader;
use crate::routes::table::{RouteEntry, RouteTable};
use crate::settings::Hold;
use crate::tenure::Use;

pub(crate) struct Worker {
    /// Which of all that serve.
    pub(crate) number: usize,
    /// This thread's own reference: swapped between two requests, never while one reads it.
    pub(crate) table: RefCell<Arc<RouteTable>>,
    pub(crate) reader: RouteReader,
    pub(crate) domain: Domain,
    pub(crate) trusted: Trusted,
    pub(crate) limit: Option<rate_limit::LocalRateLimit>,
    pub(crate) hold: Hold,
    pub(crate) ids: RequestIds,
    pub(crate) leases: Leases,
    pub(crate) watchers: Watchers,
    pub(crate) retries: Arc<Retries>,
    pub(crate) counters: Arc<Counters>,
}

/// What is remembered of a request, whatever becomes of it.
#[derive(Clone, Copy)]
pub(crate) struct RequestContext {
    pub(crate) id: RequestId,
    pub(crate) form: ResponseFormat,
    /// It asks to be shown something, and does nothing.
    pub(crate) is_get: bool,
    /// Of one that waited. Nobody reads it of one that finds a lease: that costs more than it is ever worth.
    pub(crate) intent: Option<RequestIntent>,
    /// `None` over a unix socket.
    pub(crate) origin: Option<Origin>,
}

impl Worker {
    /// `is_leased`: `false` where its keeper is away, and the table says that it runs.
    pub(crate) fn pass(
        self: &Rc<Self>,
        used: Use,
        asked: RequestContext,
        is_leased: bool,
    ) -> TenantExchange {
        if !is_leased {
            self.counters.unleased();
        }
        let _passing = self.counters.enter();
        TenantExchange { used, asked, thread: self.clone(), _passing }
    }

    /// An answer of our own instead of the tenant's.
    pub(crate) fn refuse(&self, refusal: &Refusal, asked: &RequestContext) -> Response {
        self.counters.refused(refusal.word());
        let answer = responses::refused(refusal, asked.id.as_str(), asked.form);
        self.counters.answered(answer.status);
        answer
    }

    /// A request without a lease waits for one. `page`: where the waiting page would lead to, if it is to get one.
    pub(crate) fn wait(
        self: &Rc<Self>,
        entry: &RouteEntry,
        intent: RequestIntent,
        asked: RequestContext,
        page: Option<String>,
    ) -> PendingAction<TenantExchange> {
        let (thread, tenant) = (self.clone(), entry.route.tenant);
        let asked = RequestContext { intent: Some(intent), ..asked };
        let patience = if page.is_some() { self.hold.pages } else { self.hold.others };
        Box::pin(async move {
            let outcome = thread.leases.wait(tenant, thread.number, intent, None, patience).await;
            match outcome {
                Outcome::Leased(used) => Action::Forward(thread.pass(used, asked, true)),
                Outcome::Unleased(used) => Action::Forward(thread.pass(used, asked, false)),
                Outcome::Refused(refusal) => Action::Respond(match page {
                    Some(target) => thread.page(&refusal, &asked, &target),
                    None => thread.refuse(&refusal, &asked),
                }),
            }
        })
    }

    /// The waiting page, where there is something to wait for.
    fn page(&self, refusal: &Refusal, asked: &RequestContext, target: &str) -> Response {
        let seen = match refusal {
            Refusal::Waking { ahead } => waiting_page::Seen::Waking { ahead: *ahead },
            Refusal::QueueFull { .. } | Refusal::Crowded => waiting_page::Seen::Crowded,
            Refusal::Unavailable => waiting_page::Seen::Unreachable,
            Refusal::Failed(reason) => waiting_page::Seen::Failed(reason),
            Refusal::Stopped | Refusal::NotRunning | Refusal::WakeRequired => {
                return self.refuse(refusal, asked);
            }
        };
        self.counters.refused(refusal.word());
        self.counters.waiting_page();
        self.counters.answered(503);
        waiting_page::page(seen, target, asked.id.as_str())
    }

    /// A request that was under way, and came to nothing.
    pub(crate) fn failed(
        &self,
        fault: &ProxyError,
        asked: &RequestContext,
        tenant: TenantId,
    ) -> Response {
        let (code, request_id) = (fault.code(), asked.id.as_str());
        tracing::warn!(code, %tenant, request_id, cause = ?fault, "a tenant did not answer");
        self.counters.fault(fault);
        self.counters.answered(fault.status());
        responses::shown(responses::of_fault(fault), request_id, asked.form)
    }
}
