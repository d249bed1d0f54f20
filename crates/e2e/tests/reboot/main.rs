//! The machine under an installation goes down and comes back. Nobody starts anything then: the engine starts the services,
//! and the services start the tenants.
//!
//! `cargo xtask test reboot` makes the machine (`machine.sh`), brings the installation up on it, and runs these tests inside.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::session::Session;
use e2e::{Checks, Parts};
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
    sleeping.set_policy(0, 1).await?;
    sleeping.becomes("sleeping").await?;
    let slept_since = start_of_tenant(&sleeping).await?;
    // The documented upgrade must not count as a stop by hand, after which the engine would leave the router down.
    let parts = Parts::of(&installation);
    let upgraded = parts.upgrade_router().await;
    checks.require(&format!("{how}: the router was upgraded before"), upgraded)?;

    let mut starts = Vec::new();
    for service in SERVICES {
        starts.push(parts.service(service).await?.state()["StartedAt"].clone());
    }
    take_down(how)?;
    for (service, before) in SERVICES.into_iter().zip(starts) {
        let healthy = eventually(service, TIMEOUT, async || {
            // The engine does not respond while the machine is down.
            let Ok(container) = parts.service(service).await else { return Ok(false) };
            let state = container.state();
            let is_healthy = state["Health"]["Status"] == "healthy";
            Ok(is_healthy && state["Running"] == true && state["StartedAt"] != before)
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
        let count = parts.tenant(&session.slug).await?.len();
        checks.equal(&format!("{how}: one container of {}", session.slug), 1, count);
    }
    checks.finish()
}

/// Ends the machine, which comes back by itself.
fn take_down(how: &str) -> Result<()> {
    let machine = installation::required("CIAL_E2E_MACHINE")?;
    std::fs::write(Path::new(&machine).join("power"), format!("{how}\n")).context("the machine")
}

/// The time at which a tenant's container was last started, as text.
async fn start_of_tenant(session: &Session) -> Result<String> {
    let container = Parts::of(&session.installation).tenant(&session.slug).await?.pop();
    Ok(container.context("the tenant has no container")?.state()["StartedAt"].to_string())
}
