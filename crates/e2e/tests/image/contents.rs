//! The image itself: what it exposes, contains, and adds to its base.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use e2e::Checks;
use testkit::engine::{Sandbox, TenantContainer};
use testkit::installation::required;

/// Bytes that the image may add to its base.
const MAX_ADDED_BYTES: i64 = 16_000_000;

pub(crate) async fn check(
    checks: &mut Checks,
    sandbox: &Sandbox,
    tenant: &TenantContainer,
) -> Result<()> {
    let image = sandbox.docker.inspect_image(&sandbox.image).await?;
    let config = image.config.context("an image without a configuration")?;
    let exposed = config.exposed_ports.unwrap_or_default().join(" ");
    checks.equal("the one exposed port", "8080/tcp", exposed);
    let entrypoint = config.entrypoint.unwrap_or_default().join(" ");
    checks.equal("the image starts PID 1", "supervisor", entrypoint);
    check_contents(checks, tenant).await?;
    check_sources(checks)
}

/// Checks the size of the image under test; an image with another layer on top is larger by that layer.
pub(crate) async fn check_size(checks: &mut Checks, sandbox: &Sandbox) -> Result<()> {
    let size = async |image: &str| -> Result<i64> {
        Ok(sandbox.docker.inspect_image(image).await?.size.unwrap_or_default())
    };
    let added = size(&sandbox.image).await? - size(&required("CIAL_E2E_BASE_IMAGE")?).await?;
    let what = "the image adds little to its base";
    checks.holds(what, format_args!("≤ {MAX_ADDED_BYTES} B"), added, added <= MAX_ADDED_BYTES);
    Ok(())
}

async fn check_contents(checks: &mut Checks, tenant: &TenantContainer) -> Result<()> {
    let accounts =
        "for who in cial agent; do echo $(id -u $who):$(id -g $who):$(id -Gn $who); done";
    let seen = tenant.exec_shell("root", accounts).await?.text;
    checks.equal("the two users", "1000:1000:cial 1001:1001:agent", seen.replace('\n', " "));
    let stat = ["stat", "-c", "%U %a", "/opt/cial-core", "/opt/cial-platform"];
    let seen = tenant.exec("root", &stat).await?.text.replace('\n', ", ");
    checks.equal("the core's directory is closed", "cial 700, agent 755", seen);
    let stat = ["stat", "-c", "%U %a", "/usr/local/bin/supervisor"];
    checks.equal("PID 1's program is root's", "root 755", tenant.exec("root", &stat).await?.text);
    let stat = ["stat", "-c", "%U %a", "/var/lib/cial"];
    checks.equal("the core's data is closed", "cial 700", tenant.exec("root", &stat).await?.text);
    // Root has no DAC_OVERRIDE here: each user searches the directories of its own.
    let mut found = String::new();
    for user in ["root", "cial", "agent"] {
        let find = "find / -xdev -type f -perm /6000 2>/dev/null";
        found.push_str(&tenant.exec_shell(user, find).await?.text);
    }
    checks.equal("no set-uid or set-gid file", "", found);
    for (what, programs) in [
        ("no other supervisor", "s6-svscan supervisord runit tini node"),
        ("no build tools", "cargo rustc gcc cc make npm"),
    ] {
        let find = format!("for p in {programs}; do command -v $p; done; true");
        checks.equal(what, "", tenant.exec_shell("root", &find).await?.text);
    }
    Ok(())
}

/// The checkout that this test was compiled in.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn check_sources(checks: &mut Checks) -> Result<()> {
    let dockerfile = std::fs::read_to_string(root().join("docker/tenant.Dockerfile"))?;
    let stages = dockerfile.lines().filter(|line| line.starts_with("FROM ")).count();
    checks.holds("the build has stages", "≥ 2", stages, stages >= 2);
    let ignore = root().join(".dockerignore").is_file();
    checks.equal("there is a .dockerignore", true, ignore);
    Ok(())
}
