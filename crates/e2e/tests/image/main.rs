//! The tenant image as a black box, run as production runs it. There is no control plane here: each test prepares
//! what the orchestrator would prepare, with the same flags. Names, paths and limits are literals on purpose: what
//! the image promises must not change with the product's own constants.
//!
//! `cargo xtask smoke-tenant` builds the image, runs these tests, and removes what they leave.

mod boundary;
mod broken_images;
mod busy;
mod contents;
mod endings;
mod freeze;
mod history;
mod isolation;
mod layers;
mod limits;
mod logging;
mod processes;
mod route_token;
mod routing;
mod sign_on;
mod token;
mod websocket;

use anyhow::Result;
use e2e::Checks;
use testkit::engine::{Endpoint, Sandbox, TenantContainer, TenantOptions};
use testkit::installation::required;
use token::Keys;

/// The name of the tenant of most tests, as its pages show it.
const NAME: &str = "demo";

async fn sandbox(purpose: &str) -> Result<Sandbox> {
    let docker = testkit::engine::connect().await?;
    Ok(Sandbox::new(docker, &required("CIAL_E2E_IMAGE")?, purpose))
}

/// Runs `work` on a sandbox that is empty afterwards, and fails with the checks that failed.
async fn in_sandbox(
    purpose: &str,
    work: impl AsyncFnOnce(&mut Checks, &Sandbox) -> Result<()>,
) -> Result<()> {
    let sandbox = sandbox(purpose).await?;
    let mut checks = Checks::new();
    let outcome = sandbox.run(work(&mut checks, &sandbox)).await;
    checks.succeeds(&format!("{purpose}: every check was made"), outcome);
    checks.finish()
}

/// Like [`in_sandbox`], with one healthy tenant without a route token.
async fn with_tenant(
    purpose: &str,
    work: impl AsyncFnOnce(&mut Checks, &TenantContainer, u16) -> Result<()>,
) -> Result<()> {
    in_sandbox(purpose, async |checks, sandbox| {
        let (tenant, port) = healthy_tenant(sandbox, None).await?;
        work(checks, &tenant, port).await
    })
    .await
}

async fn healthy_tenant(sandbox: &Sandbox, keys: Option<&Keys>) -> Result<(TenantContainer, u16)> {
    let sso_key = keys.map(|keys| keys.sso().to_vec()).unwrap_or_else(|| vec![7; 32]);
    let options = TenantOptions { name: NAME, sso_key: Some(sso_key), ..TenantOptions::default() };
    sandbox.healthy(&options).await
}

/// The checks of an undisturbed tenant, among them the checks that a broken image must fail.
async fn static_checks(checks: &mut Checks, sandbox: &Sandbox, tenant: &TenantContainer) {
    let outcome = contents::check(checks, sandbox, tenant).await;
    checks.succeeds("the image was examined", outcome);
    let outcome = processes::check(checks, tenant).await;
    checks.succeeds("the processes were examined", outcome);
    let outcome = boundary::check(checks, tenant).await;
    checks.succeeds("the boundary was examined", outcome);
}

#[tokio::test]
async fn the_image_is_small_and_exposes_one_port() -> Result<()> {
    in_sandbox("contents", async |checks, sandbox| {
        let (tenant, _) = healthy_tenant(sandbox, None).await?;
        contents::check_size(checks, sandbox).await?;
        contents::check(checks, sandbox, &tenant).await
    })
    .await
}

#[tokio::test]
async fn six_processes_run_as_their_users_without_privileges() -> Result<()> {
    with_tenant("processes", async |checks, tenant, _| processes::check(checks, tenant).await).await
}

#[tokio::test]
async fn the_apps_user_cannot_cross_into_the_core() -> Result<()> {
    with_tenant("boundary", async |checks, tenant, _| boundary::check(checks, tenant).await).await
}

#[tokio::test]
async fn every_path_reaches_its_service_through_the_port_and_the_socket() -> Result<()> {
    with_tenant("routing", async |checks, tenant, port| {
        routing::check(checks, Endpoint::Port(port), NAME).await?;
        routing::check(checks, Endpoint::Ingress(tenant), NAME).await
    })
    .await
}

