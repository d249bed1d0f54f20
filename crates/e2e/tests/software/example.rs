//! The images of the examples, and what all of them go through.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context as _, Result};
use e2e::Browser;
use e2e::app_images::{copy_without_labels, run};
use e2e::command_line::{delete_app, succeed};
use e2e::session::Session;
use testkit::TempDir;
use testkit::installation::required;

/// The Python of the base image, for which wheels are downloaded.
const PYTHON: &str = "3.11.2";

/// Images of one example, one per release. They are removed with this value.
pub(crate) struct Example {
    app: &'static str,
    folder: TempDir,
    /// Debian, without the labels of the image that ours are based on.
    base: String,
    images: Vec<String>,
}

impl Example {
    /// A copy of `examples/{name}` with the wheels of its requirements, and an app without releases.
    pub(crate) fn copy(name: &str, app: &'static str) -> Result<Self> {
        let base = format!("cial-e2e-{app}-base:{}", process::id());
        let example = Self { app, folder: TempDir::new(name)?, base, images: Vec::new() };
        copy_without_labels(&required("CIAL_E2E_BASE_IMAGE")?, &example.base)?;
        let folder = example.folder.path();
        run(Command::new("cp").arg("-R").arg(source(name).join(".")).arg(folder))?;
        if folder.join("requirements.txt").exists() {
            download_wheels(folder)?;
        }
        succeed(&["apps", "create", app], None)?;
        Ok(example)
    }

    /// The copy, to be changed between two releases.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Builds the copy as it is, and creates a release of it.
    pub(crate) fn release(&mut self) -> Result<()> {
        let image = format!("cial-e2e-{}:{}-{}", self.app, process::id(), self.images.len() + 1);
        let base = format!("BASE={}", self.base);
        let mut docker = Command::new("docker");
        docker.args(["build", "--quiet", "--build-arg", &base, "--build-arg", "PIP_NO_INDEX=1"]);
        run(docker.args(["--tag", &image]).arg(self.folder()))?;
        self.images.push(image.clone());
        let mut create = vec!["apps", "release", "create", self.app, "--image", &image];
        let manifest = self.folder().join("cial.toml");
        let manifest = manifest.to_str().context("the temporary folder is no text")?;
        if Path::new(manifest).exists() {
            create.extend(["--manifest", manifest]);
        }
        succeed(&create, None)?;
        Ok(())
    }

    /// Creates a tenant with the latest release, and waits until it runs.
    pub(crate) fn tenant(&self, slug: &str) -> Result<()> {
        succeed(&["tenants", "create", slug, "--app", self.app], None)?;
        Ok(())
    }

    /// Deletes these tenants, then the app.
    pub(crate) fn delete(&self, tenants: &[&str]) -> Result<()> {
        delete_app(self.app, tenants)
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Left behind, they cost disk and nothing else; the test's own result matters more.
        let _ =
            Command::new("docker").args(["rmi", "--force", &self.base]).args(&self.images).output();
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

/// Puts the wheels of `requirements.txt` into `wheels`. They are kept in a cache, since an index may be slow.
fn download_wheels(folder: &Path) -> Result<()> {
    let home = required("HOME")?;
    let cache = Path::new(&home).join(".cache/cial/wheels");
    fs::create_dir_all(&cache)?;
    let download = |to: &Path| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]);
        pip.args(["--python-version", PYTHON, "--find-links"]).arg(&cache).arg("--dest").arg(to);
        pip.arg("--requirement").arg(folder.join("requirements.txt"));
        pip
    };
    let wheels = folder.join("wheels");
    if run(download(&wheels).arg("--no-index")).is_err() {
        run(&mut download(&cache))?;
        run(download(&wheels).arg("--no-index"))?;
    }
    Ok(())
}

/// Signs the owner in at a tenant, as a visitor does, and stays at this path.
pub(crate) async fn sign_in(browser: &Browser, session: &Session, path: &str) -> Result<()> {
    let tenant = session.installation.tenant_url(&session.slug);
    browser.open(&format!("{tenant}/.cial/sign-in?to={path}")).await?;
    if !browser.url().await?.starts_with(&tenant) {
        browser.sign_in().await?;
    }
    Ok(())
}
