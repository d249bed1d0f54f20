//! One request being forwarded: its upstream, and the headers that change on the way.

use std::rc::Rc;

use protocol::headers::{ASSERTION, EMAIL, NAME, PROOF, REQUEST_ID, ROLE, SITE, USER};
use protocol::site::Site;
use proxy::{Exchange, Header, Headers, Response, TunnelEnd, Upstream};
use tenant_service::RequestContext;

use crate::headers::{Zone, may_leave, request_header_value};
use crate::isolation;
use crate::responses;
use crate::routes::Class;
use crate::session_user::User;

/// The source of the upstream's facts about the client.
pub(crate) enum Client {
    /// The router set the forwarding headers.
    DescribedByRouter,
    /// The client connected to the edge itself.
    Direct { address: Option<String>, host: Option<String> },
}

pub(crate) struct EdgeExchange {
    pub(crate) request_context: RequestContext,
    pub(crate) class: Class,
    pub(crate) site: Site,
    pub(crate) upstream: Rc<Upstream>,
    pub(crate) target: Option<String>,
    pub(crate) client: Client,
    /// Where a client without a session is sent; `None` when the upstream serves such clients.
    pub(crate) sign_in_path: Option<String>,
    pub(crate) user: Option<User>,
    /// The end of the session under which a WebSocket is opened.
    pub(crate) session_end: Option<TunnelEnd>,
    /// Sent to the router with the response.
    pub(crate) proof: Option<Rc<str>>,
}

impl EdgeExchange {
    /// Completes a response of the edge itself.
    pub(crate) fn complete(&self, response: Response) -> Response {
        responses::complete(response, self.site, self.proof.as_deref())
    }
}

impl Exchange for EdgeExchange {
    fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    fn forward_request_header(&self, header: Header<'_>, to: &mut Headers<'_>) {
        let is_trusted = matches!(self.client, Client::DescribedByRouter);
        if let Some(value) = request_header_value(Zone::of(self.class), is_trusted, header) {
            to.keep(Header { name: header.name, value: &value });
        }
    }

    fn add_request_headers(&self, to: &mut Headers<'_>) {
        to.add(REQUEST_ID, &self.request_context.request_id);
        if Zone::of(self.class) == Zone::Core {
            to.add(SITE, self.site.as_str());
        }
        if let Client::Direct { address, host } = &self.client {
            to.add("x-forwarded-proto", "http");
            if let Some(address) = address {
                to.add("x-forwarded-for", address);
            }
            if let Some(host) = host {
                to.add("x-forwarded-host", host);
            }
        }
        if let Some(user) = &self.user {
            to.add(USER, &user.sub);
            to.add(EMAIL, &user.email);
            to.add(NAME, &user.name);
            to.add(ROLE, user.role.as_str());
            let for_app = user.assertion.as_ref().filter(|_| self.class == Class::Platform);
            if let Some(assertion) = for_app {
                to.add(ASSERTION, assertion);
            }
        }
    }

    fn tunnel_end(&mut self) -> Option<TunnelEnd> {
        self.session_end.take()
    }

    fn forward_response_header(&self, header: Header<'_>, to: &mut Headers<'_>) {
        if may_leave(Zone::of(self.class), header) {
            to.keep(header);
        }
    }

    fn add_response_headers(&self, to: &mut Headers<'_>) {
        to.add(REQUEST_ID, &self.request_context.request_id);
        if self.site == Site::Core {
            for (name, value) in isolation::RESPONSE_HEADERS {
                to.add(name, value);
            }
        }
        if let Some(proof) = &self.proof {
            to.add(PROOF, proof.as_ref());
        }
    }
}
