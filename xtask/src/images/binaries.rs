//! Our binaries, statically linked, where the Dockerfiles expect them: `dist/{set}/{name}`.

use std::env::consts::{ARCH, OS};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use docker_command::{ActionableError, Docker};
use serde_json::Value;

use crate::environment::{cargo, make_folder, read, root, side_by_side, variable};

/// The source of an image's binaries: the value of `CIAL_BINARIES`, and of the Dockerfiles' argument `BINARIES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BinarySource {
    /// From `dist/`, compiled on this machine.
    Prebuilt,
    /// From a stage that compiles them.
    Built,
}

/// A package, and the name of its binary in the image.
type Binary = (&'static str, &'static str);

/// One run of cargo. Packages that are compiled together share their features, so packages that
/// must stay small are compiled apart from packages that may be large. Those compile a shared
/// dependency once.
#[derive(Clone, Copy)]
struct Compilation {
    /// The folder below `dist`, one for each kind of image.
    set: &'static str,
    profile: &'static str,
    binaries: &'static [Binary],
}

/// The binaries of the tenant image, and those of our services.
pub(crate) const TENANT_SET: &str = "tenant";
pub(crate) const CONTROL_SET: &str = "control";

const COMMAND_LINE: Binary = ("cli", "cial");
/// The command line is no part of an image, and shares most of its dependencies with those that are.
const CONTROL_PLANE: Compilation = Compilation {
    set: CONTROL_SET,
    profile: "local",
    binaries: &[("app-api", "app-api"), ("orchestrator", "orchestrator"), COMMAND_LINE],
};
const ROUTER: Compilation =
    Compilation { set: CONTROL_SET, profile: "release", binaries: &[("router", "router")] };
const TENANT: Compilation = Compilation {
    set: TENANT_SET,
    profile: "release",
    binaries: &[
        ("supervisor", "supervisor"),
        ("edge", "edge"),
        ("tenant-core", "core"),
        ("tenant-platform", "platform"),
    ],
};

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
    let source = decide(runs_on((OS, ARCH), (&docker.os, &docker.arch)), chosen)?;
    if source == BinarySource::Built {
        eprintln!("compiling inside the image build: this takes minutes the first time");
        return Ok(source);
    }
    side_by_side(rows, |row| {
        row.iter().try_for_each(|compilation| {
            let dist = root().join("dist").join(compilation.set);
            compile(compilation, |binary| *binary != COMMAND_LINE, &dist)
        })
    })?;
    Ok(source)
}

/// Compiles `cial` for this machine into `folder`. Where `source` says that the images' binaries were
/// compiled here, it is compiled already, and this only copies it.
pub(crate) fn compile_command_line(source: BinarySource, folder: &Path) -> Result<()> {
    let compilation = match source {
        BinarySource::Prebuilt => CONTROL_PLANE,
        BinarySource::Built => Compilation { binaries: &[COMMAND_LINE], ..CONTROL_PLANE },
    };
    compile(&compilation, |binary| *binary == COMMAND_LINE, folder)
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

/// Whether programs of a machine run on an engine: each its system, and its architecture by its own name.
fn runs_on(machine: (&str, &str), (os, arch): (&str, &str)) -> bool {
    let arch = match arch {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    };
    os == "linux" && machine == (os, arch)
}

/// Compiles packages, and copies the binaries that are `wanted` to `folder`.
fn compile(
    Compilation { profile, binaries, .. }: &Compilation,
    wanted: impl Fn(&Binary) -> bool,
    folder: &Path,
) -> Result<()> {
    let names = binaries.iter().map(|(package, _)| *package).collect::<Vec<_>>().join(", ");
    eprintln!("    compiling {names} ({profile})");
    let mut args = vec!["--profile", profile, "--bins"];
    args.extend(binaries.iter().flat_map(|(package, _)| ["--package", package]));
    let flags = variable("RUSTFLAGS").unwrap_or_default() + " -C target-feature=+crt-static";
    let built =
        executables(&args, flags.trim()).with_context(|| format!("cannot compile {names}"))?;
    make_folder(folder)?;
    for (package, name) in binaries.iter().filter(|binary| wanted(binary)) {
        let found = built.iter().find(|(owner, _)| owner == package);
        let (_, path) = found.with_context(|| format!("package {package} has no binary"))?;
        place(path, &folder.join(name))?;
    }
    Ok(())
}

/// Compiles for this machine, and returns the package and the file of each executable.
pub(crate) fn executables(args: &[&str], flags: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = cargo();
    // With an explicit target, the flags reach neither build scripts nor macros.
    cargo.args(["build", "--target", "host-tuple", "--message-format", "json-render-diagnostics"]);
    let report = read(cargo.args(args).env("RUSTFLAGS", flags), "cargo build")?;
    Ok(report.lines().filter_map(executable).collect())
}

/// Reads a line of cargo's report.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let executable = message["executable"].as_str()?;
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let package = manifest.parent()?.file_name()?.to_str()?;
    Some((package.to_owned(), PathBuf::from(executable)))
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
        (("linux", "x86_64"), ("linux", "amd64"), true),
        (("linux", "aarch64"), ("linux", "arm64"), true),
        (("linux", "x86_64"), ("linux", "arm64"), false),
        (("macos", "aarch64"), ("linux", "arm64"), false),
        (("windows", "x86_64"), ("windows", "amd64"), false),
    ];
    for (machine, engine, runs) in cases {
        assert_eq!(runs_on(machine, engine), runs, "{machine:?} on {engine:?}");
    }
}

#[test]
fn a_choice_of_binaries_is_kept_or_refused() {
    for chosen in [BinarySource::Prebuilt, BinarySource::Built] {
        let name = crate::environment::name_of(chosen);
        assert_eq!(BinarySource::from_str(&name, false), Ok(chosen));
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
    let found: Vec<_> = report.lines().filter_map(executable).collect();
    assert_eq!(found, [("tenant-core".to_owned(), PathBuf::from("/t/release/core"))]);
}
