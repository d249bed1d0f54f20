//! What the router says when no tenant does: problem+json, or a page for a browser. None names another tenant.

use protocol::Problem;
use protocol::headers::REQUEST_ID;
use protocol::leases::wake_failure;
use protocol::problem::CONTENT_TYPE;
use proxy::{ProxyError, RequestHead, Response};

use crate::http::waiting_page;
use crate::leases::Refusal;

const STYLE: &str = "
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
body { max-width: 34rem; margin: 20vh auto 0; padding: 0 1rem }
small { opacity: .75 }
";
/// The style by its hash, which a test keeps right; nothing else, and in nobody's frame.
const POLICY: &str = "default-src 'none'; style-src 'sha256-YnMTzLsm4qOnuvxWEHDYgce3O4YoKGUzRfKDZmZ9Dr4='; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseFormat {
    Problem,
    Page,
}

/// A browser that goes somewhere gets a page; scripts, images and everybody else get problem+json.
pub(crate) fn form(head: &RequestHead<'_>) -> ResponseFormat {
    let navigates = head.get("sec-fetch-mode").is_none_or(|mode| mode == b"navigate");
    let wants_html = |accept: &[u8]| memchr::memmem::find(accept, b"text/html").is_some();
    if navigates
        && matches!(head.method(), "GET" | "HEAD")
        && head.get("accept").is_some_and(wants_html)
    {
        ResponseFormat::Page
    } else {
        ResponseFormat::Problem
    }
}

/// The same for every host that leads nowhere, so that nothing can be learnt from it.
pub(crate) fn not_found() -> Problem {
    Problem::new(404, "not_found", "Not found", "There is nothing at this address.")
}

pub(crate) fn invalid_host() -> Problem {
    Problem::new(400, "invalid_host", "Bad request", "The Host header is not the name of a host.")
}

/// Its owner stopped it.
pub(crate) fn stopped() -> Problem {
    let detail = "What lives at this address is stopped. Its owner can start it.";
    Problem::new(503, "stopped", "Not running", detail)
}

/// It should run, and does not yet.
pub(crate) fn not_running() -> Problem {
    let detail =
        "What lives at this address is not running at the moment. Try again in a few seconds.";
    Problem::new(503, "not_running", "Not running", detail)
}

/// No table of routes was ever read.
pub(crate) fn no_routes() -> Problem {
    let detail = "This server is starting. Try again in a few seconds.";
    Problem::new(503, "starting", "Starting", detail)
}

/// Somebody answered who is not the one that was asked.
pub(crate) fn wrong_answer() -> Problem {
    let detail = "The server behind this address gave an unreadable answer.";
    Problem::new(502, "upstream_malformed", "Bad gateway", detail)
}

/// Why a request does not get to its tenant, and when it is worth trying again.
pub(crate) fn refused(refusal: &Refusal, request_id: &str, form: ResponseFormat) -> Response {
    let ahead = match refusal {
        Refusal::Waking { ahead } | Refusal::QueueFull { ahead } => ahead.unwrap_or(0),
        Refusal::Stopped
        | Refusal::NotRunning
        | Refusal::WakeRequired
        | Refusal::Failed(_)
        | Refusal::Unavailable
        | Refusal::Crowded => 0,
    };
    behind(of_refusal(refusal), ahead, request_id, form)
}

fn of_refusal(refusal: &Refusal) -> Problem {
    let unavailable =
        |code: &str, title: &str, detail: &str| Problem::new(503, code, title, detail);
    match refusal {
        Refusal::Stopped => stopped(),
        Refusal::NotRunning => not_running(),
        Refusal::WakeRequired => {
            let detail = "What lives at this address is asleep, and this request does not wake it: a visit to a page does, \
                and so does a request with Authorization or of a client that is no browser.";
            unavailable("wake_required", "Asleep", detail)
        }
        Refusal::Waking { ahead } => {
            let place =
                waiting_page::place(*ahead).map_or(String::new(), |place| format!(" {place}"));
            let detail = format!(
                "What lives at this address is waking up.{place} Try again after Retry-After."
            );
            unavailable("waking", "Waking up", &detail)
        }
        Refusal::QueueFull { ahead } => {
            let many = ahead.map_or(String::new(), |n| format!(": {n} requests wait already"));
            let detail =
                format!("Too many are waking up at the moment{many}. Try again after Retry-After.");
            unavailable("wake_queue_full", "Busy", &detail)
        }
        Refusal::Failed(reason) => unavailable("wake_failed", "It did not wake up", reason),
        Refusal::Unavailable => {
            let detail = "What lives at this address is asleep and cannot be woken at the moment. Try again in a few seconds.";
            unavailable("wake_unavailable", "Not running", detail)
        }
        Refusal::Crowded => {
            let detail = "Too many requests wait for it already. Try again after Retry-After.";
            unavailable("too_many_waiting", "Busy", detail)
        }
    }
}

