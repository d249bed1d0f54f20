//! The session cookie: host-only, hidden from scripts, and with the prefix `__Host-` over HTTPS.

use hyper::HeaderMap;
use hyper::header::{COOKIE, HeaderValue, SET_COOKIE};
use protocol::headers::{SESSION_COOKIE, SESSION_COOKIE_SECURE};
use tenant_service::Response;

/// The scheme that the browser used, as the edge reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(super) fn from_headers(headers: &HeaderMap) -> Self {
        match headers.get("x-forwarded-proto").map(HeaderValue::as_bytes) {
            Some(b"https") => Self::Https,
            Some(_) | None => Self::Http,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn cookie(self) -> (&'static str, &'static str) {
        match self {
            Self::Http => (SESSION_COOKIE, "Path=/; HttpOnly; SameSite=Lax"),
            Self::Https => (SESSION_COOKIE_SECURE, "Path=/; Secure; HttpOnly; SameSite=Lax"),
        }
    }
}

/// The secret in the cookie. Two different values count as none, because one of them was planted.
pub(super) fn read(headers: &HeaderMap) -> Option<&str> {
    let (name, _) = Scheme::from_headers(headers).cookie();
    // Pair by pair, so that a cookie with other bytes beside this one does no harm.
    let pairs = headers.get_all(COOKIE).into_iter().flat_map(|line| line.as_bytes().split(is_end));
    let pairs = pairs.filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='));
    let mut ours = pairs.filter(|(n, _)| n.trim() == name).map(|(_, value)| value.trim());
    let first = ours.next()?;
    ours.all(|other| other == first).then_some(first)
}

fn is_end(byte: &u8) -> bool {
    *byte == b';'
}

pub(super) fn write(answer: &mut Response, scheme: Scheme, secret: &str) {
    put(answer, scheme, secret, "");
}

pub(super) fn clear(answer: &mut Response, scheme: Scheme) {
    put(answer, scheme, "", "; Max-Age=0");
}

fn put(answer: &mut Response, scheme: Scheme, value: &str, more: &str) {
    let (name, attributes) = scheme.cookie();
    // Base64 and the texts above are valid in headers.
    if let Ok(line) = HeaderValue::from_str(&format!("{name}={value}; {attributes}{more}")) {
        answer.headers_mut().append(SET_COOKIE, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_from(proto: &'static str, lines: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-proto", HeaderValue::from_static(proto));
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        read(&headers).map(str::to_owned)
    }

    #[test]
    fn the_scheme_decides_the_name_of_the_cookie() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read_from("http", &["a=1; cial_session=x; b=2"]), some("x"));
        assert_eq!(read_from("http", &["a=1", "cial_session=x"]), some("x"));
        assert_eq!(read_from("http", &["name=Jürgen; cial_session=x"]), some("x"));
        assert_eq!(read_from("http", &["cial_session=x; cial_session=x"]), some("x"));
        assert_eq!(read_from("http", &["cial_session=x; cial_session=y"]), None);
        assert_eq!(read_from("http", &["xcial_session=x; cial_sessionx=y; cial_session"]), None);
        assert_eq!(read_from("https", &["cial_session=x"]), None, "anyone could have set it");
        assert_eq!(read_from("https", &["__Host-cial_session=x"]), some("x"));
    }

    #[test]
    fn the_set_cookie_lines() {
        let line = |scheme, write: fn(&mut Response, Scheme)| {
            let mut answer = tenant_service::response::see_other("/");
            write(&mut answer, scheme);
            answer.headers()[SET_COOKIE].to_str().unwrap().to_owned()
        };
        let lines = [
            line(Scheme::Http, |answer, scheme| write(answer, scheme, "abc")),
            line(Scheme::Https, |answer, scheme| write(answer, scheme, "abc")),
            line(Scheme::Http, clear),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r"
        cial_session=abc; Path=/; HttpOnly; SameSite=Lax
        __Host-cial_session=abc; Path=/; Secure; HttpOnly; SameSite=Lax
        cial_session=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0
        ");
    }
}
