//! A proxy on a thread of its own, an upstream that records and plays a script, and a client that
//! sends bytes.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use proxy::{
    Action, Decision, ErrorContext, Exchange, Header, Headers, Listener, Peer, Policy, ProxyError,
    RequestHead, Response, Settings, Upstream,
};
use testkit::PATIENCE;
pub(crate) use testkit::{ByteClient as Client, wait_until as eventually};
use tokio_util::sync::CancellationToken;

/// Forwards every request to one upstream and responds to errors with their code.
#[derive(Clone)]
pub(crate) struct Through {
    pub(crate) upstream: Arc<Upstream>,
    /// Cloned for each request in progress.
    pub(crate) busy: Arc<()>,
    pub(crate) faults: Arc<Mutex<Vec<ProxyError>>>,
}

pub(crate) struct Under {
    upstream: Arc<Upstream>,
    _busy: Arc<()>,
}

impl Exchange for Under {
    fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    fn forward_request_header(&self, header: Header<'_>, to: &mut Headers<'_>) {
        if !header.begins("x-inner-") {
            to.keep(header);
        }
    }

    fn forward_response_header(&self, header: Header<'_>, to: &mut Headers<'_>) {
        if !header.begins("x-inner-") {
            to.keep(header);
        }
    }
}

impl Policy for Through {
    type Exchange = Under;

    fn decide(&self, head: &RequestHead<'_>, _: &Peer) -> Decision<Under> {
        let under = Under { upstream: self.upstream.clone(), _busy: self.busy.clone() };
        match head.target() {
            "/own" => {
                Decision::Ready(Action::Respond(Response::new(404).body("text/plain", "own")))
            }
            "/later" => Decision::Pending(Box::pin(async {
                tokio::task::yield_now().await;
                Action::Forward(under)
            })),
            "/never" => Decision::Pending(Box::pin(async {
                let _under = under;
                std::future::pending().await
            })),
            _ => Decision::Ready(Action::Forward(under)),
        }
    }

    fn error_response(&self, error: &ProxyError, _: ErrorContext<'_, Under>) -> Response {
        self.faults.lock().unwrap().push(error.clone());
        Response::new(error.status()).body("text/plain", error.code())
    }
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) policy: Through,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// Fast ticks, and timeouts long enough for every test that does not test timeouts.
pub(crate) fn settings() -> Settings {
    Settings { timer_tick: Duration::from_millis(5), ..Settings::default() }
}

impl Proxy {
    pub(crate) fn start(server: &Server) -> Self {
        Self::with(server, settings())
    }

    pub(crate) fn with(server: &Server, settings: Settings) -> Self {
        let upstream = Arc::new(Upstream::unix(&server.path));
        let policy = Through { upstream, busy: Arc::default(), faults: Arc::default() };
        let (address, stop, thread) = serve(policy.clone(), settings);
        Self { address, policy, stop, thread: Some(thread) }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Waits until no request is in progress.
    pub(crate) fn rests(&self) {
        eventually("the proxy rests", || Arc::strong_count(&self.policy.busy) <= 2);
    }

    pub(crate) fn is_busy(&self) -> bool {
        Arc::strong_count(&self.policy.busy) > 2
    }

    pub(crate) fn faults(&self) -> Vec<ProxyError> {
        self.policy.faults.lock().unwrap().clone()
    }

    pub(crate) fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Stops the proxy and waits until the drain is done.
    pub(crate) fn ended(&mut self) {
        self.stop.cancel();
        self.thread.take().into_iter().for_each(|thread| thread.join().unwrap());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Serves `policy` on a thread of its own, until the test stops the proxy and the drain is done.
pub(crate) fn serve<P: Policy + Send>(
    policy: P,
    settings: Settings,
) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let door = proxy::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
    let address = door.local_addr().unwrap();
    let stop = CancellationToken::new();
    let token = stop.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let serve = proxy::serve(vec![Listener::Tcp(door)], policy, settings, token);
        runtime.unwrap().block_on(serve).unwrap();
    });
    (address, stop, thread)
}

/// Tries a scenario whose parties must be quicker than a timeout, with longer timeouts where the machine is too busy for
/// short ones.
pub(crate) fn in_time_for_one_of(what: &str, scenario: impl Fn(Duration) -> bool) {
    let timeouts = [500, 3_000, 20_000].map(Duration::from_millis);
    assert!(timeouts.into_iter().any(scenario), "not even with {timeouts:?}: {what}");
}

