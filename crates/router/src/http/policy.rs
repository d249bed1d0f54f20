//! Decides about each request: which tenant, and whether it can be asked now.

use std::rc::Rc;

use protocol::Problem;
use protocol::headers::REQUEST_ID;
use protocol::leases::RequestIntent;
use proxy::{Action, Decision, ErrorOrigin, Peer, Policy, ProxyError, RequestHead, Response};

use crate::clock;
use crate::http::classify::{RequestClass, RequestView, classify};
use crate::http::exchange::TenantExchange;
use crate::http::host::{self, Host};
use crate::http::rate_limit::ClientTenantPair;
use crate::http::responses::{self, ResponseFormat};
use crate::http::waiting_page;
use crate::http::worker::{RequestContext, Worker};
use crate::leases::Refusal;
use crate::routes::table::{Availability, RouteEntry};

/// The policy of one thread.
pub(crate) struct RouterPolicy(pub(crate) Rc<Worker>);

impl Policy for RouterPolicy {
    type Exchange = TenantExchange;

    fn decide(&self, head: &RequestHead<'_>, peer: &Peer) -> Decision<TenantExchange> {
        self.find(head, peer).unwrap_or_else(|answer| {
            self.0.counters.answered(answer.status);
            Decision::Ready(Action::Respond(answer))
        })
    }

    fn error_response(
        &self,
        fault: &ProxyError,
        asked: proxy::ErrorContext<'_, TenantExchange>,
    ) -> Response {
        let thread = &self.0;
        let (id, form, tenant) = match asked {
            proxy::ErrorContext::Unparsed => (thread.ids.next(), ResponseFormat::Problem, None),
            proxy::ErrorContext::Head(head) => {
                (thread.ids.adopt_or_next(head.get(REQUEST_ID)), responses::form(head), None)
            }
            proxy::ErrorContext::Exchange(passage) => {
                (passage.asked.id, passage.asked.form, Some(passage.used.tenure.tenant))
            }
        };
        thread.counters.fault(fault);
        thread.counters.answered(fault.status());
        if fault.origin() == ErrorOrigin::Upstream {
            let tenant = tenant.map(|t| t.to_string()).unwrap_or_default();
            let (code, request_id) = (fault.code(), id.as_str());
            tracing::warn!(code, tenant, request_id, cause = ?fault, "a tenant did not answer");
        }
        // What refuses may have moved: the table is told to make sure.
        if let ProxyError::UpstreamUnreachable(_) = fault {
            thread.reader.request_resync();
        }
        responses::shown(responses::of_fault(fault), id.as_str(), form)
    }
}

impl RouterPolicy {
    /// `Err` is an answer that is not counted yet.
    fn find(
        &self,
        head: &RequestHead<'_>,
        peer: &Peer,
    ) -> Result<Decision<TenantExchange>, Response> {
        let thread = &self.0;
        let id = thread.ids.adopt_or_next(head.get(REQUEST_ID));
        let form = responses::form(head);
        let refuse = |problem: Problem| responses::shown(problem, id.as_str(), form);
        let label = match host::parse(head.get("host").unwrap_or_default(), thread.domain.as_str())
        {
            Host::Label(label) => label,
            Host::Bare if head.target() == "/health" && reads(head) => return Err(self.health()),
            Host::Bare | Host::Unknown => return Err(refuse(responses::not_found())),
            Host::Invalid => return Err(refuse(responses::invalid_host())),
        };
        let table = thread.table.borrow();
        let Some(entry) = table.get(&label) else {
            return Err(refuse(match table.revision {
                Some(_) => responses::not_found(),
                None => responses::no_routes(),
            }));
        };
        let origin = peer.address.map(|peer| {
            let forwarded = head.headers().filter(|h| h.is("x-forwarded-for")).map(|h| h.value);
            let scheme = || head.get("x-forwarded-proto");
            thread.trusted.origin(peer.ip(), forwarded, scheme)
        });
        let is_get = head.method() == "GET";
        let asked = RequestContext { id, form, is_get, intent: None, origin };
        if let (Some(limit), Some(origin)) = (&thread.limit, origin)
            && let Err(pause) =
                limit.check(ClientTenantPair::new(entry.route.tenant, origin.client))
        {
            thread.counters.rate_limited();
            let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
            let seconds = seconds.max(1).to_string();
            return Err(refuse(responses::rate_limited()).header("retry-after", seconds));
        }
        let standing = entry.availability();
        if standing == Availability::StoppedByOwner {
            thread.counters.refused(Refusal::Stopped.word());
            return Err(refuse(responses::stopped()));
        }
        if head.target().starts_with(waiting_page::PATH)
            && let Some(query) = of_wake(head.target())
        {
            return self.wake(head, entry, &asked, query);
        }
        if let Some(tenure) = &entry.tenure {
            let used = tenure.begin(thread.number);
            if used.is_leased() {
                return Ok(Decision::Ready(Action::Forward(thread.pass(used, asked, true))));
            }
            if standing == Availability::Running && thread.leases.room.is_away() {
                thread.leases.note(tenure);
                return Ok(Decision::Ready(Action::Forward(thread.pass(used, asked, false))));
            }
        }
        if standing == Availability::Down {
            return Err(refuse(responses::not_running()));
        }
        let class = class_of(head);
        let page = (class == RequestClass::Navigation).then(|| head.target().to_owned());
        Ok(Decision::Pending(thread.wait(entry, class.intent(), asked, page)))
    }

