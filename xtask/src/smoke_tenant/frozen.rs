//! A tenant that was frozen for long: whoever knocked meanwhile is served, and what ended meanwhile has ended.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::report::Report;
use super::sign_on::now;
use super::stage::{Stage, Tenant, Wish};
use super::token::{Keys, claims, header};
use super::wire::{Way, get};
use super::{endings, stage};

const NAME: &str = "frozen";
/// From the first sign-on until all that shall end has ended: time enough to restart, and less than a token's minute.
const LIFE: u64 = 15;
/// A session's absolute end.
const LONGEST_SESSION: u64 = 12 * 60 * 60;

pub(crate) async fn check(report: &mut Report, stage: &Stage) -> Result<()> {
    let keys = Keys::random()?;
    let wish = Wish { name: NAME, keys: Some(keys.clone()), ..Wish::default() };
    let tenant = stage.start(&wish).await?;
    let way = Way::Port(endings::healthy(&tenant).await?);
    let used = keys.sign(&header(), &claims(NAME, "smoke-used", now()));
    let signed_on = get(way, &format!("/.cial/sso?token={used}"), &[]).await?;
    let cookie = signed_on.header("set-cookie").and_then(|line| line.split(';').next());
    let cookie = format!("cookie: {}", cookie.context("no cookie")?);

    let end = now() + LIFE;
    age_sessions(&tenant, end).await?;
    tenant.restart().await?;
    let way = Way::Port(endings::healthy(&tenant).await?);
    let mut short = claims(NAME, "smoke-short", now());
    short["exp"] = json!(end);
    let short = keys.sign(&header(), &short);
    let home = get(way, "/", &[&cookie]).await?;
    report.has("O12", "before it is frozen a session lives", "signed in as owner-1", &home.body);

    tenant.pause().await?;
    let caller = stage.call_from_outside(NAME, "/.cial/api/healthz").await?;
    let connected = caller.until("a connection", async || said(&caller, "connected").await).await;
    report.same("O12", "connect works while it is frozen", true, connected.is_ok());
    while now() <= end {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let early = said(&caller, "HTTP/1.1").await.is_some();
    report.same("O12", "nobody answers while it is frozen", false, early);
    tenant.unpause().await?;
    let served = caller.until("an answer", async || said(&caller, "HTTP/1.1 200").await).await;
    report.same("O12", "who knocked meanwhile is served after the thaw", true, served.is_ok());

    let way = Way::Port(tenant.port().await?);
    let home = get(way, "/", &[&cookie]).await?;
    let seen = format!("{} {}", home.status, home.body.contains("signed in as"));
    report.same("O12", "a session that ended meanwhile is gone", "200 false", seen);
    for (what, token) in [("that ended meanwhile", short), ("used before", used)] {
        let seen = get(way, &format!("/.cial/sso?token={token}"), &[]).await?;
        let cookie = seen.header("set-cookie").unwrap_or("no cookie");
        let seen = format!("{} {cookie}", seen.status);
        report.same("O12", &format!("a token {what} is refused"), "401 no cookie", seen);
    }
    // Both answers are alike; the log has the reasons.
    let logs = tenant.logs().await?;
    for reason in ["its claim `exp` is in the past", "was used before"] {
        report.same("O12", &format!("… because: {reason}"), 1, logs.matches(reason).count());
    }
    let fresh = keys.sign(&header(), &claims(NAME, "smoke-fresh", now()));
    let seen = get(way, &format!("/.cial/sso?token={fresh}"), &[]).await?;
    report.same("O12", "a token made after the thaw signs in", 303, seen.status);
    Ok(())
}

/// Makes every session end at `end`, as though it had begun long ago.
async fn age_sessions(tenant: &Tenant, end: u64) -> Result<()> {
    let since = end - LONGEST_SESSION;
    let edit = format!(r#"s/"since":\d+/"since":{since}/g or die "no session""#);
    let command = ["perl", "-pi", "-e", &edit, "/var/lib/cial/sessions.json"];
    let ran = tenant.run("cial", &command).await?;
    anyhow::ensure!(ran.code == 0, "cannot age a session: {}", ran.out);
    Ok(())
}

async fn said(caller: &stage::Tenant, text: &str) -> Option<()> {
    caller.logs().await.ok()?.contains(text).then_some(())
}
