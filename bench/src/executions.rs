//! Executions of a task that does nothing, from the call of the API until its success is shown, beside the engine's exec of the same
//! program in the same tenant, and a bare fork and exec of it on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testkit::engine::TenantContainer;
use testkit::{Client, Installation, TempDir};

use crate::figure::{Environment, Figure};
use crate::fixture::{Fixture, IdlePolicy, until};
use crate::tenant::{FILES, mounted};
use crate::{Measured, now, program};

const SLUG: &str = "worker";
const DESCRIPTION: &str = r#"
name = "empty"
version = "1"
[[workflow]]
name = "empty"
[[workflow.task]]
name = "nothing"
command = ["bin/nothing"]
"#;
const PROGRAM: &str = "nothing";

/// One execution, and the same program without it.
struct Round {
    execution: Duration,
    engine: Duration,
    bare: Duration,
}

/// Measures in an installation that is ready and has no owner yet.
pub(crate) async fn measure(installation: &Installation, count: usize) -> Result<Measured> {
    ensure!(count > 0, "--count must be 1 at least");
    let fixture = Fixture::open(installation).await?;
    let environment = Environment::look(&fixture.docker).await?.and("executions", count);
    let tenant = fixture.tenant(SLUG, IdlePolicy::NEVER).await?;
    let container = TenantContainer::existing(&fixture.docker, &tenant.container);
    let mut owner = fixture.owner().clone();
    let package = Package::make()?;
    package.upload(&mut owner).await?;
    let copy = mounted(&container, FILES).await?.join(PROGRAM);
    std::fs::copy(&package.program, copy).context("run this as root on the engine's machine")?;
    let mut rounds = Vec::with_capacity(count);
    // The first round pays for cold caches and is dropped.
    for number in 0..=count {
        let execution = execute(&mut owner).await?;
        let engine = exec(&container).await?;
        let bare = fork_and_exec(&package.program)?;
        if number > 0 {
            rounds.push(Round { execution, engine, bare });
        }
    }
    Ok((environment, figures(&rounds)))
}

/// Runs the workflow, and waits until its success is shown.
async fn execute(owner: &mut Client) -> Result<Duration> {
    let start = now();
    let path = format!("/v1/tenants/{SLUG}/workflows/empty/execute");
    let scheduled = owner.post(&path, &json!({})).await?;
    scheduled.expect_status(202)?;
    let scheduled = scheduled.json();
    let id = scheduled["execution_id"].as_str().context("no execution_id")?;
    let path = format!("/v1/tenants/{SLUG}/executions/{id}");
    until("the execution succeeds", async || {
        let shown: Value = owner.get(&path).await?.json();
        let is_lost = ["failed", "cancelled"].iter().any(|state| shown["state"] == *state);
        ensure!(!is_lost, "the execution failed: {shown}");
        Ok(shown["state"] == "succeeded")
    })
    .await?;
    Ok(start.elapsed())
}

async fn exec(container: &TenantContainer) -> Result<Duration> {
    let start = now();
    let output = container.exec("agent", &[&format!("{FILES}/{PROGRAM}")]).await?;
    let elapsed = start.elapsed();
    ensure!(output.exit_code == 0, "the engine's exec failed: {output:?}");
    Ok(elapsed)
}

fn fork_and_exec(path: &Path) -> Result<Duration> {
    let start = now();
    program::run(&mut Command::new(path))?;
    Ok(start.elapsed())
}

fn figures(rounds: &[Round]) -> Vec<Figure> {
    let milliseconds = |of: fn(&Round) -> Duration| {
        rounds.iter().map(|round| of(round).as_secs_f64() * 1e3).collect::<Vec<_>>()
    };
    let (execution, engine) = (milliseconds(|r| r.execution), milliseconds(|r| r.engine));
    let bare = milliseconds(|r| r.bare);
    let ratios = |floor: &[f64]| {
        execution.iter().zip(floor).map(|(own, floor)| own / floor).collect::<Vec<_>>()
    };
    vec![
        Figure::median("an execution, call to success", &execution, "ms"),
        Figure::new("all of them, one after the other", execution.iter().sum::<f64>() / 1e3, "s"),
        Figure::median("the engine's exec of the program", &engine, "ms"),
        Figure::median("fork and exec of the program", &bare, "ms"),
        Figure::median("execution / the engine's exec", &ratios(&engine), ""),
        Figure::median("execution / fork and exec", &ratios(&bare), ""),
    ]
}

/// A package with a program that does nothing.
struct Package {
    folder: TempDir,
    program: PathBuf,
}

impl Package {
    fn make() -> Result<Self> {
        let folder = TempDir::new("bench-executions")?;
        let package = folder.path().join("empty-1");
        let program = package.join("bin").join(PROGRAM);
        std::fs::create_dir_all(package.join("bin"))?;
        std::fs::write(package.join("package.toml"), DESCRIPTION)?;
        let source = folder.path().join("nothing.rs");
        std::fs::write(&source, "fn main() {}\n")?;
        program::compile(&source, &program)?;
        Ok(Self { folder, program })
    }

    async fn upload(&self, owner: &mut Client) -> Result<()> {
        let mut tar = Command::new("tar");
        let archive = self.folder.path().join("empty-1.cial");
        tar.arg("-C").arg(self.folder.path()).args(["--zstd", "-cf"]).arg(&archive).arg("empty-1");
        program::run(&mut tar)?;
        let mut form =
            b"--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"empty-1.cial\"\r\n\r\n"
                .to_vec();
        form.extend(std::fs::read(archive)?);
        form.extend_from_slice(b"\r\n--b--\r\n");
        let path = format!("/v1/tenants/{SLUG}/packages");
        let uploaded = owner.post_bytes(&path, "multipart/form-data; boundary=b", &form).await?;
        uploaded.expect_status(201)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_execution_is_compared_with_the_program_right_after_it() {
        let round = |execution, engine, bare| Round {
            execution: Duration::from_millis(execution),
            engine: Duration::from_millis(engine),
            bare: Duration::from_millis(bare),
        };
        let figures = figures(&[round(100, 50, 1), round(300, 60, 2), round(200, 40, 1)]);
        let values: Vec<_> = figures.iter().map(|figure| figure.value).collect();
        assert_eq!(values, [200.0, 0.6, 50.0, 1.0, 5.0, 150.0]);
    }

    #[test]
    fn the_program_of_the_package_does_nothing() {
        let package = Package::make().unwrap();
        assert!(fork_and_exec(&package.program).unwrap() < Duration::from_secs(5));
    }
}
