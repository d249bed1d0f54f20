//! A connection is kept or its end announced, and a stopping process finishes its requests.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{
    EMAIL, FakeOrchestrator, MASTER, ROUTES_TOKEN, Server, TEST_TIMEOUT, TestDatabase,
};

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    stream
}

fn post(path: &str, length: usize, more: &str) -> String {
    let kind = "content-type: application/json";
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\n{kind}\r\ncontent-length: {length}\r\n{more}\r\n"
    )
}

/// Reads one response, by its `content-length`.
fn response(stream: &mut TcpStream) -> String {
    let (mut text, mut byte) = (Vec::new(), [0]);
    let head = loop {
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
        if text.ends_with(b"\r\n\r\n") {
            break String::from_utf8(text).unwrap().to_ascii_lowercase();
        }
    };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    head
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unread_body_is_drained_or_the_end_of_the_connection_announced() {
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    for address in [server.visitor.address(), server.internal] {
        tokio::task::spawn_blocking(move || {
            for path in ["/nothing", "/healthz", "/v1/routes/watch"] {
                // A short rest is drained, and the next request on the connection is answered.
                let mut stream = connect(address);
                for _ in 0..3 {
                    stream.write_all(post(path, 1_000, "").as_bytes()).unwrap();
                    stream.write_all(&[b'x'; 1_000]).unwrap();
                    assert!(!response(&mut stream).contains("connection: close"), "{path}");
                }
                // A long rest is not: the response announces the end of the connection.
                stream.write_all(post(path, 50_000_000, "").as_bytes()).unwrap();
                assert!(response(&mut stream).contains("connection: close"), "{path}");
                // A client that waits for `100 Continue` gets the final response alone.
                let mut stream = connect(address);
                let expect = post(path, 100, "expect: 100-continue\r\n");
                stream.write_all(expect.as_bytes()).unwrap();
                let head = response(&mut stream);
                assert!(head.contains("connection: close") && !head.contains(" 100 "), "{head}");
            }
        })
        .await
        .unwrap();
    }
}

/// The command of a process with valid settings. `secrets` holds its files.
fn command(
    postgres: &TestDatabase,
    secrets: &Path,
    listen: SocketAddr,
    internal: SocketAddr,
) -> Command {
    let file = |name: &str, text: &str| {
        let path = secrets.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(r#"ulimit -n "${OPEN_FILES:-$(ulimit -n)}" && exec "$PROGRAM""#)
        .env("PROGRAM", env!("CARGO_BIN_EXE_app-api"))
        .env("CIAL_LISTEN", listen.to_string())
        .env("CIAL_INTERNAL_LISTEN", internal.to_string())
        .env("CIAL_DATABASE_URL", &postgres.url)
        .env("CIAL_DATABASE_PASSWORD_FILE", file("password", "unused-unused-unused-unused-unused"))
        .env("CIAL_SSO_SECRET_FILE", file("sso", MASTER))
        .env("CIAL_ORCHESTRATOR_URL", "http://127.0.0.1:1")
        .env("CIAL_ORCHESTRATOR_TOKEN_FILE", file("token", "orchestrator-8vY2m0Qz5hYt1rKp7sXw3"))
        .env("CIAL_ROUTES_TOKEN_FILE", file("routes", ROUTES_TOKEN))
        .stderr(Stdio::null());
    command
}

/// A real process, a real signal: the request that is under way is answered, then the process ends with 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_process_finishes_its_requests() {
    let postgres = TestDatabase::new().await;
    let secrets = tempfile::tempdir().unwrap();
    let address = free_address();
    let mut process = command(&postgres, secrets.path(), address, free_address()).spawn().unwrap();
    let pid = Pid::from_raw(process.id().try_into().unwrap());
    let status = tokio::task::spawn_blocking(move || {
        while !is_ready(address) {
            std::thread::yield_now();
        }
        let body = format!(r#"{{"email":"{EMAIL}","password":"wrong wrong wrong"}}"#);
        let (first, rest) = body.split_at(10);
        let mut stream = connect(address);
        let head = post("/api/auth/sign-in/email", body.len(), "");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(first.as_bytes()).unwrap();
        // Another connection that is answered shows that the request above was accepted before.
        assert!(is_ready(address));
        kill(pid, Signal::SIGTERM).unwrap();
        while TcpStream::connect(address).is_ok() {
            std::thread::yield_now();
        }
        stream.write_all(rest.as_bytes()).unwrap();
        let head = response(&mut stream);
        assert!(head.starts_with("http/1.1 401"), "{head}");
        process.wait().unwrap()
    });
    let status = tokio::time::timeout(TEST_TIMEOUT + Duration::from_secs(30), status).await;
    assert!(status.unwrap().unwrap().success());
}

/// Killed with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_open_files_below_the_minimum_ends_the_start() {
    let postgres = TestDatabase::new().await;
    let secrets = tempfile::tempdir().unwrap();
    let mut command = command(&postgres, secrets.path(), free_address(), free_address());
    let ended = command.env("OPEN_FILES", "200").stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{text}");
    assert!(text.contains("the limit of open files is 200, and at least 540 are needed"), "{text}");
}

/// More silent clients than descriptors: health, sign-in, the database and the routes of routers go on.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_beyond_the_open_files_shut_nobody_out() {
    let postgres = TestDatabase::new().await;
    let secrets = tempfile::tempdir().unwrap();
    let (address, internal) = (free_address(), free_address());
    let mut command = command(&postgres, secrets.path(), address, internal);
    let mut process = Process(command.env("OPEN_FILES", "552").spawn().unwrap());
    let served = tokio::task::spawn_blocking(move || {
        while !is_ready(address) {
            assert!(process.0.try_wait().unwrap().is_none(), "it ended");
            std::thread::yield_now();
        }
        let silent = [address, internal]
            .map(|address| (0..450).map(|_| connect(address)).collect::<Vec<_>>());
        assert!(is_ready(address), "health");
        let mut stream = connect(address);
        let body = format!(r#"{{"email":"{EMAIL}","password":"wrong wrong wrong"}}"#);
        stream.write_all(post("/api/auth/sign-in/email", body.len(), "").as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let head = response(&mut stream);
        assert!(head.starts_with("http/1.1 401"), "sign-in and the database: {head}");
        let mut stream = connect(internal);
        let feed = format!(
            "GET /v1/routes/watch HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ROUTES_TOKEN}\r\n\r\n"
        );
        stream.write_all(feed.as_bytes()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200", "the routes");
        drop(silent);
    });
    tokio::time::timeout(TEST_TIMEOUT + Duration::from_secs(60), served).await.unwrap().unwrap();
}

fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let request = "GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut head = [0; 12];
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_exact(&mut head).is_ok()
        && head.ends_with(b"200")
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
