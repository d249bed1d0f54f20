//! The signed-in user, as the edge names them. The edge removes these headers from requests of clients.

use hyper::HeaderMap;
use protocol::headers::{EMAIL, USER};

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
