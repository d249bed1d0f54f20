//! Our binaries, statically linked, where the Dockerfiles expect them: `dist/{set}/{name}`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use docker_command::{ActionableError, Docker};
use serde_json::Value;

use crate::environment::{cargo, root, variable};

/// The binaries of one kind of image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BinarySet {
    Tenant,
    Control,
}

/// The source of an image's binaries: the value of `CIAL_BINARIES`, and of the Dockerfiles' argument `BINARIES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BinarySource {
    /// From `dist/`, compiled on this machine.
    Prebuilt,
    /// From a stage that compiles them.
    Built,
}

const COMMAND_LINE: (&str, &str) = ("cli", "cial");
/// The command line is no part of an image, and shares most of its dependencies with those that are.
const CONTROL_PLANE: Compilation = Compilation {
    set: BinarySet::Control,
    profile: "local",
    packages: &[("app-api", "app-api"), ("orchestrator", "orchestrator"), COMMAND_LINE],
};
const ROUTER: Compilation =
    Compilation { set: BinarySet::Control, profile: "release", packages: &[("router", "router")] };
const TENANT: Compilation = Compilation {
    set: BinarySet::Tenant,
    profile: "release",
    packages: &[
        ("supervisor", "supervisor"),
        ("edge", "edge"),
        ("tenant-core", "core"),
        ("tenant-platform", "platform"),
    ],
};

/// One run of cargo. Packages that are compiled together share their features, so packages that
/// must stay small are compiled apart from packages that may be large. Those compile a shared
/// dependency once.
#[derive(Clone, Copy)]
struct Compilation {
    set: BinarySet,
    profile: &'static str,
    /// Package, and the name of its binary in the image.
    packages: &'static [(&'static str, &'static str)],
}

impl BinarySet {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Control => "control",
        }
    }
}

impl BinarySource {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Prebuilt => "prebuilt",
            Self::Built => "built",
        }
    }
}

/// Provides the binaries of the tenant image, as [`provide`] does.
pub(crate) fn provide_tenant(
    docker: &Docker,
    chosen: Option<BinarySource>,
) -> Result<BinarySource> {
    provide(docker, chosen, &[&[TENANT]])
}

/// Provides the binaries of every image, as [`provide`] does. What one profile compiles goes beside what another does,
/// because one run of cargo alone leaves a core idle a third of the time; cargo itself lets runs of one profile wait for each other.
pub(crate) fn provide_all(docker: &Docker, chosen: Option<BinarySource>) -> Result<BinarySource> {
    provide(docker, chosen, &[&[CONTROL_PLANE], &[TENANT, ROUTER]])
}

/// Compiles into `dist/` when `chosen` demands it: what stands in one row one after the other, the rows side by side.
/// Without a choice, compiles only if this machine's programs run on the engine. Otherwise the images' own stage compiles.
fn provide(
    docker: &Docker,
    chosen: Option<BinarySource>,
    rows: &[&[Compilation]],
) -> Result<BinarySource> {
    let host = host_target()?;
    let native = runs_on(&host, &docker.os, &docker.arch);
    if decide(native, chosen)? == BinarySource::Built {
        eprintln!("compiling inside the image build: this takes minutes the first time");
        return Ok(BinarySource::Built);
    }
    let compile_row = |row: &[Compilation]| {
        row.iter().try_for_each(|compilation| {
            let dist = root().join("dist").join(compilation.set.name());
            compile(compilation, &host, |binary| *binary != COMMAND_LINE, &dist)
        })
    };
    std::thread::scope(|scope| {
        let rows: Vec<_> = rows.iter().map(|row| scope.spawn(|| compile_row(row))).collect();
        rows.into_iter()
            .try_for_each(|row| row.join().unwrap_or_else(|_| bail!("a compilation panicked")))
    })?;
    Ok(BinarySource::Prebuilt)
}

/// Compiles `cial` for this machine into `folder`. Where `source` says that the images' binaries were
/// compiled here, it is compiled already, and this only copies it.
pub(crate) fn compile_command_line(source: BinarySource, folder: &Path) -> Result<()> {
    let compilation = match source {
        BinarySource::Prebuilt => CONTROL_PLANE,
        BinarySource::Built => Compilation { packages: &[COMMAND_LINE], ..CONTROL_PLANE },
    };
    compile(&compilation, &host_target()?, |binary| *binary == COMMAND_LINE, folder)
}

