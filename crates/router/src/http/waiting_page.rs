//! The page that is shown while a tenant wakes, and when it did not. Pure.
//!
//! It moves on by itself, with a script or without, and keeps its address.

use protocol::headers::REQUEST_ID;
use proxy::Response;

const STYLE: &str = include_str!("waiting_page/style.css");
const SCRIPT: &str = include_str!("waiting_page/script.js");
/// Both by their hashes: nothing else runs or is loaded, whatever gets into the page. A test keeps them right.
const POLICY: &str = "default-src 'none'; style-src 'sha256-WHcu7hVwX6xiFsrhHD8sLXNGQr7fibu5XQSqHdz/+Bk='; script-src 'sha256-ICQ3A18Q7pRYASaCodVy7T+eEwdxS4wGrZtIem8G8qk='; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Reserved by the router on every tenant's host.
pub(crate) const PATH: &str = "/.cial/wake";

/// What there is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen<'a> {
    /// So many wakes are before it, as far as that is known.
    Waking { ahead: Option<u32> },
    /// Its keeper takes no more for now.
    Crowded,
    /// Its keeper is away.
    Unreachable,
    /// The reason, for a person.
    Failed(&'a str),
}

/// The page, as the answer to a request for `target` (path and query).
pub(crate) fn page(seen: Seen<'_>, target: &str, request_id: &str) -> Response {
    let answer = Response::new(503)
        .header(REQUEST_ID, request_id.to_owned())
        .header("cache-control", "no-store")
        .header("x-content-type-options", "nosniff")
        .header("x-robots-tag", "noindex")
        .header("vary", "accept, sec-fetch-mode")
        .header("content-security-policy", POLICY);
    let answer = match seen {
        Seen::Waking { .. } => answer.header("retry-after", "2").header("refresh", "3"),
        Seen::Crowded | Seen::Unreachable => {
            // Many get this at once, and are not to come back at once.
            let pause = 5 + chance(request_id) % 6;
            answer.header("retry-after", pause.to_string()).header("refresh", pause.to_string())
        }
        // It would wake it again and again, for a tab that nobody looks at.
        Seen::Failed(_) => answer.header("retry-after", "10"),
    };
    answer.body("text/html; charset=utf-8", html(seen, target, request_id))
}

fn html(seen: Seen<'_>, target: &str, request_id: &str) -> String {
    let (title, main) = match seen {
        Seen::Waking { ahead } => ("Waking up", steps(ahead)),
        Seen::Crowded => {
            let text = "Many are waking up at the moment. This page tries again by itself.";
            ("Waiting for its turn", format!("<p>{text}</p>"))
        }
        Seen::Unreachable => {
            let text =
                "It is asleep, and cannot be woken at the moment. This page tries again by itself.";
            ("Asleep", format!("<p>{text}</p>"))
        }
        Seen::Failed(reason) => ("It did not wake up", failed(reason, target)),
    };
    let script = match seen {
        Seen::Waking { .. } => format!("<script type=\"module\">{SCRIPT}</script>\n"),
        Seen::Crowded | Seen::Unreachable | Seen::Failed(_) => String::new(),
    };
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
{main}
<p><small>Request <code>{request_id}</code></small></p>
</main>
{script}"#
    )
}

/// What tells those apart who get the same answer at once.
pub(crate) fn chance(request_id: &str) -> u32 {
    request_id.bytes().map(u32::from).sum()
}

/// In words; `None` where there is nothing to say.
pub(crate) fn place(ahead: Option<u32>) -> Option<String> {
    match ahead? {
        0 => None,
        1 => Some("One wake is before it.".to_owned()),
        ahead => Some(format!("{ahead} wakes are before it.")),
    }
}

