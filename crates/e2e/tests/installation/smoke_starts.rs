//! A release whose program does not run is refused with its log, and leaves nothing on the engine.

use anyhow::Result;
use e2e::command_line::{create_app, delete_app, fails, succeed};
use e2e::{AppImages, Checks, Parts};
use testkit::Installation;

use crate::apps::PROGRAM;

#[tokio::test]
async fn a_release_whose_program_does_not_run_is_refused_with_its_log() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let images = AppImages::build("smoke", PROGRAM, &["dies", "elsewhere"])?;
    create_app("mute", &[], None)?;
    let create =
        |image: &str| fails(&["apps", "release", "create", "mute", "--image", image], None);
    let dies = checks.require("a program that ends is refused", create(&images.names[0]))?;
    checks.contains("with its last line", "cannot start at all", &dies);
    let elsewhere =
        checks.require("a program on another port is refused", create(&images.names[1]))?;
    checks.contains("with the port on which it listens", "it listens on port 4567", &elsewhere);
    let listed = succeed(&["apps", "release", "list", "mute", "--output", "name"], None)?;
    checks.equal("neither makes a release", "", listed.trim());

    let left = Parts::of(&installation).tenant("smoke-start").await?;
    checks.equal("no container of the trial stays", 0, left.len());
    let install = format!("--filter=label=cial.install={}", installation.name);
    let list = ["image", "ls", &install, "--filter=label=cial.app.source", "--quiet"];
    checks.equal("no wrapped image stays", "", docker_command::run(&list)?.trim());
    delete_app("mute", &[])?;
    checks.finish()
}
