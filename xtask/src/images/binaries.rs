//! Our binaries, statically linked, where the Dockerfiles look for them: `dist/{set}/{name}`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use bollard::Docker;
use serde_json::Value;

use crate::fault::Fault;
use crate::world;

/// Which binaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    Tenant,
    Control,
}

/// Where an image takes its binaries from: the value of the Dockerfiles' argument `BINARIES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binaries {
    /// From `dist/`, compiled on this machine.
    Prebuilt,
    /// From a stage that compiles them.
    Built,
}

/// One run of cargo. Packages that are compiled together share their features, so what must stay small is
/// compiled apart from what may be large.
struct Compilation {
    profile: &'static str,
    flags: &'static str,
    /// Package, and the name of its binary in the image.
    packages: &'static [(&'static str, &'static str)],
}

impl Set {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Control => "control",
        }
    }

    const fn compilations(self) -> &'static [Compilation] {
        match self {
            Self::Tenant => &[Compilation {
                profile: "release",
                flags: "-C target-feature=+crt-static",
                packages: &[
                    ("supervisor", "supervisor"),
                    ("edge", "edge"),
                    ("tenant-core", "core"),
                    ("tenant-platform", "platform"),
                ],
            }],
            Self::Control => &[
                Compilation {
                    profile: "control",
                    flags: "-C target-feature=+crt-static",
                    packages: &[("app-api", "app-api"), ("orchestrator", "orchestrator")],
                },
                Compilation {
                    profile: "release",
                    flags: "-C target-feature=+crt-static",
                    packages: &[("router", "router")],
                },
            ],
        }
    }
}

impl Binaries {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prebuilt => "prebuilt",
            Self::Built => "built",
        }
    }

    /// The value of `CIAL_BINARIES`; the error is what it may be.
    pub fn read(text: &str) -> Result<Self, &'static str> {
        let known = [Self::Prebuilt, Self::Built].into_iter().find(|known| known.name() == text);
        known.ok_or("CIAL_BINARIES must be built or prebuilt")
    }
}

/// Compiles a set into `dist/` where that was chosen or, without a choice, where this machine's programs run on
/// the engine; leaves it to the image's own stage otherwise.
pub async fn provide(docker: &Docker, set: Set, chosen: Option<Binaries>) -> Result<Binaries> {
    let host = host_target()?;
    let engine = docker.version().await?;
    let native = runs_on(&host, engine.os.as_deref(), engine.arch.as_deref());
    if decide(native, chosen)? == Binaries::Built {
        eprintln!("compiling inside the image build: this takes minutes the first time");
        return Ok(Binaries::Built);
    }
    let dist = world::root().join("dist").join(set.name());
    std::fs::create_dir_all(&dist).with_context(|| format!("cannot make {}", dist.display()))?;
    for compilation in set.compilations() {
        compile(compilation, &host, &dist)?;
    }
    Ok(Binaries::Prebuilt)
}

/// A choice is kept; what cannot be had is told instead of being replaced by what compose would not expect.
fn decide(native: bool, chosen: Option<Binaries>) -> Result<Binaries, Fault> {
    match (chosen, native) {
        (Some(Binaries::Built), _) | (None, false) => Ok(Binaries::Built),
        (Some(Binaries::Prebuilt) | None, true) => Ok(Binaries::Prebuilt),
        (Some(Binaries::Prebuilt), false) => {
            let cause =
                "CIAL_BINARIES=prebuilt, but programs of this machine do not run on the engine";
            Err(Fault::new(cause, "CIAL_BINARIES=built, in the environment or in .env"))
        }
    }
}

/// Whether a program for `target` runs on an engine of this system and architecture.
fn runs_on(target: &str, os: Option<&str>, arch: Option<&str>) -> bool {
    let wanted = match arch {
        Some("amd64") => "x86_64",
        Some("arm64") => "aarch64",
        Some(other) => other,
        None => return false,
    };
    os == Some("linux") && target.starts_with(wanted) && target.contains("-linux-")
}

fn host_target() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not tell its host target")
}

fn compile(compilation: &Compilation, host: &str, dist: &Path) -> Result<()> {
    let flags = [world::var("RUSTFLAGS").unwrap_or_default(), compilation.flags.to_owned()];
    let mut cargo = Command::new(world::var("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    cargo.current_dir(world::root());
    // With a target of its own the flags reach neither build scripts nor macros.
    cargo.args(["build", "--target", host, "--profile", compilation.profile]);
    cargo.args(["--bins", "--message-format", "json-render-diagnostics"]);
    cargo.args(compilation.packages.iter().flat_map(|(package, _)| ["--package", package]));
    cargo.env("RUSTFLAGS", flags.join(" ").trim());
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    let names: Vec<_> = compilation.packages.iter().map(|(package, _)| *package).collect();
    if !output.status.success() {
        bail!("cannot compile {}: cargo says why above", names.join(", "));
    }
    let built = executables(&String::from_utf8_lossy(&output.stdout));
    for (package, name) in compilation.packages {
        let found = built.iter().find(|(owner, _)| owner == package);
        let (_, path) = found.with_context(|| format!("package {package} has no binary"))?;
        place(path, &dist.join(name))?;
    }
    Ok(())
}

/// Package and file of each executable that cargo reports.
fn executables(report: &str) -> Vec<(String, PathBuf)> {
    let read = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let executable = message["executable"].as_str()?;
        let manifest = Path::new(message["manifest_path"].as_str()?);
        let package = manifest.parent()?.file_name()?.to_str()?;
        Some((package.to_owned(), PathBuf::from(executable)))
    };
    report.lines().filter_map(read).collect()
}

/// Copies by way of a rename, so that an interrupted copy leaves no half a binary.
fn place(from: &Path, to: &Path) -> Result<()> {
    let partial = to.with_extension("partial");
    std::fs::copy(from, &partial)
        .and_then(|_| std::fs::rename(&partial, to))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(runs_on(target, Some(os), Some(arch)), runs, "{target} on {os}/{arch}");
        }
    }

    #[test]
    fn a_choice_of_binaries_is_kept_or_refused() {
        for chosen in [Binaries::Prebuilt, Binaries::Built] {
            assert_eq!(Binaries::read(chosen.name()), Ok(chosen));
            assert_eq!(decide(true, Some(chosen)), Ok(chosen));
        }
        assert_eq!(Binaries::read("built ").err(), Some("CIAL_BINARIES must be built or prebuilt"));
        assert_eq!(decide(true, None), Ok(Binaries::Prebuilt));
        assert_eq!(decide(false, None), Ok(Binaries::Built));
        assert!(decide(false, Some(Binaries::Prebuilt)).is_err());
    }

    #[test]
    fn executables_are_known_by_their_package() {
        let report = r#"{"reason":"compiler-artifact","manifest_path":"/c/crates/tenant-core/Cargo.toml","executable":"/t/release/core"}
{"reason":"compiler-artifact","manifest_path":"/c/crates/protocol/Cargo.toml","executable":null}
{"reason":"build-finished","success":true}"#;
        let expected = vec![("tenant-core".to_owned(), PathBuf::from("/t/release/core"))];
        assert_eq!(executables(report), expected);
    }
}
