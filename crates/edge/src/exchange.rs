//! One request on its way through the edge: whom it goes to, and what is changed.

use std::rc::Rc;

use protocol::headers::{EMAIL, PROOF, REQUEST_ID, USER};
use proxy::{Exchange, Header, Headers, Upstream};
use service::inside::Asker;

use crate::headers::{Zone, leaves_zone, to_zone};
use crate::identity::User;
use crate::routes::Class;

/// Where the client came from, in the words of whoever is believed.
pub(crate) enum Client {
    /// The router has said so itself.
    Told,
    /// It came to our own door.
    Seen { address: Option<String>, host: Option<String> },
}

pub(crate) struct Way {
    pub(crate) asker: Asker,
    pub(crate) class: Class,
    pub(crate) upstream: Rc<Upstream>,
    pub(crate) target: Option<String>,
    pub(crate) client: Client,
    pub(crate) user: Option<User>,
    /// Shown to the router with the answer.
    pub(crate) proof: Option<Rc<str>>,
}

impl Exchange for Way {
    fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    fn forward_request_header(&self, header: Header<'_>, to: &mut Headers<'_>) {
        let is_trusted = matches!(self.client, Client::Told);
        if let Some(value) = to_zone(Zone::of(self.class), is_trusted, header) {
            to.keep(Header { name: header.name, value: &value });
        }
    }

    fn add_request_headers(&self, to: &mut Headers<'_>) {
        to.add(REQUEST_ID, &self.asker.request_id);
        if let Client::Seen { address, host } = &self.client {
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
        }
    }

    fn forward_response_header(&self, header: Header<'_>, to: &mut Headers<'_>) {
        if leaves_zone(Zone::of(self.class), header) {
            to.keep(header);
        }
    }

    fn add_response_headers(&self, to: &mut Headers<'_>) {
        to.add(REQUEST_ID, &self.asker.request_id);
        if let Some(proof) = &self.proof {
            to.add(PROOF, proof.as_ref());
        }
    }
}
