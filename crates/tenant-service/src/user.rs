//! The signed-in user and the site of a request, as the edge names them. The edge removes these headers from requests
//! of clients.

use hyper::HeaderMap;
use protocol::headers::{EMAIL, SITE, USER};
use protocol::site::Site;

/// At core-back: the user of the session whose cookie the edge passes on, or 401. A path of this form reaches core-back
/// from the edge alone: the edge sends such a path of a client to core-front.
pub const SESSION_PATH: &str = "/.cial/session";
/// The same once the session has ended, at the latest after a minute.
pub const SESSION_END_PATH: &str = "/.cial/session/end";

pub struct User<'a> {
    pub sub: &'a str,
    pub email: &'a str,
}

impl<'a> User<'a> {
    /// `None` when nobody is signed in.
    pub fn from_headers(headers: &'a HeaderMap) -> Option<Self> {
        let text = |name: &str| std::str::from_utf8(headers.get(name)?.as_bytes()).ok();
        Some(Self { sub: text(USER)?, email: text(EMAIL)? })
    }
}

/// The site to which the browser sent the request.
pub fn site_of(headers: &HeaderMap) -> Site {
    match headers.get(SITE).is_some_and(|site| site == Site::Core.as_str()) {
        true => Site::Core,
        false => Site::Tenant,
    }
}
