//! A visit to a tenant that sleeps, during an outage of the orchestrator.

use docker_command::InstallationObjects;
use e2e::Browser;
use testkit::Installation;

/// The address that a browser arrives with from the admin must not stay: it would be in the history, too. `tenant`, which
/// sleeps, is served again afterwards.
pub(crate) async fn keeps_no_token_in_the_address(
    browser: &Browser,
    installation: &Installation,
    tenant: &str,
) -> anyhow::Result<()> {
    let orchestrator = InstallationObjects::of(&installation.name).service("orchestrator")?.id;
    docker_command::run(&["stop", &orchestrator])?;
    let core = tenant.replacen("://", "://core--", 1);
    for site in [tenant, &core] {
        browser.open(&format!("{site}.cial/sso?token=e30.e30.e30")).await?;
        browser.shows("cannot be woken at the moment").await?;
        assert_eq!(browser.url().await?, site, "neither the token nor its path stays");
        assert!(!browser.source().await?.contains("e30"), "nor does the page hold it");
    }
    browser.screenshot("8-orchestrator-outage").await?;
    docker_command::run(&["start", &orchestrator])?;
    browser.open(tenant).await?;
    browser.shows("Platform · Tenant acme").await
}
