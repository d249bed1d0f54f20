//! A tenant runs a program that knows nothing of the platform, by the commands that docs/apps.md shows.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use e2e::command_line::{create_app, delete_app, succeed};
use e2e::session::Session;
use e2e::{AppImages, Checks};
use serde_json::Value;
use testkit::Installation;

pub(crate) const PROGRAM: &str = include_str!("notes.rs");

#[tokio::test]
async fn a_tenant_runs_the_program_of_an_image_and_moves_between_releases() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let images = AppImages::build("notes", PROGRAM, &["one", "two"])?;
    let created = create_app("notes", &images.names, None);
    checks.require("an app is created with releases", created)?;
    let create = ["tenants", "create", "notes-acme", "--app", "notes"];
    checks.require("a tenant with the app is created", succeed(&create, None))?;
    let mut session = Session::of_owner(&installation, "notes-acme").await?;
    let page = session.url_answers(200).await?;
    let newest = "notes two as 1001 for nobody, visit 1";
    checks.equal("its program answers as the agent", newest, &page.body);

    let address = session.open().await?;
    session.guest.get(&address).await?.expect_status(303)?;
    let page = session.guest.get("/").await?;
    let known = "notes two as 1001 for owner@example.com, visit 2";
    checks.equal("its program knows who visits it", known, &page.body);

    let assertion = session.guest.get("/assertion").await?.body;
    let header = assertion.split('.').next().unwrap_or_default();
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header)?;
    let header: Value = serde_json::from_slice(&header).context(assertion)?;
    let keys = session.guest.get("/.cial/api/jwks.json").await?.json();
    checks.equal("its program receives an assertion", "\"ES256\"", &header["alg"]);
    checks.equal("signed with the tenant's published key", &header["kid"], &keys["keys"][0]["kid"]);

    succeed(&["tenants", "set-release", "notes-acme", "v1"], None)?;
    let moved = session.shows("notes one").await?;
    let earlier = "notes one as 1001 for owner@example.com, visit 3";
    checks.equal("an earlier release finds the files", earlier, &moved.body);

    session.set_policy(0, 1).await?;
    checks.require("it falls asleep", session.becomes("sleeping").await)?;
    let page = session.url_answers(200).await?;
    checks.contains("a visit wakes it", "notes one as 1001", &page.body);

    checks.require("tenant and app are deleted", delete_app("notes", &["notes-acme"]))?;
    checks.finish()
}
