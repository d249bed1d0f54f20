//! The tenants for which the proxy listens, and the bounds of their connections.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::{TenantId, inside};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::session;
use super::startup::{CancelKey, StartupError};
use super::upstream::Upstream;
use crate::http::listen::bind_unix;

/// Sessions of one tenant at once. The tenant's role may have one connection more, for migrations.
pub(crate) const MAX_SESSIONS: u32 = 10;
/// Bounds the connections of one tenant whose first message has not arrived. Requests to cancel count among them, so that
/// a tenant whose sessions are all in use can still cancel one.
const MAX_HANDSHAKES: usize = 10;
/// The same of all tenants together.
const MAX_ALL_HANDSHAKES: usize = 256;
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// A session that was ended leaves within this time, or is left behind.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Every user inside may connect.
const SOCKET_MODE: u32 = 0o666;

pub struct Tenants {
    root: PathBuf,
    upstream: Arc<Upstream>,
    sessions: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    listening: Mutex<HashMap<TenantId, Listening>>,
}

struct Listening {
    connections: Arc<TenantConnections>,
    _accepting: AbortOnDropHandle<()>,
}

/// The connections of one tenant.
pub(super) struct TenantConnections {
    role: String,
    sessions: Arc<Semaphore>,
    all_sessions: Arc<Semaphore>,
    /// The keys of the sessions that are ready.
    keys: Mutex<HashSet<CancelKey>>,
    /// Cancelled to end the sessions of this moment.
    session_end: Mutex<CancellationToken>,
}

/// The places of one session.
pub(super) struct Admission {
    /// Cancelled when the session is to end.
    pub(super) session_end: CancellationToken,
    _places: [OwnedSemaphorePermit; 2],
}

impl Tenants {
    /// `root`: the parent of the tenants' directories. `max_sessions`: of all tenants together.
    pub fn new(root: PathBuf, upstream: Upstream, max_sessions: usize) -> Self {
        Self {
            root,
            upstream: Arc::new(upstream),
            sessions: Arc::new(Semaphore::new(max_sessions)),
            handshakes: Arc::new(Semaphore::new(MAX_ALL_HANDSHAKES)),
            listening: Mutex::default(),
        }
    }

    /// Listens for every tenant that has a directory. A directory that cannot be used is logged.
    ///
    /// # Errors
    /// The parent of the directories cannot be read.
    pub fn follow_all(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Err(error) = self.follow(id) {
                tracing::error!(tenant = %id, %error, "database socket failed");
            }
        }
        tracing::info!(tenants = self.lock().len(), "database sockets open");
        Ok(())
    }

    /// Listens in the tenant's directory as it is at this moment. Ends what was there before.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub(super) fn follow(&self, id: TenantId) -> io::Result<()> {
        let mut listening = self.lock();
        if let Some(old) = listening.remove(&id) {
            old.connections.close();
        }
        let directory = self.root.join(id.to_string());
        let role = match fs::read_to_string(directory.join(inside::DATABASE_ROLE)) {
            Ok(role) => role,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let listener = bind_unix(&directory.join(inside::DATABASE_SOCKET), SOCKET_MODE)?;
        let connections = Arc::new(TenantConnections {
            role,
            sessions: Arc::new(Semaphore::new(MAX_SESSIONS as usize)),
            all_sessions: self.sessions.clone(),
            keys: Mutex::default(),
            session_end: Mutex::default(),
        });
        let accepting =
            accept(listener, connections.clone(), self.upstream.clone(), self.handshakes.clone());
        let accepting = AbortOnDropHandle::new(tokio::spawn(accepting));
        listening.insert(id, Listening { connections, _accepting: accepting });
        Ok(())
    }

    /// Ends the sessions that the tenant has at this moment, and waits until they are gone.
    pub(super) async fn end_connections(&self, id: TenantId) {
        let connections = self.lock().get(&id).map(|tenant| tenant.connections.clone());
        if let Some(connections) = connections {
            connections.end_all();
            let all_gone = connections.sessions.acquire_many(MAX_SESSIONS);
            if timeout(END_TIMEOUT, all_gone).await.is_err() {
                tracing::warn!(tenant = %id, "a database session did not end");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Listening>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(
    listener: UnixListener,
    tenant: Arc<TenantConnections>,
    upstream: Arc<Upstream>,
    all_handshakes: Arc<Semaphore>,
) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        // A client above a bound waits in the backlog of the socket.
        let Ok(own) = handshakes.clone().acquire_owned().await else { return };
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        let Ok(shared) = all_handshakes.clone().acquire_owned().await else { return };
        tokio::spawn(session::serve(client, tenant.clone(), upstream.clone(), [own, shared]));
    }
}

impl TenantConnections {
    pub(super) fn role(&self) -> &str {
        &self.role
    }

    /// Takes a place among the sessions of this tenant, and of all.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn admit(&self) -> Result<Admission, StartupError> {
        // Before the place: a session that has one is ended by every later call.
        let session_end = self.session_end.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let own = self.sessions.clone().try_acquire_owned();
        let own = own.map_err(|_| StartupError::TooManyOfTenant)?;
        let shared = self.all_sessions.clone().try_acquire_owned();
        let shared = shared.map_err(|_| StartupError::TooManyOfInstallation)?;
        Ok(Admission { session_end, _places: [own, shared] })
    }

    pub(super) fn add_key(&self, key: CancelKey) {
        self.lock_keys().insert(key);
    }

    pub(super) fn remove_key(&self, key: &CancelKey) {
        self.lock_keys().remove(key);
    }

    pub(super) fn has_key(&self, key: &CancelKey) -> bool {
        self.lock_keys().contains(key)
    }

    /// Admits nobody any more, and ends the sessions.
    fn close(&self) {
        self.sessions.close();
        self.end_all();
    }

    fn end_all(&self) {
        let mut session_end = self.session_end.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *session_end).cancel();
    }

    fn lock_keys(&self) -> MutexGuard<'_, HashSet<CancelKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
