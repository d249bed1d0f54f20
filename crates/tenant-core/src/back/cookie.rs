//! The cookies of core-back: host-only, hidden from scripts, and with the prefix `__Host-` over HTTPS.

use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{COOKIE, HeaderValue, SET_COOKIE};
use tenant_service::{Response, site_of};

use crate::session_table::SecretHash;

const SECURE_PREFIX: &str = "__Host-";
/// The nonce of a sign-in under way is in a cookie of this name with a part of the nonce's hash behind it, so that
/// several tabs may sign in at once.
const NONCE_COOKIE: &str = "cial_sign_in_";
const NONCE_COOKIE_HASH_CHARS: usize = 8;
/// How long a person may take to sign in at the admin.
const NONCE_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// The sign-ins that one browser may have under way. With more, the earlier ones are dropped.
const MAX_NONCES: usize = 8;

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

    fn cookie_name(self, name: &str) -> String {
        match self {
            Self::Http => name.to_owned(),
            Self::Https => format!("{SECURE_PREFIX}{name}"),
        }
    }

    /// A line that sets the cookie of this whole name.
    fn set_cookie(self, name: &str, value: &str, more: &str) -> String {
        let secure = match self {
            Self::Http => "",
            Self::Https => "; Secure",
        };
        format!("{name}={value}; Path=/{secure}; HttpOnly; SameSite=Lax{more}")
    }
}

/// The secret of the session cookie of the request's site.
pub(super) fn read_session(headers: &HeaderMap) -> Option<&str> {
    read(headers, site_of(headers).session_cookie(Scheme::from_headers(headers).name()))
}

/// Whether the browser holds the nonce of this hash.
pub(super) fn holds_nonce(headers: &HeaderMap, hash: &str) -> bool {
    let Some(name) = nonce_cookie(hash) else { return false };
    let nonce = read(headers, &Scheme::from_headers(headers).cookie_name(&name));
    nonce.is_some_and(|nonce| SecretHash::of(nonce).as_str() == hash)
}

/// The value of a cookie. Two different values count as none, because one of them was planted.
fn read<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut ours = pairs(headers).filter(|(n, _)| *n == name).map(|(_, value)| value);
    let first = ours.next()?;
    ours.all(|other| other == first).then_some(first)
}

/// Pair by pair, so that a cookie with other bytes beside one of ours does no harm.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(COOKIE).into_iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let pairs = pairs.filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='));
    // ASCII only: browsers guard names that begin with `__Host-`, not ones that begin with another white space.
    pairs.map(|(name, value)| (name.trim_ascii(), value.trim_ascii()))
}

fn nonce_cookie(hash: &str) -> Option<String> {
    Some(format!("{NONCE_COOKIE}{}", hash.get(..NONCE_COOKIE_HASH_CHARS)?))
}

/// Keeps a session in the browser that sent `headers`, for the site to which it sent them.
pub(super) fn write_session(response: &mut Response, headers: &HeaderMap, secret: &str) {
    put_session(response, headers, secret, "");
}

/// Removes the session of the site from the browser that sent `headers`.
pub(super) fn clear_session(response: &mut Response, headers: &HeaderMap) {
    put_session(response, headers, "", "; Max-Age=0");
}

fn put_session(response: &mut Response, headers: &HeaderMap, secret: &str, more: &str) {
    let scheme = Scheme::from_headers(headers);
    let name = site_of(headers).session_cookie(scheme.name());
    append(response, scheme.set_cookie(name, secret, more));
}

/// Keeps the nonce of a sign-in in the browser that sent `headers`.
pub(super) fn write_nonce(response: &mut Response, headers: &HeaderMap, nonce: &str) {
    let scheme = Scheme::from_headers(headers);
    let prefix = scheme.cookie_name(NONCE_COOKIE);
    let held: Vec<_> = pairs(headers).filter_map(|(name, _)| name.strip_prefix(&*prefix)).collect();
    if held.len() >= MAX_NONCES {
        for hash in held {
            let name = format!("{prefix}{hash}");
            append(response, scheme.set_cookie(&name, "", "; Max-Age=0"));
        }
    }
    if let Some(name) = nonce_cookie(SecretHash::of(nonce).as_str()) {
        let age = format!("; Max-Age={}", NONCE_LIFETIME.as_secs());
        append(response, scheme.set_cookie(&scheme.cookie_name(&name), nonce, &age));
    }
}

