//! One connection of a program inside a tenant: its first messages, then bytes in both directions until one side ends.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::server_scan::{Found, ServerScan};
use super::startup::{self, CancelKey, FirstMessage, NO_ENCRYPTION, Startup, StartupError};
use super::tenants::{Admission, TenantConnections};
use super::upstream::{Stream, Upstream};

/// The time until a client has sent its first messages, and again until it has authenticated.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(10);
/// A session without a byte in either direction for so long is ended.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// The time that the server has to finish after its client left. The query is cancelled then.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// One request for TLS and one for GSSAPI may come before the startup message.
const MAX_ENCRYPTION_REQUESTS: usize = 2;
const BUFFER_BYTES: usize = 16 << 10;

/// Serves `client`. A startup message frees the places in `handshake`; a request to cancel keeps them.
pub(super) async fn serve(
    mut client: UnixStream,
    tenant: Arc<TenantConnections>,
    upstream: Arc<Upstream>,
    handshake: [OwnedSemaphorePermit; 2],
) {
    let first = timeout(STARTUP_TIMEOUT, read_first(&mut client)).await;
    let _places = matches!(first, Ok(Ok(Ok(FirstMessage::Cancel(_))))).then_some(handshake);
    let error = match first {
        Ok(Ok(Ok(FirstMessage::Startup(startup)))) => {
            match open(startup, &tenant, &upstream).await {
                Ok(session) => return session.relay(client, &tenant, &upstream).await,
                Err(error) => error,
            }
        }
        Ok(Ok(Ok(FirstMessage::Cancel(key)))) => {
            // Keys are secrets, but short ones: those of other tenants are not even tried.
            if tenant.has_key(&key) {
                upstream.cancel(&key).await;
            }
            return;
        }
        Ok(Ok(Ok(FirstMessage::EncryptionRequest))) => StartupError::Malformed,
        Ok(Ok(Err(error))) => error,
        Ok(Err(_)) | Err(_) => return,
    };
    tracing::debug!(role = tenant.role(), ?error, "database connection refused");
    // A client that left needs no answer.
    let _ = timeout(STARTUP_TIMEOUT, client.write_all(&error.response())).await;
}

async fn read_first(client: &mut UnixStream) -> io::Result<Result<FirstMessage, StartupError>> {
    let mut encryption_requests = 0;
    loop {
        let mut length = [0; 4];
        client.read_exact(&mut length).await?;
        let rest = match startup::rest_of(length) {
            Ok(rest) => rest,
            Err(error) => return Ok(Err(error)),
        };
        let mut message = vec![0; rest];
        client.read_exact(&mut message).await?;
        match startup::parse(&message) {
            Ok(FirstMessage::EncryptionRequest)
                if encryption_requests < MAX_ENCRYPTION_REQUESTS =>
            {
                encryption_requests += 1;
                client.write_all(NO_ENCRYPTION).await?;
            }
            first => return Ok(first),
        }
    }
}

/// A session whose server is connected.
struct Session {
    server: Box<dyn Stream>,
    startup: Vec<u8>,
    admission: Admission,
}

async fn open(
    startup: Startup,
    tenant: &TenantConnections,
    upstream: &Upstream,
) -> Result<Session, StartupError> {
    let startup = startup.pin(tenant.role(), &upstream.database)?;
    let admission = tenant.admit()?;
    let server = upstream.connect().await.map_err(|error| {
        tracing::warn!(%error, "database server unreachable");
        StartupError::ServerUnreachable
    })?;
    Ok(Session { server, startup, admission })
}

impl Session {
    async fn relay(mut self, client: UnixStream, tenant: &TenantConnections, upstream: &Upstream) {
        if self.server.write_all(&self.startup).await.is_err() {
            return;
        }
        let progress = Progress::new();
        let (mut from_server, mut to_server) = split(self.server);
        let (mut from_client, mut to_client) = split(client);
        let mut scan = ServerScan::default();
        let key = Mutex::new(None::<CancelKey>);
        let inspect = |bytes: &[u8]| {
            for found in scan.feed(bytes) {
                match found {
                    Found::Key(new) => {
                        tenant.add_key(new.clone());
                        *key.lock().unwrap_or_else(PoisonError::into_inner) = Some(new);
                    }
                    Found::Ready => progress.set_ready(),
                }
            }
        };
        let down = copy(&mut from_server, &mut to_client, &progress, inspect);
        let up = async {
            // The client sends no more, whether it ended well or failed.
            let _ = copy(&mut from_client, &mut to_server, &progress, |_| {}).await;
            sleep(LEAVE_TIMEOUT).await;
        };
        let ended_by_server = tokio::select! {
            ended = down => ended.is_ok(),
            () = up => false,
            () = progress.expire() => false,
            () = self.admission.session_end.cancelled() => false,
        };
        let key = key.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = key {
            tenant.remove_key(&key);
            if !ended_by_server {
                // Postgres notices that a client left only when it writes to it: a query would go on until then.
                upstream.cancel(&key).await;
            }
        }
    }
}

/// Copies until the end of `from`, which it passes on.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    progress: &Progress,
    mut inspect: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        progress.touch();
        if read == 0 {
            return to.shutdown().await;
        }
        inspect(&buffer[..read]);
        to.write_all(&buffer[..read]).await?;
        progress.touch();
    }
}

/// Measures how long a session has waited, and decides when it ends.
struct Progress {
    last_byte: Mutex<Instant>,
    is_ready: AtomicBool,
    began: Instant,
}

impl Progress {
    fn new() -> Self {
        let began = now();
        Self { last_byte: Mutex::new(began), is_ready: AtomicBool::new(false), began }
    }

    fn touch(&self) {
        *self.last_byte.lock().unwrap_or_else(PoisonError::into_inner) = now();
    }

    fn set_ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
    }

    fn deadline(&self) -> Instant {
        if self.is_ready.load(Ordering::Relaxed) {
            *self.last_byte.lock().unwrap_or_else(PoisonError::into_inner) + IDLE_TIMEOUT
        } else {
            self.began + STARTUP_TIMEOUT
        }
    }

    /// Ends when the session has waited for too long.
    async fn expire(&self) {
        loop {
            let deadline = self.deadline();
            if deadline <= now() {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a session measures its own silence")]
fn now() -> Instant {
    Instant::now()
}
