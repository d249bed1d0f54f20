//! Who is signed in, as the edge says. It lets no such word of a client's through.

use hyper::HeaderMap;
use protocol::headers::{EMAIL, USER};

pub struct User<'a> {
    pub sub: &'a str,
    pub email: &'a str,
}

impl<'a> User<'a> {
    pub fn of(headers: &'a HeaderMap) -> Option<Self> {
        let text = |name: &str| std::str::from_utf8(headers.get(name)?.as_bytes()).ok();
        Some(Self { sub: text(USER)?, email: text(EMAIL)? })
    }
}
