//! The way of a first owner, over HTTP, step by step.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::restart;
use crate::http::{Answer, Visitor};
use crate::local::{self, Installation};
use crate::smoke_tenant::isolation;
use crate::{doctor, world};

pub(crate) const EMAIL: &str = "owner@example.com";
pub(crate) const PASSWORD: &str = "a long enough pass phrase";
pub(super) const SLUG: &str = "acme";
pub(crate) const ON_PURPOSE: &str = "broken off on purpose";
/// For what the engine has to do: start, stop, remove a container.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
pub(super) const INTERVAL: Duration = Duration::from_millis(50);

/// Who takes part: the owner at the admin, and a browser at the tenant's URL.
pub(super) struct Cast<'a> {
    pub(super) installation: &'a Installation,
    pub(super) owner: Visitor,
    pub(super) guest: Visitor,
}

pub(crate) async fn go(installation: &Installation) -> Result<()> {
    let mut cast = Cast::of(installation);
    arrive(&mut cast).await?;
    check("no other host is served", other_hosts(&mut cast).await)?;
    check("the tenant reaches nothing of the control plane", is_closed_in(&mut cast).await)?;
    let address = check("Open leads to the tenant with a token", open(&mut cast).await)?;
    check("and the owner is signed in there", sign_in(&mut cast, &address).await)?;
    check("the token opens nothing twice", replay(&mut cast, &address).await)?;
    let restarted = restart::of_the_router(cast.installation, &cast.guest).await;
    check("the router starts anew, and no visitor notices", restarted)?;
    check("stopped, it answers 503", stop(&mut cast).await)?;
    check("started again, it knows its owner", start(&mut cast).await)?;
    check(
        "no log holds a secret, a password, a cookie or a token",
        discreet(&cast, &address).await,
    )?;
    check("doctor finds nothing wrong", is_well(&cast).await)?;
    check("deleted, it is gone, and all that was its", delete(&mut cast).await)?;
    check("doctor finds nothing left over", is_well(&cast).await)
}

/// Breaks off while a tenant runs, always with [`ON_PURPOSE`].
pub(crate) async fn break_off(installation: &Installation) -> Result<()> {
    arrive(&mut Cast::of(installation)).await?;
    bail!(ON_PURPOSE)
}

/// The first half of it.
pub(crate) async fn arrive_at(installation: &Installation) -> Result<()> {
    arrive(&mut Cast::of(installation)).await
}

/// From no owner to a tenant that runs.
pub(super) async fn arrive(cast: &mut Cast<'_>) -> Result<()> {
    check("the first visitor becomes the owner", sign_up(cast).await)?;
    check("sign-up is closed after that", sign_up_again(cast).await)?;
    check("a tenant is created", create(cast).await)?;
    check("its URL answers through the router", answers(cast).await)?;
    check("it is running, on a port of loopback", is_running(cast).await)
}

impl<'a> Cast<'a> {
    pub(super) fn of(installation: &'a Installation) -> Self {
        let tenant_host = format!("{SLUG}.{}", installation.domain);
        Self {
            installation,
            owner: Visitor::new("localhost", installation.admin_port),
            guest: Visitor::new(&tenant_host, installation.router_port),
        }
    }
}

/// One line a check. What failed says what was expected and seen; the first failure ends the journey.
pub(super) fn check<T>(title: &str, outcome: Result<T>) -> Result<T> {
    match outcome {
        Ok(value) => {
            world::say(format_args!("ok     {title}"));
            Ok(value)
        }
        Err(error) => {
            world::say(format_args!("FAILED {title}: {error:#}"));
            Err(error.context(title.to_owned()))
        }
    }
}

pub(super) fn expect(answer: &Answer, status: u16) -> Result<()> {
    ensure!(answer.status == status, "expected {status}, saw {}", answer.brief());
    Ok(())
}

fn path(rest: &str) -> String {
    format!("/api/admin/tenants/{SLUG}{rest}")
}

