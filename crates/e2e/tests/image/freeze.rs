//! A tenant that was frozen for long: a client that connected meanwhile is served, and sessions and tokens that expired
//! meanwhile are refused.

use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::Checks;
use serde_json::json;
use testkit::clock::unix_time;
use testkit::engine::{Endpoint, Sandbox, TenantContainer, TenantOptions};

use super::token::{Keys, claims, header, nonce_cookie};

const NAME: &str = "frozen";
/// Seconds from a sign-on to the end of its session, less than a token's minute. The next one is tried where the
/// restart of the tenant takes longer.
const LIFETIMES: [u64; 3] = [10, 20, 35];
/// A session's absolute end.
const MAX_SESSION_SECONDS: u64 = 12 * 60 * 60;

pub(crate) async fn check(checks: &mut Checks, sandbox: &Sandbox) -> Result<()> {
    let keys = Keys::random()?;
    let options = TenantOptions {
        name: NAME,
        sso_key: Some(keys.sso().to_vec()),
        ..TenantOptions::default()
    };
    let tenant = sandbox.start(&options).await?;
    let mut opened = None;
    for lifetime in LIFETIMES {
        opened = open_session(&tenant, &keys, lifetime).await?;
        if opened.is_some() {
            break;
        }
    }
    let Session { cookie, used, end, home } = opened.context("no session outlived a restart")?;
    checks.contains("before it is frozen a session lives", "signed in as owner-1", &home);
    let mut short = claims(NAME, "smoke-short", unix_seconds());
    short["exp"] = json!(end);
    let short = keys.sign(&header(), &short);

    tenant.freeze().await?;
    let caller = sandbox.call_from_outside(NAME, "/.cial/api/healthz").await?;
    let connected =
        caller.wait_for("a connection", async || caller.logged("connected").await).await;
    checks.equal("connect works while it is frozen", true, connected.is_ok());
    while unix_seconds() <= end {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let early = caller.logged("HTTP/1.1").await.is_some();
    checks.equal("nobody answers while it is frozen", false, early);
    tenant.thaw().await?;
    let served = caller.wait_for("a response", async || caller.logged("HTTP/1.1 200").await).await;
    checks.equal(
        "a client that connected meanwhile is served after the thaw",
        true,
        served.is_ok(),
    );

    let endpoint = Endpoint::Port(tenant.port().await?);
    let home = endpoint.get("/", &[&cookie]).await?;
    let seen = format!("{} {}", home.status, home.body.contains("signed in as"));
    checks.equal("a session that ended meanwhile is gone", "200 false", seen);
    for (what, token) in [("that ended meanwhile", short), ("used before", used)] {
        let seen = endpoint.get(&format!("/.cial/sso?token={token}"), &[&nonce_cookie()]).await?;
        let cookie = seen.header("set-cookie").unwrap_or("no cookie");
        let seen = format!("{} {cookie}", seen.status);
        checks.equal(&format!("a token {what} is refused"), "401 no cookie", seen);
    }
    // Both responses are alike; the log has the reasons. A line reaches the engine's log after the response that it tells of.
    tenant.wait_for("the last reason", async || tenant.logged("was used before").await).await?;
    let logs = tenant.logs().await?;
    for reason in ["its claim `exp` is in the past", "was used before"] {
        checks.equal(&format!("… because: {reason}"), 1, logs.matches(reason).count());
    }
    let fresh = keys.sign(&header(), &claims(NAME, "smoke-fresh", unix_seconds()));
    let seen = endpoint.get(&format!("/.cial/sso?token={fresh}"), &[&nonce_cookie()]).await?;
    checks.equal("a token made after the thaw signs in", 303, seen.status);
    Ok(())
}

/// A session that ends soon.
struct Session {
    cookie: String,
    /// The token that opened the session.
    used: String,
    /// In seconds since 1970.
    end: u64,
    /// The tenant's page, as the session sees it.
    home: String,
}

/// Signs on, and makes the session end after `lifetime`. `None` if the session ended before its page was read.
async fn open_session(
    tenant: &TenantContainer,
    keys: &Keys,
    lifetime: u64,
) -> Result<Option<Session>> {
    let endpoint = Endpoint::Port(tenant.healthy_port().await?);
    let used =
        keys.sign(&header(), &claims(NAME, &format!("smoke-used-{lifetime}"), unix_seconds()));
    let signed_on = endpoint.get(&format!("/.cial/sso?token={used}"), &[&nonce_cookie()]).await?;
    let cookie = signed_on.header("set-cookie").and_then(|line| line.split(';').next());
    let cookie = format!("cookie: {}", cookie.context("no cookie")?);
    let end = unix_seconds() + lifetime;
    age_sessions(tenant, end).await?;
    tenant.restart().await?;
    let endpoint = Endpoint::Port(tenant.healthy_port().await?);
    let home = endpoint.get("/", &[&cookie]).await?.body;
    Ok((unix_seconds() < end).then_some(Session { cookie, used, end, home }))
}

/// Makes every session end at `end`, as though it had begun long ago.
async fn age_sessions(tenant: &TenantContainer, end: u64) -> Result<()> {
    let since = end - MAX_SESSION_SECONDS;
    let edit = format!(r#"s/"since":\d+/"since":{since}/g or die "no session""#);
    let command = ["perl", "-pi", "-e", &edit, "/var/lib/cial/sessions.json"];
    let ran = tenant.exec("cial", &command).await?;
    anyhow::ensure!(ran.exit_code == 0, "cannot age a session: {}", ran.text);
    Ok(())
}

fn unix_seconds() -> u64 {
    unix_time().as_secs()
}