/// Removes the nonce of a sign-in that ended.
pub(super) fn clear_nonce(response: &mut Response, headers: &HeaderMap, hash: &str) {
    let scheme = Scheme::from_headers(headers);
    if let Some(name) = nonce_cookie(hash) {
        append(response, scheme.set_cookie(&scheme.cookie_name(&name), "", "; Max-Age=0"));
    }
}

fn append(response: &mut Response, line: String) {
    // Base64 and the texts above are valid in headers.
    if let Ok(line) = HeaderValue::try_from(line) {
        response.headers_mut().append(SET_COOKIE, line);
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;
    use protocol::headers::SITE;

    use super::*;

    fn read_from(proto: &'static str, lines: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-proto", HeaderValue::from_static(proto));
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        read_session(&headers).map(str::to_owned)
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

    fn set_cookies(write: impl FnOnce(&mut Response)) -> Vec<String> {
        let mut response = tenant_service::response::see_other("/");
        write(&mut response);
        let lines = response.headers().get_all(SET_COOKIE).into_iter();
        lines.map(|line| line.to_str().unwrap().to_owned()).collect()
    }

    fn browser(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(cookie).unwrap())])
    }

    #[test]
    fn the_set_cookie_lines() {
        let http = HeaderMap::new();
        let sent = |name, value| {
            let name = HeaderName::from_static(name);
            HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
        };
        let (https, core) = (sent("x-forwarded-proto", "https"), sent(SITE, "core"));
        let lines = [
            set_cookies(|response| write_session(response, &http, "abc")),
            set_cookies(|response| write_session(response, &https, "abc")),
            set_cookies(|response| write_session(response, &core, "abc")),
            set_cookies(|response| clear_session(response, &http)),
            set_cookies(|response| write_nonce(response, &http, "abc")),
            set_cookies(|response| clear_nonce(response, &https, "0123456789")),
        ];
        insta::assert_snapshot!(lines.concat().join("\n"), @r"
        cial_session=abc; Path=/; HttpOnly; SameSite=Lax
        __Host-cial_session=abc; Path=/; Secure; HttpOnly; SameSite=Lax
        cial_core=abc; Path=/; HttpOnly; SameSite=Lax
        cial_session=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0
        cial_sign_in_ungWv48B=abc; Path=/; HttpOnly; SameSite=Lax; Max-Age=600
        __Host-cial_sign_in_01234567=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0
        ");
    }

    #[test]
    fn a_browser_holds_the_nonces_of_several_sign_ins() {
        let hash = |nonce: &str| SecretHash::of(nonce).as_str().to_owned();
        let name = |nonce: &str| nonce_cookie(&hash(nonce)).unwrap();
        let both = browser(&format!("{}=one; a=b; {}=two", name("one"), name("two")));
        assert!(holds_nonce(&both, &hash("one")) && holds_nonce(&both, &hash("two")));
        assert!(!holds_nonce(&both, &hash("three")) && !holds_nonce(&both, "short"));
        let planted = browser(&format!("{0}=one; {0}=planted", name("one")));
        assert!(!holds_nonce(&planted, &hash("one")));
    }

    #[test]
    fn a_browser_that_began_too_often_forgets_the_earlier_sign_ins() {
        let cookies = |count: usize| {
            let held: Vec<_> = (0..count).map(|n| format!("cial_sign_in_{n:08}=x")).collect();
            let held = browser(&held.join("; "));
            set_cookies(|response| write_nonce(response, &held, "abc")).len()
        };
        assert_eq!((cookies(MAX_NONCES - 1), cookies(MAX_NONCES)), (1, MAX_NONCES + 1));
    }
}
