//! A release whose program does not run is refused with its log, and leaves nothing on the engine.

use anyhow::{Result, ensure};
use bollard::query_parameters::ListImagesOptionsBuilder;
use e2e::command_line::{fails, succeed};
use e2e::{AppImages, Checks};
use testkit::Installation;
use testkit::engine::{containers_of_tenant, label_filters};

use crate::apps::PROGRAM;

#[tokio::test]
async fn a_release_whose_program_does_not_run_is_refused_with_its_log() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let images = AppImages::build("smoke", PROGRAM, &["dies", "elsewhere"])?;
    succeed(&["apps", "create", "mute"], None)?;
    let create =
        |image: &str| fails(&["apps", "release", "create", "mute", "--image", image], None);
    let dies = checks.require("a program that ends is refused", create(&images.names[0]))?;
    checks.contains("with its last line", "cannot start at all", &dies);
    let elsewhere =
        checks.require("a program on another port is refused", create(&images.names[1]))?;
    checks.contains("with the port on which it listens", "it listens on port 4567", &elsewhere);
    let listed = succeed(&["apps", "release", "list", "mute", "--output", "name"], None)?;
    checks.equal("neither makes a release", "", listed.trim());

    let docker = testkit::engine::connect().await?;
    let left = containers_of_tenant(&docker, &installation, "smoke-start").await?;
    checks.equal("no container of the trial stays", "", left.join(", "));
    let install = format!("cial.install={}", installation.name);
    let options =
        ListImagesOptionsBuilder::default().filters(&label_filters(&[&install, "cial.app.source"]));
    let wrapped = docker.list_images(Some(options.build())).await?;
    ensure!(wrapped.is_empty(), "wrapped images stay: {wrapped:?}");
    succeed(&["apps", "delete", "mute", "--yes"], None)?;
    checks.finish()
}
