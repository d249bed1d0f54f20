//! The machine under an installation goes down and comes back. Nobody starts anything then: the engine starts the services,
//! and the services start the tenants.
//!
//! `cargo xtask test reboot` makes the machine (`machine.sh`), brings the installation up on it, and runs these tests inside.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bollard::models::{ContainerState, HealthStatusEnum};
use e2e::Checks;
use e2e::session::Session;
use serde_json::json;
use testkit::engine::{TenantContainer, container_of_service, containers_of_tenant};
use testkit::{Installation, eventually, installation};

/// Each has the policy `unless-stopped`; the engine starts them in no order.
const SERVICES: [&str; 6] =
    ["postgres", "database-proxy", "firewall", "orchestrator", "app-api", "router"];
/// A machine under load starts all containers of an installation within this time.
const TIMEOUT: Duration = Duration::from_secs(180);

#[tokio::test]
async fn everything_returns_after_a_reboot() -> Result<()> {
    returns_after("reboot").await
}

#[tokio::test]
async fn everything_returns_after_a_power_cut() -> Result<()> {
    returns_after("cut").await
}

/// Takes the machine down in one of the ways of `machine.sh`.
async fn returns_after(how: &str) -> Result<()> {
    let installation = Installation::from_env()?;
    let mut checks = Checks::new();
    let mut running = Session::signed_in(&installation, &format!("runs-{how}")).await?;
    let mut stopped = Session::with_tenant(&installation, &format!("stopped-{how}")).await?;
    let mut sleeping = Session::with_tenant(&installation, &format!("sleeps-{how}")).await?;
    stopped.act("stop").await?;
    stopped.becomes("stopped").await?;
    let policy = json!({ "policy": { "freeze_after_seconds": 0, "sleep_after_seconds": 1 } });
    sleeping.owner.patch(&sleeping.path(""), &policy).await?.expect_status(200)?;
    sleeping.becomes("sleeping").await?;
    let slept_since = start_of_tenant(&sleeping).await?;
    // The documented upgrade must not count as a stop by hand, after which the engine would leave the router down.
    let upgraded = upgrade_router(&installation).await;
    checks.require(&format!("{how}: the router was upgraded before"), upgraded)?;

    let mut starts = Vec::new();
    for service in SERVICES {
        starts.push(state_of_service(&installation, service).await?.started_at);
    }
    take_down(how)?;
    for (service, before) in SERVICES.into_iter().zip(starts) {
        let healthy = eventually(service, TIMEOUT, async || {
            // The engine does not respond while the machine is down.
            let state = state_of_service(&installation, service).await.unwrap_or_default();
            let health = state.health.and_then(|health| health.status);
            let is_healthy = health == Some(HealthStatusEnum::HEALTHY);
            Ok(is_healthy && state.running == Some(true) && state.started_at != before)
        });
        checks.require(&format!("{how}: {service} returns"), healthy.await)?;
    }

    let served = running.url_answers(200).await.map(drop);
    checks.require(&format!("{how}: a tenant that ran answers at its URL"), served)?;
    let known = running.guest_is_owner().await;
    checks.require(&format!("{how}: its visitor is still signed in"), known)?;
    let known = running.becomes("running").await.map(drop);
    checks.require(&format!("{how}: its owner is still signed in at the admin"), known)?;
    let anew = Session::signed_in(&installation, &running.slug).await.map(drop);
    checks.require(&format!("{how}: a person signs in at the admin and at the tenant"), anew)?;

    let still = stopped.becomes("stopped").await.map(drop);
    checks.require(&format!("{how}: a tenant that was stopped stays so"), still)?;
    let asleep = sleeping.becomes("sleeping").await.map(drop);
    checks.require(&format!("{how}: a tenant that slept sleeps"), asleep)?;
    let name = format!("{how}: it slept through the return of the machine");
    checks.equal(&name, &slept_since, start_of_tenant(&sleeping).await?);
    let woken = sleeping.url_answers(200).await.map(drop);
    checks.require(&format!("{how}: a tenant that slept wakes for a visit"), woken)?;
    for session in [&running, &stopped, &sleeping] {
        let count = containers_of(session).await?.len();
        checks.equal(&format!("{how}: one container of {}", session.slug), 1, count);
    }
    checks.finish()
}

/// Ends the machine, which comes back by itself.
fn take_down(how: &str) -> Result<()> {
    let machine = installation::required("CIAL_E2E_MACHINE")?;
    std::fs::write(Path::new(&machine).join("power"), format!("{how}\n")).context("the machine")
}

/// Runs `docker compose exec router router upgrade`.
async fn upgrade_router(installation: &Installation) -> Result<()> {
    let docker = testkit::engine::connect().await?;
    let router = container_of_service(&docker, installation, "router").await?;
    let router = TenantContainer::existing(&docker, &router);
    let upgrade = router.exec("1000", &["router", "upgrade"]).await?;
    ensure!(upgrade.exit_code == 0, "router upgrade: {}", upgrade.text);
    Ok(())
}

async fn state_of_service(installation: &Installation, service: &str) -> Result<ContainerState> {
    let docker = testkit::engine::connect().await?;
    let id = container_of_service(&docker, installation, service).await?;
    docker.inspect_container(&id, None).await?.state.context("a container without a state")
}

async fn containers_of(session: &Session) -> Result<Vec<String>> {
    let docker = testkit::engine::connect().await?;
    containers_of_tenant(&docker, &session.installation, &session.slug).await
}

/// The time at which a tenant's container was last started, as text.
async fn start_of_tenant(session: &Session) -> Result<String> {
    let docker = testkit::engine::connect().await?;
    let id = containers_of(session).await?.pop().context("the tenant has no container")?;
    let state = docker.inspect_container(&id, None).await?.state.unwrap_or_default();
    Ok(format!("{:?}", state.started_at))
}
