//! Which path is answered by whom, through each way in; and paths that two readers read differently.

use anyhow::Result;
use serde_json::Value;

use super::report::Report;
use super::stage::Tenant;
use super::wire::{Answer, Way, echo, get, send, upgrade_status, websocket};

const PLATFORM: &str = "<h1>Platform · Tenant ";
const CORE: &str = "<h1>Cial Core · Tenant ";

/// Status, who answered by what only they say, and at which path where they say it.
fn told(answer: &Answer) -> String {
    let (status, body) = (answer.status, &answer.body);
    if body.contains(PLATFORM) {
        return format!("{status} platform-front");
    }
    if body.contains(CORE) {
        let after = body.split_once("You are at <code>").map_or("", |(_, after)| after);
        let path = after.split_once("</code>").map_or("", |(path, _)| path);
        return format!("{status} core-front at {path}");
    }
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    format!("{status} {}", problem["code"].as_str().unwrap_or("another"))
}

pub(crate) async fn check(report: &mut Report, way: Way<'_>, name: &str) -> Result<()> {
    let home = get(way, "/", &[]).await?;
    report.has("C17", "the platform's page", &format!("{PLATFORM}{name}</h1>"), &home.body);
    report.same("C14", "/ is the platform's", "200 platform-front", told(&home));
    let core = get(way, "/.cial", &[]).await?;
    report.has("C18", "the core's page", &format!("{CORE}{name}</h1>"), &core.body);
    report.same("C13", "/.cial is the core's", "200 core-front at /.cial", told(&core));
    for path in ["/.cial/", "/.cial/whatever", "/.cial/what/ever", "/.cial/apix"] {
        let seen = get(way, path, &[]).await?;
        let expected = format!("200 core-front at {path}");
        report.same("C13", &format!("{path} is the core's, whole"), expected, told(&seen));
    }
    // The platform has nothing there and says so. Core-front has a page for each path, the edge no such answer;
    // core-back has something at the end of some of them.
    for path in [
        "/.cialx",
        "/.CIAL",
        "/cial",
        "/x/.cial/api/healthz",
        "/cial/api/healthz",
        "/.CIAL/api/healthz",
        "/.cialx/api/healthz",
        "/healthz",
        "/echo-path",
    ] {
        let seen = get(way, path, &[]).await?;
        report.same("C14", &format!("{path} is not the core's"), "404 not_found", told(&seen));
    }
    for path in ["/.cial/api/healthz", "/.cial/api/health"] {
        let seen = get(way, path, &[]).await?;
        report.same("C19", &format!("{path} answers"), 200, seen.status);
        report.has("C19", &format!("{path} is well"), "\"status\":\"ok\"", &seen.body);
    }
    let seen = get(way, "/.cial/api/echo-path?q=1", &[]).await?;
    let arrived = format!("{} {}", seen.status, seen.body);
    report.same("C12", "the prefix is stripped", r#"200 {"path":"/echo-path"}"#, arrived);
    for path in ["chat", "agent", "deploy"] {
        let seen = get(way, &format!("/.cial/api/{path}"), &[]).await?;
        let kind = seen.header("content-type").unwrap_or_default().to_owned();
        report.same(
            "C21",
            &format!("{path} is to come"),
            "501 application/problem+json",
            format_args!("{} {kind}", seen.status),
        );
    }
    check_confusion(report, way).await
}

/// Of each it must be clear to every reader whose it is; where it is not, the answer is 400.
async fn check_confusion(report: &mut Report, way: Way<'_>) -> Result<()> {
    for path in [
        "/.cial%2fapi/healthz",
        "/%2ecial/api/healthz",
        "/%2e%63ial",
        "/x/../.cial/api/healthz",
        "/x/%2e%2e/.cial",
        "/.cial/../",
        "/.cial/api/../../",
        "/.cial/api/../x",
        "//.cial",
        "/./.cial",
        "/.cial;x/api",
        "/.cial/api;x/../..",
        "/.cial%252fapi",
        "/.cial\\api",
    ] {
        let seen = send(
            way,
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .as_bytes(),
        )
        .await?;
        report.same("C14", &format!("{path} is refused"), 400, seen.status);
    }
    let absolute =
        b"GET http://localhost/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let seen = send(way, absolute).await?;
    report.same("C14", "absolute form names the same", "200 platform-front", told(&seen));
    for (request, what) in [
        (
            "GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ntransfer-encoding: chunked",
            "two framings",
        ),
        (
            "GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2",
            "two lengths",
        ),
        ("GET / HTTP/1.1\r\nhost: localhost\r\nx: a\r\n b", "a folded header"),
    ] {
        let request = format!("{request}\r\nconnection: close\r\n\r\n");
        let seen = send(way, request.as_bytes()).await?;
        report.same("C14", what, 400, seen.status);
    }
    Ok(())
}

pub(crate) async fn check_websockets(report: &mut Report, port: u16) -> Result<()> {
    for path in ["/ws", "/.cial/ws", "/.cial/api/ws"] {
        let echoed = async {
            let mut socket = websocket(port, path, None).await?;
            echo(&mut socket, "over the edge").await
        };
        let seen = echoed.await.unwrap_or_else(|error| format!("{error:#}"));
        report.same("C16", &format!("{path} echoes"), "over the edge", seen);
    }
    let own = format!("http://localhost:{port}");
    for (path, origin, status) in [
        ("/.cial/ws", own.as_str(), 101),
        ("/.cial/api/ws", own.as_str(), 101),
        ("/.cial/ws", "http://evil.localhost", 403),
        ("/.cial/api/ws", "http://evil.localhost", 403),
        ("/.cial/api/ws", "null", 403),
    ] {
        let seen = upgrade_status(port, path, origin).await?;
        report.same("C16", &format!("{path} for a page of {origin}"), status, seen);
    }
    Ok(())
}

/// Platform-back has no way in from outside, and one from inside.
pub(crate) async fn check_back(report: &mut Report, tenant: &Tenant, way: Way<'_>) -> Result<()> {
    let ask = r#"use IO::Socket::INET;
        my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:3001") or die "connect: $!";
        print $s "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"; local $/; print <$s>;"#;
    let inside = tenant.perl("agent", ask).await?.out;
    report.has("C15", "platform-back answers inside", "HTTP/1.1 200", &inside);
    report.has("C19", "its health", "\"status\":\"ok\"", &inside);
    for path in ["/health", "/facts", "/api/p/health", "/api/health"] {
        let seen = get(way, path, &[]).await?;
        report.same("C15", &format!("{path} is not platform-back's"), "404 not_found", told(&seen));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_who_gave_it() {
        let answer =
            |status, body: &str| Answer { status, body: body.to_owned(), ..Answer::default() };
        let page = format!("{CORE}demo</h1><p>You are at <code>/.cial/x</code>.</p>");
        let cases = [
            (answer(200, &page), "200 core-front at /.cial/x"),
            (answer(502, &page), "502 core-front at /.cial/x"),
            (answer(200, &format!("{PLATFORM}demo</h1>")), "200 platform-front"),
            (answer(404, r#"{"code":"not_found"}"#), "404 not_found"),
            (answer(502, r#"{"code":"upstream_unreachable"}"#), "502 upstream_unreachable"),
            (answer(404, ""), "404 another"),
        ];
        for (answer, expected) in cases {
            assert_eq!(told(&answer), expected);
        }
    }
}
