//! The router's own responses: problem+json, or a page for a browser. No response names another tenant.

use askama::Template;
use protocol::Problem;
use protocol::headers::{REQUEST_ID, is_navigation};
use protocol::problem::{CONTENT_TYPE, Code};
use protocol::sign_in::END_PATH;
use proxy::{ProxyError, RequestHead, Response};

use crate::http::waiting_page;
use lease::LeaseError;

const STYLE: &str = include_str!("../../templates/problem.css");
/// Allows the style by its hash, and nothing else. No page may frame this one.
const CONTENT_SECURITY_POLICY: &str = concat!(
    "default-src 'none'; style-src 'sha256-",
    env!("PROBLEM_STYLE_SHA256"),
    "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
);

/// The methods that reach tenants.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The form in which a client reads an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseFormat {
    Problem,
    Page,
    /// A page whose address carries a one-time token: the browser goes to `/` and gets the page there, so that the
    /// token stays neither in the address bar nor in the history.
    RedirectToRoot,
}

/// A browser's navigation gets a page. Scripts, images and all other clients get problem+json.
pub(crate) fn format_for(head: &RequestHead<'_>) -> ResponseFormat {
    let is_page = matches!(head.method(), "GET" | "HEAD")
        && is_navigation(head.get("sec-fetch-mode"), head.get("accept"));
    match is_page {
        true if carries_token(head.target()) => ResponseFormat::RedirectToRoot,
        true => ResponseFormat::Page,
        false => ResponseFormat::Problem,
    }
}

fn carries_token(target: &str) -> bool {
    target.strip_prefix(END_PATH).is_some_and(|rest| rest.starts_with(['?', '/']))
}

/// The same response for every host without a tenant, so that a client learns nothing from it.
pub(crate) fn not_found() -> Problem {
    Problem::new(Code::NotFound, "There is nothing at this address.")
}

pub(crate) fn invalid_host() -> Problem {
    Problem::new(Code::InvalidHost, "The Host header is not the name of a host.")
}

pub(crate) fn stopped() -> Problem {
    let detail = "This site is stopped. Its owner can start it.";
    Problem::new(Code::Stopped, detail)
}

/// The tenant should run and does not yet.
pub(crate) fn not_running() -> Problem {
    let detail = "This site is not running at the moment. Try again in a few seconds.";
    Problem::new(Code::NotRunning, detail)
}

/// The orchestrator gave up on the tenant: trying again is of no use.
pub(crate) fn failed_for_good() -> Problem {
    let detail = "This site failed and does not start by itself. Its owner must start it again.";
    Problem::new(Code::NotRunning, detail)
}

/// The router never had a route table.
pub(crate) fn no_routes() -> Problem {
    let detail = "This server is starting. Try again in a few seconds.";
    Problem::new(Code::Starting, detail)
}

/// A response came without the proof of the tenant that was meant.
pub(crate) fn wrong_proof() -> Problem {
    let detail = "The server behind this address gave an unreadable answer.";
    Problem::new(Code::UpstreamMalformed, detail)
}

/// The edge of the tenant is of an earlier release and would not do what this request counts on.
pub(crate) fn restart_needed() -> Problem {
    let detail = "This site still runs an earlier version, which cannot serve this address. Its owner can restart it.";
    Problem::new(Code::RestartNeeded, detail)
}

/// The reason why a request got no lease, and when to retry.
pub(crate) fn lease_refused(
    refusal: &LeaseError,
    request_id: &str,
    format: ResponseFormat,
) -> Response {
    let ahead = match refusal {
        LeaseError::Waking { queue_position: ahead }
        | LeaseError::WakeQueueFull { queue_position: ahead } => ahead.unwrap_or(0),
        LeaseError::Stopped
        | LeaseError::NotRunning
        | LeaseError::WakeRequired
        | LeaseError::WakeFailed(_)
        | LeaseError::OrchestratorUnavailable
        | LeaseError::OutOfResources
        | LeaseError::RouterQueueFull => 0,
    };
    render_with_position(refusal_problem(refusal), ahead, request_id, format)
}

fn refusal_problem(refusal: &LeaseError) -> Problem {
    let code = refusal.code();
    let unavailable = |detail: &str| Problem::with_status(code, 503, detail);
    match refusal {
        LeaseError::Stopped => stopped(),
        LeaseError::NotRunning => not_running(),
        LeaseError::WakeRequired => {
            let detail = "This site is asleep, and this request does not wake it. A visit to a page does, and so does a request with \
                Authorization or from a program that is not a browser or a crawler.";
            unavailable(detail)
        }
        LeaseError::Waking { queue_position: ahead } => {
            let position = waiting_page::queue_position(*ahead)
                .map_or(String::new(), |position| format!(" {position}"));
            let detail = format!("This site is waking up.{position} Try again after Retry-After.");
            unavailable(&detail)
        }
        LeaseError::WakeQueueFull { queue_position: ahead } => {
            let many = ahead.map_or(String::new(), |n| format!(": {n} requests wait already"));
            let detail = format!(
                "Too many sites are waking up at the moment{many}. Try again after Retry-After."
            );
            unavailable(&detail)
        }
        LeaseError::WakeFailed(reason) => unavailable(reason),
        LeaseError::OrchestratorUnavailable => {
            let detail = "This site is asleep and cannot be woken at the moment. Try again in a few seconds.";
            unavailable(detail)
        }
        LeaseError::OutOfResources => {
            let detail = "This server is out of resources. Try again in a few seconds.";
            unavailable(detail)
        }
        LeaseError::RouterQueueFull => {
            let detail =
                "Too many requests wait for this site already. Try again after Retry-After.";
            unavailable(detail)
        }
    }
}

