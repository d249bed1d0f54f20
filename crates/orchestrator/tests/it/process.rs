//! The program itself: its settings, limits and user.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::unistd::geteuid;

use crate::support::{Install, with_install};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_orchestrator");

/// Killed with the test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command with valid settings, on a free port.
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
        ("CIAL_TENANT_DATABASES_DIR", "databases"),
        ("CIAL_MODELS_DIR", "models"),
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

/// Makes the files readable for the service's user only, as in the image.
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
async fn root_privileges_are_dropped_to_a_user_with_the_sockets_group() {
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

/// Runs the program under a limit of open files.
fn limited(install: &Install, limit: u32) -> (Command, u16) {
    let (command, port) = command(install);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("ulimit -n {limit} && exec {PROGRAM}")).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    (shell, port)
}

#[tokio::test]
async fn a_limit_of_open_files_below_the_minimum_ends_the_start() {
    with_install(async |install| {
        let (mut command, _) = limited(install, 200);
        let ended = command.output().unwrap();
        let text = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{text}");
        assert!(text.contains("the limit of open files is 200, and at least"), "{text}");
    })
    .await;
}

#[tokio::test]
async fn more_connections_than_open_files_neither_lose_the_engine_nor_stop_health_checks() {
    with_install(async |install| {
        let (mut command, port) = limited(install, 500);
        // Enough for any machine: the minimum grows with the number of starts.
        command.env("CIAL_START_CONCURRENCY", "2");
        let mut process = Process(command.stderr(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(process.0.stderr.take().unwrap()).lines();
        assert!(lines.by_ref().any(|line| line.unwrap().contains("\"serving\"")));
        let address = format!("127.0.0.1:{port}");
        let silent: Vec<_> =
            (0..600).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
        let metrics = || {
            let mut stream = std::net::TcpStream::connect(&address).unwrap();
            let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
            let mut text = String::new();
            let _ = std::io::Read::read_to_string(&mut stream, &mut text);
            text
        };
        let text = metrics();
        assert!(text.contains("cial_descriptors_limit 500\n"), "{text}");
        while !metrics().contains("cial_engine_up 1\n") {
            assert!(process.0.try_wait().unwrap().is_none(), "it ended");
        }
        drop(silent);
    })
    .await;
}

#[tokio::test]
async fn invalid_settings_end_the_start_with_all_errors_and_code_64() {
    with_install(async |install| {
        let (mut command, _) = command(install);
        command.env("CIAL_PUBLISH", "everywhere").env("CIAL_SUBNET_POOL", "x");
        command.env("CIAL_SSO_SECRET_FILE", "/nowhere");
        let ended = command.output().unwrap();
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(64), "{stderr}");
        for name in ["CIAL_PUBLISH", "CIAL_SUBNET_POOL", "CIAL_SSO_SECRET_FILE"] {
            assert!(stderr.contains(name), "{name}: {stderr}");
        }
        assert_eq!(Command::new(PROGRAM).arg("nonsense").output().unwrap().status.code(), Some(64));
    })
    .await;
}
