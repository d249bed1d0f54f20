//! The container engine, through the `docker` command. The command finds the engine (a context,
//! `DOCKER_HOST`, or the local socket), and its callers need no HTTP client of their own.

mod compose;
mod connect;
mod context;
mod error;
mod objects;
mod output;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use duct::cmd;
use serde_json::Value;

pub use compose::Compose;
pub use context::pack_context;
pub use error::ActionableError;
pub use objects::InstallationObjects;
pub use output::{last_lines, output_within, version_number};

/// Bounds every call except builds and imports.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// An engine that responds and is new enough.
#[derive(Clone, Debug)]
pub struct Docker {
    pub version: String,
    pub api_version: String,
    pub os: String,
    pub arch: String,
}

/// A container as `docker inspect` shows it.
#[derive(Clone, Debug)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Ports of the host that publish the container's ports.
    pub published_ports: BTreeSet<u16>,
    /// All of it.
    pub inspected: Value,
}

impl Container {
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// Such as `running`, `paused` and `exited`.
    pub fn status(&self) -> &str {
        self.state()["Status"].as_str().unwrap_or_default()
    }

    pub fn state(&self) -> &Value {
        &self.inspected["State"]
    }

    pub fn restart_count(&self) -> i64 {
        self.inspected["RestartCount"].as_i64().unwrap_or_default()
    }

    /// The last lines of its log, of both outputs.
    pub fn last_lines(&self, count: usize) -> String {
        let tail = format!("--tail={count}");
        let logs = call(&["logs", &tail, &self.id]);
        let text = logs.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Reads an element of what `docker container inspect` prints.
    pub fn read(inspected: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let labels = inspected["Config"]["Labels"].as_object().into_iter().flatten();
        let ports = inspected["NetworkSettings"]["Ports"].as_object().into_iter().flatten();
        let published = ports.flat_map(|(_, bindings)| bindings.as_array().into_iter().flatten());
        Self {
            id: text(&inspected["Id"]),
            name: text(&inspected["Name"]).trim_start_matches('/').to_owned(),
            labels: labels.map(|(name, value)| (name.clone(), text(value))).collect(),
            published_ports: published
                .filter_map(|binding| binding["HostPort"].as_str()?.parse().ok())
                .collect(),
            inspected: inspected.clone(),
        }
    }
}

impl Docker {
    /// Finds the engine: at `host`, the value of `DOCKER_HOST`, or where the command finds it.
    ///
    /// # Errors
    /// An [`ActionableError`]: no engine answers, or the engine is too old.
    pub fn connect(host: Option<&str>) -> Result<Self> {
        Ok(connect::connect(host)?)
    }

    /// Like [`run`].
    ///
    /// # Errors
    /// The command fails; the message is its stderr.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        run(args)
    }

    /// Lists every container, running or not, in order of their names.
    ///
    /// # Errors
    /// The engine does not answer.
    pub fn containers(&self) -> Result<Vec<Container>> {
        containers(&[])
    }

    /// Lists one field of each container, network, volume or image with all these labels.
    ///
    /// # Errors
    /// The engine does not answer.
    pub fn list(
        &self,
        kind: &str,
        field: &str,
        labels: &[String],
        more: &[&str],
    ) -> Result<BTreeSet<String>> {
        list(kind, field, labels, more)
    }

    /// Returns the output of `docker image inspect`; `None` where the engine has no such image.
    ///
    /// # Errors
    /// The engine does not answer.
    pub fn image(&self, tag: &str) -> Result<Option<Value>> {
        match self.run(&["image", "inspect", tag]) {
            Ok(text) => Ok(serde_json::from_str::<Value>(&text)?.get(0).cloned()),
            Err(error) if format!("{error:#}").contains("No such image") => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot look for image {tag}")),
        }
    }

    /// Pulls an image, or fails within two minutes, because a slower registry does not help.
    ///
    /// # Errors
    /// The registry does not answer in time, or refuses.
    pub fn pull(&self, tag: &str) -> Result<()> {
        self.run(&["pull", "--quiet", tag]).map(drop)
    }

