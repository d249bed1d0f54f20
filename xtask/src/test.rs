//! `test`: everything that CI runs, step by step, the quick steps first. The first failing step is
//! named.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser as _, ValueEnum};

use crate::e2e::{self, Filter};
use crate::environment::{self, succeeds};
use crate::images::binaries::BinarySource;
use crate::images::{base, compiler};
use crate::local::{self, Installation};
use crate::{ephemeral, reboot, smoke};

#[derive(clap::Args)]
pub struct Args {
    /// Run these steps alone; all of them otherwise.
    #[arg(value_enum)]
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Formatting.
    Fmt,
    /// The promises of ARCHITECTURE.md about the source.
    Tidy,
    /// Lints, without a warning.
    Clippy,
    /// Documentation builds, private items included.
    Doc,
    /// Unit and integration tests.
    Units,
    /// The admin API against its own description, under generated requests.
    Api,
    /// Disk limits on ext4 and XFS, with a kernel of Debian in a virtual machine.
    Quota,
    /// A fixed part of the mutants of `lease`: each must fail a test. Runs when it is named: survivors are still being looked at.
    Mutants,
    /// Licences, sources and banned crates.
    Deny,
    /// The tenant image as a black box.
    SmokeTenant,
    /// An installation over HTTP.
    SmokeLocal,
    /// An installation in a real browser.
    Browser,
    /// JupyterLab, a Django site and nginx as tenants, in a real browser. Runs when it is named: it builds their images from packages.
    Software,
    /// An installation whose parts are killed, stopped and removed.
    Faults,
    /// An installation whose machine is rebooted and loses its power.
    Reboot,
    /// Crowds before sleeping tenants, and requests while a tenant falls asleep.
    Sleep,
    /// The same stack by `docker compose up` (Compose 2), without xtask.
    Compose,
    /// The same, where the images' own stages compile everything: for machines without Rust. Runs when it is named: it compiles
    /// the workspace anew.
    Built,
    /// The commands of the documents, as they stand there, in a copy of the checkout.
    Readme,
}

/// The part of the mutants that the step tests: about eight of five hundred.
const MUTANTS_SHARD: &str = "0/60";

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let when_named = [Step::Built, Step::Mutants, Step::Software];
    let all = Step::value_variants().iter().copied().filter(|step| !when_named.contains(step));
    let steps = if args.steps.is_empty() { all.collect() } else { args.steps };
    let mut times = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let name =
            step.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        eprintln!("── {}/{} {name}", index + 1, steps.len());
        let start = environment::now();
        let outcome = step.run();
        times.push(format!("{name} {:.0} s", start.elapsed().as_secs_f32()));
        if let Err(error) = outcome {
            let again = format!("cargo xtask test {name}");
            return Err(error.context(format!("step {name} failed; this step alone: {again}")));
        }
    }
    environment::print_line(format_args!("all steps are green: {}", times.join(" · ")));
    Ok(ExitCode::SUCCESS)
}

/// Runs the tests of the source itself.
pub(crate) fn tidy() -> Result<ExitCode> {
    Step::Tidy.run().map(|()| ExitCode::SUCCESS)
}

