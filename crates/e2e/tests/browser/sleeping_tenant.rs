//! A visit to a tenant that sleeps.

use e2e::{Axe, Browser};
use serde_json::json;
use testkit::Installation;

const TENANTS: &str = "/api/admin/tenants";
/// Tenants that are woken first, so that the visited one waits in the queue behind them.
const NEIGHBOURS: [&str; 4] = ["north", "east", "south", "west"];
/// With this share of a CPU, and behind its neighbours, a wake outlasts the hold of a visit: the waiting page shows.
const SLOW: u32 = 10;

/// The waiting page appears, moves on by itself, and keeps the address: with scripts and without.
pub(crate) async fn wakes_for_a_visit(
    browser: &Browser,
    (installation, axe): (&Installation, &Axe),
    tenant: &str,
) -> anyhow::Result<()> {
    let visited = format!("{tenant}?kept=1");
    browser.open(&installation.admin("/admin")).await?;
    for slug in NEIGHBOURS {
        browser.fetch("POST", TENANTS, &json!({ "slug": slug, "name": slug })).await?;
    }
    let mut waiting = String::new();
    for scripts_enabled in [true, false] {
        put_all_to_sleep(browser, installation).await?;
        // Without scripts the page comes back after 3 s: the tenant must still be awake then.
        let patient = json!({ "policy": { "sleep_after_seconds": 60 } });
        browser.fetch("PATCH", &format!("{TENANTS}/acme"), &patient).await?;
        for slug in NEIGHBOURS {
            browser.fetch("POST", &format!("{TENANTS}/{slug}/start"), &json!({})).await?;
        }
        browser.set_scripts_enabled(scripts_enabled).await?;
        browser.open(&visited).await?;
        browser.shows("Waking up").await?;
        waiting = browser.source().await?;
        assert_eq!(browser.url().await?, visited, "the waiting page keeps the address");
        browser
            .screenshot(if scripts_enabled { "6-waiting" } else { "7-waiting-without-scripts" })
            .await?;
        browser.shows("Platform · Tenant acme").await?;
        assert_eq!(browser.url().await?, visited, "and so does the way on");
        browser.set_scripts_enabled(true).await?;
    }
    browser.open_still(&waiting).await?;
    axe.accepts(browser, "waiting").await?;
    // The time of the wake reaches the admin a moment after the visitor is served.
    let page = installation.admin("/admin/tenants/acme");
    browser.shows_after_reloads(&page, "from sleep, in").await
}

/// Gives every tenant a policy of one second without use, and waits until all sleep.
async fn put_all_to_sleep(browser: &Browser, installation: &Installation) -> anyhow::Result<()> {
    let sleepy = json!({
        "policy": { "freeze_after_seconds": 0, "sleep_after_seconds": 1 },
        "limits": { "cpu_millis": SLOW },
    });
    for slug in NEIGHBOURS.into_iter().chain(["acme"]) {
        browser.open(&installation.admin("/admin")).await?;
        browser.fetch("PATCH", &format!("{TENANTS}/{slug}"), &sleepy).await?;
    }
    for slug in NEIGHBOURS.into_iter().chain(["acme"]) {
        let page = installation.admin(&format!("/admin/tenants/{slug}"));
        browser.shows_after_reloads(&page, "Asleep for").await?;
    }
    Ok(())
}
