//! Who may wake a sleeping tenant, and who is shown a page while it wakes. Pure.

use protocol::leases::RequestIntent;

/// What is looked at of a request.
pub(crate) struct Asked<'a, G> {
    pub(crate) method: &'a str,
    /// Path and query.
    pub(crate) target: &'a str,
    /// The first value of a header, its name in lower case.
    pub(crate) get: G,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) intent: RequestIntent,
    /// Somebody goes to a page: nothing is lost when a page of ours comes in between.
    pub(crate) navigates: bool,
}

const BACKGROUND: Class = Class { intent: RequestIntent::Background, navigates: false };
const VISIT: Class = Class { intent: RequestIntent::Visit, navigates: false };
const NAVIGATION: Class = Class { intent: RequestIntent::Visit, navigates: true };

/// What monitors ask for, here and elsewhere.
const HEALTH: &[&str] = &[
    "/.cial/api/health",
    "/.cial/api/healthz",
    "/health",
    "/healthz",
    "/health-check",
    "/healthcheck",
    "/livez",
    "/readyz",
];

/// Reads a request the way its sender meant it. A cookie says nothing either way: a forgotten tab's polls carry it.
pub(crate) fn classify<'a, G>(asked: &Asked<'a, G>) -> Class
where
    G: Fn(&str) -> Option<&'a [u8]>,
{
    let Asked { method, target, get } = asked;
    let has = |name: &str| get(name).is_some();
    if matches!(*method, "HEAD" | "OPTIONS") || is_health(target) || is_ahead(get) {
        return BACKGROUND;
    }
    if has("upgrade") {
        // A browser says who it is here by nothing but Origin, and also when it reconnects for a tab nobody looks at.
        // No script of a page can add Authorization to it.
        return if has("origin") && !has("authorization") { BACKGROUND } else { VISIT };
    }
    let class = match get("sec-fetch-mode") {
        Some(b"navigate") => NAVIGATION,
        Some(_) => BACKGROUND,
        None if *method == "GET" && wants_page(get("accept")) => NAVIGATION,
        // No browser sends Fetch Metadata over plain HTTP to a host that is not this machine.
        None if has("origin") || is_browser(get("user-agent")) || has("x-requested-with") => {
            match *method {
                // A form that is sent: no script asks for a page.
                "POST" if wants_page(get("accept")) => VISIT,
                _ => BACKGROUND,
            }
        }
        None => VISIT,
    };
    match class {
        // What a form sends would not be sent again by a page that moves on.
        Class { navigates: true, .. } if *method != "GET" => VISIT,
        Class { intent: RequestIntent::Background, .. } if has("authorization") => VISIT,
        class => class,
    }
}

fn is_health(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    HEALTH.contains(&path)
}

/// Asked for ahead of a visit that may never come.
fn is_ahead<'a>(get: impl Fn(&str) -> Option<&'a [u8]>) -> bool {
    let says = |name: &str, words: &[&str]| {
        let value = get(name).map(<[u8]>::to_ascii_lowercase).unwrap_or_default();
        words.iter().any(|word| memchr::memmem::find(&value, word.as_bytes()).is_some())
    };
    const WORDS: &[&str] = &["prefetch", "prerender", "preview"];
    ["sec-purpose", "purpose", "x-purpose", "x-moz"].iter().any(|name| says(name, WORDS))
}

fn wants_page(accept: Option<&[u8]>) -> bool {
    accept.is_some_and(|accept| memchr::memmem::find(accept, b"text/html").is_some())
}

