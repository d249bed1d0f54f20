//! An upgrade of the router behind its open listeners loses no request.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Client, Control, TempDir, eventually};
use crate::orchestrator::FakeOrchestrator;
use crate::process::RouterProcess;
use crate::tenant::Tenant;

const ASK: &str = "GET / HTTP/1.1\r\nHost: acme.localhost\r\n\r\n";
const ASK_ONCE: &str = "GET / HTTP/1.1\r\nHost: acme.localhost\r\nConnection: close\r\n\r\n";
/// Upgrades under load.
const UPGRADES: usize = 3;

/// `router parent` with an app-api and an orchestrator.
struct Parent {
    router: RouterProcess,
    _control: Control,
    _orchestrator: FakeOrchestrator,
}

impl std::ops::Deref for Parent {
    type Target = RouterProcess;

    fn deref(&self) -> &RouterProcess {
        &self.router
    }
}

impl Parent {
    fn start(folder: &TempDir, acme: &Tenant, drain_seconds: u32) -> Self {
        let control = Control::start(1);
        control.feed.replace(vec![acme.running()]);
        let orchestrator = FakeOrchestrator::start(&control.feed);
        let router = RouterProcess::start(folder, "parent", (&control, &orchestrator), |command| {
            command.env("CIAL_DRAIN", drain_seconds.to_string());
        });
        eventually("the parent serves", || router.serves("acme.localhost"));
        Self { router, _control: control, _orchestrator: orchestrator }
    }

    /// The child processes that have not exited.
    fn children(&self) -> Vec<u32> {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Waits until another child serves and the child before has exited.
    fn upgrade(&self) {
        let before = self.children();
        assert_eq!(before.len(), 1);
        let id = self.child.id().to_string();
        let status = Command::new(env!("CARGO_BIN_EXE_router")).args(["upgrade", &id]).status();
        assert!(status.unwrap().success());
        eventually("another child serves alone", || {
            let now = self.children();
            now.len() == 1 && now != before
        });
    }

    /// Stops the parent with SIGTERM and returns the exit code.
    fn end(mut self) -> Option<i32> {
        self.router.end()
    }
}

/// Clients that send requests without a pause. A request that fails panics.
struct Load {
    over: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (over, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let clients = (0..12).map(|number| {
            let (over, served) = (over.clone(), served.clone());
            let stays = number % 3 != 0;
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                while !over.load(Ordering::Relaxed) {
                    client.send(if stays { ASK } else { ASK_ONCE });
                    let response = client.response();
                    assert_eq!(response.status, 200, "{response:?}");
                    served.fetch_add(1, Ordering::Relaxed);
                    if !stays || response.has("connection: close") {
                        client = Client::connect(address);
                    }
                }
            })
        });
        let clients = clients.collect();
        Self { over, served, clients }
    }

    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("no request fails");
        }
    }
}

#[test]
fn an_upgrade_under_load_loses_no_request() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let parent = Parent::start(&folder, &acme, 20);
    let load = Load::start(parent.public);
    for _ in 0..UPGRADES {
        let before = load.served();
        eventually("all clients send requests", || load.served() > before + 100);
        parent.upgrade();
    }
    let before = load.served();
    eventually("requests are still served", || load.served() > before + 100);
    load.end();
    assert_eq!(parent.end(), Some(0));
}

#[test]
fn requests_under_way_finish_and_idle_connections_may_send_one_more() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let parent = Parent::start(&folder, &acme, 60);
    let mut slow = Client::connect(parent.public);
    slow.send("GET /drip HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    slow.until("\r\n\r\nhalf");
    let mut idle = Client::connect(parent.public);
    idle.send(ASK);
    assert_eq!(idle.response().status, 200);

    let before = parent.children();
    parent.signal(Signal::HUP);
    // The old child drains once the new child serves.
    eventually("the old child accepts no connection", || {
        let mut client = Client::connect(parent.public);
        client.send(ASK);
        let response = client.response();
        assert_eq!(response.status, 200);
        idle.send(ASK);
        let response = idle.response();
        assert_eq!(response.status, 200, "an idle connection is not closed under a request");
        response.has("connection: close")
    });
    assert_eq!(parent.children().len(), 2, "the old child has a request to finish");
    acme.cue();
    slow.until("half");
    drop(slow);
    eventually("the old child has exited", || {
        let now = parent.children();
        now.len() == 1 && now != before
    });
    assert_eq!(parent.end(), Some(0));
}

#[test]
fn the_internal_listener_belongs_to_the_new_child() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let parent = Parent::start(&folder, &acme, 60);
    let mut slow = Client::connect(parent.public);
    slow.send("GET /drip HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    slow.until("\r\n\r\nhalf");
    parent.signal(Signal::HUP);
    parent.wait_for_log("upgrade finished");
    let is_ready = || {
        let mut client = Client::connect(parent.internal);
        client.send("GET /readyz HTTP/1.1\r\nHost: router\r\n\r\n");
        client.response().status == 200
    };
    // The old child receives the message a moment later.
    eventually("the new child owns the internal listener", || (0..50).all(|_| is_ready()));
    assert_eq!(parent.children().len(), 2, "the old child has a request to finish");
    assert!((0..200).all(|_| is_ready()), "the old child still responds");
    acme.cue();
    slow.until("half");
    drop(slow);
    assert_eq!(parent.end(), Some(0));
}

#[test]
fn a_websocket_of_the_old_child_gets_1001_at_the_end_of_the_drain() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let parent = Parent::start(&folder, &acme, 3);
    let mut client = Client::connect(parent.public);
    client.send(crate::passing::WS);
    assert!(client.until("\r\n\r\n").starts_with("HTTP/1.1 101 "));
    parent.upgrade();
    assert_eq!(client.rest(), b"\x88\x02\x03\xe9");
    assert_eq!(parent.end(), Some(0));
}

#[test]
fn an_upgrade_that_fails_changes_nothing() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let parent = Parent::start(&folder, &acme, 20);
    let (before, good) = (parent.children(), std::fs::read(&parent.route_secret).unwrap());
    std::fs::write(&parent.route_secret, "short").unwrap();
    parent.signal(Signal::USR2);
    parent.wait_for_log("upgrade failed, old process serves on");
    assert_eq!(parent.children(), before);
    std::fs::write(&parent.route_secret, good).unwrap();
    parent.upgrade();
    let mut client = Client::connect(parent.public);
    client.send(ASK);
    assert_eq!(client.response().status, 200);
    assert_eq!(parent.end(), Some(0));
}

#[test]
fn the_parent_fails_when_the_serving_child_dies() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let mut parent = Parent::start(&folder, &acme, 20);
    let pid = Pid::from_raw(parent.children()[0].cast_signed()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(parent.router.child.wait().unwrap().code(), Some(1));
}

#[test]
fn an_upgrade_is_refused_where_no_parent_runs() {
    let upgrade = |pid: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_router")).args(["upgrade", pid]).output();
        let output = output.unwrap();
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let own = std::process::id().to_string();
    assert!(upgrade(&own).contains("does not run `router parent`"));
    assert!(upgrade("-1").contains("does not run `router parent`"));
    assert!(upgrade("x").contains("PID is a number"));
}
