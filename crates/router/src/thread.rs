//! What all requests of one serving thread share. Nothing of it is known to another thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use protocol::leases::RequestIntent;
use protocol::{Domain, TenantId};
use proxy::{Answer, Fault, Later, Verdict};
use service::forwarded::{Origin, Trusted};

use crate::answer::{self, Form};
use crate::directory::Reader;
use crate::leases::{Leases, Outcome, Refusal};
use crate::limit;
use crate::metrics::Counters;
use crate::passage::Passage;
use crate::progress::Watchers;
use crate::request_id::{RequestId, RequestIds};
use crate::retries::Retries;
use crate::settings::Hold;
use crate::table::{Entry, Table};
use crate::tenure::Use;
use crate::waiting;

pub(crate) struct Thread {
    /// Which of all that serve.
    pub(crate) number: usize,
    /// This thread's own reference: swapped between two requests, never while one reads it.
    pub(crate) table: RefCell<Arc<Table>>,
    pub(crate) reader: Reader,
    pub(crate) domain: Domain,
    pub(crate) trusted: Trusted,
    pub(crate) limit: Option<limit::Seen>,
    pub(crate) hold: Hold,
    pub(crate) ids: RequestIds,
    pub(crate) leases: Leases,
    pub(crate) watchers: Watchers,
    pub(crate) retries: Arc<Retries>,
    pub(crate) counters: Arc<Counters>,
}

/// What is remembered of a request, whatever becomes of it.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) id: RequestId,
    pub(crate) form: Form,
    /// It asks to be shown something, and does nothing.
    pub(crate) is_get: bool,
    /// Of one that waited. Nobody reads it of one that finds a lease: that costs more than it is ever worth.
    pub(crate) intent: Option<RequestIntent>,
    /// `None` over a unix socket.
    pub(crate) origin: Option<Origin>,
}

impl Thread {
    /// `is_leased`: `false` where its keeper is away, and the table says that it runs.
    pub(crate) fn pass(self: &Rc<Self>, used: Use, asked: Asked, is_leased: bool) -> Passage {
        if !is_leased {
            self.counters.unleased();
        }
        let _passing = self.counters.enter();
        Passage { used, asked, thread: self.clone(), _passing }
    }

    /// An answer of our own instead of the tenant's.
    pub(crate) fn refuse(&self, refusal: &Refusal, asked: &Asked) -> Answer {
        self.counters.refused(refusal.word());
        let answer = answer::refused(refusal, asked.id.as_str(), asked.form);
        self.counters.answered(answer.status);
        answer
    }

    /// A request without a lease waits for one. `page`: where the waiting page would lead to, if it is to get one.
    pub(crate) fn wait(
        self: &Rc<Self>,
        entry: &Entry,
        intent: RequestIntent,
        asked: Asked,
        page: Option<String>,
    ) -> Later<Passage> {
        let (thread, tenant) = (self.clone(), entry.route.tenant);
        let asked = Asked { intent: Some(intent), ..asked };
        let patience = if page.is_some() { self.hold.pages } else { self.hold.others };
        Box::pin(async move {
            let outcome = thread.leases.wait(tenant, thread.number, intent, None, patience).await;
            match outcome {
                Outcome::Leased(used) => Verdict::Forward(thread.pass(used, asked, true)),
                Outcome::Unleased(used) => Verdict::Forward(thread.pass(used, asked, false)),
                Outcome::Refused(refusal) => Verdict::Answer(match page {
                    Some(target) => thread.page(&refusal, &asked, &target),
                    None => thread.refuse(&refusal, &asked),
                }),
            }
        })
    }

    /// The waiting page, where there is something to wait for.
    fn page(&self, refusal: &Refusal, asked: &Asked, target: &str) -> Answer {
        let seen = match refusal {
            Refusal::Waking { ahead } => waiting::Seen::Waking { ahead: *ahead },
            Refusal::QueueFull { .. } | Refusal::Crowded => waiting::Seen::Crowded,
            Refusal::Unavailable => waiting::Seen::Unreachable,
            Refusal::Failed(reason) => waiting::Seen::Failed(reason),
            Refusal::Stopped | Refusal::NotRunning | Refusal::WakeRequired => {
                return self.refuse(refusal, asked);
            }
        };
        self.counters.refused(refusal.word());
        self.counters.waiting_page();
        self.counters.answered(503);
        waiting::page(seen, target, asked.id.as_str())
    }

    /// A request that was under way, and came to nothing.
    pub(crate) fn failed(&self, fault: &Fault, asked: &Asked, tenant: TenantId) -> Answer {
        let (code, request_id) = (fault.code(), asked.id.as_str());
        tracing::warn!(code, %tenant, request_id, cause = ?fault, "a tenant did not answer");
        self.counters.fault(fault);
        self.counters.answered(fault.status());
        answer::shown(answer::of_fault(fault), request_id, asked.form)
    }
}
