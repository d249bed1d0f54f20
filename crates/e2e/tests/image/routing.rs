//! Which service answers which path through each endpoint, and paths that two parsers could read differently.

use anyhow::Result;
use e2e::Checks;
use serde_json::Value;
use testkit::Response;
use testkit::engine::{Endpoint, TenantContainer};

use super::websocket::{echo, open_websocket, upgrade_status};

const PLATFORM: &str = "<h1>Platform · Tenant ";
const CORE: &str = "<h1>Cial Core · Tenant ";

/// Returns the status and the service that answered: each service has a recognisable text.
fn describe(response: &Response) -> String {
    let (status, body) = (response.status, &response.body);
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

pub(crate) async fn check(checks: &mut Checks, endpoint: Endpoint<'_>, name: &str) -> Result<()> {
    let home = endpoint.get("/", &[]).await?;
    checks.contains("the platform's page", &format!("{PLATFORM}{name}</h1>"), &home.body);
    checks.equal("/ is the platform's", "200 platform-front", describe(&home));
    let core = endpoint.get("/.cial", &[]).await?;
    checks.contains("the core's page", &format!("{CORE}{name}</h1>"), &core.body);
    checks.equal("/.cial is the core's", "200 core-front at /.cial", describe(&core));
    for path in ["/.cial/", "/.cial/whatever", "/.cial/what/ever", "/.cial/apix"] {
        let seen = endpoint.get(path, &[]).await?;
        let expected = format!("200 core-front at {path}");
        checks.equal(&format!("{path} is the core's, whole"), expected, describe(&seen));
    }
    // The platform answers 404 there. Core-front has a page for every path, and core-back a resource at the end of some
    // of these.
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
        let seen = endpoint.get(path, &[]).await?;
        checks.equal(&format!("{path} is not the core's"), "404 not_found", describe(&seen));
    }
    for path in ["/.cial/api/healthz", "/.cial/api/health"] {
        let seen = endpoint.get(path, &[]).await?;
        checks.equal(&format!("{path} answers"), 200, seen.status);
        checks.contains(&format!("{path} is well"), "\"status\":\"ok\"", &seen.body);
    }
    let seen = endpoint.get("/.cial/api/echo-path?q=1", &[]).await?;
    let arrived = format!("{} {}", seen.status, seen.body);
    checks.equal("the prefix is stripped", r#"200 {"path":"/echo-path"}"#, arrived);
    for path in ["agent", "deploy"] {
        let seen = endpoint.get(&format!("/.cial/api/{path}"), &[]).await?;
        let kind = seen.header("content-type").unwrap_or_default().to_owned();
        checks.equal(
            &format!("{path} is to come"),
            "501 application/problem+json",
            format_args!("{} {kind}", seen.status),
        );
    }
    check_ambiguous(checks, endpoint).await
}

/// Every parser must agree which service a path belongs to; an ambiguous path is refused with 400.
async fn check_ambiguous(checks: &mut Checks, endpoint: Endpoint<'_>) -> Result<()> {
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
        let seen = endpoint.get(path, &[]).await?;
        checks.equal(&format!("{path} is refused"), 400, seen.status);
    }
    let seen = endpoint.get("http://localhost/", &[]).await?;
    checks.equal("absolute form names the same", "200 platform-front", describe(&seen));
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
        let seen = endpoint.send(request.as_bytes()).await?;
        checks.equal(what, 400, seen.status);
    }
    Ok(())
}

pub(crate) async fn check_websockets(checks: &mut Checks, port: u16) -> Result<()> {
    for path in ["/ws", "/.cial/ws", "/.cial/api/ws"] {
        let echoed = async {
            let mut socket = open_websocket(port, path, None).await?;
            echo(&mut socket, "over the edge").await
        };
        let seen = echoed.await.unwrap_or_else(|error| format!("{error:#}"));
        checks.equal(&format!("{path} echoes"), "over the edge", seen);
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
        checks.equal(&format!("{path} for a page of {origin}"), status, seen);
    }
    Ok(())
}

/// Platform-back has no endpoint in from outside, and one from inside.
pub(crate) async fn check_back(
    checks: &mut Checks,
    tenant: &TenantContainer,
    endpoint: Endpoint<'_>,
) -> Result<()> {
    let ask = r#"use IO::Socket::INET;
        my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:3001") or die "connect: $!";
        print $s "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"; local $/; print <$s>;"#;
    let inside = tenant.exec_perl("agent", ask).await?.text;
    checks.contains("platform-back answers inside", "HTTP/1.1 200", &inside);
    checks.contains("its health", "\"status\":\"ok\"", &inside);
    for path in ["/health", "/facts", "/api/p/health", "/api/health"] {
        let seen = endpoint.get(path, &[]).await?;
        checks.equal(&format!("{path} is not platform-back's"), "404 not_found", describe(&seen));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_names_its_service() {
        let response =
            |status, body: &str| Response { status, body: body.to_owned(), ..Response::default() };
        let page = format!("{CORE}demo</h1><p>You are at <code>/.cial/x</code>.</p>");
        let cases = [
            (response(200, &page), "200 core-front at /.cial/x"),
            (response(502, &page), "502 core-front at /.cial/x"),
            (response(200, &format!("{PLATFORM}demo</h1>")), "200 platform-front"),
            (response(404, r#"{"code":"not_found"}"#), "404 not_found"),
            (response(502, r#"{"code":"upstream_unreachable"}"#), "502 upstream_unreachable"),
            (response(404, ""), "404 another"),
        ];
        for (response, expected) in cases {
            assert_eq!(describe(&response), expected);
        }
    }
}