/// A failed wake in words of ours: the keeper's own name paths, images and sockets, which are the owner's to know.
pub(crate) fn why_not_woken(told: &Problem) -> &'static str {
    let kind = told.errors.iter().find(|error| error.field == wake_failure::FIELD);
    match kind.map(|error| error.code.as_str()) {
        Some(wake_failure::REFUSED) => "It could not be started. Its owner can see why.",
        Some(wake_failure::DIED) => "It ended while it started. Its owner can see why.",
        Some(wake_failure::SLOW) => "It was started, and did not get ready in time.",
        _ => "It could not be woken. Its owner can see why.",
    }
}

pub(crate) fn rate_limited() -> Problem {
    let detail = "More requests than allowed. Try again after Retry-After.";
    Problem::new(429, "rate_limited", "Too many requests", detail)
}

/// A path of our own, asked with another method.
pub(crate) fn method_not_allowed() -> Problem {
    let detail = "This address is read with GET, or tried again with POST.";
    Problem::new(405, "method_not_allowed", "Method not allowed", detail)
}

pub(crate) fn of_fault(fault: &ProxyError) -> Problem {
    let title = match fault.status() {
        400 => "Bad request",
        405 => "Method not allowed",
        408 => "Request timed out",
        413 => "Content too large",
        414 => "Address too long",
        417 => "Expectation failed",
        426 => "Upgrade required",
        431 => "Headers too large",
        502 => "Bad gateway",
        504 => "Gateway timed out",
        505 => "Version not supported",
        _ => "Error",
    };
    // A request without a Host leads nowhere, like one with a foreign Host.
    if *fault == ProxyError::MissingHost {
        return not_found();
    }
    Problem::new(fault.status(), fault.code(), title, fault.public_detail())
}

/// Seconds after which it is worth trying again: later the more are before, and for those whom many get at once, not
/// the same for all.
fn retry_after(status: u16, code: &str, ahead: u32, chance: u32) -> Option<u32> {
    let (jitter, turn) = (chance % 6, (ahead / 10).min(20));
    match (status, code) {
        // Nobody knows when; an hour keeps crawlers and polls at bay.
        (503, "stopped") => Some(3_600),
        (503, "wake_required") => Some(30),
        (503, "wake_failed") => Some(10),
        (503, "wake_queue_full" | "too_many_waiting" | "wake_unavailable") => {
            Some(5 + turn + jitter)
        }
        (503, "waking") => Some(2 + turn + jitter),
        (503, _) => Some(2),
        _ => None,
    }
}

pub(crate) fn shown(problem: Problem, request_id: &str, form: ResponseFormat) -> Response {
    behind(problem, 0, request_id, form)
}