async fn sign_up(cast: &mut Cast<'_>) -> Result<()> {
    let body = json!({ "email": EMAIL, "password": PASSWORD, "name": "Olivia Owner" });
    expect(&cast.owner.post("/api/auth/sign-up/email", &body).await?, 201)?;
    let listed = cast.owner.get("/api/admin/tenants").await?;
    expect(&listed, 200)?;
    ensure!(listed.json()["tenants"] == json!([]), "expected no tenants, saw {}", listed.brief());
    Ok(())
}

async fn sign_up_again(cast: &mut Cast<'_>) -> Result<()> {
    let mut stranger = Visitor::new("localhost", cast.installation.admin_port);
    let body = json!({ "email": "second@example.com", "password": PASSWORD, "name": "Sam Second" });
    expect(&stranger.post("/api/auth/sign-up/email", &body).await?, 403)?;
    expect(&stranger.get("/api/admin/tenants").await?, 401)
}

async fn create(cast: &mut Cast<'_>) -> Result<()> {
    let refused =
        cast.owner.post("/api/admin/tenants", &json!({ "slug": "Not_One", "name": "x" })).await?;
    expect(&refused, 422)?;
    let created = cast
        .owner
        .post("/api/admin/tenants", &json!({ "slug": SLUG, "name": "Acme Inc." }))
        .await?;
    expect(&created, 201)?;
    let url = cast.installation.tenant_url(SLUG);
    let told = created.json()["url"].as_str().unwrap_or_default().trim_end_matches('/').to_owned();
    ensure!(told == url, "expected the URL {url}, saw {told}");
    Ok(())
}

async fn answers(cast: &mut Cast<'_>) -> Result<()> {
    let page = until(async || cast.guest.get("/").await, |page| page.status == 200).await?;
    let expected = format!("Tenant {SLUG}");
    ensure!(
        page.body.contains(&expected),
        "expected a page with {expected:?}, saw {}",
        page.brief()
    );
    Ok(())
}

