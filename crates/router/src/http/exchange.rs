//! A request on its way to a tenant: what it gains, what it loses, and whether its answer is the tenant's.

use std::rc::Rc;
use std::sync::Arc;

use protocol::headers::{PREFIX, PROOF, REQUEST_ID, ROUTE_TOKEN};
use proxy::{
    Exchange, Header, Headers, PendingAction, ProxyError, Response, ResponseHead, SendPermission,
    Upstream,
};

use crate::again;
use crate::http::address_text;
use crate::http::cookies;
use crate::http::identity::{is_reserved_header, is_same_secret};
use crate::http::responses;
use crate::http::worker::{RequestContext, Worker};
use crate::metrics::InFlight;
use crate::tenure::Use;

pub(crate) struct TenantExchange {
    pub(crate) used: Use,
    pub(crate) asked: RequestContext,
    pub(crate) thread: Rc<Worker>,
    pub(crate) _passing: InFlight,
}

impl Exchange for TenantExchange {
    fn upstream(&self) -> &Upstream {
        &self.used.tenure.target.upstream
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
        to.add(ROUTE_TOKEN, &self.used.tenure.keys.route_token);
        to.add(REQUEST_ID, self.asked.id.as_bytes());
        let Some(origin) = self.asked.origin else {
            return to.add("x-forwarded-proto", "http");
        };
        to.add("x-forwarded-proto", origin.scheme);
        let text = address_text::format_address(origin.client);
        to.add("x-forwarded-for", &text);
        to.add("x-real-ip", &text);
    }

    /// An answer without this tenant's proof is somebody else's: nothing of it is passed on.
    fn check_response(&mut self, head: &ResponseHead<'_>) -> Result<(), Response> {
        let mut proofs = head.headers().filter(|h| h.is(PROOF));
        let (proof, more) = (proofs.next(), proofs.next());
        let (thread, tenure) = (&self.thread, &self.used.tenure);
        let right = tenure.keys.route_proof.as_bytes();
        if more.is_none() && proof.is_some_and(|h| is_same_secret(h.value, right)) {
            if head.status() >= 200 {
                thread.counters.answered(head.status());
                tenure.answered();
                // What a request of another kind does goes on while its events tell of it, however rarely.
                if self.asked.is_get && head.status() == 200 && is_event_stream(head) {
                    self.used.becomes_stream();
                }
            }
            return Ok(());
        }
        thread.counters.wrong_proof();
        thread.reader.request_resync();
        thread.leases.lost(tenure);
        let (tenant, id) = (tenure.tenant, self.asked.id.as_str());
        tracing::error!(%tenant, request_id = id, "an answer without the right proof was held back");
        thread.counters.answered(502);
        Err(responses::shown(responses::wrong_answer(), id, self.asked.form))
    }

    fn forward_response_header(&self, header: Header<'_>, to: &mut Headers<'_>) {
        if !header.begins(PREFIX) && !header.is(REQUEST_ID) {
            to.keep(header);
        }
    }

    fn add_response_headers(&self, to: &mut Headers<'_>) {
        to.add(REQUEST_ID, self.asked.id.as_bytes());
    }

    /// Once more, under a new lease where there is somebody to give one: what its tenant died of may have been sleep,
    /// or a move.
    fn retry(&mut self, fault: &ProxyError) -> Option<PendingAction<Self>> {
        let (thread, tenure) = (self.thread.clone(), self.used.tenure.clone());
        Some(Box::pin(again::again(thread, tenure, self.asked, fault.clone())))
    }

    fn on_tunnel_open(&mut self) {
        self.used.tenure.answered();
        self.used.becomes_stream();
    }

    /// A tunnel keeps its tenant awake by what passes. If it froze meanwhile, it is thawed before more is sent.
    fn before_sending(&mut self) -> Option<SendPermission> {
        self.used.stamp();
        if self.used.is_leased() || self.thread.leases.room.is_away() {
            return None;
        }
        let (thread, tenure) = (self.thread.clone(), self.used.tenure.clone());
        Some(Box::pin(async move {
            let (tenant, number, patience) = (tenure.tenant, thread.number, thread.hold.others);
            match thread.leases.thaw(tenant, number, patience).await {
                // At another place it is not the one that this tunnel leads to.
                Ok(there) => Arc::ptr_eq(&there, &tenure),
                Err(refusal) => {
                    thread.counters.refused(refusal.word());
                    false
                }
            }
        }))
    }

    fn on_data_received(&self, data: &[u8]) {
        if self.used.is_stream() && !is_comment(data) {
            self.used.stamp();
            if !self.used.is_leased() {
                self.thread.leases.flows(&self.used.tenure);
            }
        }
    }
}

fn is_event_stream(head: &ResponseHead<'_>) -> bool {
    let kind = head.get("content-type").unwrap_or_default();
    kind.get(..17).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"))
}

/// Whether this is nothing but a comment of an event stream, as it is sent to keep a connection open: what a ping is
/// in a WebSocket. With the size line of its chunk or without.
fn is_comment(data: &[u8]) -> bool {
    let text = match memchr::memchr(b'\n', data) {
        Some(end) if end > 1 && data[..end - 1].iter().all(u8::is_ascii_hexdigit) => {
            &data[end + 1..]
        }
        Some(_) | None => data,
    };
    let mut lines = text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|l| !l.is_empty());
    let is_one = |line: &[u8]| line.starts_with(b":");
    lines.next().is_some_and(is_one) && lines.all(is_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_alone_is_no_data() {
        for (data, comment) in [
            (&b": keep-alive\n\n"[..], true),
            (b"e\r\n: keep-alive\n\n\r\n", true),
            (b":\n\n", true),
            (b": a\n: b\n\n", true),
            (b"data: x\n\n", false),
            (b"9\r\ndata: x\n\n\r\n", false),
            (b": a\ndata: x\n\n", false),
            (b"0\r\n\r\n", false),
            (b"", false),
            (b"\n", false),
        ] {
            assert_eq!(is_comment(data), comment, "{:?}", String::from_utf8_lossy(data));
        }
    }
}
