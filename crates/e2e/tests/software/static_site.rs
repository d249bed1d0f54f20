//! nginx in an image without a shell.

use anyhow::Result;
use e2e::Checks;
use e2e::command_line::succeed;
use e2e::session::Session;
use testkit::Installation;

use crate::example::Example;

#[tokio::test(flavor = "multi_thread")]
async fn nginx_serves_pages_from_an_image_without_a_shell() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let mut session = Session::of_owner(&installation, "pages-acme").await?;
    let mut example = Example::copy("static-site", "pages")?;
    checks.require("a release without a manifest is created", example.release())?;
    checks.require("a tenant with nginx runs", example.tenant("pages-acme"))?;
    let page = session.url_answers(200).await?;
    checks.contains("nginx serves the page", "A page of nginx.", &page.body);

    std::fs::write(example.folder().join("pages/index.html"), "<p>Another page.\n")?;
    example.release()?;
    succeed(&["tenants", "set-release", "pages-acme", "v2"], None)?;
    let moved = session.shows("Another page.").await;
    checks.require("it moves to the next release", moved)?;

    session.set_policy(0, 1).await?;
    checks.require("it falls asleep", session.becomes("sleeping").await)?;
    checks.require("a visit wakes it", session.shows("Another page.").await)?;
    let deleted = example.delete(&["pages-acme"]);
    checks.require("tenant and app are deleted", deleted)?;
    checks.finish()
}