/// All browsers begin so; programs name themselves.
fn is_browser(agent: Option<&[u8]>) -> bool {
    agent.is_some_and(|agent| agent.starts_with(b"Mozilla/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &str, target: &str, headers: &str) -> Class {
        let pairs: Vec<(&str, &str)> =
            headers.split(" | ").filter_map(|line| line.split_once(": ")).collect();
        let get = |name: &str| {
            pairs.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_bytes())
        };
        classify(&Asked { method, target, get })
    }

    /// Method, path, headers; then what it is.
    const TABLE: &str = "
        GET / :: => visit
        GET /api/items :: accept: */* | user-agent: curl/8.0 => visit
        POST /api/items :: content-type: application/json | user-agent: python-requests/2 => visit
        DELETE /api/items/1 :: => visit
        GET / :: cookie: cial_session=x => visit
        GET / :: accept: text/html,*/*;q=0.8 => navigation
        GET /docs?q=1 :: accept: text/html | user-agent: Mozilla/5.0 => navigation
        GET / :: sec-fetch-mode: navigate | sec-fetch-dest: document | sec-fetch-user: ?1 | accept: text/html => navigation
        GET / :: sec-fetch-mode: navigate | sec-fetch-dest: iframe | accept: text/html => navigation
        POST /form :: sec-fetch-mode: navigate | accept: text/html => visit
        POST /form :: origin: http://a.localhost | accept: text/html | user-agent: Mozilla/5.0 => visit

        GET /poll :: sec-fetch-mode: cors | sec-fetch-dest: empty | cookie: cial_session=x => background
        GET /poll :: sec-fetch-mode: same-origin | accept: text/html => background
        GET /logo.svg :: sec-fetch-mode: no-cors | sec-fetch-dest: image => background
        POST /beacon :: sec-fetch-mode: no-cors | cookie: a=b => background
        GET /events :: sec-fetch-mode: cors | accept: text/event-stream => background
        GET /poll :: accept: */* | user-agent: Mozilla/5.0 | cookie: a=b => background
        POST /poll :: accept: */* | origin: http://a.localhost => background
        GET /poll :: x-requested-with: XMLHttpRequest => background
        GET /api :: sec-fetch-mode: cors | authorization: Bearer x => visit
        GET /api :: user-agent: Mozilla/5.0 | authorization: Bearer x => visit
        GET /api :: authorization: Bearer x => visit

        GET /ws :: upgrade: websocket => visit
        GET /ws :: upgrade: websocket | origin: http://a.localhost => background
        GET /ws :: upgrade: websocket | origin: null | cookie: a=b => background
        GET /ws :: upgrade: websocket | origin: http://a.localhost | authorization: Basic x => visit
        GET /ws :: upgrade: websocket | authorization: Bearer x => visit

        GET / :: sec-fetch-mode: navigate | accept: text/html | sec-purpose: prefetch => background
        GET / :: sec-fetch-mode: navigate | accept: text/html | sec-purpose: prefetch;prerender => background
        GET / :: accept: text/html | purpose: Prefetch => background
        GET / :: accept: text/html | x-moz: prefetch => background
        GET / :: accept: text/html | x-purpose: preview => background
        GET / :: accept: text/html | purpose: prefetch | authorization: Bearer x => background
        GET / :: accept: text/html | purpose: work => navigation

        HEAD / :: => background
        HEAD / :: accept: text/html | sec-fetch-mode: navigate => background
        HEAD / :: authorization: Bearer x => background
        OPTIONS / :: origin: http://a.localhost | access-control-request-method: POST => background
        OPTIONS * :: => background
        GET /.cial/api/healthz :: user-agent: curl/8.0 => background
        GET /.cial/api/health?x=1 :: => background
        GET /healthz :: authorization: Bearer x => background
        GET /health :: accept: text/html | sec-fetch-mode: navigate => background
        GET /healthy :: => visit
    ";

    #[test]
    fn who_may_wake_a_tenant_by_the_table() {
        let rows: Vec<_> = TABLE.lines().map(str::trim).filter(|row| !row.is_empty()).collect();
        for row in &rows {
            let (asked, wanted) = row.split_once(" => ").unwrap();
            let (line, headers) = asked.split_once(" ::").unwrap();
            let (method, target) = line.split_once(' ').unwrap();
            let wanted = match wanted {
                "visit" => VISIT,
                "background" => BACKGROUND,
                "navigation" => NAVIGATION,
                other => panic!("{other}"),
            };
            assert_eq!(of(method, target, headers.trim()), wanted, "{row}");
        }
        assert!(rows.len() > 40);
    }

    #[test]
    fn a_cookie_changes_nothing() {
        for row in TABLE.lines().map(str::trim).filter(|row| !row.is_empty()) {
            let (asked, _) = row.split_once(" => ").unwrap();
            let (line, headers) = asked.split_once(" ::").unwrap();
            let (method, target) = line.split_once(' ').unwrap();
            let without: Vec<_> =
                headers.trim().split(" | ").filter(|h| !h.starts_with("cookie")).collect();
            let with = [&without[..], &["cookie: cial_session=x"]].concat();
            let (with, without) = (with.join(" | "), without.join(" | "));
            assert_eq!(of(method, target, &with), of(method, target, &without), "{row}");
        }
    }
}