pub(crate) fn rate_limited() -> Problem {
    let detail = "More requests than allowed. Try again after Retry-After.";
    Problem::new(Code::RateLimited, detail)
}

/// The reserved wake path takes no other method.
pub(crate) fn method_not_allowed() -> Problem {
    let detail = "This address is read with GET, or tried again with POST.";
    Problem::new(Code::MethodNotAllowed, detail)
}

pub(crate) fn proxy_error(error: &ProxyError) -> Problem {
    // A request without a Host has no tenant, like a request with a foreign Host.
    if *error == ProxyError::MissingHost {
        return not_found();
    }
    let code = Code::parse(error.code()).unwrap_or(Code::Internal);
    Problem::new(code, error.public_detail())
}

/// Seconds until a retry is worth it: more with the number of waiting requests (`ahead`), and spread by `jitter_seed` where
/// many clients get the same response at once.
fn retry_after(status: u16, code: &str, ahead: u32, jitter_seed: u32) -> Option<u32> {
    let (jitter, turn) = (jitter_seed % 6, (ahead / 10).min(20));
    match (status, code) {
        // Only the owner ends this state. An hour keeps crawlers and polls away.
        (503, "stopped") => Some(3_600),
        (503, "wake_required") => Some(30),
        // The owner ends this state, or the tenant when it falls asleep.
        (503, "restart_needed") => Some(60),
        (503, "wake_failed") => Some(10),
        (503, "wake_queue_full" | "too_many_waiting" | "wake_unavailable") => {
            Some(5 + turn + jitter)
        }
        (503, "waking") => Some(2 + turn + jitter),
        (503, _) => Some(2),
        _ => None,
    }
}

pub(crate) fn render(problem: Problem, request_id: &str, format: ResponseFormat) -> Response {
    render_with_position(problem, 0, request_id, format)
}

/// Like [`render`], with the number of requests that wait before the caller.
fn render_with_position(
    mut problem: Problem,
    ahead: u32,
    request_id: &str,
    format: ResponseFormat,
) -> Response {
    if format == ResponseFormat::RedirectToRoot {
        return see_other("/", request_id);
    }
    problem.request_id = request_id.to_owned();
    let mut response = Response::new(problem.status)
        .header(REQUEST_ID, request_id.to_owned())
        .header("cache-control", "no-store")
        .header("x-content-type-options", "nosniff")
        .header("vary", "accept, sec-fetch-mode");
    let jitter_seed = waiting_page::jitter_seed(request_id);
    if let Some(seconds) = retry_after(problem.status, &problem.code, ahead, jitter_seed) {
        response = response.header("retry-after", seconds.to_string());
    }
    let response = match (problem.status, problem.code.as_str()) {
        (_, "wake_required") => response.header("x-wake-required", "1"),
        (_, "method_not_allowed") => response.header("allow", "GET, HEAD, POST"),
        (405, _) => response.header("allow", METHODS),
        (426, _) => response.header("sec-websocket-version", "13"),
        _ => response,
    };
    match format {
        ResponseFormat::Problem => {
            response.body(CONTENT_TYPE, serde_json::to_vec(&problem).unwrap_or_default())
        }
        ResponseFormat::Page | ResponseFormat::RedirectToRoot => response
            .header("referrer-policy", "no-referrer")
            .header("content-security-policy", CONTENT_SECURITY_POLICY)
            .header("x-robots-tag", "noindex")
            .body("text/html; charset=utf-8", page(&problem)),
    }
}

/// Sends the client to `location` on the same host, without the address that it came from.
pub(crate) fn see_other(location: &str, request_id: &str) -> Response {
    Response::new(303)
        .header(REQUEST_ID, request_id.to_owned())
        .header("cache-control", "no-store")
        .header("referrer-policy", "no-referrer")
        .header("location", location.to_owned())
}

/// `OPTIONS *`: the methods that the router forwards.
pub(crate) fn server_options(request_id: &str) -> Response {
    Response::new(204)
        .header(REQUEST_ID, request_id.to_owned())
        .header("cache-control", "no-store")
        .header("allow", METHODS)
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    title: &'a str,
    style: &'static str,
    detail: &'a str,
    status: u16,
    request_id: &'a str,
}

