//! A workflow of a package runs inside its tenant, as the user of the tenant's app, also when the tenant rests.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use e2e::Checks;
use e2e::command_line::{fails, json, succeed};
use e2e::session::{Session, TIMEOUT};
use serde_json::Value;
use testkit::installation::required;
use testkit::{Installation, TempDir, wait_for};

const SLUG: &str = "worker";

const DOCUMENT: &str = include_str!("../../../../docs/packages.md");

const ENDLESS: &str = r#"
name = "endless"
version = "1"
[[workflow]]
name = "endless"
[[workflow.task]]
name = "wait"
command = ["bin/wait"]
"#;
const WAIT: &str = "#!/bin/sh\necho waiting\nexec sleep 3600\n";

/// The commands of the document's first workflow.
fn tutorial() -> Result<[&'static str; 2]> {
    let (_, section) = DOCUMENT.split_once("## A first workflow").context("no tutorial")?;
    let (section, _) = section.split_once("\n## ").context("no section after it")?;
    let blocks = section.split("```sh\n").skip(1).filter_map(|text| text.split_once("```"));
    let blocks: Vec<_> = blocks.map(|(block, _)| block).collect();
    blocks.try_into().map_err(|blocks| anyhow!("not two blocks: {blocks:?}"))
}

/// Runs commands of the document in a folder; returns what they print.
fn shell(commands: &str, folder: &Path) -> Result<String> {
    let program = PathBuf::from(required("CIAL_E2E_CIAL")?);
    let programs = program.parent().context("cial lies in no folder")?.display();
    let path = testkit::installation::variable("PATH").unwrap_or_default();
    let output = Command::new("sh")
        .args(["-euc", commands])
        .current_dir(folder)
        .env("PATH", format!("{programs}:{path}"))
        .env("CIAL_CONFIG", required("CIAL_E2E_CONFIG")?)
        .env("CIAL_TENANT", SLUG)
        .output()?;
    let (printed, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{commands}: {printed}{error}");
    Ok(printed.into_owned())
}

/// Makes a package as the document does, with one program.
fn make_package(folder: &Path) -> Result<String> {
    let package = folder.join("endless-1");
    fs::create_dir_all(package.join("bin"))?;
    fs::write(package.join("package.toml"), ENDLESS)?;
    let path = package.join("bin/wait");
    fs::write(&path, WAIT)?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    shell("tar --zstd -cf endless-1.cial endless-1", folder)?;
    Ok(folder.join("endless-1.cial").display().to_string())
}

fn run(args: &[&str]) -> Result<String> {
    let scheduled = json(&[args, &["--tenant", SLUG]].concat())?;
    let id = scheduled["execution_id"].as_str().context("no execution_id")?;
    Ok(id.to_owned())
}

async fn becomes(id: &str, state: &str) -> Result<Value> {
    wait_for(&format!("execution {state}"), TIMEOUT, async || {
        let shown = json(&["execution", "get", id, "--tenant", SLUG])?;
        let is_other_end = ["succeeded", "failed", "cancelled"]
            .iter()
            .any(|end| *end != state && shown["state"] == *end);
        ensure!(!is_other_end, "{shown}");
        Ok((shown["state"] == state).then_some(shown))
    })
    .await
}

/// Waits until an execution of a trigger that fires each minute has succeeded.
async fn ran_by(trigger: &str) -> Result<()> {
    wait_for("an execution of the trigger", TIMEOUT + Duration::from_secs(60), async || {
        let list = succeed(&["execution", "list", "--tenant", SLUG, "--output", "json"], None)?;
        let list: Vec<Value> = serde_json::from_str(&list)?;
        let by_trigger =
            list.iter().filter(|one| one["created_by"] == format!("trigger {trigger}"));
        let mut states = by_trigger.map(|one| &one["state"]);
        Ok(states.any(|state| state == "succeeded").then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_workflow_runs_inside_its_tenant() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let mut session = Session::with_tenant(&installation, SLUG).await?;
    let folder = TempDir::new("package")?;
    let [upload, run_it] = tutorial()?;
    checks.require("the package of the document is uploaded", shell(upload, folder.path()))?;
    let again =
        fails(&["package", "upload", &path_in(&folder, "orders-1.cial"), "--tenant", SLUG], None)?;
    checks.contains("and never again", "orders-1", &again);

    session.set_policy(1, 2).await?;
    checks.require("the tenant sleeps", session.becomes("sleeping").await)?;
    let printed = checks.require("its workflow wakes it and runs", shell(run_it, folder.path()))?;
    checks.contains("as the user of the app", "fetched as user 1001", &printed);
    let list = json(&["execution", "list", "--tenant", SLUG])?;
    let id = list[0]["id"].as_str().context("no id")?;
    let ended = checks.require("it succeeds", becomes(id, "succeeded").await)?;
    checks.equal(
        "a task leaves a result",
        12,
        ended["tasks"][1]["output"].as_i64().unwrap_or_default(),
    );
    checks.require("the tenant sleeps again afterwards", session.becomes("sleeping").await)?;

    succeed(&["workflow", "pause", "nightly", "--tenant", SLUG], None)?;
    let args = ["workflow", "run", "nightly", "--input", "day=1", "--tenant", SLUG];
    checks.contains("a paused workflow does not run", "workflow_paused", &fails(&args, None)?);
    succeed(&["workflow", "resume", "nightly", "--tenant", SLUG], None)?;

    let file = make_package(folder.path())?;
    succeed(&["package", "upload", &file, "--tenant", SLUG], None)?;
    let id = run(&["workflow", "run", "endless"])?;
    checks.require("a task that does not end runs", becomes(&id, "running").await)?;
    let logged = wait_for("its output", TIMEOUT, async || {
        let output = succeed(&["execution", "logs", &id, "--tenant", SLUG], None)?;
        Ok(output.contains("waiting").then_some(()))
    });
    checks.require("its output is read meanwhile", logged.await)?;
    succeed(&["execution", "cancel", &id, "--tenant", SLUG, "--yes"], None)?;
    checks.require("and ends when it is cancelled", becomes(&id, "cancelled").await)?;
    checks.require("it holds the tenant awake no longer", session.becomes("sleeping").await)?;

    let create = ["trigger", "create", "each-minute", "--workflow", "nightly", "--tenant", SLUG];
    succeed(&[&create[..], &["--cron", "* * * * *", "--input", "day=1"]].concat(), None)?;
    checks.require("a trigger wakes it and runs a workflow", ran_by("each-minute").await)?;
    succeed(&["trigger", "delete", "each-minute", "--yes", "--tenant", SLUG], None)?;
    succeed(&["tenants", "delete", SLUG, "--yes"], None)?;
    checks.finish()
}

fn path_in(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}