/// The input of one connection.
type Record = Arc<Mutex<Vec<u8>>>;

/// Plays `script` on each connection, and records the input.
pub(crate) struct Server {
    path: PathBuf,
    seen: Arc<Mutex<Vec<Record>>>,
    closed: Arc<AtomicBool>,
    playing: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Server {
    pub(crate) fn play(script: impl Fn(&mut Conn, usize) + Send + Sync + 'static) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("proxy-it-{}-{number}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let server =
            Self { path, seen: Arc::default(), closed: Arc::default(), playing: Arc::default() };
        let (seen, closed, playing) =
            (server.seen.clone(), server.closed.clone(), server.playing.clone());
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for (place, stream) in listener.incoming().enumerate() {
                if closed.load(Ordering::SeqCst) {
                    return;
                }
                let record = Arc::new(Mutex::new(Vec::new()));
                seen.lock().unwrap().push(record.clone());
                let script = script.clone();
                let mut conn = Conn { stream: stream.unwrap(), held: Vec::new(), record };
                conn.stream.set_read_timeout(Some(PATIENCE)).unwrap();
                playing.lock().unwrap().push(std::thread::spawn(move || script(&mut conn, place)));
            }
        });
        server
    }

    /// Responds to every request with `answer`.
    pub(crate) fn always(response: &'static str) -> Self {
        Self::play(move |conn, _| {
            while conn.request().is_some() {
                conn.send(response);
            }
        })
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Returns the whole input of connection `place`, once every script has ended.
    pub(crate) fn record(&self, place: usize) -> String {
        let playing = std::mem::take(&mut *self.playing.lock().unwrap());
        playing.into_iter().for_each(|script| script.join().unwrap());
        let seen = self.seen.lock().unwrap();
        let bytes = seen.get(place).map(|record| record.lock().unwrap().clone());
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One connection, as the upstream sees the connection.
pub(crate) struct Conn {
    pub(crate) stream: UnixStream,
    held: Vec<u8>,
    record: Record,
}

impl Conn {
    /// Returns the next whole request with its body, if one arrives.
    pub(crate) fn request(&mut self) -> Option<String> {
        let mut head = self.until(b"\r\n\r\n")?;
        let lower = head.to_ascii_lowercase();
        if let Some(at) = lower.find("content-length: ") {
            let digits = lower[at + 16..].split('\r').next()?;
            head.push_str(&self.exactly(digits.parse().ok()?)?);
        } else if lower.contains("transfer-encoding: chunked") {
            head.push_str(&self.chunks()?);
        }
        Some(head)
    }

    /// Returns a chunked body with its trailers.
    fn chunks(&mut self) -> Option<String> {
        let mut all = String::new();
        loop {
            let line = self.until(b"\r\n")?;
            let size = usize::from_str_radix(line.split([';', '\r']).next()?, 16).ok()?;
            all.push_str(&line);
            if size == 0 {
                break;
            }
            all.push_str(&self.exactly(size + 2)?);
        }
        while !all.ends_with("\r\n\r\n") {
            all.push_str(&self.until(b"\r\n")?);
        }
        Some(all)
    }

    pub(crate) fn until(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.held.windows(end.len()).position(|w| w == end) {
                return Some(self.take(at + end.len()));
            }
            self.more()?;
        }
    }

    pub(crate) fn exactly(&mut self, count: usize) -> Option<String> {
        while self.held.len() < count {
            self.more()?;
        }
        Some(self.take(count))
    }

    /// Reads until the other end closes.
    pub(crate) fn drain(&mut self) {
        while self.more().is_some() {}
    }

    pub(crate) fn send(&mut self, text: impl AsRef<[u8]>) {
        // A peer that left receives nothing.
        let _ = self.stream.write_all(text.as_ref());
    }

    fn take(&mut self, count: usize) -> String {
        String::from_utf8_lossy(&self.held.drain(..count).collect::<Vec<_>>()).into_owned()
    }

    fn more(&mut self) -> Option<()> {
        let mut bytes = [0; 65_536];
        let count = match self.stream.read(&mut bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("a connection that should have ended did not")
            }
            read => read.ok().filter(|count| *count > 0)?,
        };
        self.held.extend_from_slice(&bytes[..count]);
        self.record.lock().unwrap().extend_from_slice(&bytes[..count]);
        Some(())
    }
}
