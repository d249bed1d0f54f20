//! Decides about each request: which tenant is meant, and whether the tenant can be reached now.

use std::net::IpAddr;
use std::rc::Rc;

use protocol::Problem;
use protocol::headers::REQUEST_ID;
use protocol::leases::RequestIntent;
use protocol::sign_in::START_PATH;
use protocol::site::CORE_HOST_PREFIX;
use proxy::{
    Action, Decision, ErrorContext, ErrorOrigin, Peer, Policy, ProxyError, RequestHead, Response,
};

use service::forwarded;

use crate::clock;
use crate::http::classify::{RequestClass, RequestView, classify};
use crate::http::exchange::TenantExchange;
use crate::http::host::{self, Host};
use crate::http::rate_limit::ClientTenantPair;
use crate::http::responses::{self, ResponseFormat};
use crate::http::waiting_page;
use crate::http::worker::{RequestContext, SignIn, Worker};
use crate::routes::table::{Availability, RouteEntry};
use crate::settings::Exposure;
use lease::LeaseError;

/// The policy of one serving thread.
pub(crate) struct RouterPolicy(pub(crate) Rc<Worker>);

impl Policy for RouterPolicy {
    type Exchange = TenantExchange;

    /// A trusted proxy forwards for many clients, and on loopback everyone comes from one address.
    fn client_key(&self, peer: &Peer) -> Option<IpAddr> {
        let address = peer.address?.ip().to_canonical();
        let is_one_client =
            self.0.exposure == Exposure::Public && !self.0.trusted.contains(address);
        is_one_client.then(|| forwarded::rate_limit_key(address))
    }

    fn decide(&self, head: &RequestHead<'_>, peer: &Peer) -> Decision<TenantExchange> {
        self.route(head, peer).unwrap_or_else(|response| {
            self.0.counters.responded(response.status);
            Decision::Ready(Action::Respond(response))
        })
    }

    fn error_response(
        &self,
        error: &ProxyError,
        context: ErrorContext<'_, TenantExchange>,
    ) -> Response {
        let worker = &self.0;
        let (id, format, tenant) = match context {
            ErrorContext::Unparsed => (worker.request_ids.next(), ResponseFormat::Problem, None),
            ErrorContext::Head(head) => {
                let id = worker.request_ids.adopt_or_next(head.get(REQUEST_ID));
                (id, responses::format_for(head), None)
            }
            ErrorContext::Exchange(exchange) => {
                let tenant = exchange.guard.lease.tenant;
                if error.origin() == ErrorOrigin::Upstream {
                    exchange.guard.count_response(error.status());
                }
                (exchange.context.id, exchange.context.format, Some(tenant))
            }
        };
        worker.counters.proxy_error(error);
        worker.counters.responded(error.status());
        if error.origin() == ErrorOrigin::Upstream {
            let tenant = tenant.map(|t| t.to_string()).unwrap_or_default();
            let (code, request_id) = (error.code(), id.as_str());
            tracing::warn!(code, tenant, request_id, cause = ?error, "request to tenant failed");
        }
        // A tenant that refuses connections may have moved: a fresh snapshot shows the new address.
        if let ProxyError::UpstreamUnreachable(_) = error {
            worker.reader.request_resync();
        }
        responses::render(responses::proxy_error(error), id.as_str(), format)
    }
}

