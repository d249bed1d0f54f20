//! An installation over HTTP, from its first owner to the last trace of a deleted tenant. Each test has a tenant of
//! its own; the first test that runs signs the owner up.
//!
//! `cargo xtask smoke-local` brings the installation up, runs these tests one after the other, and removes it.

mod apps;
mod backups;
mod chat;
mod command_line;
mod core_site;
mod database;
mod every_command;
mod hooks;
mod models;
mod registries;
mod rollouts;
mod router_upgrade;
mod smoke_starts;
mod transfers;
mod variables;
mod workflows;

use anyhow::{Context as _, Result, ensure};
use e2e::reachability::{control_plane_ports, public_ports, reached};
use e2e::session::{PASSWORD, Session, TIMEOUT, until};
use e2e::{Checks, Parts, leaks, xtask};
use serde_json::{Value, json};
use testkit::engine::TenantContainer;
use testkit::{Client, Installation, Response, wait_for};

#[tokio::test]
async fn the_first_visitor_becomes_the_owner_and_sign_up_closes() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let session = Session::of_owner(&installation, "first").await;
    let session = checks.require("the first visitor becomes the owner", session)?;
    let mut anonymous = session.anonymous();
    let account = json!({ "email": "second@example.com", "password": PASSWORD, "name": "Sam" });
    let second = anonymous.post("/api/auth/sign-up/email", &account).await?;
    checks.equal("a second sign-up is refused", 403, second.status);
    let listed = anonymous.get("/api/admin/tenants").await?;
    checks.equal("an anonymous client sees no tenants", 401, listed.status);
    checks.finish()
}

/// After the end of a service or of its machine.
#[tokio::test]
async fn the_engine_restarts_every_service() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let parts = Parts::of(&installation);
    for service in ["postgres", "app-api", "database-proxy", "firewall", "orchestrator", "router"] {
        let container = parts.service(service).await?;
        let policy = container.inspected["HostConfig"]["RestartPolicy"]["Name"].as_str();
        let name = format!("{service} comes back by itself");
        checks.equal(&name, "unless-stopped", policy.unwrap_or_default());
    }
    checks.finish()
}

#[tokio::test]
async fn a_created_tenant_runs_and_answers_at_its_url() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let mut session = Session::of_owner(&installation, "created").await?;
    let invalid = json!({ "slug": "Not_One", "name": "x" });
    let refused = session.owner.post("/api/admin/tenants", &invalid).await?;
    checks.equal("an invalid slug is refused", 422, refused.status);
    checks.require("a tenant is created", session.create().await)?;
    let page = session.url_answers(200).await;
    let page = checks.require("its URL answers through the router", page)?;
    checks.contains("its page names the tenant", "Tenant created", &page.body);
    let tenant = checks.require("its state is running", session.becomes("running").await)?;
    let port = tenant["container_port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let port = port.with_context(|| format!("expected a container_port, got {tenant}"))?;
    let mut neighbour = Client::new("localhost", port);
    let health = neighbour.get("/.cial/api/healthz").await?;
    checks.equal("its loopback port answers health", 200, health.status);
    let home = neighbour.get("/").await?;
    checks.equal("its loopback port reveals nothing else", 404, home.status);
    for host in ["localhost".to_owned(), installation.tenant_host("nobody")] {
        let mut visitor = Client::new(&host, installation.router_port);
        let response = visitor.get("/").await?;
        checks.equal(&format!("{host} is no tenant"), 404, response.status);
    }
    checks.finish()
}

#[tokio::test]
async fn a_tenant_reaches_neither_the_control_plane_nor_another_tenant() -> Result<()> {
    let installation = Installation::from_env()?;
    let mut one = Session::with_tenant(&installation, "isolated").await?;
    Session::with_tenant(&installation, "neighbour").await?;
    let docker = testkit::engine::connect().await?;
    let tenant = one.becomes("running").await?;
    let id = tenant["container_id"].as_str().context("a running tenant has a container_id")?;
    let from = TenantContainer::existing(&docker, id);
    let mut targets = control_plane_ports(&docker, &installation.project(), &from).await?;
    let neighbour = Parts::of(&installation).tenant("neighbour").await?.pop();
    let neighbour = neighbour.context("the neighbour has no container")?.id;
    targets.extend(public_ports(&TenantContainer::existing(&docker, &neighbour)).await?);
    let mut checks = Checks::new();
    let reached = reached(&from, targets).await?;
    checks.equal("a tenant reaches nothing beyond itself", "", reached.join(", "));
    checks.finish()
}

