//! The page that a browser shows while a tenant wakes, and after a failed wake. Pure.
//!
//! The page reloads by itself, with scripts or without, and keeps its address.

use std::borrow::Cow;

use askama::Template;
use percent_encoding::percent_decode_str;
use protocol::headers::REQUEST_ID;
use proxy::Response;

const STYLE: &str = include_str!("../../templates/waiting.css");
const SCRIPT: &str = include_str!("../../templates/waiting.js");
/// Allows style and script by their hashes, and nothing else.
const CONTENT_SECURITY_POLICY: &str = concat!(
    "default-src 'none'; style-src 'sha256-",
    env!("WAITING_STYLE_SHA256"),
    "'; script-src 'sha256-",
    env!("WAITING_SCRIPT_SHA256"),
    "'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
);

/// The path that the router reserves on every tenant's host.
pub(crate) const PATH: &str = "/.cial/wake";

/// The state of the wake that the page shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitingState<'a> {
    /// `ahead`: how many wakes come before this wake, where known.
    Waking { ahead: Option<u32> },
    /// The wake queue is full.
    Busy,
    /// The orchestrator is unreachable.
    Unreachable,
    /// The reason in words for a person.
    Failed(&'a str),
}

#[derive(Template)]
#[template(path = "waiting.html")]
struct WaitingPage<'a> {
    title: &'static str,
    style: &'static str,
    script: &'static str,
    state: WaitingState<'a>,
    /// In words; empty when first, unknown or of no meaning.
    position: String,
    target: &'a str,
    request_id: &'a str,
}

/// Renders the page for a request for `target` (path and query).
pub(crate) fn render(state: WaitingState<'_>, target: &str, request_id: &str) -> Response {
    let response = Response::new(503)
        .header(REQUEST_ID, request_id.to_owned())
        .header("cache-control", "no-store")
        .header("x-content-type-options", "nosniff")
        .header("x-robots-tag", "noindex")
        .header("referrer-policy", "no-referrer")
        .header("vary", "accept, sec-fetch-mode")
        .header("content-security-policy", CONTENT_SECURITY_POLICY);
    let response = match state {
        WaitingState::Waking { .. } => response.header("retry-after", "2").header("refresh", "3"),
        WaitingState::Busy | WaitingState::Unreachable => {
            // Many clients get this page at once and must not come back at once.
            let pause = 5 + jitter_seed(request_id) % 6;
            response.header("retry-after", pause.to_string()).header("refresh", pause.to_string())
        }
        // A refresh would start a wake again and again, for a tab in the background.
        WaitingState::Failed(_) => response.header("retry-after", "10"),
    };
    response.body("text/html; charset=utf-8", html(state, target, request_id))
}

fn html(state: WaitingState<'_>, target: &str, request_id: &str) -> String {
    let (title, ahead) = match state {
        WaitingState::Waking { ahead } => ("Waking up", ahead),
        WaitingState::Busy => ("Waiting for its turn", None),
        WaitingState::Unreachable => ("Asleep", None),
        WaitingState::Failed(_) => ("It did not wake up", None),
    };
    let position = queue_position(ahead).unwrap_or_default();
    let (style, script) = (STYLE, SCRIPT);
    let page = WaitingPage { title, style, script, state, position, target, request_id };
    // Rendering fails only when the `Display` of a value does, and these values are texts.
    page.render().unwrap_or_default()
}

/// A number that spreads clients which get the same response at once.
pub(crate) fn jitter_seed(request_id: &str) -> u32 {
    request_id.bytes().map(u32::from).sum()
}

/// The position in the wake queue in words, or `None` when the position is first or unknown.
pub(crate) fn queue_position(ahead: Option<u32>) -> Option<String> {
    match ahead? {
        0 => None,
        1 => Some("One wake is before it.".to_owned()),
        ahead => Some(format!("{ahead} wakes are before it.")),
    }
}

