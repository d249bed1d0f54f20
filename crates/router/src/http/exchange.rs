//! One request under way to a tenant: which headers the router adds and drops, and whether the response is the tenant's.

use std::rc::Rc;
use std::sync::Arc;

use protocol::headers::{
    PREFIX, PROOF, REQUEST_ID, REQUIRE_SIGN_IN, ROUTE_TOKEN, SIGN_IN_URL, STRICT_ROUTE_TOKEN,
};
use proxy::{
    Exchange, Header, Headers, PendingAction, ProxyError, Response, ResponseHead, SendPermission,
    Upstream,
};

use crate::http::address_text;
use crate::http::cookies;
use crate::http::identity::{is_reserved_header, is_same_secret};
use crate::http::responses;
use crate::http::retry;
use crate::http::worker::{RequestContext, SignIn, Worker};
use crate::metrics::InFlight;
use crate::routes::cached_lease::LeaseGuard;

pub(crate) struct TenantExchange {
    pub(crate) guard: LeaseGuard,
    pub(crate) context: RequestContext,
    pub(crate) worker: Rc<Worker>,
    /// Counts the request until its end.
    pub(crate) _in_flight: InFlight,
}

impl TenantExchange {
    /// Names the page of the admin that signs visitors in: a tenant knows no address of the control plane.
    fn add_sign_in_url(&self, to: &mut Headers<'_>) {
        let table = self.worker.table.borrow();
        let route = table.by_tenant(self.guard.lease.tenant).map(|entry| &entry.route);
        if let Some(url) = route.and_then(|route| route.sign_in_url.as_ref()) {
            to.add(SIGN_IN_URL, url.as_bytes());
        }
    }
}

impl Exchange for TenantExchange {
    fn upstream(&self) -> &Upstream {
        &self.guard.lease.target.upstream
    }

    fn forward_request_header(&self, header: Header<'_>, to: &mut Headers<'_>) {
        if is_reserved_header(&header) {
            return;
        }
        match header.name.len() {
            4 if header.is("host") => {
                to.keep(header);
                to.add("x-forwarded-host", header.value);
            }
            6 if header.is("cookie") => {
                if let Some(value) = cookies::without_admin_cookies(header.value) {
                    to.keep(Header { value: &value, ..header });
                }
            }
            _ => to.keep(header),
        }
    }

    fn add_request_headers(&self, to: &mut Headers<'_>) {
        let token = if self.context.is_strict { STRICT_ROUTE_TOKEN } else { ROUTE_TOKEN };
        to.add(token, &self.guard.lease.keys.route_token);
        to.add(REQUEST_ID, self.context.id.as_bytes());
        match self.context.sign_in {
            SignIn::Optional => {}
            SignIn::Required => to.add(REQUIRE_SIGN_IN, "1"),
            SignIn::Begins => self.add_sign_in_url(to),
        }
        let Some(origin) = self.context.origin else {
            return to.add("x-forwarded-proto", "http");
        };
        to.add("x-forwarded-proto", origin.scheme);
        let address = address_text::format_address(origin.client);
        to.add("x-forwarded-for", &address);
        to.add("x-real-ip", &address);
    }

    /// A response without this tenant's proof comes from another process: nothing of the response is passed on.
    fn check_response(&mut self, head: &ResponseHead<'_>) -> Result<(), Response> {
        let mut proofs = head.headers().filter(|h| h.is(PROOF));
        let (proof, more) = (proofs.next(), proofs.next());
        let (worker, lease) = (&self.worker, &self.guard.lease);
        let right = lease.keys.route_proof.as_bytes();
        if more.is_none() && proof.is_some_and(|h| is_same_secret(h.value, right)) {
            if head.status() >= 200 {
                worker.counters.responded(head.status());
                self.guard.count_response(head.status());
                lease.on_response();
                // Only a GET becomes a stream: other requests are work that goes on between two events.
                if self.context.is_get && head.status() == 200 && head.is_event_stream() {
                    self.guard.convert_to_stream();
                }
            }
            return Ok(());
        }
        let (tenant, id) = (lease.tenant, self.context.id.as_str());
        worker.reader.request_resync();
        let problem = if self.context.is_strict && proof.is_none() && head.status() == 404 {
            // How an edge refuses a token that it does not know. Any visitor can cause it, so the lease must stay.
            tracing::info!(%tenant, request_id = id, "edge of an earlier release refused a request");
            responses::restart_needed()
        } else {
            worker.counters.wrong_proof();
            worker.leases.report_failed_lease(lease);
            tracing::error!(%tenant, request_id = id, "response without a valid proof rejected");
            responses::wrong_proof()
        };
        worker.counters.responded(problem.status);
        Err(responses::render(problem, id, self.context.format))
    }

    fn forward_response_header(&self, header: Header<'_>, to: &mut Headers<'_>) {
        if !header.begins(PREFIX) && !header.is(REQUEST_ID) {
            to.keep(header);
        }
    }

    fn add_response_headers(&self, to: &mut Headers<'_>) {
        to.add(REQUEST_ID, self.context.id.as_bytes());
    }

    /// Retries under a new lease where one is granted: the tenant may have fallen asleep or moved.
    fn retry(&mut self, error: &ProxyError) -> Option<PendingAction<Self>> {
        let (worker, lease) = (self.worker.clone(), self.guard.lease.clone());
        Some(Box::pin(retry::retry_request(worker, lease, self.context, error.clone())))
    }

    fn on_tunnel_open(&mut self) {
        self.guard.lease.on_response();
        self.guard.convert_to_stream();
    }

    /// Data in a tunnel keeps the tenant awake. A tenant that froze meanwhile is thawed before more is sent.
    fn before_sending(&mut self) -> Option<SendPermission> {
        self.guard.record_use();
        if self.guard.is_leased() || self.worker.leases.shared.is_orchestrator_unreachable() {
            return None;
        }
        let (worker, lease) = (self.worker.clone(), self.guard.lease.clone());
        Some(Box::pin(async move {
            let (tenant, number, wait_time) =
                (lease.tenant, worker.number, worker.wait_times.others);
            match worker.leases.thaw_tenant(tenant, number, wait_time).await {
                // Another address belongs to another process than the process behind this tunnel.
                Ok(there) => Arc::ptr_eq(&there, &lease),
                Err(refusal) => {
                    worker.counters.refused(refusal.code().as_str());
                    false
                }
            }
        }))
    }

    fn on_data_received(&self) {
        if self.guard.is_stream() {
            self.guard.record_use();
            if !self.guard.is_leased() {
                self.worker.leases.report_unleased_data(&self.guard.lease);
            }
        }
    }
}
