//! Two tenants beside each other, each on a network as the driver makes it, cannot reach each
//! other.

use std::time::Duration;

use anyhow::Result;
use e2e::Checks;
use e2e::reachability::{
    CLOSED, OPEN, Target, public_ports, published_ports, reach, reaches_itself,
};
use testkit::engine::{Sandbox, TenantContainer, TenantOptions};

const ATTEMPTS: u32 = 5;

pub(crate) async fn check(checks: &mut Checks, sandbox: &Sandbox) -> Result<()> {
    let (one, other) = (neighbour(sandbox, "one").await?, neighbour(sandbox, "other").await?);
    checks.equal("a tenant reaches its own app", OPEN, reaches_itself(&one).await?);
    for (from, to, names) in [(&one, &other, "one → other"), (&other, &one, "other → one")] {
        let mut targets = public_ports(to).await?;
        targets.extend(published_ports(from, to).await?);
        for target in targets {
            let outcome = reach_repeatedly(from, &target).await?;
            checks.equal(&format!("{names}: {} is closed", target.name), CLOSED, outcome);
        }
        let (own, others) = (name_of(from).await?, name_of(to).await?);
        let resolves = async |name: &str| {
            let ran = from.exec("agent", &["getent", "hosts", name]).await?;
            anyhow::Ok(ran.exit_code == 0)
        };
        let outcome = format!("{} {}", resolves(&own).await?, resolves(&others).await?);
        checks.equal(&format!("{names}: a name is known at home only"), "true false", outcome);
    }
    check_the_check(checks, &one, &other).await
}

/// [`OPEN`] only if every attempt succeeds. The isolation of the engine has gaps while other tests create networks: the
/// firewall of an installation closes them, and these tenants have none.
async fn reach_repeatedly(from: &TenantContainer, target: &Target) -> Result<&'static str> {
    for _ in 1..ATTEMPTS {
        if reach(from, target).await? == CLOSED {
            return Ok(CLOSED);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    reach(from, target).await
}

/// With a hole made on purpose, the same check must give the opposite result.
async fn check_the_check(
    checks: &mut Checks,
    one: &TenantContainer,
    other: &TenantContainer,
) -> Result<()> {
    one.join_network_of(other).await?;
    for target in public_ports(other).await? {
        let outcome = reach(one, &target).await?;
        checks.equal(&format!("on one network, {} would be open", target.name), OPEN, outcome);
    }
    Ok(())
}

async fn neighbour(sandbox: &Sandbox, name: &'static str) -> Result<TenantContainer> {
    let options = TenantOptions { name, has_network: true, ..TenantOptions::default() };
    Ok(sandbox.healthy(&options).await?.0)
}

async fn name_of(tenant: &TenantContainer) -> Result<String> {
    let name = tenant.inspect().await?.name.unwrap_or_default();
    Ok(name.trim_start_matches('/').to_owned())
}
