//! The headers that cross between the zones of a tenant. The core believes only headers that the edge set,
//! and the platform never receives a credential that would let it act as the core.

use std::borrow::Cow;

use protocol::headers::{PREFIX, REQUEST_ID, SIGN_IN_URL};
use proxy::Header;

use crate::routes::Class;

/// The destination of a request, or the source of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    Core,
    Platform,
}

impl Zone {
    pub fn of(class: Class) -> Self {
        match class {
            Class::CoreApi | Class::SignIn | Class::CoreFront => Self::Core,
            Class::Platform => Self::Platform,
        }
    }
}

/// Headers by which some server identifies its client. `docs/reference/headers.md` lists them. A name ending in `-` stands for every name with that prefix.
const DROPPED_HEADERS: &[&str] = &[
    PREFIX,
    "x-forwarded-",
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-original-",
    "x-rewrite-url",
    "x-user-",
    "x-tenant-",
    "x-auth-request-",
    "x-authenticated-",
    "x-remote-user",
    "remote-user",
    REQUEST_ID,
    // CGI-style programs read this header as the variable HTTP_PROXY.
    "proxy",
];

/// Forwarding headers that the router sets. Kept from the router, and set anew for direct clients.
const FORWARDED: [&str; 3] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];

/// The prefix of every core cookie and credential, in any case and behind any cookie name prefix.
const RESERVED_PREFIX: &str = "cial_";
const COOKIE_PREFIXES: [&str; 2] = ["__host-", "__secure-"];

/// The value under which a request header is forwarded; `None` omits the header.
pub fn request_header_value<'a>(
    zone: Zone,
    is_trusted: bool,
    header: Header<'a>,
) -> Option<Cow<'a, [u8]>> {
    if is_dropped(&header) && !(is_trusted && is_of_router(zone, &header)) {
        return None;
    }
    let whole = Some(Cow::Borrowed(header.value));
    match zone {
        Zone::Core => whole,
        Zone::Platform if header.is("cookie") => without_reserved(header.value),
        Zone::Platform if header.is("authorization") => whole.filter(|v| !is_ours_bearer(v)),
        Zone::Platform => whole,
    }
}

/// Whether the router sets this header for this zone.
fn is_of_router(zone: Zone, header: &Header<'_>) -> bool {
    FORWARDED.iter().any(|name| header.is(name)) || (zone == Zone::Core && header.is(SIGN_IN_URL))
}

/// Whether a response header is forwarded to the client.
pub fn may_leave(zone: Zone, header: Header<'_>) -> bool {
    if header.begins(PREFIX) || header.is(REQUEST_ID) {
        return false;
    }
    match zone {
        Zone::Core => true,
        Zone::Platform if header.is("set-cookie") => !sets_reserved(header.value),
        Zone::Platform => !header.is("clear-site-data"),
    }
}

/// The values of the cookie `name` in a `Cookie` line.
pub fn cookie_values<'a>(cookie: &'a [u8], name: &str) -> impl Iterator<Item = &'a str> {
    pairs(cookie)
        .filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='))
        // ASCII only: browsers guard names that begin with `__Host-`, not ones that begin with another white space.
        .filter(move |(found, _)| found.trim_ascii() == name)
        .map(|(_, value)| value.trim_ascii())
}

fn is_dropped(header: &Header<'_>) -> bool {
    DROPPED_HEADERS.iter().any(|claim| {
        header.begins(claim) && (claim.ends_with('-') || header.name.len() == claim.len())
    })
}

fn without_reserved(cookie: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !pairs(cookie).any(|pair| is_reserved(name_of(pair))) {
        return Some(Cow::Borrowed(cookie));
    }
    let kept: Vec<&[u8]> = pairs(cookie).filter(|pair| !is_reserved(name_of(pair))).collect();
    (!kept.is_empty()).then(|| Cow::Owned(kept.join(&b"; "[..])))
}

fn pairs(cookie: &[u8]) -> impl Iterator<Item = &[u8]> {
    cookie.split(|b| *b == b';').map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
}

fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii()
}

/// Some browsers send a nameless cookie (`=cial_session=x`) back as the named one.
fn sets_reserved(line: &[u8]) -> bool {
    let start = line.iter().position(|b| !matches!(b, b'=' | b' ' | b'\t')).unwrap_or(line.len());
    is_reserved(name_of(line.get(start..).unwrap_or_default()))
}

fn is_reserved(name: &[u8]) -> bool {
    let mut name = name;
    while let Some(prefix) = COOKIE_PREFIXES.iter().find(|prefix| begins(name, prefix)) {
        name = name.get(prefix.len()..).unwrap_or_default();
    }
    begins(name, RESERVED_PREFIX)
}

fn is_ours_bearer(value: &[u8]) -> bool {
    begins(value, "bearer ")
        && value.get(7..).is_some_and(|key| begins(key.trim_ascii_start(), RESERVED_PREFIX))
}

