//! An image that compiles, for a machine that cannot pull the one of the Dockerfiles: Debian with a C compiler, this
//! machine's toolchain, and the sources of every crate.
//!
//! Only a test uses it. It optimises nothing, because the test asks whether the binaries are built and start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use docker_command::Docker;

use super::base;
use crate::environment::{cargo, make_folder, read, root};

const BASE: &str = "cial-rust-base:bookworm";
/// The packages that the comments of the Dockerfiles name, and no more.
const PACKAGES: [&str; 3] = ["gcc", "libc6-dev", "make"];
/// The place is that of the official image.
const CONFIG: &str = r#"[net]
offline = true
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "/usr/local/cargo/vendor"
"#;
const CHANGES: [&str; 6] = [
    "LABEL cial.managed=1",
    "ENV CARGO_HOME=/usr/local/cargo",
    "ENV CARGO_PROFILE_RELEASE_LTO=off",
    "ENV CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16",
    "ENV CARGO_PROFILE_RELEASE_OPT_LEVEL=0",
    "ENV CARGO_PROFILE_CONTROL_OPT_LEVEL=0",
];

/// Makes `tag`. Intermediate files lie in `folder`, and are removed.
pub(crate) fn make(docker: &Docker, tag: &str, folder: &Path) -> Result<()> {
    base::make_rootfs(docker, BASE, "bookworm", &PACKAGES)?;
    let home = folder.join("cargo");
    let made = download_crates(&home).and_then(|()| {
        let created = docker.run(&["create", "--label=cial.managed=1", BASE, "true"])?;
        let container = created.trim();
        let changes = CHANGES.iter().flat_map(|change| ["--change", change]);
        let commit = ["commit"].into_iter().chain(changes).chain([container, tag]);
        let committed =
            fill(docker, container, &home).and_then(|()| docker.run(&commit.collect::<Vec<_>>()));
        let removed = docker.run(&["rm", container]);
        committed.and(removed).map(drop)
    });
    let _ = fs::remove_dir_all(&home);
    made.with_context(|| format!("cannot make {tag}"))
}

/// Fills a home of cargo with the sources of every crate that Cargo.lock names.
fn download_crates(home: &Path) -> Result<()> {
    make_folder(home)?;
    fs::write(home.join("config.toml"), CONFIG)?;
    let mut vendor = cargo();
    vendor.args(["vendor", "--quiet", "--locked", "--versioned-dirs"]).arg(home.join("vendor"));
    read(&mut vendor, "cargo vendor").map(drop)
}

/// Copies the home of cargo and the toolchain into a container.
fn fill(docker: &Docker, container: &str, home: &Path) -> Result<()> {
    let toolchain = toolchain()?;
    let copies = [
        (home.to_owned(), "/usr/local/cargo"),
        (toolchain.join("lib"), "/usr/local/"),
        (toolchain.join("bin/cargo"), "/usr/local/bin/"),
        (toolchain.join("bin/rustc"), "/usr/local/bin/"),
    ];
    for (from, to) in copies {
        docker.run(&["cp", &from.display().to_string(), &format!("{container}:{to}")])?;
    }
    Ok(())
}

/// The folder of the toolchain that compiles this checkout.
fn toolchain() -> Result<PathBuf> {
    let mut rustc = Command::new("rustc");
    let printed = read(rustc.args(["--print", "sysroot"]).current_dir(root()), "rustc")?;
    Ok(PathBuf::from(printed.trim()))
}