#[tokio::test]
async fn open_signs_the_owner_in_once_and_no_log_holds_the_token() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let mut session = Session::with_tenant(&installation, "opened").await?;
    let address = session.open().await;
    let address = checks.require("Open leads to the tenant with a token", address)?;
    checks.require("the owner is signed in there", session.sign_on(&address).await)?;
    let host = installation.tenant_host("opened");
    let mut thief = Client::new(&host, installation.router_port);
    let replayed = thief.get(&address).await?;
    checks.equal("the token opens nothing in another browser", 401, replayed.status);
    let cookie = replayed.header("set-cookie").unwrap_or("none");
    checks.equal("a refused token sets no cookie", "none", cookie);

    let cookies = [&session.owner, &session.guest].into_iter().filter_map(Client::cookie);
    let (_, token) = address.split_once('=').context("the address has no token")?;
    let known: Vec<_> = cookies.chain([PASSWORD, token]).map(str::to_owned).collect();
    checks.equal("owner and guest have a cookie each", 4, known.len());
    let docker = testkit::engine::connect().await?;
    // A line reaches the engine's log after the response that it tells of: this one is about the replayed token.
    let tenant = Parts::of(&installation).tenant("opened").await?.pop();
    let tenant = tenant.context("the tenant has no container")?.id;
    let tenant = TenantContainer::existing(&docker, &tenant);
    let refusal = "this browser did not begin the sign-in";
    tenant.wait_for("the refusal", async || tenant.logged(refusal).await).await?;
    let searched = leaks::search_logs(&installation, &known).await;
    let name = "no log holds a secret, a password, a cookie or a token";
    let searched = checks.require(name, searched)?;
    checks.holds("four services and a tenant log", "≥ 5", searched, searched >= 5);
    checks.finish()
}

#[tokio::test]
async fn a_router_upgrade_loses_no_request_and_a_crash_is_restarted() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let session = Session::signed_in(&installation, "upgraded").await?;
    let upgraded = router_upgrade::under_load(&installation, &session.guest).await;
    checks.require("no visitor notices an upgrade of the router", upgraded)?;
    let returned = router_upgrade::returns_after_a_crash(&installation, &session.guest).await;
    checks.require("the engine restarts the router after a crash", returned)?;
    checks.finish()
}

#[tokio::test]
async fn a_stopped_tenant_answers_503_and_knows_its_owner_after_a_start() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let mut session = Session::signed_in(&installation, "stopped").await?;
    session.act("stop").await?;
    checks.require("a stopped tenant answers 503", session.url_answers(503).await)?;
    checks.require("its state is stopped", session.becomes("stopped").await)?;
    session.act("start").await?;
    checks.require("a started tenant answers again", session.url_answers(200).await)?;
    checks.require("the owner's session goes on", session.guest_is_owner().await)?;
    checks.finish()
}

#[tokio::test]
async fn signing_out_at_the_admin_ends_the_session_at_the_tenant_and_no_other() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let mut ended = Session::signed_in(&installation, "revoked").await?;
    let mut other = Session::signed_in(&installation, "revoked").await?;
    let begin = testkit::clock::now();
    ended.owner.post("/api/auth/sign-out", &Value::Null).await?.expect_status(204)?;
    let guest = &mut ended.guest;
    let is_anonymous = |page: &Response| page.status == 200 && !page.body.contains("signed in as");
    let page = until(async || guest.get("/").await, is_anonymous).await;
    let after = begin.elapsed().as_millis();
    checks.require(
        &format!("the tenant session of the ended admin session is over: {after} ms"),
        page,
    )?;
    checks.require("a session from another sign-in goes on", other.guest_is_owner().await)?;
    checks.finish()
}

#[tokio::test]
async fn a_deleted_tenant_leaves_nothing_behind() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let mut session = Session::with_tenant(&installation, "deleted").await?;
    let tenant = session.becomes("running").await?;
    let id = tenant["id"].as_str().context("a tenant has an id")?.to_owned();
    checks.require("doctor finds nothing wrong", doctor_is_content().await)?;
    let path = session.path("");
    session.owner.delete(&path).await?.expect_status(202)?;
    let owner = &mut session.owner;
    let gone = until(async || owner.get(&path).await, |response| response.status == 404).await;
    checks.require("a deleted tenant is gone from the admin", gone)?;
    checks.require("its URL answers 404", session.url_answers(404).await)?;
    let mut left = Parts::of(&installation).of_tenants().await?;
    left.retain(|name| name.contains(&id));
    checks.equal("nothing of it is left on the engine", "{}", format!("{left:?}"));
    checks.require("doctor finds nothing left over", doctor_is_content().await)?;
    checks.finish()
}

/// The call that docs/sleep-and-wake.md shows, with the same program.
#[tokio::test]
async fn the_documented_change_of_a_policy_works() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let session = Session::with_tenant(&installation, "acme").await?;
    let cookie = session.owner.cookie_pair().context("the owner has a cookie")?;
    let text = include_str!("../../../../docs/sleep-and-wake.md");
    let start = text.find("curl -X PATCH").context("the documentation shows the call")?;
    let call = text[start..].split("\n```").next().unwrap_or_default();
    let call = call.replace(":3100", &format!(":{}", installation.admin_port));
    let script = format!("{} --silent --fail-with-body", call.trim());
    let mut shell = std::process::Command::new("sh");
    let output = shell.args(["-c", &script]).env("COOKIE", cookie).output()?;
    let body = String::from_utf8_lossy(&output.stdout).into_owned();
    let changed: Value = serde_json::from_str(&body).unwrap_or_default();
    let seconds = changed["policy"]["sleep_after_seconds"].to_string();
    checks.equal("the documented call changes the policy", "3600", seconds);
    ensure!(output.status.success(), "{script}: {body}");
    checks.finish()
}

/// The router's table on disk is a moment behind the database, so doctor may need a second look.
async fn doctor_is_content() -> Result<()> {
    wait_for("doctor finds nothing", TIMEOUT, async || {
        Ok(xtask::run(&["doctor"], &[])?.status.success().then_some(()))
    })
    .await
    .with_context(|| match xtask::run(&["doctor"], &[]) {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => format!("{error:#}"),
    })
}
