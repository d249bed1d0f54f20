//! An edge with a route token: with the token it serves everything, without it health and an empty 404.

use anyhow::Result;
use e2e::Checks;
use testkit::engine::Endpoint;

use super::websocket::open_websocket;

pub(crate) const TOKEN: &str = "smoke-route-token-0123456789abcdefghijklmno";
pub(crate) const PROOF: &str = "smoke-route-proof-0123456789abcdefghijklmno";

pub(crate) async fn check(
    checks: &mut Checks,
    endpoints: &[(&str, Endpoint<'_>)],
    name: &str,
) -> Result<()> {
    let token = format!("x-cial-route-token: {TOKEN}");
    for (label, endpoint) in endpoints {
        let seen = endpoint.get("/", &[&token]).await?;
        let title = format!("Platform · Tenant {name}");
        checks.contains(&format!("{label}: with the token, the page"), &title, &seen.body);
        let proof = seen.header("x-cial-proof").unwrap_or("none");
        checks.equal(&format!("{label}: and the proof"), PROOF, proof);
        for (path, headers) in [
            ("/", vec![]),
            ("/.cial", vec![]),
            ("/.cial/api/health", vec![]),
            ("/", vec!["x-cial-route-token: wrong"]),
            ("/", vec![token.as_str(), "x-cial-route-token: wrong"]),
        ] {
            let seen = endpoint.get(path, &headers).await?;
            let what =
                format!("{label}: {path} with {} token headers reveals nothing", headers.len());
            let revealed = seen.header("x-cial-proof").is_some();
            checks.equal(
                &what,
                "404 \"\" false",
                format_args!("{} {:?} {revealed}", seen.status, seen.body),
            );
        }
        let seen = endpoint.get("/.cial/api/healthz", &[]).await?;
        checks.equal(&format!("{label}: health needs no token"), 200, seen.status);
    }
    Ok(())
}

pub(crate) async fn check_websocket(checks: &mut Checks, port: u16) {
    let without = open_websocket(port, "/ws", None).await.is_ok();
    checks.equal("no WebSocket without the token", false, without);
    let with = open_websocket(port, "/ws", Some(TOKEN)).await.map(drop);
    checks.succeeds("a WebSocket with the token", with);
}