impl Step {
    fn run(self) -> Result<()> {
        match self {
            Self::Fmt => cargo("fmt --all --check", &[]),
            Self::Tidy => cargo("test --quiet --locked --package tidy", &[]),
            Self::Clippy => cargo(
                "clippy --locked --workspace --all-targets --all-features -- -D warnings",
                &[],
            ),
            Self::Doc => cargo(
                "doc --locked --workspace --no-deps --document-private-items",
                &[("RUSTDOCFLAGS", "-D warnings")],
            ),
            Self::Units => {
                tool("nextest")?;
                // A different snapshot is a failure, never a new file.
                cargo("nextest run --locked --workspace", &[("INSTA_UPDATE", "no")])
            }
            Self::Api => api(),
            Self::Quota => quota(),
            Self::Mutants => {
                tool("mutants")?;
                xtask(&["mutants", "lease", "--shard", MUTANTS_SHARD])
            }
            Self::Deny => {
                tool("deny")?;
                cargo("deny --log-level error check bans licenses sources", &[])
            }
            Self::SmokeTenant => {
                xtask(&["smoke-tenant"])?;
                xtask(&["smoke-tenant", "--mutations"])
            }
            Self::SmokeLocal => {
                // Runs twice in a row, because the first run must leave nothing that disturbs the
                // second.
                xtask(&["smoke-local"])?;
                xtask(&["smoke-local"])?;
                smoke::a_failure_leaves_nothing()
            }
            Self::Browser => browser(),
            Self::Software => software(),
            Self::Faults => xtask(&["smoke-local", "--faults"]),
            Self::Reboot => reboot::on_a_machine_of_its_own(),
            Self::Sleep => xtask(&["bench", "wake", "--ci"]),
            Self::Compose => compose(),
            Self::Built => built(),
            Self::Readme => documents(),
        }
    }
}

/// Runs another command of xtask in this process.
fn xtask(args: &[&str]) -> Result<()> {
    let code = crate::Command::parse_from(["xtask"].iter().chain(args)).run()?;
    ensure!(code == ExitCode::SUCCESS, "cargo xtask {} failed: see above", args.join(" "));
    Ok(())
}

/// Runs a command of cargo, whose words contain no space.
fn cargo(words: &str, variables: &[(&str, &str)]) -> Result<()> {
    let mut cargo = environment::cargo();
    cargo.args(words.split(' ')).envs(variables.iter().copied());
    environment::run(&mut cargo, &format!("cargo {words}"))
}

/// Fails unless a subcommand of cargo is installed.
fn tool(name: &str) -> Result<()> {
    ensure!(
        succeeds(&format!("cargo-{name}"), &[name, "--version"]),
        "cargo-{name} is missing: scripts/install-tools {name} installs it, or cargo install --locked cargo-{name}"
    );
    Ok(())
}

/// The folder of tools, shared by every checkout.
fn cache() -> Result<PathBuf> {
    let home = environment::variable("HOME").context("HOME is not set")?;
    Ok(PathBuf::from(home).join(".cache/cial"))
}

/// The folder of `scripts/install-tools`.
fn tools() -> Result<PathBuf> {
    environment::variable("CIAL_TOOLS")
        .map_or_else(|| Ok(cache()?.join("bin")), |folder| Ok(folder.into()))
}

/// Returns a file that `scripts/install-tools` installed.
fn installed(path: &str) -> Result<String> {
    let file = tools()?.join(path);
    let missing = format!("{} is missing: scripts/install-tools brings it", file.display());
    ensure!(file.is_file(), missing);
    Ok(file.to_string_lossy().into_owned())
}

fn api() -> Result<()> {
    let program = installed("schemathesis/bin/schemathesis")?;
    let mut cargo = environment::cargo();
    // The build of the whole workspace is the one that the step `units` made.
    cargo.args(["nextest", "run", "--locked", "--workspace", "--run-ignored", "only", "-E"]);
    cargo.arg("package(app-api) & test(the_api_matches_its_description)");
    environment::run(cargo.env("CIAL_SCHEMATHESIS", program), "the test of the API")
}

fn quota() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        environment::print_line(format_args!(
            "skipped: the kernel and the emulator are for x86_64"
        ));
        return Ok(());
    }
    installed("linux/bin/busybox")?;
    for program in ["qemu-system-x86_64", "mkfs.xfs"] {
        let missing = format!("{program} is missing: scripts/install-tools installs it");
        ensure!(Command::new(program).arg("-V").output().is_ok(), missing);
    }
    let mut cargo = environment::cargo();
    // As for `api`.
    cargo.args(["nextest", "run", "--locked", "--workspace", "--run-ignored", "only", "-E"]);
    cargo.arg("package(orchestrator) & test(ext4_and_xfs_enforce_the_limits_of_projects)");
    environment::run(
        cargo.env("CIAL_TEST_KERNEL", tools()?.join("linux")),
        "the test of disk limits",
    )
}

