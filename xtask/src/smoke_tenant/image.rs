//! The image itself: what it exposes, contains, and adds to its base.

use anyhow::{Context as _, Result};

use super::report::Report;
use super::stage::{Stage, Tenant};
use crate::images::{Chosen, base};
use crate::world;

/// What an image may add to its base.
pub(crate) const LARGEST: i64 = 16_000_000;

pub(crate) async fn check(report: &mut Report, stage: &Stage, tenant: &Tenant) -> Result<()> {
    let image = stage.docker.inspect_image(&stage.image).await?;
    let config = image.config.context("an image without a configuration")?;
    let exposed = config.exposed_ports.unwrap_or_default().join(" ");
    report.same("C1", "the one exposed port", "8080/tcp", exposed);
    let entrypoint = config.entrypoint.unwrap_or_default().join(" ");
    report.same("C24", "the image starts PID 1", "supervisor", entrypoint);
    let base = base::debian(&stage.docker, Chosen::of_checkout()?.base.as_deref()).await?;
    let base = stage.docker.inspect_image(&base).await?.size.unwrap_or_default();
    let added = image.size.unwrap_or_default() - base;
    let what = "the image adds little to its base";
    report.holds("C23", what, format_args!("≤ {LARGEST} B"), added, added <= LARGEST);
    check_contents(report, tenant).await?;
    check_sources(report)
}

async fn check_contents(report: &mut Report, tenant: &Tenant) -> Result<()> {
    let accounts =
        "for who in cial agent; do echo $(id -u $who):$(id -g $who):$(id -Gn $who); done";
    let seen = tenant.sh("root", accounts).await?.out;
    report.same("C2", "the two users", "1000:1000:cial 1001:1001:agent", seen.replace('\n', " "));
    let stat = ["stat", "-c", "%U %a", "/opt/cial-core", "/opt/cial-platform"];
    let seen = tenant.run("root", &stat).await?.out.replace('\n', ", ");
    report.same("C3", "the core's directory is closed", "cial 700, agent 755", seen);
    let stat = ["stat", "-c", "%U %a", "/usr/local/bin/supervisor"];
    report.same(
        "C3",
        "PID 1's program is root's",
        "root 755",
        tenant.run("root", &stat).await?.out,
    );
    let stat = ["stat", "-c", "%U %a", "/var/lib/cial"];
    report.same(
        "C22",
        "the core's data is closed",
        "cial 700",
        tenant.run("root", &stat).await?.out,
    );
    let find = "find / -xdev -type f -perm /6000";
    report.same("C25", "no set-uid or set-gid file", "", tenant.sh("root", find).await?.out);
    for (row, what, programs) in [
        ("C9", "no other supervisor", "s6-svscan supervisord runit tini node"),
        ("C23", "no build tools", "cargo rustc gcc cc make npm"),
    ] {
        let find = format!("for p in {programs}; do command -v $p; done; true");
        report.same(row, what, "", tenant.sh("root", &find).await?.out);
    }
    Ok(())
}

fn check_sources(report: &mut Report) -> Result<()> {
    let dockerfile = std::fs::read_to_string(world::root().join("docker/tenant.Dockerfile"))?;
    let stages = dockerfile.lines().filter(|line| line.starts_with("FROM ")).count();
    report.holds("C23", "the build has stages", "≥ 2", stages, stages >= 2);
    let ignore = world::root().join(".dockerignore").is_file();
    report.same("C23", "there is a .dockerignore", true, ignore);
    Ok(())
}