fn steps(ahead: Option<u32>) -> String {
    let mut out = String::from(
        "<p>It slept because nobody used it. You will be there in a moment.</p>\n\
         <progress max=\"4\" value=\"1\" aria-label=\"Progress\"></progress>\n<ol>\n",
    );
    for (step, text) in
        [("queued", "Waiting for its turn"), ("starting", "Starting"), ("booting", "Getting ready")]
    {
        out.push_str(&format!("<li data-step=\"{step}\">{text}\n"));
    }
    let place = place(ahead).unwrap_or_default();
    out.push_str(&format!("</ol>\n<p id=\"said\" role=\"status\">{place}</p>"));
    out
}

fn failed(reason: &str, target: &str) -> String {
    let (reason, to) = (escaped(reason), encoded(target));
    format!(
        "<p>{reason}</p>\n<form method=\"post\" action=\"{PATH}?to={to}\"><button>Retry</button></form>"
    )
}

pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn encoded(target: &str) -> String {
    let mut out = String::with_capacity(target.len());
    for b in target.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(b));
            }
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// Where a Retry leads: `to` of its query, if that is a path of this host; otherwise its front page.
pub(crate) fn back(query: &str) -> String {
    let to = query.split('&').find_map(|pair| pair.strip_prefix("to="));
    let to = to.and_then(decoded).filter(|to| {
        let mut bytes = to.bytes();
        let is_path = bytes.next() == Some(b'/') && !matches!(bytes.next(), Some(b'/' | b'\\'));
        // A Retry that leads to a Retry would lead nowhere.
        is_path && to.bytes().all(|b| (0x21..=0x7e).contains(&b)) && !to.starts_with(PATH)
    });
    to.unwrap_or_else(|| "/".to_owned())
}

fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let pair = [bytes.next()?, bytes.next()?];
                out.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
            }
            b => out.push(b),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn shown(answer: &Response) -> String {
        let head: String = answer.headers.iter().map(|(n, v)| format!("{n}: {v}\n")).collect();
        format!("{}\n{head}\n{}", answer.status, String::from_utf8_lossy(&answer.body))
    }

    #[test]
    fn the_policy_allows_what_the_page_has_and_nothing_else() {
        for (word, text) in [("style-src", STYLE), ("script-src", SCRIPT)] {
            let wanted = format!("{word} 'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
            assert!(POLICY.contains(&wanted), "{wanted} not in {POLICY}");
        }
        assert!(!POLICY.contains("unsafe") && POLICY.contains("frame-ancestors 'none'"));
    }

    #[test]
    fn the_waiting_page() {
        let seen = Seen::Waking { ahead: None };
        insta::assert_snapshot!(shown(&page(seen, "/a?b=c", "0123456789abcdef")));
        // Without a script it is told its place all the same.
        let behind = shown(&page(Seen::Waking { ahead: Some(3) }, "/", "0123456789abcdef"));
        assert!(
            behind.contains("<p id=\"said\" role=\"status\">3 wakes are before it.</p>"),
            "{behind}"
        );
    }

    #[test]
    fn a_failed_wake_says_why_and_can_be_tried_again() {
        let reason = "its image is <gone> & \"lost\"";
        insta::assert_snapshot!(shown(&page(
            Seen::Failed(reason),
            "/a?b=\"c&d",
            "0123456789abcdef"
        )));
    }

    #[test]
    fn those_who_find_no_room_do_not_come_back_together() {
        let pauses: std::collections::BTreeSet<_> = (0..50)
            .map(|n| {
                let answer = page(Seen::Crowded, "/", &format!("{n:016x}"));
                answer.headers.iter().find(|(n, _)| n == "retry-after").unwrap().1.to_string()
            })
            .collect();
        assert!(pauses.len() > 3, "{pauses:?}");
    }

    #[test]
    fn a_retry_leads_back_and_never_elsewhere() {
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
            ("to=/%2", "/"),
            ("to=/.cial/wake?to=/", "/"),
        ] {
            assert_eq!(back(query), wanted, "{query}");
        }
        let round = |target: &str| back(&format!("to={}", encoded(target)));
        assert_eq!(round("/a?b=c&d=%20e+f#"), "/a?b=c&d=%20e+f#");
    }
}