impl RouterPolicy {
    /// An `Err` is a response that no counter includes yet.
    fn route(
        &self,
        head: &RequestHead<'_>,
        peer: &Peer,
    ) -> Result<Decision<TenantExchange>, Response> {
        let worker = &self.0;
        let id = worker.request_ids.adopt_or_next(head.get(REQUEST_ID));
        let format = responses::format_for(head);
        let refuse = |problem: Problem| responses::render(problem, id.as_str(), format);
        // RFC 9110 §9.3.7: about the server as a whole, hence about no tenant.
        if head.method() == "OPTIONS" && head.target() == "*" {
            return Err(responses::server_options(id.as_str()));
        }
        let host = head.get("host").unwrap_or_default();
        let label = match host::parse(host, worker.domain.as_str()) {
            Host::Label(label) => label,
            Host::Bare if head.target() == "/health" && is_read(head) => {
                return Err(self.health());
            }
            Host::Bare | Host::Unknown => return Err(refuse(responses::not_found())),
            Host::Invalid => return Err(refuse(responses::invalid_host())),
        };
        let table = worker.table.borrow();
        // Both sites of a tenant are served by it.
        let slug = label.strip_prefix(CORE_HOST_PREFIX).unwrap_or(&label);
        let Some(entry) = table.get(slug) else {
            return Err(refuse(match table.revision {
                Some(_) => responses::not_found(),
                None => responses::no_routes(),
            }));
        };
        let origin = peer.address.map(|peer| {
            let forwarded = head.headers().filter(|h| h.is("x-forwarded-for")).map(|h| h.value);
            let scheme = || head.get("x-forwarded-proto");
            worker.trusted.client_origin(peer.ip(), forwarded, scheme)
        });
        let is_get = head.method() == "GET";
        let sign_in = match entry.route.requires_sign_in {
            _ if path_of(head.target()) == START_PATH => SignIn::Begins,
            true => SignIn::Required,
            false => SignIn::Optional,
        };
        let is_strict = entry.route.requires_sign_in || slug.len() < label.len();
        let context =
            RequestContext { id, format, is_get, sign_in, is_strict, intent: None, origin };
        if let (Some(limit), Some(origin)) = (&worker.rate_limit, origin)
            && let Err(wait) = limit.check(ClientTenantPair::new(entry.route.tenant, origin.client))
        {
            worker.counters.rate_limited();
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let seconds = seconds.max(1).to_string();
            return Err(refuse(responses::rate_limited()).header("retry-after", seconds));
        }
        let availability = entry.availability();
        if availability == Availability::StoppedByOwner {
            worker.counters.refused(LeaseError::Stopped.code().as_str());
            return Err(refuse(responses::stopped()));
        }
        if head.target().starts_with(waiting_page::PATH)
            && let Some(query) = wake_query(head.target())
        {
            return self.serve_wake_path(head, entry, &context, query);
        }
        if let Some(lease) = &entry.lease {
            let guard = lease.begin_request(worker.number);
            if guard.is_leased() {
                let exchange = worker.forward(guard, context, true);
                return Ok(Decision::Ready(Action::Forward(exchange)));
            }
            if availability == Availability::Running
                && worker.leases.shared.is_orchestrator_unreachable()
            {
                worker.leases.report_unleased_request(lease);
                let exchange = worker.forward(guard, context, false);
                return Ok(Decision::Ready(Action::Forward(exchange)));
            }
        }
        match availability {
            Availability::NotRunning => return Err(refuse(responses::not_running())),
            Availability::Failed => return Err(refuse(responses::failed_for_good())),
            Availability::Running | Availability::Wakeable | Availability::StoppedByOwner => {}
        }
        let class = class_of(head);
        let page = (class == RequestClass::Navigation).then(|| head.target().to_owned());
        Ok(Decision::Pending(worker.wait_for_lease(entry, class.intent(), context, page)))
    }

    /// Serves the event stream of the waiting page and its Retry.
    fn serve_wake_path(
        &self,
        head: &RequestHead<'_>,
        entry: &RouteEntry,
        context: &RequestContext,
        query: &str,
    ) -> Result<Decision<TenantExchange>, Response> {
        let (worker, tenant) = (&self.0, entry.route.tenant);
        let accepts_events =
            |accept: &[u8]| memchr::memmem::find(accept, b"text/event-stream").is_some();
        match head.method() {
            "GET" if head.get("accept").is_some_and(accepts_events) => {
                let Some(events) = worker.watchers.watch(tenant) else {
                    worker.counters.refused(LeaseError::RouterQueueFull.code().as_str());
                    let id = context.id.as_str();
                    return Err(responses::lease_refused(
                        &LeaseError::RouterQueueFull,
                        id,
                        context.format,
                    ));
                };
                let response = Response::new(200)
                    .header(REQUEST_ID, context.id.as_str().to_owned())
                    .header("cache-control", "no-store")
                    .header("x-content-type-options", "nosniff")
                    .body("text/event-stream", "");
                worker.counters.responded(200);
                Ok(Decision::Ready(Action::Stream(response, events)))
            }
            "GET" | "HEAD" | "POST" => {
                if class_of(head).intent() == RequestIntent::Visit
                    && worker.retry_limit.try_retry(tenant, clock::now())
                {
                    worker.leases.wake_tenant(tenant);
                }
                let target = waiting_page::retry_target(query);
                Err(responses::see_other(&target, context.id.as_str()))
            }
            _ => {
                let problem = responses::method_not_allowed();
                Err(responses::render(problem, context.id.as_str(), context.format))
            }
        }
    }

    /// `GET /health` of the bare domain. Anonymous clients learn the status and nothing else.
    fn health(&self) -> Response {
        let table = self.0.table.borrow();
        let status = if table.revision.is_some() { "ok" } else { "starting" };
        let health = match self.0.exposure {
            Exposure::Public => serde_json::json!({ "status": status }),
            Exposure::Loopback => {
                let is_connected = *self.0.reader.connected.borrow();
                serde_json::json!({
                    "status": status,
                    "routes": table.len(),
                    "revision": table.revision,
                    "control_plane": if is_connected { "connected" } else { "unreachable" },
                })
            }
        };
        Response::new(200)
            .header("cache-control", "no-store")
            .body("application/json", health.to_string())
    }
}

/// The query of the reserved path, or `None` for another path.
fn wake_query(target: &str) -> Option<&str> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (path == waiting_page::PATH).then_some(query)
}

fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

fn class_of(head: &RequestHead<'_>) -> RequestClass {
    let (method, target) = (head.method(), head.target());
    classify(&RequestView { method, target, header: &|name| head.get(name) })
}

fn is_read(head: &RequestHead<'_>) -> bool {
    matches!(head.method(), "GET" | "HEAD")
}