fn begins(text: &[u8], prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'a>(name: &'a str, value: &'a str) -> Header<'a> {
        Header { name, value: value.as_bytes() }
    }

    fn passed(zone: Zone, is_trusted: bool, name: &str, value: &str) -> Option<String> {
        let value = request_header_value(zone, is_trusted, header(name, value))?;
        Some(String::from_utf8(value.into_owned()).unwrap())
    }

    #[test]
    fn the_reference_page_lists_exactly_the_dropped_headers() {
        const BEGIN: &str = "<!-- dropped headers: begin -->\n";
        const END: &str = "<!-- dropped headers: end -->";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/headers.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (_, rest) = page.split_once(BEGIN).unwrap();
        let (listed, _) = rest.split_once(END).unwrap();
        let line = |name: &&str| match name.ends_with('-') {
            true => format!("- `{name}*`\n"),
            false => format!("- `{name}`\n"),
        };
        let expected: String = DROPPED_HEADERS.iter().map(line).collect();
        assert_eq!(listed, expected, "the list in docs/reference/headers.md must be:\n{expected}");
    }

    #[test]
    fn only_the_router_may_describe_the_client() {
        let claims = [
            "X-Cial-User",
            "x_cial_user",
            "X-Cial-Anything",
            "Forwarded",
            "X-Forwarded-User",
            "x-forwarded_for",
            "X-Real-IP",
            "X-User-ID",
            "X-Tenant-Id",
            "X-Request-Id",
            "X-Original-URL",
            "Remote-User",
            "Proxy",
        ];
        for name in claims {
            for zone in [Zone::Core, Zone::Platform] {
                assert_eq!(passed(zone, true, name, "x"), None, "{name}");
                assert_eq!(passed(zone, false, name, "x"), None, "{name}");
            }
        }
        for name in ["X-Forwarded-For", "x-forwarded-proto", "X-FORWARDED-HOST"] {
            assert_eq!(passed(Zone::Core, false, name, "x"), None, "{name}");
            assert_eq!(passed(Zone::Core, true, name, "x"), Some("x".to_owned()), "{name}");
        }
        let url = "X-Cial-Sign-In-Url";
        assert_eq!(passed(Zone::Core, true, url, "x"), Some("x".to_owned()));
        for (zone, is_trusted) in [(Zone::Core, false), (Zone::Platform, true)] {
            assert_eq!(passed(zone, is_trusted, url, "x"), None, "{zone:?}");
        }
        for name in ["Host", "Accept", "Forwarded-More", "X-Usercount", "Proxy-Connection-ish"] {
            assert_eq!(passed(Zone::Platform, false, name, "x"), Some("x".to_owned()), "{name}");
        }
    }

    #[test]
    fn the_platform_gets_its_own_cookies_only() {
        let cases = [
            ("a=1; b=2", Some("a=1; b=2")),
            ("a=1;b=2", Some("a=1;b=2")),
            ("a=1; cial_session=s; b=2", Some("a=1; b=2")),
            ("__Host-cial_session=s", None),
            ("__Secure-cial_x=s; CIAL_ADMIN=s; cial_", None),
            ("cial_session =s", None),
            ("mycial_session=s", Some("mycial_session=s")),
            ("special=cial_session", Some("special=cial_session")),
            ("", Some("")),
        ];
        for (sent, got) in cases {
            assert_eq!(passed(Zone::Platform, false, "Cookie", sent).as_deref(), got, "{sent}");
            assert_eq!(passed(Zone::Core, false, "Cookie", sent).as_deref(), Some(sent));
        }
    }

    #[test]
    fn core_keys_do_not_reach_the_platform_and_other_keys_do() {
        for (sent, got) in [
            ("Bearer cial_abc", None),
            ("bearer  cial_abc", None),
            ("Bearer abc", Some("Bearer abc")),
            ("Basic Y2lhbF8=", Some("Basic Y2lhbF8=")),
        ] {
            assert_eq!(passed(Zone::Platform, true, "Authorization", sent).as_deref(), got);
            assert_eq!(passed(Zone::Core, true, "Authorization", sent).as_deref(), Some(sent));
        }
    }

    #[test]
    fn the_platform_cannot_touch_the_core_s_session() {
        let kept_in = [
            ("Set-Cookie", "cial_session=x; Path=/"),
            ("set-cookie", "__Host-cial_session=x; Secure; Path=/"),
            ("Set-Cookie", "Cial_Session=x"),
            ("Set-Cookie", "=cial_session=x"),
            ("Set-Cookie", " = __Host-cial_session=x"),
            ("Set-Cookie", "cial_session"),
            ("Clear-Site-Data", "\"cookies\""),
            ("X-Cial-Proof", "x"),
            ("x_cial_proof", "x"),
        ];
        for (name, value) in kept_in {
            assert!(!may_leave(Zone::Platform, header(name, value)), "{name}: {value}");
        }
        let let_out =
            [("Set-Cookie", "a=cial_session"), ("Set-Cookie", "xcial_s=1"), ("ETag", "x")];
        for (name, value) in let_out {
            assert!(may_leave(Zone::Platform, header(name, value)), "{name}: {value}");
        }
        assert!(may_leave(Zone::Core, header("Set-Cookie", "cial_session=x")));
        assert!(!may_leave(Zone::Core, header("X-Cial-Proof", "x")));
    }

    #[test]
    fn the_values_of_one_cookie() {
        let values = |line: &[u8]| {
            cookie_values(line, "cial_session").map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(values(b"a=1; cial_session=x;b=2"), ["x"]);
        assert_eq!(values(b"name=\xff; cial_session = x=y "), ["x=y"]);
        assert_eq!(values(b"cial_session=x; cial_session=y"), ["x", "y"]);
        let others = b"a=cial_session; cial_sessions=1; cial_session; cial_session=\xff; \
            __Host-cial_session=x; cial_core=x; \xe2\x80\x80cial_session=x";
        assert!(values(others).is_empty());
    }
}