fn page(problem: &Problem) -> String {
    let Problem { title, status, detail, request_id, .. } = problem;
    let page = ProblemPage { title, style: STYLE, detail, status: *status, request_id };
    // Rendering fails only when the `Display` of a value does, and these values are texts and numbers.
    page.render().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn the_policy_of_a_page_allows_its_style_and_nothing_else() {
        let response = render(not_running(), "0123456789abcdef", ResponseFormat::Page);
        let (_, policy) =
            response.headers.iter().find(|(name, _)| name == "content-security-policy").unwrap();
        let body = String::from_utf8_lossy(&response.body).into_owned();
        let style = body.split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
        let hash = STANDARD.encode(Sha256::digest(style));
        assert!(policy.contains(&format!("style-src 'sha256-{hash}'")), "{hash}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"));
    }

    #[test]
    fn retries_are_spread_and_later_for_more_waiting_requests() {
        for (code, first) in [("waking", 2), ("wake_queue_full", 5), ("too_many_waiting", 5)] {
            let all = |ahead| (0..60).map(move |c| retry_after(503, code, ahead, c).unwrap());
            let some: std::collections::BTreeSet<_> = all(0).collect();
            assert_eq!(some, (first..first + 6).collect(), "{code}");
            assert_eq!(all(100).min(), Some(first + 10), "{code}");
            assert_eq!(all(u32::MAX).max(), Some(first + 25), "{code}: the wait is bounded");
        }
        assert_eq!(retry_after(503, "stopped", 0, 5), Some(3_600));
        assert_eq!(retry_after(404, "not_found", 0, 5), None);
    }

    #[test]
    fn queue_positions_in_words() {
        let detail = |refusal| refusal_problem(&refusal).detail;
        insta::assert_snapshot!([
            detail(LeaseError::Waking { queue_position: None }),
            detail(LeaseError::Waking { queue_position: Some(0) }),
            detail(LeaseError::Waking { queue_position: Some(1) }),
            detail(LeaseError::Waking { queue_position: Some(7) }),
            detail(LeaseError::WakeQueueFull { queue_position: None }),
            detail(LeaseError::WakeQueueFull { queue_position: Some(900) }),
        ].join("\n"), @"
        This site is waking up. Try again after Retry-After.
        This site is waking up. Try again after Retry-After.
        This site is waking up. One wake is before it. Try again after Retry-After.
        This site is waking up. 7 wakes are before it. Try again after Retry-After.
        Too many sites are waking up at the moment. Try again after Retry-After.
        Too many sites are waking up at the moment: 900 requests wait already. Try again after Retry-After.
        ");
    }

    #[test]
    fn a_404_does_not_reveal_tenants() {
        for form in [ResponseFormat::Problem, ResponseFormat::Page] {
            let response = render(not_found(), "0123456789abcdef", form);
            let all =
                format!("{response:?} {}", String::from_utf8_lossy(&response.body)).to_lowercase();
            for word in ["tenant", "org", "forbidden", "denied"] {
                assert!(!all.contains(word), "{word}: {all}");
            }
        }
    }

    #[test]
    fn a_problem_on_the_wire() {
        let response = render(not_running(), "0123456789abcdef", ResponseFormat::Problem);
        let shown: String = response.headers.iter().map(|(n, v)| format!("{n}: {v}\n")).collect();
        insta::assert_snapshot!(format!("{shown}\n{}", String::from_utf8_lossy(&response.body)), @r#"
        x-request-id: 0123456789abcdef
        cache-control: no-store
        x-content-type-options: nosniff
        vary: accept, sec-fetch-mode
        retry-after: 2
        content-type: application/problem+json

        {"type":"urn:cial:problem:not_running","title":"Not running","status":503,"detail":"This site is not running at the moment. Try again in a few seconds.","code":"not_running","request_id":"0123456789abcdef"}
        "#);
    }

    #[test]
    fn a_navigation_with_a_token_is_sent_to_the_root() {
        for problem in [not_found(), stopped(), not_running(), no_routes(), rate_limited()] {
            let response = render(problem, "0123456789abcdef", ResponseFormat::RedirectToRoot);
            assert_eq!((response.status, response.body.len()), (303, 0));
            let has = |name: &str, value: &str| {
                response.headers.iter().any(|(n, v)| n == name && v == value)
            };
            assert!(has("location", "/") && has("referrer-policy", "no-referrer"), "{response:?}");
        }
        for (target, carries) in [
            ("/.cial/sso?token=x", true),
            ("/.cial/sso/?token=x", true),
            ("/.cial/sso", false),
            ("/.cial/ssox?token=x", false),
            ("/?token=x", false),
        ] {
            assert_eq!(carries_token(target), carries, "{target}");
        }
    }

    #[test]
    fn the_owner_of_a_failed_tenant_must_act() {
        let detail = failed_for_good().detail;
        assert!(detail.contains("owner must") && !detail.contains("few seconds"), "{detail}");
    }
}
