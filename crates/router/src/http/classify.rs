//! Decides which requests wake a sleeping tenant, and which get a page while the tenant wakes: one
//! table of rules. Pure.
//!
//! A cookie decides nothing: the polls of a forgotten tab carry the same cookies as a visit.

use protocol::headers;
use protocol::leases::RequestIntent;

/// The parts of a request that decide its class.
pub(crate) struct RequestView<'a, 'h> {
    pub(crate) method: &'a str,
    /// Path and query.
    pub(crate) target: &'a str,
    /// The first value of a header by its name in lower case.
    pub(crate) header: &'a dyn Fn(&str) -> Option<&'h [u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestClass {
    /// A person opens a page: wakes the tenant, and nothing is lost when a page of ours comes in between.
    Navigation,
    /// Wakes the tenant, and waits for the tenant's own response.
    Visit,
    /// Does not wake a sleeping tenant, unless the tenant's policy lets any request wake the
    /// tenant.
    Background,
}

impl RequestClass {
    pub(crate) fn intent(self) -> RequestIntent {
        match self {
            Self::Navigation | Self::Visit => RequestIntent::Visit,
            Self::Background => RequestIntent::Background,
        }
    }
}

type Rule = (fn(&RequestView<'_, '_>) -> bool, RequestClass);

/// The first rule that matches decides.
const RULES: &[Rule] = &[
    (|r| matches!(r.method, "HEAD" | "OPTIONS"), RequestClass::Background),
    (is_probe_path, RequestClass::Background),
    (is_speculative, RequestClass::Background),
    (is_crawler, RequestClass::Background),
    // Only `Origin` shows that a browser opens a WebSocket, and a browser also reconnects for a tab
    // in the background. No script of a page can add Authorization to the handshake.
    (|r| r.has("upgrade") && r.has("origin") && !r.has("authorization"), RequestClass::Background),
    (|r| r.has("upgrade"), RequestClass::Visit),
    (|r| r.is_navigation() && r.method == "GET", RequestClass::Navigation),
    // A page that moves on would not send a form again: the form waits for the tenant itself.
    (|r| r.is_navigation() && r.method == "POST", RequestClass::Visit),
    (|r| r.get("sec-fetch-mode") == Some(b"navigate"), RequestClass::Visit),
    (|r| r.has("authorization"), RequestClass::Visit),
    (|r| r.has("sec-fetch-mode"), RequestClass::Background),
    // Over plain HTTP to another machine a browser sends no Fetch Metadata.
    (is_script_of_a_page, RequestClass::Background),
    (|_| true, RequestClass::Visit),
];

/// The paths that monitors and crawlers request on their own, without a slash at the end.
const PROBE_PATHS: &[&str] = &[
    "/.cial/api/health",
    "/.cial/api/healthz",
    "/health",
    "/healthz",
    "/health-check",
    "/healthcheck",
    "/livez",
    "/readyz",
    "/robots.txt",
];

/// Crawlers, link previews and monitors whose names do not end in `bot`; in lower case.
const CRAWLERS: &[&str] = &[
    "crawler",
    "spider",
    "slurp",
    "facebookexternalhit",
    "ia_archiver",
    "mediapartners-google",
    "whatsapp/",
    "skypeuripreview",
    "kube-probe/",
    "elb-healthchecker/",
    "googlehc/",
    "consul health check",
    "blackbox exporter",
    "prometheus/",
    "pingdom",
    "statuscake",
    "site24x7",
    "nodeping",
    "hetrixtools",
    "zabbix",
];

/// Classifies a request by the intent of its sender.
pub(crate) fn classify(request: &RequestView<'_, '_>) -> RequestClass {
    let rule = RULES.iter().find(|(matches, _)| matches(request));
    rule.map_or(RequestClass::Visit, |(_, class)| *class)
}

impl<'h> RequestView<'_, 'h> {
    fn get(&self, name: &str) -> Option<&'h [u8]> {
        (self.header)(name)
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Browsers send `Sec-Fetch-Mode` over HTTPS and to this machine. Without it `Accept` decides: no script asks for a
    /// page.
    fn is_navigation(&self) -> bool {
        headers::is_navigation(self.get("sec-fetch-mode"), self.get("accept"))
    }
}

fn is_probe_path(request: &RequestView<'_, '_>) -> bool {
    let path = request.target.split('?').next().unwrap_or_default();
    PROBE_PATHS.contains(&path.trim_end_matches('/'))
}

/// The request runs ahead of a visit that may never come.
fn is_speculative(request: &RequestView<'_, '_>) -> bool {
    const WORDS: &[&str] = &["prefetch", "prerender", "preview"];
    ["sec-purpose", "purpose", "x-purpose", "x-moz"].iter().any(|name| {
        let value = request.get(name).map(<[u8]>::to_ascii_lowercase).unwrap_or_default();
        WORDS.iter().any(|word| contains(&value, word))
    })
}

/// A crawler reads. A `POST` or a request with Authorization is a webhook or an integration, whatever its name.
fn is_crawler(request: &RequestView<'_, '_>) -> bool {
    if request.method != "GET" || request.has("authorization") {
        return false;
    }
    let agent = request.get("user-agent").map(<[u8]>::to_ascii_lowercase).unwrap_or_default();
    CRAWLERS.iter().any(|name| contains(&agent, name)) || has_bot_name(&agent)
}

/// Whether a word of `agent` ends in `bot`. Cubot makes phones.
fn has_bot_name(agent: &[u8]) -> bool {
    memchr::memmem::find_iter(agent, b"bot").any(|at| {
        let is_word_end = agent.get(at + 3).is_none_or(|b| !b.is_ascii_alphabetic());
        is_word_end && !agent[..at].ends_with(b"cu")
    })
}

/// All browsers name themselves `Mozilla/`; programs use names of their own.
fn is_script_of_a_page(request: &RequestView<'_, '_>) -> bool {
    let is_browser = request.get("user-agent").is_some_and(|agent| agent.starts_with(b"Mozilla/"));
    request.has("origin") || is_browser || request.has("x-requested-with")
}

fn contains(value: &[u8], word: &str) -> bool {
    memchr::memmem::find(value, word.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of(method: &str, target: &str, headers: &str) -> RequestClass {
        let pairs: Vec<(&str, &str)> =
            headers.split(" | ").filter_map(|line| line.split_once(": ")).collect();
        let header = |name: &str| {
            pairs.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_bytes())
        };
        classify(&RequestView { method, target, header: &header })
    }

    /// Method, path, headers => class.
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
        GET / :: sec-fetch-mode: navigate | accept: image/avif => visit
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
        GET /healthz/ :: => background
        GET /.cial/api/healthz/?x=1 :: user-agent: curl/8.0 => background
        GET / :: user-agent: curl/8.0 => visit

        GET /robots.txt :: => background
        GET /robots.txt :: accept: text/html | sec-fetch-mode: navigate => background
        GET /robots.txt.html :: => visit
        GET / :: accept: text/html | user-agent: Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html) => background
        GET / :: accept: */* | user-agent: Mozilla/5.0 (compatible; bingbot/2.0) => background
        GET / :: user-agent: facebookexternalhit/1.1 => background
        GET / :: accept: text/html | user-agent: Mozilla/5.0 (compatible; Baiduspider/2.0) => background
        GET / :: user-agent: Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots) => background
        GET / :: user-agent: Twitterbot => background
        GET / :: accept: */* | user-agent: kube-probe/1.31 => background
        GET / :: accept: */* | user-agent: UptimeRobot/2.0 => background
        GET / :: accept: text/html | user-agent: Pingdom.com_bot_version_1.4 => background
        GET / :: user-agent: ELB-HealthChecker/2.0 => background
        GET / :: user-agent: Blackbox Exporter/0.25.0 => background
        POST /slack/events :: user-agent: Slackbot 1.0 (+https://api.slack.com/robots) => visit
        GET /api :: user-agent: deploy-bot/1 | authorization: Bearer x => visit
        GET / :: accept: text/html | user-agent: Mozilla/5.0 (Linux; Android 9; CUBOT_X18) => navigation
        GET /api :: user-agent: botanic-garden/1 => visit
    ";

    #[test]
    fn classes_of_requests() {
        let rows: Vec<_> = TABLE.lines().map(str::trim).filter(|row| !row.is_empty()).collect();
        for row in &rows {
            let (request, wanted) = row.split_once(" => ").unwrap();
            let (line, headers) = request.split_once(" ::").unwrap();
            let (method, target) = line.split_once(' ').unwrap();
            let wanted = match wanted {
                "visit" => RequestClass::Visit,
                "background" => RequestClass::Background,
                "navigation" => RequestClass::Navigation,
                other => panic!("{other}"),
            };
            assert_eq!(class_of(method, target, headers.trim()), wanted, "{row}");
        }
        assert!(rows.len() > 40);
    }

    #[test]
    fn a_cookie_changes_nothing() {
        for row in TABLE.lines().map(str::trim).filter(|row| !row.is_empty()) {
            let (request, _) = row.split_once(" => ").unwrap();
            let (line, headers) = request.split_once(" ::").unwrap();
            let (method, target) = line.split_once(' ').unwrap();
            let without: Vec<_> =
                headers.trim().split(" | ").filter(|h| !h.starts_with("cookie")).collect();
            let with = [&without[..], &["cookie: cial_session=x"]].concat();
            let (with, without) = (with.join(" | "), without.join(" | "));
            assert_eq!(
                class_of(method, target, &with),
                class_of(method, target, &without),
                "{row}"
            );
        }
    }
}