/// The target of a Retry: `to` of the query if that value is a path of this host, else the front
/// page.
pub(crate) fn retry_target(query: &str) -> String {
    let to = query.split('&').find_map(|pair| pair.strip_prefix("to="));
    let to = to.and_then(|to| percent_decode_str(to).decode_utf8().ok()).filter(|to| {
        let mut bytes = to.bytes();
        let is_path = bytes.next() == Some(b'/') && !matches!(bytes.next(), Some(b'/' | b'\\'));
        // A Retry that leads to the wake path would lead nowhere.
        is_path && to.bytes().all(|b| (0x21..=0x7e).contains(&b)) && !to.starts_with(PATH)
    });
    to.map_or_else(|| "/".to_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn text(response: &Response) -> String {
        let head: String = response.headers.iter().map(|(n, v)| format!("{n}: {v}\n")).collect();
        format!("{}\n{head}\n{}", response.status, String::from_utf8_lossy(&response.body))
    }

    /// The text between a tag's first occurrence and its end.
    fn inside<'a>(page: &'a str, from: &str, to: &str) -> &'a str {
        page.split_once(from).unwrap().1.split_once(to).unwrap().0
    }

    #[test]
    fn the_policy_allows_the_style_and_the_script_and_nothing_else() {
        let page = html(WaitingState::Waking { ahead: None }, "/", "0123456789abcdef");
        for (word, text) in [
            ("style-src", inside(&page, "<style>", "</style>")),
            ("script-src", inside(&page, "<script type=\"module\">", "</script>")),
        ] {
            let wanted = format!("{word} 'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
            assert!(
                CONTENT_SECURITY_POLICY.contains(&wanted),
                "{wanted} not in {CONTENT_SECURITY_POLICY}"
            );
        }
        assert!(
            !CONTENT_SECURITY_POLICY.contains("unsafe")
                && CONTENT_SECURITY_POLICY.contains("frame-ancestors 'none'")
        );
    }

    #[test]
    fn the_waiting_page() {
        let state = WaitingState::Waking { ahead: None };
        insta::assert_snapshot!(text(&render(state, "/a?b=c", "0123456789abcdef")));
        // Without scripts the page shows the position, too.
        let behind =
            text(&render(WaitingState::Waking { ahead: Some(3) }, "/", "0123456789abcdef"));
        assert!(
            behind.contains("<p id=\"position\" role=\"status\">3 wakes are before it.</p>"),
            "{behind}"
        );
    }

    #[test]
    fn a_failed_wake_says_why_and_can_be_tried_again() {
        let reason = "its image is <gone> & \"lost\"";
        insta::assert_snapshot!(text(&render(
            WaitingState::Failed(reason),
            "/a?b=\"c&d",
            "0123456789abcdef"
        )));
    }

    #[test]
    fn clients_of_a_full_queue_come_back_at_different_times() {
        let pauses: std::collections::BTreeSet<_> = (0..50)
            .map(|n| {
                let response = render(WaitingState::Busy, "/", &format!("{n:016x}"));
                response.headers.iter().find(|(n, _)| n == "retry-after").unwrap().1.to_string()
            })
            .collect();
        assert!(pauses.len() > 3, "{pauses:?}");
    }

    #[test]
    fn a_retry_leads_to_this_host_only() {
        for (query, wanted) in [
            ("to=/", "/"),
            ("to=/a/b%3Fc%3Dd%26e", "/a/b?c=d&e"),
            ("x=y&to=/a", "/a"),
            ("", "/"),
            ("to=", "/"),
            ("to=//evil.example", "/"),
            ("to=%2F%2Fevil.example", "/"),
            ("to=/%5Cevil.example", "/"),
            ("to=https://evil.example", "/"),
            ("to=/a%0D%0Aset-cookie:x", "/"),
            ("to=/a%20b", "/"),
            ("to=/%ff", "/"),
            ("to=/%2", "/%2"),
            ("to=/.cial/wake?to=/", "/"),
        ] {
            assert_eq!(retry_target(query), wanted, "{query}");
        }
    }

    #[test]
    fn a_retry_leads_back_to_the_target() {
        let target = "/a?b=c&d=%20e+f\"<'#";
        let page = html(WaitingState::Failed(""), target, "0123456789abcdef");
        let query = inside(&page, "action=\"/.cial/wake?", "\"");
        assert_eq!(retry_target(query), target);
    }
}