/// The same for one before whom so many are.
fn behind(mut problem: Problem, ahead: u32, request_id: &str, form: ResponseFormat) -> Response {
    problem.request_id = request_id.to_owned();
    let mut answer = Response::new(problem.status)
        .header(REQUEST_ID, request_id.to_owned())
        .header("cache-control", "no-store")
        .header("x-content-type-options", "nosniff")
        .header("vary", "accept, sec-fetch-mode");
    let chance = waiting_page::chance(request_id);
    if let Some(seconds) = retry_after(problem.status, &problem.code, ahead, chance) {
        answer = answer.header("retry-after", seconds.to_string());
    }
    let answer = match (problem.status, problem.code.as_str()) {
        (_, "wake_required") => answer.header("x-wake-required", "1"),
        (_, "method_not_allowed") => answer.header("allow", "GET, HEAD, POST"),
        (405, _) => answer.header("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        (426, _) => answer.header("sec-websocket-version", "13"),
        _ => answer,
    };
    match form {
        ResponseFormat::Problem => {
            answer.body(CONTENT_TYPE, serde_json::to_vec(&problem).unwrap_or_default())
        }
        ResponseFormat::Page => answer
            .header("content-security-policy", POLICY)
            .header("x-robots-tag", "noindex")
            .body("text/html; charset=utf-8", page(&problem)),
    }
}

/// The id is letters, digits and hyphens.
fn page(problem: &Problem) -> String {
    let Problem { title, status, detail, request_id, .. } = problem;
    let detail = waiting_page::escaped(detail);
    format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="robots" content="noindex">
<title>{title}</title>
<style>{STYLE}</style>
<main>
<h1>{title}</h1>
<p>{detail}</p>
<p><small>Status {status} · request <code>{request_id}</code></small></p>
</main>
"#
    )
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn a_page_has_its_style_and_nothing_else_and_is_in_nobodys_frame() {
        let answer = shown(not_running(), "0123456789abcdef", ResponseFormat::Page);
        let (_, policy) =
            answer.headers.iter().find(|(name, _)| name == "content-security-policy").unwrap();
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        let style = body.split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
        let hash = STANDARD.encode(Sha256::digest(style));
        assert!(policy.contains(&format!("style-src 'sha256-{hash}'")), "{hash}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"));
    }

    #[test]
    fn those_who_waited_together_come_back_in_their_turn_and_not_together() {
        for (code, first) in [("waking", 2), ("wake_queue_full", 5), ("too_many_waiting", 5)] {
            let all = |ahead| (0..60).map(move |c| retry_after(503, code, ahead, c).unwrap());
            let some: std::collections::BTreeSet<_> = all(0).collect();
            assert_eq!(some, (first..first + 6).collect(), "{code}");
            assert_eq!(all(100).min(), Some(first + 10), "{code}");
            assert_eq!(
                all(u32::MAX).max(),
                Some(first + 25),
                "{code}: nobody is sent away for good"
            );
        }
        assert_eq!(retry_after(503, "stopped", 0, 5), Some(3_600));
        assert_eq!(retry_after(404, "not_found", 0, 5), None);
    }

    #[test]
    fn places_are_told() {
        let told = |refusal| of_refusal(&refusal).detail;
        insta::assert_snapshot!([
            told(Refusal::Waking { ahead: None }),
            told(Refusal::Waking { ahead: Some(0) }),
            told(Refusal::Waking { ahead: Some(1) }),
            told(Refusal::Waking { ahead: Some(7) }),
            told(Refusal::QueueFull { ahead: None }),
            told(Refusal::QueueFull { ahead: Some(900) }),
        ].join("\n"), @"
        What lives at this address is waking up. Try again after Retry-After.
        What lives at this address is waking up. Try again after Retry-After.
        What lives at this address is waking up. One wake is before it. Try again after Retry-After.
        What lives at this address is waking up. 7 wakes are before it. Try again after Retry-After.
        Too many are waking up at the moment. Try again after Retry-After.
        Too many are waking up at the moment: 900 requests wait already. Try again after Retry-After.
        ");
    }

    #[test]
    fn nothing_of_a_404_tells_that_anybody_lives_here() {
        for form in [ResponseFormat::Problem, ResponseFormat::Page] {
            let answer = shown(not_found(), "0123456789abcdef", form);
            let all =
                format!("{answer:?} {}", String::from_utf8_lossy(&answer.body)).to_lowercase();
            for word in ["tenant", "org", "forbidden", "denied"] {
                assert!(!all.contains(word), "{word}: {all}");
            }
        }
    }

    #[test]
    fn a_problem_as_it_is_shown() {
        let answer = shown(not_running(), "0123456789abcdef", ResponseFormat::Problem);
        let shown: String = answer.headers.iter().map(|(n, v)| format!("{n}: {v}\n")).collect();
        insta::assert_snapshot!(format!("{shown}\n{}", String::from_utf8_lossy(&answer.body)), @r#"
        x-request-id: 0123456789abcdef
        cache-control: no-store
        x-content-type-options: nosniff
        vary: accept, sec-fetch-mode
        retry-after: 2
        content-type: application/problem+json

        {"type":"urn:cial:problem:not_running","title":"Not running","status":503,"detail":"What lives at this address is not running at the moment. Try again in a few seconds.","code":"not_running","request_id":"0123456789abcdef"}
        "#);
    }
}
