//! A visit to a tenant that sleeps.

use e2e::{Axe, Browser, Installation};
use serde_json::json;

const TENANTS: &str = "/api/admin/tenants";
/// They are woken first, so that the visited one has its turn after them.
const NEIGHBOURS: [&str; 4] = ["north", "east", "south", "west"];
/// With so little of a CPU, and behind its neighbours, a wake takes longer than a visit is held: the waiting page shows.
const SLOW: u32 = 10;

/// The waiting page comes, moves on by itself, and keeps the address: with scripts and without.
pub(crate) async fn a_visit_wakes_it(
    browser: &Browser,
    (installation, axe): (&Installation, &Axe),
    tenant: &str,
) -> anyhow::Result<()> {
    let visited = format!("{tenant}?kept=1");
    browser.open(&installation.admin("/admin")).await?;
    for slug in NEIGHBOURS {
        browser.calls("POST", TENANTS, &json!({ "slug": slug, "name": slug })).await?;
    }
    let mut waiting = String::new();
    for may_script in [true, false] {
        all_sleep(browser, installation).await?;
        for slug in NEIGHBOURS {
            browser.calls("POST", &format!("{TENANTS}/{slug}/start"), &json!({})).await?;
        }
        browser.lets_scripts_run(may_script).await?;
        browser.open(&visited).await?;
        browser.sees("Waking up").await?;
        waiting = browser.source().await?;
        assert_eq!(browser.url().await?, visited, "the waiting page keeps the address");
        browser.picture(if may_script { "6-waiting" } else { "7-waiting-without-scripts" }).await?;
        browser.sees("Platform · Tenant acme").await?;
        assert_eq!(browser.url().await?, visited, "and so does the way on");
        browser.lets_scripts_run(true).await?;
    }
    browser.still(&waiting).await?;
    axe.accepts(browser, "waiting").await?;
    browser.open(&installation.admin("/admin/tenants/acme")).await?;
    browser.sees("from sleep, in").await
}

/// Each after a second without use.
async fn all_sleep(browser: &Browser, installation: &Installation) -> anyhow::Result<()> {
    let sleepy = json!({
        "policy": { "freeze_after_seconds": 0, "sleep_after_seconds": 1 },
        "limits": { "cpu_millis": SLOW },
    });
    for slug in NEIGHBOURS.into_iter().chain(["acme"]) {
        browser.open(&installation.admin("/admin")).await?;
        browser.calls("PATCH", &format!("{TENANTS}/{slug}"), &sleepy).await?;
    }
    for slug in NEIGHBOURS.into_iter().chain(["acme"]) {
        let page = installation.admin(&format!("/admin/tenants/{slug}"));
        browser.sees_in_time(&page, "Asleep for").await?;
    }
    Ok(())
}
