//! The two sites of a tenant through the router: power is at the core's site alone, under a session of its own.

use anyhow::Result;
use e2e::Checks;
use e2e::session::{EMAIL, Session};
use serde_json::json;
use testkit::Installation;

const WORKSPACES: &str = "/.cial/api/v1/workspaces";

#[tokio::test]
async fn the_cores_site_has_a_sign_in_of_its_own_and_power_is_there_alone() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let mut session = Session::signed_in(&installation, "two-sites").await?;
    let core_host = installation.tenant_host("core--two-sites");
    let signed_in = session.sign_in_at_core().await;
    let mut core = checks.require("the owner signs in at the core's site", signed_in)?;
    let page = core.get("/.cial").await?;
    checks.contains("a page of the core names the owner", EMAIL, &page.body);
    let made = core.post(WORKSPACES, &json!({ "name": "alpha" })).await?;
    checks.equal("the session there may change the history", 201, made.status);

    let root = core.get("/").await?;
    checks.equal("the root leads to the core", "/.cial", root.location());
    for path in ["/index.html", "/ws"] {
        let app = core.get(path).await?;
        checks.equal(&format!("the app is not served there: {path}"), 404, app.status);
    }

    let own = &mut session.guest;
    let page = own.get("/").await?;
    checks.contains("the tenant's own session names the owner to the app", EMAIL, &page.body);
    let read = own.get(WORKSPACES).await?;
    checks.equal("it reads no history", 401, read.status);
    let written = own.post(WORKSPACES, &json!({ "name": "beta" })).await?;
    checks.equal("it changes none", 401, written.status);
    let mut carried = own.at_host(&core_host);
    let read = carried.get(WORKSPACES).await?;
    checks.equal("its cookie counts for nothing at the core's site", 401, read.status);
    let mut carried = core.at_host(&installation.tenant_host("two-sites"));
    let page = carried.get("/").await?;
    let is_named = page.body.contains(EMAIL);
    checks.holds("nor does the other at the tenant's own", "nobody named", is_named, !is_named);
    checks.finish()
}