#[tokio::test]
async fn websockets_echo_and_demand_their_own_origin() -> Result<()> {
    with_tenant("websockets", async |checks, _, port| routing::check_websockets(checks, port).await)
        .await
}

#[tokio::test]
async fn the_apps_back_is_reached_from_inside_only() -> Result<()> {
    with_tenant("back", async |checks, tenant, port| {
        routing::check_back(checks, tenant, Endpoint::Port(port)).await
    })
    .await
}

#[tokio::test]
async fn a_good_token_signs_in_once_and_a_bad_one_never() -> Result<()> {
    in_sandbox("sign-on", async |checks, sandbox| {
        let keys = Keys::random()?;
        let (tenant, port) = healthy_tenant(sandbox, Some(&keys)).await?;
        sign_on::check(checks, &tenant, Endpoint::Port(port), NAME, &keys).await
    })
    .await
}

#[tokio::test]
async fn only_code_inside_the_tenant_declares_work() -> Result<()> {
    with_tenant("busy", async |checks, tenant, port| busy::check(checks, tenant, port).await).await
}

#[tokio::test]
async fn limits_are_configured_and_in_force() -> Result<()> {
    with_tenant("limits", async |checks, tenant, port| limits::check(checks, tenant, port).await)
        .await
}

#[tokio::test]
async fn a_tenant_at_its_limits_takes_nothing_from_another() -> Result<()> {
    in_sandbox("neighbors", async |checks, sandbox| {
        let start = async |name| {
            let options = TenantOptions { name, ..TenantOptions::default() };
            anyhow::Ok(sandbox.healthy(&options).await?.0)
        };
        let (hog, neighbor) = (start("hog").await?, start("neighbor").await?);
        limits::check_neighbors(checks, &hog, &neighbor).await
    })
    .await
}

#[tokio::test]
async fn a_tenant_with_a_route_token_reveals_nothing_without_it() -> Result<()> {
    in_sandbox("guarded", async |checks, sandbox| {
        let secrets = (route_token::TOKEN.to_owned(), route_token::PROOF.to_owned());
        // The pages of the other tests show `demo`, from the same image.
        let name = "guarded";
        let options =
            TenantOptions { name, route_secrets: Some(secrets), ..TenantOptions::default() };
        let (tenant, port) = sandbox.healthy(&options).await?;
        let endpoints = [("port", Endpoint::Port(port)), ("socket", Endpoint::Ingress(&tenant))];
        route_token::check(checks, &endpoints, name).await?;
        route_token::check_websocket(checks, port).await;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn tenants_cannot_reach_each_other() -> Result<()> {
    in_sandbox("isolation", isolation::check).await
}

#[tokio::test]
async fn each_tenant_keeps_a_history_of_its_own() -> Result<()> {
    in_sandbox("history", history::check).await
}

#[tokio::test]
async fn a_frozen_tenant_serves_its_callers_after_the_thaw() -> Result<()> {
    in_sandbox("freeze", freeze::check).await
}

#[tokio::test]
async fn log_lines_carry_the_name_of_their_service() -> Result<()> {
    in_sandbox("logging", logging::check).await
}

#[tokio::test]
async fn the_death_of_a_service_restarts_the_tenant() -> Result<()> {
    in_sandbox("deaths", async |checks, sandbox| {
        let (tenant, _) = healthy_tenant(sandbox, None).await?;
        endings::check_deaths(checks, sandbox, &tenant).await
    })
    .await
}

#[tokio::test]
async fn a_stop_drains_and_is_final() -> Result<()> {
    in_sandbox("stop", async |checks, sandbox| {
        let (tenant, _) = healthy_tenant(sandbox, None).await?;
        endings::check_drain(checks, sandbox, &tenant).await
    })
    .await
}

#[tokio::test]
async fn broken_images_fail_exactly_their_checks() -> Result<()> {
    in_sandbox("broken-images", broken_images::check).await
}
