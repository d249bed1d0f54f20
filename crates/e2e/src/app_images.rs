//! Images of one static program, one per version. They are removed with this value.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use testkit::TempDir;

/// The base of an image without files.
const SCRATCH: &str = "scratch";

pub struct AppImages {
    pub names: Vec<String>,
    /// A copy of the base image, if there is one.
    base: Option<String>,
}

impl AppImages {
    /// Compiles the program and builds an image for each version, which the program reads from `VERSION`.
    ///
    /// # Errors
    /// The program does not compile, or the engine refuses.
    pub fn build(name: &str, program: &str, versions: &[&str]) -> Result<Self> {
        Self::build_on(SCRATCH, name, program, versions)
    }

    /// The same on a base image, which keeps its own files.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_on(base: &str, name: &str, program: &str, versions: &[&str]) -> Result<Self> {
        let folder = TempDir::new(name)?;
        let (source, binary) = (folder.path().join("main.rs"), folder.path().join("program"));
        fs::write(&source, program)?;
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition=2024", "-Copt-level=s", "-Cstrip=symbols"]);
        rustc.args(["-Ctarget-feature=+crt-static", "-o"]).arg(&binary).arg(&source);
        run(&mut rustc)?;
        let mut images = Self { names: Vec::new(), base: None };
        if base != SCRATCH {
            let copy = format!("cial-e2e-{name}-base:{}", std::process::id());
            images.base = Some(copy.clone());
            copy_without_labels(base, &copy)?;
        }
        let base = images.base.as_deref().unwrap_or(SCRATCH);
        for version in versions {
            let recipe = format!(
                "FROM {base}\nCOPY program /program\nENV VERSION={version}\nENTRYPOINT [\"/program\"]\nCMD []\n"
            );
            fs::write(folder.path().join("Dockerfile"), recipe)?;
            let image = format!("cial-e2e-{name}:{}-{version}", std::process::id());
            run(Command::new("docker")
                .args(["build", "--quiet", "--tag", &image])
                .arg(folder.path()))?;
            images.names.push(image);
        }
        Ok(images)
    }
}

impl Drop for AppImages {
    fn drop(&mut self) {
        // A failed removal leaves a few kilobytes; the test's own result matters more.
        let images = self.names.iter().chain(&self.base);
        let _ = Command::new("docker").args(["rmi", "--force"]).args(images).output();
    }
}

/// Makes an image with the files of another, but without its labels: the platform refuses images of apps that have its own.
///
/// # Errors
/// The engine refuses.
pub fn copy_without_labels(image: &str, copy: &str) -> Result<()> {
    let script = "id=$(docker create \"$0\") && docker export \"$id\" | docker import - \"$1\" && docker rm \"$id\"";
    run(Command::new("sh").args(["-c", script, image, copy]))
}

/// Runs a command to its end.
///
/// # Errors
/// The command cannot be run, or fails; the message holds its stderr.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