    /// Runs a build that reads its context from an archive; failures show the last lines of its
    /// output.
    ///
    /// # Errors
    /// The build fails.
    pub fn build(&self, args: &[String], archive: Vec<u8>, has_buildkit: bool) -> Result<()> {
        const SHOWN_LINES: usize = 40;
        let args = ["build"].into_iter().chain(args.iter().map(String::as_str)).chain(["-"]);
        let build = cmd("docker", args).env("DOCKER_BUILDKIT", u8::from(has_buildkit).to_string());
        let build = build.stdin_bytes(archive).stderr_to_stdout().stdout_capture().unchecked();
        let output = build.run().context("cannot run docker")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "the build failed:\n{}", last_lines(&text, SHOWN_LINES));
        Ok(())
    }

    /// Imports a root file system as an image.
    ///
    /// # Errors
    /// The engine refuses the archive.
    pub fn import(&self, archive: &Path, tag: &str, changes: &[&str]) -> Result<()> {
        let changes = changes.iter().flat_map(|change| ["--change", change]);
        let mut args: Vec<_> = ["import"].into_iter().chain(changes).map(OsStr::new).collect();
        args.extend([archive.as_os_str(), OsStr::new(tag)]);
        cmd("docker", args).stdout_null().run().context("docker import")?;
        Ok(())
    }
}

/// Lists the containers with all these labels, running or not, in order of their names.
fn containers(labels: &[String]) -> Result<Vec<Container>> {
    let listed = list("container", "{{.ID}}", labels, &["--all"])?;
    if listed.is_empty() {
        return Ok(Vec::new());
    }
    let ids = listed.iter().map(String::as_str);
    let args: Vec<_> = ["container", "inspect"].into_iter().chain(ids).collect();
    // A container that was removed after the listing makes the call fail, but the output still
    // contains the others.
    let inspected: Value =
        serde_json::from_slice(&call(&args)?.stdout).context("docker container inspect")?;
    let mut found: Vec<_> =
        inspected.as_array().into_iter().flatten().map(Container::read).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn list(kind: &str, field: &str, labels: &[String], more: &[&str]) -> Result<BTreeSet<String>> {
    let filters: Vec<_> = labels.iter().map(|label| format!("--filter=label={label}")).collect();
    let mut args = vec![kind, "ls", "--format", field];
    args.extend(filters.iter().map(String::as_str));
    args.extend(more);
    let listed = run(&args)?;
    Ok(listed.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Runs `docker` with these arguments, on the engine that the command finds, and returns its stdout.
///
/// # Errors
/// The command fails; the message is its stderr.
pub fn run(args: &[&str]) -> Result<String> {
    let output = call(args)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let title = args.iter().take(2).copied().collect::<Vec<_>>().join(" ");
    ensure!(output.status.success(), "docker {title}: {}", stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `docker` to its end, whatever its exit code.
fn call(args: &[&str]) -> Result<Output> {
    output_within("docker", &cmd("docker", args), CALL_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_inspected_container_is_read() {
        let container = Container::read(&json!({
            "Id": "abc", "Name": "/cial-local_router_1", "RestartCount": 2,
            "State": { "Status": "running" },
            "Config": { "Labels": { "cial.slug": "acme" } },
            "NetworkSettings": { "Ports": {
                "8080/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "18080" }], "8081/tcp": null,
            } },
        }));
        assert_eq!(
            (container.name.as_str(), container.restart_count()),
            ("cial-local_router_1", 2)
        );
        assert_eq!((container.slug(), container.service()), ("acme", ""));
        assert_eq!(container.published_ports, BTreeSet::from([18080]));
        assert_eq!(container.status(), "running");
    }

    #[test]
    fn a_build_reads_its_archive_and_a_failure_shows_its_output() {
        let docker = Docker::connect(None).unwrap();
        let tag = format!("cial-it-build-{}:dev", std::process::id());
        let archive = |dockerfile: &str| {
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_ustar();
            header.set_size(dockerfile.len() as u64);
            archive.append_data(&mut header, "Dockerfile", dockerfile.as_bytes()).unwrap();
            archive.into_inner().unwrap()
        };
        let build = |dockerfile: &str| {
            docker.build(&[format!("--tag={tag}"), "--rm".to_owned()], archive(dockerfile), false)
        };
        let error = build("FROM scratch\nUNHEARD of\n").unwrap_err().to_string();
        assert!(error.to_lowercase().contains("unheard"), "{error}");
        assert!(docker.image(&tag).unwrap().is_none());
        build("FROM scratch\nLABEL cial.it=build\n").unwrap();
        let image = docker.image(&tag).unwrap().unwrap();
        docker.run(&["image", "rm", &tag]).unwrap();
        assert_eq!(image["Config"]["Labels"]["cial.it"], "build");
    }
}
