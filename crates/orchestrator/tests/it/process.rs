//! The program itself: what it refuses to start with, and whom it runs as.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::unistd::geteuid;

use crate::support::{Install, with_install};

const PROGRAM: &str = env!("CARGO_BIN_EXE_orchestrator");

/// Killed with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The environment of a good start, on a free port.
fn command(install: &Install) -> (Command, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(PROGRAM);
    command.env_clear();
    for (name, file) in [
        ("CIAL_ORCHESTRATOR_TOKEN_FILE", "token"),
        ("CIAL_LEASES_TOKEN_FILE", "leases"),
        ("CIAL_SSO_SECRET_FILE", "sso"),
        ("CIAL_ROUTE_SECRET_FILE", "route"),
    ] {
        let path = install.base.join(file);
        fs::write(&path, format!("{file}-of-a-test-0123456789abcdef01234567")).unwrap();
        for_the_service(&path);
        command.env(name, path);
    }
    for (name, directory) in [
        ("CIAL_STATE_DIR", "state"),
        ("CIAL_SOCKETS_DIR", "sockets"),
        ("CIAL_TENANT_SECRETS_DIR", "secrets"),
    ] {
        let path = install.base.join(directory);
        for_the_service(&path);
        command.env(name, path);
    }
    command.env("CIAL_LISTEN", format!("127.0.0.1:{port}"));
    command.env("CIAL_INSTALL", install.name.as_str());
    command.env("CIAL_ENGINE_PATHS", "host");
    (command, port)
}

/// As in its image: only the user that it becomes can read them.
fn for_the_service(path: &Path) {
    if geteuid().is_root() {
        chown(path, Some(1000), Some(1000)).unwrap();
    }
}

fn status(child: &Child, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn root_is_given_up_for_a_user_with_the_sockets_group() {
    with_install(async |install| {
        let (mut command, port) = command(install);
        let mut process = Process(command.stderr(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(process.0.stderr.take().unwrap()).lines();
        let serving = lines.by_ref().any(|line| line.unwrap().contains("\"serving\""));
        assert!(serving, "it ended: {:?}", process.0.wait());
        let healthy = Command::new(PROGRAM)
            .arg("healthcheck")
            .env("CIAL_LISTEN", format!("0.0.0.0:{port}"))
            .status()
            .unwrap();
        assert!(healthy.success());
        if geteuid().is_root() {
            let group = fs::metadata("/var/run/docker.sock").unwrap().gid();
            assert_eq!(status(&process.0, "Uid:"), "1000 1000 1000 1000");
            assert_eq!(status(&process.0, "Gid:"), "1000 1000 1000 1000");
            assert_eq!(status(&process.0, "Groups:"), group.to_string());
            assert_eq!(status(&process.0, "CapEff:"), "0000000000000000");
        } else {
            assert_eq!(
                status(&process.0, "Uid:").split(' ').next().unwrap(),
                geteuid().to_string()
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_start_with_bad_settings_is_refused_with_all_faults_and_code_64() {
    with_install(async |install| {
        let (mut command, _) = command(install);
        command.env("CIAL_PUBLISH", "everywhere").env("CIAL_SUBNET_POOL", "x");
        command.env("CIAL_SSO_SECRET_FILE", "/nowhere");
        let ended = command.output().unwrap();
        let told = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(64), "{told}");
        for name in ["CIAL_PUBLISH", "CIAL_SUBNET_POOL", "CIAL_SSO_SECRET_FILE"] {
            assert!(told.contains(name), "{name}: {told}");
        }
        assert_eq!(Command::new(PROGRAM).arg("nonsense").output().unwrap().status.code(), Some(64));
    })
    .await;
}
