//! Tenants behind unix sockets of their own; the request path selects the behaviour.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};

use protocol::orchestrator::Upstream;
use protocol::routes::Route;
use protocol::spec::Desired;
use protocol::{State, TenantId};
use service::keys;

use crate::harness::{TempDir, master, until};

/// A tenant's ingress socket. Echoes the request, and proves to be `proves`.
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) slug: String,
    pub(crate) socket: PathBuf,
    stage: Arc<Stage>,
}

/// The state that a test shares with its tenant.
#[derive(Default)]
struct Stage {
    heads: Mutex<Vec<String>>,
    cues: Mutex<usize>,
    cued: Condvar,
}

impl Stage {
    /// Waits for a cue from the test.
    fn cue(&self) {
        let mut cues = self.cues.lock().unwrap();
        while *cues == 0 {
            cues = self.cued.wait(cues).unwrap();
        }
        *cues -= 1;
    }
}

impl Tenant {
    pub(crate) fn new(folder: &TempDir, number: u128, slug: &str) -> Self {
        let id = TenantId::new(uuid::Uuid::from_u128(number));
        let socket = folder.path().join(format!("{number}.sock"));
        let tenant = Self { id, slug: slug.to_owned(), socket, stage: Arc::default() };
        tenant.listen(id);
        tenant
    }

    /// Gives the cue that `/drip`, `/events` or `/late` waits for.
    pub(crate) fn cue(&self) {
        *self.stage.cues.lock().unwrap() += 1;
        self.stage.cued.notify_one();
    }

    /// Returns the heads of all requests that arrived.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.stage.heads.lock().unwrap().clone()
    }

    /// Removes the socket, so that no tenant listens.
    pub(crate) fn vanish(&self) {
        std::fs::remove_file(&self.socket).unwrap();
    }

    /// Listens at the socket, in place of the earlier listener.
    pub(crate) fn listen(&self, proves: TenantId) {
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        let (name, stage) = (self.slug.clone(), self.stage.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (name, proof) = (name.clone(), keys::route_proof(&master(), proves));
                let stage = stage.clone();
                std::thread::spawn(move || play(stream.unwrap(), &name, &proof, &stage));
            }
        });
    }

    /// Like `listen`, at a port, with a listener that proves to be `proves`.
    pub(crate) fn listen_at_port(&self, proves: TenantId) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (name, stage) = (self.slug.clone(), self.stage.clone());
        let proof = keys::route_proof(&master(), proves);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (name, proof, stage) = (name.clone(), proof.clone(), stage.clone());
                std::thread::spawn(move || play(stream.unwrap(), &name, &proof, &stage));
            }
        });
        Upstream::Tcp(address)
    }

    pub(crate) fn route(&self, state: State, desired: Desired) -> Route {
        let upstream = self.socket.to_str().unwrap().to_owned();
        Route {
            tenant: self.id,
            slug: self.slug.parse().unwrap(),
            generation: 1,
            desired,
            state,
            upstream: Some(Upstream::Unix(upstream)),
            sign_in_url: Some(format!("http://localhost:3100/admin/tenants/{}/sign-in", self.slug)),
            requires_sign_in: false,
        }
    }

    pub(crate) fn running(&self) -> Route {
        self.route(State::Running, Desired::Running)
    }
}

/// Answers each request on one connection.
fn play(mut stream: impl Read + Write, name: &str, proof: &str, stage: &Stage) {
    let mut held = Vec::new();
    loop {
        let Some(head) = until(&mut stream, &mut held, "\r\n\r\n") else { return };
        stage.heads.lock().unwrap().push(head.clone());
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let mut say = |text: String| stream.write_all(text.as_bytes()).is_ok();
        let said = match path.split('?').next().unwrap() {
            "/ws" => {
                let agreed = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     X-Cial-Proof: {proof}\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                );
                if !say(agreed) {
                    return;
                }
                let mut bytes = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..count]).is_err() {
                        return;
                    }
                }
                return;
            }
            "/events" => say(format!(
                "HTTP/1.1 200 OK\r\nX-Cial-Proof: {proof}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n"
            )),
            "/drip" => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nX-Cial-Proof: {proof}\r\nContent-Length: 8\r\n\r\nhalf"
                );
                say(head) && {
                    stage.cue();
                    say("half".to_owned())
                }
            }
            "/sse" => {
                let mut going = say(format!(
                    "HTTP/1.1 200 OK\r\nX-Cial-Proof: {proof}\r\nContent-Type: text/event-stream\r\n\
                     Connection: close\r\n\r\ndata: first\n\n"
                ));
                while going {
                    stage.cue();
                    going = say("data: more\n\n".to_owned());
                }
                return;
            }
            "/die" => return,
            "/die-once"
                if stage
                    .heads
                    .lock()
                    .unwrap()
                    .iter()
                    .filter(|h| h.contains("/die-once"))
                    .count()
                    == 1 =>
            {
                return;
            }
            "/die-late" => {
                say("HTTP/1.1 200 OK\r\nContent-".to_owned());
                return;
            }
            // The first request waits for the cue and closes the connection.
            "/late-once" if stage.heads.lock().unwrap().len() == 1 => {
                stage.cue();
                return;
            }
            "/late" => {
                stage.cue();
                return;
            }
            // The response head has this many lines and bytes.
            "/head" => {
                let mut sizes = path.split(['?', ',']).skip(1).map(|n| n.parse::<usize>().unwrap());
                let (lines, bytes) = (sizes.next().unwrap(), sizes.next().unwrap());
                let mut head =
                    format!("HTTP/1.1 200 OK\r\nX-Cial-Proof: {proof}\r\nContent-Length: 2\r\n");
                head.push_str(&"X: y\r\n".repeat(lines - 3));
                let pad = bytes - head.len() - "X: \r\n\r\n".len();
                say(format!("{head}X: {}\r\n\r\nok", "x".repeat(pad)))
            }
            // An edge of an earlier release knows the token by its first name alone.
            "/earlier-edge" if !head.contains("\r\nx-cial-route-token: ") => {
                say("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned())
            }
            "/bare" => say("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret".to_owned()),
            "/twice" => say(format!(
                "HTTP/1.1 200 OK\r\nX-Cial-Proof: {proof}\r\nX-Cial-Proof: {proof}\r\nContent-Length: 6\r\n\r\nsecret"
            )),
            _ => {
                let body = format!("Tenant {name}\n{head}");
                say(format!(
                    "HTTP/1.1 200 OK\r\nx-cial-proof: {proof}\r\nX-Cial-Else: 1\r\nX-Request-Id: theirs\r\n\
                     Set-Cookie: a=b\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ))
            }
        };
        if !said {
            return;
        }
    }
}
