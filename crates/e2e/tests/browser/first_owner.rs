//! From an empty installation to a signed-in visit of a tenant, in a real browser.

use e2e::session::{EMAIL, PASSWORD};
use e2e::{Axe, Browser};
use testkit::Installation;

use crate::{hostile_app, narrow_screen, orchestrator_outage, sleeping_tenant};

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_signs_up_creates_a_tenant_and_lands_inside_it() -> anyhow::Result<()> {
    let (installation, axe) = (Installation::from_env()?, Axe::from_env()?);
    let browser = Browser::start("first-owner").await?;

    browser.open(&installation.admin("/")).await?;
    axe.accepts(&browser, "sign-up").await?;
    browser.fill("Your name", "Olivia Owner").await?;
    browser.fill("E-mail", EMAIL).await?;
    browser.fill("Password", PASSWORD).await?;
    browser.screenshot("1-sign-up").await?;
    browser.press("Create account").await?;

    browser.shows("No tenants yet").await?;
    assert_eq!(browser.url().await?, installation.admin("/admin"));
    browser.screenshot("2-empty").await?;
    axe.accepts(&browser, "no tenants").await?;
    browser.press("New tenant").await?;
    browser.fill("Slug", "Not A Slug").await?;
    browser.fill("Name", "Acme Inc.").await?;
    browser.press("Create tenant").await?;
    browser.shows("a-z, 0-9 and hyphen").await?;
    browser.screenshot("3-told-at-its-field").await?;
    axe.accepts(&browser, "new tenant, refused").await?;

    browser.fill("Slug", "acme").await?;
    browser.press("Create tenant").await?;
    browser.shows("running").await?;
    browser.screenshot("4-running").await?;
    axe.accepts(&browser, "tenant").await?;
    for (path, page) in [("/admin", "tenants"), ("/admin/tenants/acme/delete", "delete a tenant")] {
        browser.open(&installation.admin(path)).await?;
        axe.accepts(&browser, page).await?;
    }
    narrow_screen::cuts_no_choice(&browser, &installation).await?;
    browser.open(&installation.admin("/admin/tenants/acme")).await?;
    browser.press("Open").await?;
    browser.shows("Tenant acme · signed in as").await?;
    browser.shows(EMAIL).await?;
    browser.screenshot("5-inside").await?;
    axe.accepts(&browser, "inside").await?;
    let tenant = browser.url().await?;
    assert!(!tenant.contains("token"), "the token must not stay in the address");

    browser.press("Sign out").await?;
    browser.hides(EMAIL).await?;
    browser.shows("Platform · Tenant acme").await?;

    sleeping_tenant::wakes_for_a_visit(&browser, (&installation, &axe), &tenant).await?;
    let page = installation.admin("/admin/tenants/acme");
    browser.shows_after_reloads(&page, "Asleep for").await?;
    orchestrator_outage::keeps_no_token_in_the_address(&browser, &installation, &tenant).await?;

    sign_in_with_a_passkey(&browser, &installation, &axe).await?;

    browser.open(&installation.admin("/admin")).await?;
    browser.press("Sign out").await?;
    browser.shows("Sign in").await?;
    axe.accepts(&browser, "sign-in").await?;
    browser.open(&installation.admin("/admin/tenants/acme")).await?;
    assert!(
        browser.url().await?.contains("/admin/login?next="),
        "a page of the admin without a session"
    );
    // Refused forms and waiting pages are responses of 422 and 503, which the browser logs.
    let noted = "Failed to load resource: the server responded with a status of";
    let form = format!("/admin/tenants/new - {noted} 422");
    let waiting = format!("/?kept=1 - {noted} 503");
    let asleep = format!("/ - {noted} 503");
    browser.finish(&[&form, &waiting, &asleep]).await?;

    hostile_app::does_nothing_at_the_core(&installation).await
}

/// Adds a passkey on the account's page, signs out, and signs in with the passkey alone.
async fn sign_in_with_a_passkey(
    browser: &Browser,
    installation: &Installation,
    axe: &Axe,
) -> anyhow::Result<()> {
    browser.add_authenticator().await?;
    browser.open(&installation.admin("/admin/account")).await?;
    browser.shows("No passkeys").await?;
    browser.fill("Name of the passkey", "This laptop").await?;
    browser.fill("Your password", PASSWORD).await?;
    browser.press("Add a passkey").await?;
    browser.shows("This laptop").await?;
    axe.accepts(browser, "account with a passkey").await?;
    browser.press("Sign out").await?;
    browser.press("Sign in with a passkey").await?;
    browser.shows("Tenants").await?;
    browser.shows(EMAIL).await
}