pub(super) async fn is_running(cast: &mut Cast<'_>) -> Result<()> {
    let is_running = |answer: &Answer| answer.json()["state"] == "running";
    let tenant = until(async || cast.owner.get(&path("")).await, is_running).await?.json();
    let port = tenant["container_port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let port = port.with_context(|| format!("expected a container_port, saw {tenant}"))?;
    let mut neighbour = Visitor::new("localhost", port);
    expect(&neighbour.get("/.cial/api/healthz").await?, 200)?;
    // Beside health, the published port does not even say that there is a tenant.
    expect(&neighbour.get("/").await?, 404)
}

async fn is_closed_in(cast: &mut Cast<'_>) -> Result<()> {
    let tenant = cast.owner.get(&path("")).await?.json();
    let container = tenant["container_id"].as_str();
    let container = container.with_context(|| format!("expected a container_id, saw {tenant}"))?;
    let (docker, _) = local::tools().await?;
    let project = cast.installation.project();
    let reached = isolation::reached_of_control_plane(&docker, &project, container).await?;
    ensure!(reached.is_empty(), "a tenant reaches {}", reached.join(", "));
    Ok(())
}

async fn other_hosts(cast: &mut Cast<'_>) -> Result<()> {
    for host in ["localhost".to_owned(), format!("nobody.{}", cast.installation.domain)] {
        let mut visitor = Visitor::new(&host, cast.installation.router_port);
        expect(&visitor.get("/").await?, 404)?;
    }
    Ok(())
}

/// The path and query that Open leads to.
pub(super) async fn open(cast: &mut Cast<'_>) -> Result<String> {
    let mut stranger = Visitor::new("localhost", cast.installation.admin_port);
    expect(&stranger.post(&path("/open"), &Value::Null).await?, 401)?;
    let opened = cast.owner.get(&path("/open")).await?;
    expect(&opened, 303)?;
    let location = opened.location();
    let url = cast.installation.tenant_url(SLUG);
    let address = location.strip_prefix(&url).map(str::to_owned);
    let address = address.with_context(|| format!("expected a way to {url}, saw {location}"))?;
    ensure!(address.starts_with("/.cial/sso?token="), "expected a token, saw {address}");
    Ok(address)
}

pub(super) async fn sign_in(cast: &mut Cast<'_>, address: &str) -> Result<()> {
    let landed = cast.guest.get(address).await?;
    expect(&landed, 303)?;
    ensure!(landed.location() == "/", "expected the way to /, saw {}", landed.location());
    sees_owner(cast).await
}

pub(super) async fn sees_owner(cast: &mut Cast<'_>) -> Result<()> {
    let page = cast.guest.get("/").await?;
    expect(&page, 200)?;
    let greets = page.body.contains("signed in as") && page.body.contains(EMAIL);
    ensure!(greets, "expected \"signed in as … ({EMAIL})\", saw {}", page.body);
    Ok(())
}

async fn replay(cast: &mut Cast<'_>, address: &str) -> Result<()> {
    let host = format!("{SLUG}.{}", cast.installation.domain);
    let mut thief = Visitor::new(&host, cast.installation.router_port);
    let refused = thief.get(address).await?;
    expect(&refused, 401)?;
    ensure!(!refused.headers.contains_key("set-cookie"), "a refused token must set no cookie");
    Ok(())
}

async fn stop(cast: &mut Cast<'_>) -> Result<()> {
    expect(&cast.owner.post(&path("/stop"), &Value::Null).await?, 202)?;
    until(async || cast.guest.get("/").await, |page| page.status == 503).await?;
    until(async || cast.owner.get(&path("")).await, |answer| answer.json()["state"] == "stopped")
        .await?;
    Ok(())
}

async fn start(cast: &mut Cast<'_>) -> Result<()> {
    expect(&cast.owner.post(&path("/start"), &Value::Null).await?, 202)?;
    until(async || cast.guest.get("/").await, |page| page.status == 200).await?;
    sees_owner(cast).await
}

async fn discreet(cast: &Cast<'_>, address: &str) -> Result<()> {
    let cookies = [&cast.owner, &cast.guest].into_iter().filter_map(Visitor::cookie);
    let (_, token) = address.split_once('=').context("the address has no token")?;
    let known: Vec<_> = cookies.chain([PASSWORD, token]).map(str::to_owned).collect();
    ensure!(known.len() == 4, "owner and guest must have a cookie each");
    let (docker, compose) = local::tools().await?;
    let heard = local::examine_logs(&docker, &compose, cast.installation, &known).await?;
    ensure!(heard >= 5, "expected logs of four services and a tenant, saw {heard}");
    Ok(())
}

/// The router's table on disk is a moment behind the database.
async fn is_well(cast: &Cast<'_>) -> Result<()> {
    let deadline = world::now() + PATIENCE;
    loop {
        let faults = doctor::faults(cast.installation).await?;
        if faults.is_empty() {
            return Ok(());
        }
        ensure!(world::now() < deadline, "{}", faults.join("; "));
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn delete(cast: &mut Cast<'_>) -> Result<()> {
    expect(&cast.owner.delete(&path("")).await?, 202)?;
    until(async || cast.owner.get(&path("")).await, |answer| answer.status == 404).await?;
    until(async || cast.guest.get("/").await, |page| page.status == 404).await?;
    let (docker, _) = local::tools().await?;
    let left = local::tenant_things(&docker, cast.installation).await?;
    ensure!(left.is_empty(), "left on the engine: {}", left.join(", "));
    Ok(())
}

/// Asks until the answer is as wanted; the last one is told when it never is.
pub(crate) async fn until(
    mut ask: impl AsyncFnMut() -> Result<Answer>,
    is_wanted: impl Fn(&Answer) -> bool,
) -> Result<Answer> {
    let deadline = world::now() + PATIENCE;
    loop {
        let answer = ask().await?;
        if is_wanted(&answer) {
            return Ok(answer);
        }
        if world::now() > deadline {
            bail!("still not after {} s: {}", PATIENCE.as_secs(), answer.brief());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Asks until it holds.
pub(super) async fn eventually(
    what: &str,
    mut holds: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = world::now() + PATIENCE;
    while !holds().await? {
        ensure!(world::now() < deadline, "not within {} s: {what}", PATIENCE.as_secs());
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}
