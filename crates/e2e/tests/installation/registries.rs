//! A tenant runs an image that nobody put on the engine: it comes from a registry that wants an account.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::command_line::{fails, succeed, succeed_with_input};
use e2e::session::Session;
use e2e::{AppImages, Checks, leaks};
use serde_json::Value;
use testkit::registry::{PASSWORD, Registry, USERNAME};
use testkit::{Installation, wait_for};

use crate::apps::PROGRAM;

/// The orchestrator holds the image of a new release for a minute, and app-api looks each minute, after a failure less often.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(240);

#[tokio::test]
async fn a_tenant_runs_an_image_of_a_registry_that_wants_an_account() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let registry = Registry::start()?;
    let host = registry.host();
    let name = {
        let images = AppImages::build("pulled", PROGRAM, &["one"])?;
        registry.push(&images.names[0], "team/pulled:1.4")?
    };
    let docker = testkit::engine::connect().await?;
    ensure!(docker.inspect_image(&name).await.is_err(), "the engine has {name} already");
    succeed(&["apps", "create", "pulled"], None)?;
    let create = ["apps", "release", "create", "pulled", "--image", &name];
    let refused =
        checks.require("without an account the image is refused", fails(&create, None))?;
    let store = format!("cial registries set {host}");
    checks.contains("with the command that stores one", &store, &refused);

    let set = ["registries", "set", &host, "--username", USERNAME];
    let stored = succeed_with_input(&set, &format!("{PASSWORD}\n"));
    checks.require("an account is stored", stored)?;
    let listed = succeed(&["registries", "list", "--output", "name"], None)?;
    checks.equal("the registry is listed", &host, listed.trim());
    let release = succeed(&[&create[..], &["--output", "json"]].concat(), None);
    let release = checks.require("the image is pulled for a release", release)?;
    let release: Value = serde_json::from_str(&release)?;
    let repository = name.strip_suffix(":1.4").unwrap_or_default();
    let digest = release["repository_digest"].as_str().unwrap_or_default();
    checks.contains("it shows the digest", &format!("{repository}@sha256:"), digest);

    succeed(&["tenants", "create", "pulled-acme", "--app", "pulled"], None)?;
    let mut session = Session::of_owner(&installation, "pulled-acme").await?;
    let page = session.url_answers(200).await?;
    checks.contains("a tenant runs it", "notes one as 1001", &page.body);
    let image = docker.inspect_image(&name).await?;
    let id = image.id.unwrap_or_default();
    let shown = serde_json::to_string(&docker.inspect_image(&id).await?)?;
    ensure!(!shown.contains(PASSWORD), "the image has the password");
    let searched = leaks::search_logs(&installation, &[PASSWORD.to_owned()]).await;
    checks.require("no log has the password", searched)?;

    succeed(&["tenants", "delete", "pulled-acme", "--yes"], None)?;
    succeed(&["apps", "delete", "pulled", "--yes"], None)?;
    let removed = wait_for("the removal of the image", REMOVAL_TIMEOUT, async || {
        Ok(docker.inspect_image(&id).await.is_err().then_some(()))
    });
    checks.require("the image goes with its last release", removed.await)?;
    let deleted = succeed(&["registries", "delete", &host, "--yes"], None);
    checks.require("the account is deleted", deleted)?;
    let listed = succeed(&["registries", "list", "--output", "name"], None)?;
    checks.equal("no registry is left", "", listed.trim());
    checks.finish()
}