fn has_chromium() -> Result<()> {
    for program in ["chromium", "chromedriver"] {
        ensure!(
            Command::new(program).arg("--version").output().is_ok(),
            "{program} is missing: scripts/install-tools installs it (Debian: chromium, chromium-driver)"
        );
    }
    Ok(())
}

/// The examples as tenants; their packages come from Debian and PyPI.
fn software() -> Result<()> {
    has_chromium()?;
    ephemeral::with_installation(Installation::ephemeral("software")?, |installation| {
        let base =
            base::debian(&environment::connect_docker()?, installation.images.base.as_deref())?;
        let variables = [installation.variables(), vec![("CIAL_E2E_BASE_IMAGE", base)]].concat();
        e2e::run(e2e::SOFTWARE, Filter::All, &variables)
    })
}

fn browser() -> Result<()> {
    has_chromium()?;
    let axe = installed("axe.min.js")?;
    let mut installation = Installation::ephemeral("browser")?;
    // Below `localhost` each tenant is a site of its own for browsers; here all share one, as below a bought domain.
    installation.domain = "tenants.localhost".to_owned();
    ephemeral::with_installation(installation, |installation| {
        let mut variables = installation.variables();
        variables.push(("CIAL_E2E_AXE", axe));
        e2e::run(e2e::BROWSER, Filter::All, &variables)
    })
}

/// Runs the literal `docker compose up` under separate tags, so that compose itself builds every
/// image.
fn compose() -> Result<()> {
    let config = compose_plugins()?;
    let bring_up =
        |installation: &mut Installation| local::up::by_compose(installation, config.as_deref());
    ephemeral::with_installation_by(Installation::ephemeral("compose")?, bring_up, |installation| {
        e2e::run(e2e::INSTALLATION, Filter::All, &installation.variables())
    })
}

/// Runs `docker compose up` where nothing is compiled before: each Dockerfile compiles. An image that is made here compiles
/// in place of the official one, which CI cannot pull.
fn built() -> Result<()> {
    let config = compose_plugins()?;
    let mut installation = Installation::ephemeral("built")?;
    installation.images.binaries = Some(BinarySource::Built);
    let bring_up = |installation: &mut Installation| {
        // Named after the installation, it is removed along with the others of its name.
        let tag = format!("cial-rust:{}", installation.name);
        compiler::make(&environment::connect_docker()?, &tag, &installation.folder())?;
        installation.images.compiler = Some(tag);
        local::up::by_compose(installation, config.as_deref())
    };
    ephemeral::with_installation_by(installation, bring_up, |installation| {
        let filter = Filter::Only(smoke::CREATED);
        e2e::run(e2e::INSTALLATION, filter, &installation.variables())
    })
}

/// Runs the commands of the documents in a copy of the checkout with a separate installation.
fn documents() -> Result<()> {
    let plugins = compose_plugins()?;
    ephemeral::then_purge(Installation::ephemeral("readme")?, |installation| {
        let mut variables = installation.variables();
        let plugins = plugins.map(|folder| folder.to_string_lossy().into_owned());
        variables.extend(plugins.map(|folder| ("CIAL_E2E_PLUGINS", folder)));
        // The profile of the copy must not reach the configuration of the person who runs the tests.
        let config = installation.command_line_config();
        variables.extend(config.map(|path| ("CIAL_CONFIG", path.to_string_lossy().into_owned())));
        e2e::run(e2e::DOCUMENTS, Filter::All, &variables)
    })
}

/// Returns the folder with Compose 2 where the docker command does not find Compose by itself.
/// Debian's packages provide it.
fn compose_plugins() -> Result<Option<PathBuf>> {
    if succeeds("docker", &["compose", "version"]) {
        return Ok(None);
    }
    let folder = cache()?.join("docker");
    let mut script = Command::new(environment::root().join("scripts/compose-plugins"));
    environment::run(script.arg(&folder), "scripts/compose-plugins").context(
        "`docker compose` is missing, and Debian's package of it cannot be downloaded: install docker-compose-plugin",
    )?;
    Ok(Some(folder))
}