/// Keeps a choice. An impossible choice is an error, because compose would not expect a
/// replacement.
fn decide(native: bool, chosen: Option<BinarySource>) -> Result<BinarySource, ActionableError> {
    match (chosen, native) {
        (Some(BinarySource::Built), _) | (None, false) => Ok(BinarySource::Built),
        (Some(BinarySource::Prebuilt) | None, true) => Ok(BinarySource::Prebuilt),
        (Some(BinarySource::Prebuilt), false) => {
            let cause =
                "CIAL_BINARIES=prebuilt, but programs of this machine do not run on the engine";
            Err(ActionableError::new(cause, "CIAL_BINARIES=built, in the environment or in .env"))
        }
    }
}

/// Whether a program for `target` runs on an engine of this system and architecture.
fn runs_on(target: &str, os: &str, arch: &str) -> bool {
    let wanted = match arch {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    };
    os == "linux" && target.starts_with(wanted) && target.contains("-linux-")
}

pub(crate) fn host_target() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not print its host target")
}

/// Compiles packages, and copies the binaries that are `wanted` to `folder`.
fn compile(
    compilation: &Compilation,
    host: &str,
    wanted: impl Fn(&(&str, &str)) -> bool,
    folder: &Path,
) -> Result<()> {
    let flags = variable("RUSTFLAGS").unwrap_or_default() + " -C target-feature=+crt-static";
    let names: Vec<_> = compilation.packages.iter().map(|(package, _)| *package).collect();
    eprintln!("    compiling {} ({})", names.join(", "), compilation.profile);
    let mut cargo = cargo();
    // With an explicit target, the flags reach neither build scripts nor macros.
    cargo.args(["build", "--target", host, "--profile", compilation.profile]);
    cargo.args(["--bins", "--message-format", "json-render-diagnostics"]);
    cargo.args(names.iter().flat_map(|package| ["--package", package]));
    cargo.env("RUSTFLAGS", flags.trim());
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "cannot compile {}: cargo says why above", names.join(", "));
    let built = executables(&String::from_utf8_lossy(&output.stdout));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (package, name) in compilation.packages.iter().filter(|binary| wanted(binary)) {
        let found = built.iter().find(|(owner, _)| owner == package);
        let (_, path) = found.with_context(|| format!("package {package} has no binary"))?;
        place(path, &folder.join(name))?;
    }
    Ok(())
}

/// Returns the package and the file of each executable that cargo reports.
pub(crate) fn executables(report: &str) -> Vec<(String, PathBuf)> {
    let read = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let executable = message["executable"].as_str()?;
        let manifest = Path::new(message["manifest_path"].as_str()?);
        let package = manifest.parent()?.file_name()?.to_str()?;
        Some((package.to_owned(), PathBuf::from(executable)))
    };
    report.lines().filter_map(read).collect()
}

/// Copies by way of a rename, so that an interrupted copy leaves no partial binary.
fn place(from: &Path, to: &Path) -> Result<()> {
    let partial = to.with_extension("partial");
    std::fs::copy(from, &partial)
        .and_then(|_| std::fs::rename(&partial, to))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

#[test]
fn only_a_linux_host_of_the_engines_architecture_compiles_for_it() {
    let cases = [
        ("x86_64-unknown-linux-gnu", "linux", "amd64", true),
        ("aarch64-unknown-linux-gnu", "linux", "arm64", true),
        ("x86_64-unknown-linux-musl", "linux", "amd64", true),
        ("x86_64-unknown-linux-gnu", "linux", "arm64", false),
        ("aarch64-apple-darwin", "linux", "arm64", false),
        ("x86_64-pc-windows-msvc", "windows", "amd64", false),
    ];
    for (target, os, arch, runs) in cases {
        assert_eq!(runs_on(target, os, arch), runs, "{target} on {os}/{arch}");
    }
}

#[test]
fn a_choice_of_binaries_is_kept_or_refused() {
    for chosen in [BinarySource::Prebuilt, BinarySource::Built] {
        assert_eq!(BinarySource::from_str(chosen.name(), false), Ok(chosen));
        assert_eq!(decide(true, Some(chosen)), Ok(chosen));
    }
    assert!(BinarySource::from_str("built ", false).is_err());
    assert_eq!(decide(true, None), Ok(BinarySource::Prebuilt));
    assert_eq!(decide(false, None), Ok(BinarySource::Built));
    assert!(decide(false, Some(BinarySource::Prebuilt)).is_err());
}

#[test]
fn executables_are_known_by_their_package() {
    let report = r#"{"reason":"compiler-artifact","manifest_path":"/c/crates/tenant-core/Cargo.toml","executable":"/t/release/core"}
{"reason":"compiler-artifact","manifest_path":"/c/crates/protocol/Cargo.toml","executable":null}
{"reason":"build-finished","success":true}"#;
    let expected = vec![("tenant-core".to_owned(), PathBuf::from("/t/release/core"))];
    assert_eq!(executables(report), expected);
}
