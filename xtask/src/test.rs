//! `test`: everything that CI runs, step by step, the quick steps first. The first failing step is
//! named.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser as _, ValueEnum};

use crate::e2e::{self, Tests};
use crate::environment::{self, exit_code, name_of, print_line, require_programs, succeeds};
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
    /// Disk limits on ext4 and XFS, with a kernel of Debian in a virtual machine. Skipped where the machine is not x86_64.
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

const CHROMIUM: [&str; 2] = ["chromium", "chromedriver"];
/// The part of the mutants that the step tests: about eight of five hundred.
const MUTANTS_SHARD: &str = "0/60";

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let when_named = [Step::Built, Step::Mutants, Step::Software];
    let all = Step::value_variants().iter().copied().filter(|step| !when_named.contains(step));
    let steps = if args.steps.is_empty() { all.collect() } else { args.steps };
    let (mut passed, mut skipped) = (Vec::new(), Vec::new());
    for (index, step) in steps.iter().enumerate() {
        let name = name_of(*step);
        eprintln!("── {}/{} {name}", index + 1, steps.len());
        if let Some(reason) = step.skip_reason() {
            print_line(format_args!("skipped: {reason}"));
            skipped.push(format!("{name} ({reason})"));
            continue;
        }
        let start = environment::now();
        step.run().with_context(|| {
            format!("step {name} failed; this step alone: cargo xtask test {name}")
        })?;
        passed.push(format!("{name} {:.0} s", start.elapsed().as_secs_f32()));
    }
    print_line(summary(&passed, &skipped));
    Ok(exit_code(!passed.is_empty()))
}

/// The last line of a run without a failure. A step that was skipped proves nothing, and is told apart.
fn summary(passed: &[String], skipped: &[String]) -> String {
    let [passed, skipped] = [passed, skipped].map(|steps| steps.join(" · "));
    match (passed.is_empty(), skipped.is_empty()) {
        (_, true) => format!("all steps are green: {passed}"),
        (true, false) => format!("nothing was tested; skipped: {skipped}"),
        (false, false) => format!("skipped: {skipped}; all other steps are green: {passed}"),
    }
}

/// Runs the tests of the source itself.
pub(crate) fn tidy() -> Result<ExitCode> {
    Step::Tidy.run().map(|()| ExitCode::SUCCESS)
}