    /// What the waiting page is made of, and a Retry.
    fn wake(
        &self,
        head: &RequestHead<'_>,
        entry: &RouteEntry,
        asked: &RequestContext,
        query: &str,
    ) -> Result<Decision<TenantExchange>, Response> {
        let (thread, tenant) = (&self.0, entry.route.tenant);
        let wants_events =
            |accept: &[u8]| memchr::memmem::find(accept, b"text/event-stream").is_some();
        match head.method() {
            "GET" if head.get("accept").is_some_and(wants_events) => {
                let Some(events) = thread.watchers.watch(tenant) else {
                    return Err(thread.crowded(asked));
                };
                let answer = Response::new(200)
                    .header(REQUEST_ID, asked.id.as_str().to_owned())
                    .header("cache-control", "no-store")
                    .header("x-content-type-options", "nosniff")
                    .body("text/event-stream", "");
                thread.counters.answered(200);
                Ok(Decision::Ready(Action::Stream(answer, events)))
            }
            "GET" | "HEAD" | "POST" => {
                if class_of(head).intent() == RequestIntent::Visit
                    && thread.retries.may(tenant, clock::now())
                {
                    thread.leases.wake(tenant);
                }
                let answer = Response::new(303)
                    .header(REQUEST_ID, asked.id.as_str().to_owned())
                    .header("cache-control", "no-store")
                    .header("location", waiting_page::back(query));
                Err(answer)
            }
            _ => Err(responses::shown(
                responses::method_not_allowed(),
                asked.id.as_str(),
                asked.form,
            )),
        }
    }

    /// `GET /health` of the bare domain.
    fn health(&self) -> Response {
        let table = self.0.table.borrow();
        let connected = *self.0.reader.connected.borrow();
        let health = serde_json::json!({
            "status": if table.revision.is_some() { "ok" } else { "starting" },
            "routes": table.len(),
            "revision": table.revision,
            "control_plane": if connected { "connected" } else { "unreachable" },
        });
        Response::new(200)
            .header("cache-control", "no-store")
            .body("application/json", health.to_string())
    }
}

impl Worker {
    fn crowded(&self, asked: &RequestContext) -> Response {
        let refusal = Refusal::Crowded;
        self.counters.refused(refusal.word());
        responses::refused(&refusal, asked.id.as_str(), asked.form)
    }
}

/// The query of the path that is reserved; `None`: another path.
fn of_wake(target: &str) -> Option<&str> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (path == waiting_page::PATH).then_some(query)
}

fn class_of(head: &RequestHead<'_>) -> RequestClass {
    let (method, target) = (head.method(), head.target());
    classify(&RequestView { method, target, header: &|name| head.get(name) })
}

fn reads(head: &RequestHead<'_>) -> bool {
    matches!(head.method(), "GET" | "HEAD")
}
