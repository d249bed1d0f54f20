//! A guarded edge: with the route token everything, without it health and an empty 404.

use anyhow::Result;

use super::report::Report;
use super::wire::{Way, get, websocket};

pub(crate) const TOKEN: &str = "smoke-route-token-0123456789abcdefghijklmno";
pub(crate) const PROOF: &str = "smoke-route-proof-0123456789abcdefghijklmno";

pub(crate) async fn check(report: &mut Report, ways: &[(&str, Way<'_>)], name: &str) -> Result<()> {
    let token = format!("x-cial-route-token: {TOKEN}");
    for (label, way) in ways {
        let seen = get(*way, "/", &[&token]).await?;
        let title = format!("Platform · Tenant {name}");
        report.has("C17", &format!("{label}: with the token, the page"), &title, &seen.body);
        let proof = seen.header("x-cial-proof").unwrap_or("none");
        report.same("C17", &format!("{label}: and the proof"), PROOF, proof);
        for (path, headers) in [
            ("/", vec![]),
            ("/.cial", vec![]),
            ("/.cial/api/health", vec![]),
            ("/", vec!["x-cial-route-token: wrong"]),
            ("/", vec![token.as_str(), "x-cial-route-token: wrong"]),
        ] {
            let seen = get(*way, path, &headers).await?;
            let what =
                format!("{label}: {path} with {} token headers reveals nothing", headers.len());
            let revealed = seen.header("x-cial-proof").is_some();
            report.same(
                "C5",
                &what,
                "404 \"\" false",
                format_args!("{} {:?} {revealed}", seen.status, seen.body),
            );
        }
        let seen = get(*way, "/.cial/api/healthz", &[]).await?;
        report.same("C19", &format!("{label}: health needs no token"), 200, seen.status);
    }
    Ok(())
}

pub(crate) async fn check_websocket(report: &mut Report, port: u16) {
    let without = websocket(port, "/ws", None).await.is_ok();
    report.same("C16", "no WebSocket without the token", false, without);
    let with = websocket(port, "/ws", Some(TOKEN)).await.map(drop);
    report.made("C16", "a WebSocket with the token", with);
}