impl Step {
    /// Why this machine cannot run the step at all.
    fn skip_reason(self) -> Option<&'static str> {
        let is_foreign = self == Self::Quota && !cfg!(target_arch = "x86_64");
        is_foreign.then_some("the kernel and the emulator are for x86_64")
    }

    fn run(self) -> Result<()> {
        match self {
            Self::Fmt => cargo("fmt --all --check", &[]),
            Self::Tidy => cargo("test --quiet --locked --package tidy", &[]),
            Self::Clippy => {
                let args =
                    "clippy --locked --workspace --all-targets --all-features -- -D warnings";
                cargo(args, &[])
            }
            Self::Doc => {
                let args = "doc --locked --workspace --no-deps --document-private-items";
                cargo(args, &[("RUSTDOCFLAGS", "-D warnings")])
            }
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
            Self::Compose => {
                compose(Installation::ephemeral("compose")?, e2e::INSTALLATION, |_| Ok(()))
            }
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

/// Runs a command of cargo, whose arguments contain no space.
fn cargo(args: &str, variables: &[(&str, &str)]) -> Result<()> {
    let mut cargo = environment::cargo();
    cargo.args(args.split(' ')).envs(variables.iter().copied());
    environment::run(&mut cargo, &format!("cargo {args}"))
}

/// Runs a test that the step `units` leaves out; a variable names the program or the folder that it needs.
fn ignored_test(package: &str, test: &str, variable: (&str, &str)) -> Result<()> {
    // The build of the whole workspace is the one that the step `units` made.
    let args = "nextest run --locked --workspace --run-ignored only -E";
    cargo(&format!("{args} package({package})&test({test})"), &[variable])
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

/// Returns a file or a folder that `scripts/install-tools` installed.
fn installed(path: &str) -> Result<String> {
    let folder = environment::variable("CIAL_TOOLS");
    let folder = folder.map_or_else(|| anyhow::Ok(cache()?.join("bin")), |path| Ok(path.into()))?;
    let (file, missing) = (folder.join(path), "is missing: scripts/install-tools brings it");
    ensure!(file.exists(), "{} {missing}", file.display());
    Ok(file.display().to_string())
}

fn api() -> Result<()> {
    let program = installed("schemathesis/bin/schemathesis")?;
    let test = "the_api_matches_its_description";
    ignored_test("app-api", test, ("CIAL_SCHEMATHESIS", &program))
}

fn quota() -> Result<()> {
    require_programs(&["qemu-system-x86_64", "mkfs.xfs"])?;
    installed("linux/bin/busybox")?;
    let test = "ext4_and_xfs_enforce_the_limits_of_projects";
    ignored_test("orchestrator", test, ("CIAL_TEST_KERNEL", &installed("linux")?))
}

/// The examples as tenants; their packages come from Debian and PyPI.
fn software() -> Result<()> {
    require_programs(&CHROMIUM)?;
    let installation = Installation::ephemeral("software")?;
    let docker = environment::connect_docker()?;
    let base = base::debian(&docker, installation.images.base.as_deref())?;
    ephemeral::test(installation, e2e::SOFTWARE, &[("CIAL_E2E_BASE_IMAGE", base)])
}

fn browser() -> Result<()> {
    require_programs(&CHROMIUM)?;
    let axe = installed("axe.min.js")?;
    let mut installation = Installation::ephemeral("browser")?;
    // Below `localhost` each tenant is a site of its own for browsers; here all share one, as below a bought domain.
    installation.domain = "tenants.localhost".to_owned();
    ephemeral::test(installation, e2e::BROWSER, &[("CIAL_E2E_AXE", axe)])
}

/// Runs tests on an installation that the literal `docker compose up` brings up under separate tags, so that compose
/// itself builds every image.
fn compose(
    installation: Installation,
    tests: Tests,
    prepare: impl FnOnce(&mut Installation) -> Result<()>,
) -> Result<()> {
    let plugins = compose_plugins()?;
    let bring_up = |installation: &mut Installation| {
        prepare(installation)?;
        local::up::by_compose(installation, plugins.as_deref())
    };
    ephemeral::with_installation(installation, bring_up, |installation| {
        e2e::run(tests, &installation.variables())
    })
}

/// Runs `docker compose up` where nothing is compiled before: each Dockerfile compiles. An image that is made here compiles
/// in place of the official one, which CI cannot pull.
fn built() -> Result<()> {
    let mut installation = Installation::ephemeral("built")?;
    installation.images.binaries = Some(BinarySource::Built);
    compose(installation, smoke::ONE_TENANT, |installation| {
        // Named after the installation, it is removed along with the others of its name.
        let tag = format!("cial-rust:{}", installation.name);
        compiler::make(&environment::connect_docker()?, &tag, &installation.folder())?;
        installation.images.compiler = Some(tag);
        Ok(())
    })
}

/// Runs the commands of the documents in a copy of the checkout with a separate installation.
fn documents() -> Result<()> {
    let plugins = compose_plugins()?;
    ephemeral::then_purge(Installation::ephemeral("readme")?, |installation| {
        let mut variables = installation.variables();
        // The profile of the copy must not reach the configuration of the person who runs the tests.
        let config = installation.command_line_config();
        for (name, path) in [("CIAL_E2E_PLUGINS", plugins), ("CIAL_CONFIG", config)] {
            variables.extend(path.map(|path| (name, path.display().to_string())));
        }
        e2e::run(e2e::DOCUMENTS, &variables)
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

#[test]
fn a_skipped_step_is_no_green_one() {
    let steps = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let cases = [
        (&["fmt 1 s", "doc 2 s"][..], &[][..], "all steps are green: fmt 1 s · doc 2 s"),
        (
            &["fmt 1 s"],
            &["quota (why)"],
            "skipped: quota (why); all other steps are green: fmt 1 s",
        ),
        (&[], &["quota (why)"], "nothing was tested; skipped: quota (why)"),
    ];
    for (passed, skipped, expected) in cases {
        assert_eq!(summary(&steps(passed), &steps(skipped)), expected);
    }
}
