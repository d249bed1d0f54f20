//! The router as a process of its own: real signals, real limits, `kill -9`.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use protocol::State;
use protocol::spec::Desired;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Client, Control, Response, TOKEN, TempDir, eventually, nowhere};
use crate::orchestrator::{self, FakeOrchestrator};
use crate::tenant::Tenant;

pub(crate) struct RouterProcess {
    pub(crate) public: SocketAddr,
    pub(crate) internal: SocketAddr,
    pub(crate) child: Child,
    pub(crate) route_secret: PathBuf,
    log: Receiver<String>,
}

impl RouterProcess {
    /// Starts `router {command}` with secrets and cache in `folder`.
    pub(crate) fn start(
        folder: &TempDir,
        command: &str,
        (control, orchestrator): (&Control, &FakeOrchestrator),
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_router"));
        program.arg(command);
        Self::spawn(folder, program, (control, orchestrator), change)
    }

    /// Like `start`, with at most `limit` open files.
    pub(crate) fn start_with_file_limit(
        folder: &TempDir,
        limit: u32,
        (control, orchestrator): (&Control, &FakeOrchestrator),
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let mut program = Command::new("sh");
        let script = format!("ulimit -n {limit}; exec \"$0\" serve");
        program.args(["-c", &script, env!("CARGO_BIN_EXE_router")]);
        Self::spawn(folder, program, (control, orchestrator), change)
    }

    fn spawn(
        folder: &TempDir,
        mut program: Command,
        (control, orchestrator): (&Control, &FakeOrchestrator),
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let (public, internal) = (nowhere(), nowhere());
        let secret = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let route_secret = secret("route-secret", crate::harness::master().reveal());
        program
            .env("CIAL_LISTEN", public.to_string())
            .env("CIAL_INTERNAL_LISTEN", internal.to_string())
            .env("CIAL_APP_API_URL", format!("http://{}", control.address))
            .env("CIAL_ORCHESTRATOR_URL", orchestrator.url())
            .env("CIAL_ROUTES_TOKEN_FILE", secret("routes-token", TOKEN))
            .env("CIAL_LEASES_TOKEN_FILE", secret("leases-token", orchestrator::TOKEN))
            .env("CIAL_ROUTE_SECRET_FILE", &route_secret)
            .env("CIAL_ROUTES_CACHE", folder.path().join("routes.json"))
            .env("CIAL_RATE_LIMIT", "off")
            .env("CIAL_THREADS", "2")
            .stderr(Stdio::piped());
        change(&mut program);
        let mut child = program.spawn().unwrap();
        let (lines, log) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in stderr.map_while(Result::ok) {
                eprintln!("{line}");
                // The thread reads to the end, even when no test listens: a full pipe would stop
                // the process.
                let _ = lines.send(line);
            }
        });
        Self { public, internal, child, route_secret, log }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for a log line with this text.
    pub(crate) fn wait_for_log(&self, text: &str) {
        let is_next = || self.log.recv_timeout(Duration::from_secs(60)).unwrap().contains(text);
        while !is_next() {}
    }

    /// Sends one request on a new connection; `None` while the router does not listen.
    pub(crate) fn try_request(&self, host: &str) -> Option<Response> {
        TcpStream::connect(self.public).ok()?;
        let mut client = Client::connect(self.public);
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        Some(client.response())
    }

    pub(crate) fn serves(&self, host: &str) -> bool {
        self.try_request(host).is_some_and(|response| response.status == 200)
    }

    /// Stops the router with SIGTERM and returns the exit code.
    pub(crate) fn end(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.child.wait().unwrap().code()
    }
}

impl Drop for RouterProcess {
    fn drop(&mut self) {
        // Child processes of a parent end with the parent.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn two_routers_of_one_installation_hold_leases_of_their_own_and_one_outlives_the_other() {
    let folders = [TempDir::new("router").unwrap(), TempDir::new("router").unwrap()];
    let (acme, other) = (Tenant::new(&folders[0], 1, "acme"), Tenant::new(&folders[0], 2, "other"));
    let control = Control::start(1);
    control.feed.replace(vec![acme.running()]);
    let orchestrator = FakeOrchestrator::start(&control.feed);
    let start = |folder| RouterProcess::start(folder, "serve", (&control, &orchestrator), |_| {});
    let [mut first, mut second] = folders.each_ref().map(start);
    for router in [&first, &second] {
        eventually("the router serves", || router.serves("acme.localhost"));
    }
    let mut holders: Vec<_> =
        orchestrator.lease_requests().iter().map(|request| request.holder).collect();
    holders.sort_unstable();
    holders.dedup();
    assert_eq!(holders.len(), 2, "each process is a holder of its own");

    // A change reaches both routers.
    control.feed.put(other.running());
    for router in [&first, &second] {
        eventually("the new tenant is served", || router.serves("other.localhost"));
    }
    control.feed.put(acme.route(State::Running, Desired::Stopped));
    for router in [&first, &second] {
        eventually("the stopped tenant is not served", || !router.serves("acme.localhost"));
    }

    // One router dies by SIGKILL: the other goes on.
    first.signal(Signal::KILL);
    first.child.wait().unwrap();
    for _ in 0..20 {
        assert!(second.serves("other.localhost"));
    }
    assert_eq!(second.end(), Some(0));
    assert!(
        orchestrator.releases().iter().any(|release| release.tenant == other.id),
        "the router that ends in order gives its leases back"
    );
}
