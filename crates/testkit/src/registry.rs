//! A registry of images on loopback that gives them to one account only: Debian's `docker-registry`.
//!
//! The engine takes registries on 127.0.0.0/8 without TLS.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::TempDir;

pub const USERNAME: &str = "bob";
/// In base64 it has the characters that differ between the two alphabets.
pub const PASSWORD: &str = "hunter2>?~>?~";
/// The hash of the password, by bcrypt.
const HASH: &str = "$2b$04$SJ6VU6XiwYRLiqIelwy8/O5go89GtNdVRARuqAUksi.PAAaIRucya";
/// Name and password, as the `docker` command stores them.
const DOCKER_AUTH: &str = "Ym9iOmh1bnRlcjI+P34+P34=";

/// Ends with this value, with all its images.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    address: SocketAddr,
    dir: TempDir,
}

impl Registry {
    /// # Errors
    /// `docker-registry` is not installed, or does not start.
    pub fn start() -> Result<Self> {
        let dir = TempDir::new("registry")?;
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("accounts"), format!("{USERNAME}:{HASH}\n"))?;
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n\
             auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            path("images").display(),
            path("accounts").display(),
        );
        std::fs::write(path("config.yml"), config)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path("config.yml")).env("OTEL_TRACES_EXPORTER", "none");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().context("docker-registry: scripts/install-tools")?;
        let stderr = process.stderr.take().context("the registry has no log")?;
        let mut lines = BufReader::new(stderr).lines();
        let address = loop {
            let Some(line) = lines.next() else {
                let _ = process.kill();
                let _ = process.wait();
                anyhow::bail!("docker-registry ended before it listened");
            };
            if let Some(address) = listening(&line?) {
                break address;
            }
        };
        // A full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { process, address, dir })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The registry in names of images.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Pushes an image of the engine as `path:tag`, and returns its name in the registry. The engine keeps only what it had.
    ///
    /// # Errors
    /// The `docker` command fails.
    pub fn push(&self, image: &str, repository: &str) -> Result<String> {
        let name = format!("{}/{repository}", self.host());
        let config = self.docker_config()?;
        docker(&config, &["tag", image, &name])?;
        let pushed = docker(&config, &["push", "--quiet", &name]);
        docker(&config, &["rmi", &name])?;
        pushed.map(|()| name)
    }

    fn docker_config(&self) -> Result<PathBuf> {
        let folder = self.dir.path().join("docker");
        std::fs::create_dir_all(&folder)?;
        let config = format!(r#"{{"auths":{{"{}":{{"auth":"{DOCKER_AUTH}"}}}}}}"#, self.host());
        std::fs::write(folder.join("config.json"), config)?;
        Ok(folder)
    }

    /// Ends the registry: nobody listens at its address any more.
    pub fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

fn docker(config: &std::path::Path, args: &[&str]) -> Result<()> {
    let output = Command::new("docker").arg("--config").arg(config).args(args).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "docker {}: {}", args.join(" "), stderr.trim());
    Ok(())
}

/// The address in a line like `… msg="listening on 127.0.0.1:5000" …`.
fn listening(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on ")?;
    rest.split(['"', ',', ' ']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_log() {
        let line = r#"time="2026-11-30T16:20:00Z" level=info msg="listening on 127.0.0.1:5999" go.version=go1.19.8"#;
        assert_eq!(listening(line), "127.0.0.1:5999".parse().ok());
        assert_eq!(listening("level=info msg=started"), None);
    }
}
