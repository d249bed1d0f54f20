//! Hooks of an app on the real engine: once in a tenant, once on a release, and taken back where they fail.

use std::fs;

use anyhow::Result;
use e2e::command_line::{create_app, delete_app, fails, succeed};
use e2e::session::Session;
use e2e::{AppImages, Checks};
use testkit::{Installation, TempDir};

use crate::apps::PROGRAM;

const APP: &str = "journals";
const SLUG: &str = "journal-acme";
const MANIFEST: &str = r#"[hooks]
before_first_start = ["/program", "init"]
migrate = ["/program", "migrate"]
timeout = 20
"#;

/// Waits until the tenant answers as this version; returns the hooks that ran in it.
async fn journal(session: &mut Session, version: &str) -> Result<String> {
    session.shows(&format!("notes {version} ")).await?;
    Ok(session.guest.get("/journal").await?.body)
}

#[tokio::test]
async fn hooks_run_once_and_a_migration_that_fails_is_taken_back() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let images = AppImages::build("journal", PROGRAM, &["one", "two", "spoils"])?;
    let folder = TempDir::new("hooks-manifest")?;
    let manifest = folder.path().join("cial.toml");
    fs::write(&manifest, MANIFEST)?;
    let manifest = manifest.display().to_string();
    let created = create_app(APP, &images.names[..2], Some(&manifest));
    checks.require("releases with hooks are tried", created)?;
    let spoils = ["--image", &images.names[2], "--manifest", &manifest];
    let spoils = [&["apps", "release", "create", APP], &spoils[..]].concat();
    let refused = checks.require("a release whose hook fails is refused", fails(&spoils, None))?;
    checks.contains("with what the hook printed", "cannot understand the visits", &refused);
    checks.contains("and what became of it", "the hook migrate exited with 4", &refused);
    succeed(&[&spoils[..], &["--no-smoke-start"]].concat(), None)?;

    succeed(&["tenants", "create", SLUG, "--app", APP, "--release", "v1"], None)?;
    let mut session = Session::of_owner(&installation, SLUG).await?;
    let ran = journal(&mut session, "one").await?;
    checks.equal("both hooks ran before the program", "init-one migrate-one", ran);
    session.act("restart").await?;
    session.becomes("running").await?;
    let ran = journal(&mut session, "one").await?;
    checks.equal("neither runs again", "init-one migrate-one", ran);

    let rollout = |release| ["apps", "rollout", "start", APP, "--release", release];
    checks.require("a rollout migrates", succeed(&rollout("v2"), None))?;
    let ran = journal(&mut session, "two").await?;
    checks.equal("by the hook of its release", "init-one migrate-one migrate-two", ran);

    let failed = tokio::task::spawn_blocking(move || fails(&rollout("v3"), None)).await?;
    let failed = checks.require("a rollout whose migration fails stops", failed)?;
    checks.contains("and names the tenant", "journal-acme does not run on v3", &failed);
    checks.contains("and the hook", "the hook migrate exited with 4", &failed);
    let ran = journal(&mut session, "two").await?;
    checks.equal("the files are as before", "init-one migrate-one migrate-two", ran);
    let page = session.guest.get("/").await?;
    checks.holds("the visits, too", "not the first", &page.body, !page.body.ends_with("visit 1"));

    succeed(&["tenants", "set-release", SLUG, "v1"], None)?;
    let ran = journal(&mut session, "one").await?;
    let all = "init-one migrate-one migrate-two migrate-one";
    checks.equal("an earlier release runs its own hook", all, ran);
    checks.require("tenant and app are deleted", delete_app(APP, &[SLUG]))?;
    checks.finish()
}
