//! A router that is started anew behind its doors, as a process of its own: no request is lost on the way.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Client, Control, Folder, TOKEN, nowhere};
use crate::keeper::{self, Keeper};
use crate::tenant::Tenant;

const ASK: &str = "GET / HTTP/1.1\r\nHost: acme.localhost\r\n\r\n";
const ASK_ONCE: &str = "GET / HTTP/1.1\r\nHost: acme.localhost\r\nConnection: close\r\n\r\n";
/// Restarts under load.
const TIMES: usize = 3;

/// `router parent`, and what it needs around it.
struct Parent {
    public: SocketAddr,
    internal: SocketAddr,
    process: Child,
    route_secret: PathBuf,
    said: Receiver<String>,
    _control: Control,
    _keeper: Keeper,
}

impl Parent {
    fn start(folder: &Folder, acme: &Tenant, drain: u32) -> Self {
        let control = Control::start(1);
        control.feed.replace(vec![acme.running()]);
        let keeper = Keeper::start(&control.feed);
        let (public, internal) = (nowhere(), nowhere());
        let secret = |name: &str, text: &str| {
            let path = folder.0.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let route_secret = secret("route-secret", crate::harness::master().reveal());
        let mut process = Command::new(env!("CARGO_BIN_EXE_router"))
            .arg("parent")
            .env("CIAL_LISTEN", public.to_string())
            .env("CIAL_INTERNAL_LISTEN", internal.to_string())
            .env("CIAL_APP_API_URL", format!("http://{}", control.address))
            .env("CIAL_ORCHESTRATOR_URL", keeper.url())
            .env("CIAL_ROUTES_TOKEN_FILE", secret("routes-token", TOKEN))
            .env("CIAL_LEASES_TOKEN_FILE", secret("leases-token", keeper::TOKEN))
            .env("CIAL_ROUTE_SECRET_FILE", &route_secret)
            .env("CIAL_ROUTES_CACHE", folder.0.join("routes.json"))
            .env("CIAL_RATE_LIMIT", "off")
            .env("CIAL_THREADS", "2")
            .env("CIAL_DRAIN", drain.to_string())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (says, said) = channel();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("{line}");
                // Read to the end, whether or not anyone still listens: a full pipe would stop them all.
                let _ = says.send(line);
            }
        });
        let (_control, _keeper) = (control, keeper);
        let parent = Self { public, internal, process, route_secret, said, _control, _keeper };
        parent.wait_until("it serves", || {
            std::net::TcpStream::connect(public).is_ok() && {
                let mut client = Client::connect(public);
                client.say(ASK_ONCE);
                client.answer().status == 200
            }
        });
        parent
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// The processes that it has started and that have not ended.
    fn serving(&self) -> Vec<u32> {
        let id = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Until it, or one that it has started, says this.
    fn hear(&self, text: &str) {
        let hears = || self.said.recv_timeout(Duration::from_secs(60)).unwrap().contains(text);
        while !hears() {}
    }

    /// Until another process serves and the one before has ended.
    fn restart(&self) {
        let before = self.serving();
        assert_eq!(before.len(), 1);
        self.signal(Signal::USR2);
        self.wait_until("another process serves alone", || {
            let now = self.serving();
            now.len() == 1 && now != before
        });
    }

    /// Starting a process takes as long as a busy machine likes.
    fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..6_000 {
            if holds() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("never: {what}");
    }

    /// Its exit code after SIGTERM.
    fn end(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.process.wait().unwrap().code()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // Those that it has started end with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Clients that ask without a pause until they are told to end; a request that fails is a panic of theirs.
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
                    client.say(if stays { ASK } else { ASK_ONCE });
                    let answer = client.answer();
                    assert_eq!(answer.status, 200, "{answer:?}");
                    served.fetch_add(1, Ordering::Relaxed);
                    if !stays || answer.has("connection: close") {
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
fn under_load_no_request_is_lost() {
    let folder = Folder::new();
    let acme = Tenant::new(&folder, 1, "acme");
    let parent = Parent::start(&folder, &acme, 20);
    let load = Load::start(parent.public);
    for _ in 0..TIMES {
        let before = load.served();
        parent.wait_until("all are at it", || load.served() > before + 100);
        parent.restart();
    }
    let before = load.served();
    parent.wait_until("it goes on", || load.served() > before + 100);
    load.end();
    assert_eq!(parent.end(), Some(0));
}

#[test]
fn what_is_under_way_is_finished_and_what_is_idle_may_ask_once_more() {
    let folder = Folder::new();
    let acme = Tenant::new(&folder, 1, "acme");
    let parent = Parent::start(&folder, &acme, 60);
    let mut slow = Client::connect(parent.public);
    slow.say("GET /drip HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    slow.until("\r\n\r\nhalf");
    let mut idle = Client::connect(parent.public);
    idle.say(ASK);
    assert_eq!(idle.answer().status, 200);

    let before = parent.serving();
    parent.signal(Signal::HUP);
    // The new one takes connections as soon as it has been started; the old one leaves once it serves.
    parent.wait_until("the old one takes no more", || {
        let mut client = Client::connect(parent.public);
        client.say(ASK);
        let answer = client.answer();
        assert_eq!(answer.status, 200);
        idle.say(ASK);
        let answer = idle.answer();
        assert_eq!(answer.status, 200, "an idle connection is not closed under a request");
        answer.has("connection: close")
    });
    assert_eq!(parent.serving().len(), 2, "the old one has something to finish");
    acme.cue();
    slow.until("half");
    drop(slow);
    parent.wait_until("the old one has ended", || {
        let now = parent.serving();
        now.len() == 1 && now != before
    });
    assert_eq!(parent.end(), Some(0));
}

#[test]
fn health_is_asked_of_the_one_that_serves() {
    let folder = Folder::new();
    let acme = Tenant::new(&folder, 1, "acme");
    let parent = Parent::start(&folder, &acme, 60);
    let mut slow = Client::connect(parent.public);
    slow.say("GET /drip HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    slow.until("\r\n\r\nhalf");
    parent.signal(Signal::HUP);
    parent.hear("upgrade finished");
    let is_ready = || {
        let mut client = Client::connect(parent.internal);
        client.say("GET /readyz HTTP/1.1\r\nHost: router\r\n\r\n");
        client.answer().status == 200
    };
    // The old one hears of it a moment later.
    parent.wait_until("the new one is asked", || (0..50).all(|_| is_ready()));
    assert_eq!(parent.serving().len(), 2, "the old one has something to finish");
    assert!((0..200).all(|_| is_ready()), "the old one still answers, that it drains");
    acme.cue();
    slow.until("half");
    drop(slow);
    assert_eq!(parent.end(), Some(0));
}

#[test]
fn a_websocket_gets_1001_when_the_time_of_the_old_one_is_up() {
    let folder = Folder::new();
    let acme = Tenant::new(&folder, 1, "acme");
    let parent = Parent::start(&folder, &acme, 3);
    let mut client = Client::connect(parent.public);
    client.say(crate::passing::WS);
    assert!(client.until("\r\n\r\n").starts_with("HTTP/1.1 101 "));
    parent.restart();
    assert_eq!(client.rest(), b"\x88\x02\x03\xe9");
    assert_eq!(parent.end(), Some(0));
}

#[test]
fn a_new_one_that_cannot_start_changes_nothing() {
    let folder = Folder::new();
    let acme = Tenant::new(&folder, 1, "acme");
    let parent = Parent::start(&folder, &acme, 20);
    let (before, good) = (parent.serving(), std::fs::read(&parent.route_secret).unwrap());
    std::fs::write(&parent.route_secret, "short").unwrap();
    parent.signal(Signal::USR2);
    parent.hear("upgrade failed, old process serves on");
    assert_eq!(parent.serving(), before);
    std::fs::write(&parent.route_secret, good).unwrap();
    parent.restart();
    let mut client = Client::connect(parent.public);
    client.say(ASK);
    assert_eq!(client.answer().status, 200);
    assert_eq!(parent.end(), Some(0));
}

#[test]
fn the_death_of_the_one_that_serves_is_the_end_and_no_success() {
    let folder = Folder::new();
    let acme = Tenant::new(&folder, 1, "acme");
    let mut parent = Parent::start(&folder, &acme, 20);
    let pid = Pid::from_raw(parent.serving()[0].cast_signed()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(parent.process.wait().unwrap().code(), Some(1));
}
