//! Readiness of tenants without polling.
//!
//! A watch on the tenant's socket directory reports when PID 1 has put the socket there. One health
//! request then waits in the socket's accept queue until all five services of the tenant are ready.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connect::{connect_unix, is_local_shortage};
use futures_util::StreamExt as _;
use inotify::{Inotify, WatchDescriptor, WatchMask, Watches};
use protocol::TenantId;
use protocol::inside;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::tenant_dirs::TenantDirs;

const HEALTH_REQUEST: &[u8] =
    b"GET /.cial/api/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const HEALTHY_STATUS: &[u8] = b"HTTP/1.1 200 ";

/// Bounds the recheck of a tenant that was ready before events were missed. A slower tenant no
/// longer counts as ready.
const RECHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// The delay before a probe is repeated because this process lacks descriptors.
const LOCAL_RETRY_DELAY: Duration = Duration::from_millis(200);

type OnReady = Arc<dyn Fn(TenantId, String) + Send + Sync>;

/// One probe for each running tenant, with the result of its health request.
pub struct ReadinessProbes {
    tenant_dirs: TenantDirs,
    on_ready: OnReady,
    table: Arc<Mutex<ProbeTable>>,
    _watcher: AbortOnDropHandle<()>,
}

struct ProbeTable {
    watches: Watches,
    probes: HashMap<TenantId, Probe>,
    watched: HashMap<WatchDescriptor, TenantId>,
}

struct Probe {
    container: String,
    is_ready: bool,
    /// Notified when a socket appeared in the tenant's directory.
    socket_appeared: Arc<Notify>,
    watch: WatchDescriptor,
    /// Sends the health request; aborted with the probe.
    task: AbortOnDropHandle<()>,
}

impl ReadinessProbes {
    /// Calls `on_ready` once for each start whose health endpoint has responded. Must be called
    /// inside a runtime.
    ///
    /// # Errors
    /// The kernel provides no inotify instance.
    pub fn new(
        tenant_dirs: TenantDirs,
        on_ready: impl Fn(TenantId, String) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let watches = inotify.watches();
        let table = ProbeTable { watches, probes: HashMap::default(), watched: HashMap::default() };
        let table = Arc::new(Mutex::new(table));
        let mut events = inotify.into_event_stream(vec![0; 16 << 10])?;
        let watcher = tokio::spawn({
            let table = table.clone();
            async move {
                while let Some(event) = events.next().await {
                    // An overflow loses file names but no readiness: every waiting probe checks
                    // again.
                    let Ok(event) = event else { continue };
                    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                    let is_ingress = event
                        .name
                        .is_some_and(|n| n.as_bytes() == inside::INGRESS_SOCKET.as_bytes());
                    table.notify(&event.wd, is_ingress);
                }
            }
        });
        let on_ready = Arc::new(on_ready);
        Ok(Self { tenant_dirs, on_ready, table, _watcher: AbortOnDropHandle::new(watcher) })
    }

    /// Replaces the tenant's probe by a probe for a new start of `container`. The tenant's
    /// directory must exist.
    ///
    /// # Errors
    /// The directory cannot be watched.
    pub fn expect_start(&self, id: TenantId, container: &str) -> io::Result<()> {
        let mut table = self.lock();
        table.close(id);
        let directory = self.tenant_dirs.ingress_dir(id);
        let watch = table
            .watches
            .add(directory, WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::ONLYDIR)?;
        let socket_appeared = Arc::new(Notify::new());
        let probe = Probe {
            container: container.to_owned(),
            is_ready: false,
            watch: watch.clone(),
            task: self.spawn_probe(id, container, &socket_appeared),
            socket_appeared,
        };
        table.watched.insert(watch, id);
        table.probes.insert(id, probe);
        Ok(())
    }

    /// Ensures that a running `container` has a probe. An existing probe of the same container
    /// stays as it is.
    ///
    /// # Errors
    /// As [`expect_start`](Self::expect_start).
    pub fn expect(&self, id: TenantId, container: &str) -> io::Result<()> {
        if let Some(probe) = self.lock().probes.get(&id).filter(|p| p.container == container) {
            if !probe.is_ready {
                probe.socket_appeared.notify_one();
            }
            return Ok(());
        }
        self.expect_start(id, container)
    }

    pub fn is_ready(&self, id: TenantId, container: &str) -> bool {
        self.lock().probes.get(&id).is_some_and(|p| p.container == container && p.is_ready)
    }

    /// The container that the tenant's probe belongs to.
    pub fn container(&self, id: TenantId) -> Option<String> {
        self.lock().probes.get(&id).map(|probe| probe.container.clone())
    }

    /// Handles the exit of a run of `container`, which the engine may restart. Returns whether that
    /// run had been ready.
    pub fn on_exit(&self, id: TenantId, container: &str) -> bool {
        let mut table = self.lock();
        let Some(probe) = table.probes.get_mut(&id).filter(|p| p.container == container) else {
            return false;
        };
        if std::mem::take(&mut probe.is_ready) {
            probe.task = self.spawn_probe(id, container, &probe.socket_appeared);
            return true;
        }
        false
    }

    /// Probes all ready tenants again after missed events. Calls `on_lost` for each tenant that
    /// does not respond in time.
    pub fn recheck_ready(self: &Arc<Self>, on_lost: impl Fn(TenantId) + Clone + Send + 'static) {
        let ready: Vec<_> = {
            let table = self.lock();
            let ready = table.probes.iter().filter(|(_, probe)| probe.is_ready);
            ready.map(|(id, probe)| (*id, probe.container.clone())).collect()
        };
        for (id, container) in ready {
            let (probes, on_lost) = (self.clone(), on_lost.clone());
            tokio::spawn(async move {
                let socket = probes.tenant_dirs.ingress_socket(id);
                let healthy = tokio::time::timeout(RECHECK_TIMEOUT, is_healthy(&socket)).await;
                if healthy != Ok(true) && probes.on_exit(id, &container) {
                    on_lost(id);
                }
            });
        }
    }

    /// Ends once the health endpoint answers 200. Never ends while nothing listens, or while the
    /// endpoint responds otherwise.
    pub async fn wait_until_responsive(&self, id: TenantId) {
        if !is_healthy(&self.tenant_dirs.ingress_socket(id)).await {
            std::future::pending().await
        }
    }

    pub fn close(&self, id: TenantId) {
        self.lock().close(id);
    }

    /// Ends the probe of a container that was removed. The probe of another container of the same
    /// tenant stays.
    pub fn on_removed(&self, id: TenantId, container: &str) {
        let mut table = self.lock();
        if table.probes.get(&id).is_some_and(|p| p.container == container) {
            table.close(id);
        }
    }

    fn spawn_probe(
        &self,
        id: TenantId,
        container: &str,
        socket_appeared: &Arc<Notify>,
    ) -> AbortOnDropHandle<()> {
        let (socket_appeared, container) = (socket_appeared.clone(), container.to_owned());
        let socket = self.tenant_dirs.ingress_socket(id);
        let (table, on_ready) = (self.table.clone(), self.on_ready.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            while !is_healthy(&socket).await {
                socket_appeared.notified().await;
            }
            let is_first = {
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                let probe = table.probes.get_mut(&id).filter(|p| p.container == container);
                probe.is_some_and(|probe| !std::mem::replace(&mut probe.is_ready, true))
            };
            if is_first {
                on_ready(id, container);
            }
        }))
    }

    fn lock(&self) -> MutexGuard<'_, ProbeTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProbeTable {
    fn notify(&mut self, watch: &WatchDescriptor, is_ingress: bool) {
        let Some(probe) = self.watched.get(watch).and_then(|id| self.probes.get(id)) else {
            // The event queue overflowed (an event without one of our watches), or the directory is
            // gone.
            let waiting = self.probes.values().filter(|probe| !probe.is_ready);
            waiting.for_each(|probe| probe.socket_appeared.notify_one());
            return;
        };
        if is_ingress {
            probe.socket_appeared.notify_one();
        }
    }

    fn close(&mut self, id: TenantId) {
        if let Some(probe) = self.probes.remove(&id) {
            self.watched.remove(&probe.watch);
            // Fails if the directory and its watch are gone.
            let _ = self.watches.remove(probe.watch);
        }
    }
}

/// Sends a health request and waits for its status as long as it takes, in PID 1's accept queue.
/// Returns `false` at once where nothing listens.
async fn is_healthy(socket: &Path) -> bool {
    loop {
        match probe_once(socket).await {
            Ok(is_healthy) => return is_healthy,
            // This process lacks descriptors or memory, so the tenant's health is unknown.
            Err(error) if is_local_shortage(&error) => tokio::time::sleep(LOCAL_RETRY_DELAY).await,
            Err(_) => return false,
        }
    }
}

async fn probe_once(socket: &Path) -> io::Result<bool> {
    let mut stream = connect_unix(socket).await?;
    stream.write_all(HEALTH_REQUEST).await?;
    let mut status = [0; HEALTHY_STATUS.len()];
    stream.read_exact(&mut status).await?;
    Ok(status == *HEALTHY_STATUS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tokio::net::UnixListener;

    fn serve_health(socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; HEALTH_REQUEST.len()];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            }
        });
    }

    /// A tenant whose link leads to another tenant's socket must not count as ready for it.
    #[tokio::test]
    async fn a_link_to_a_foreign_socket_is_not_healthy() {
        let base = std::env::temp_dir().join(format!("cial-health-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&base).unwrap();
        let (foreign, link) = (base.join("foreign.sock"), base.join("edge.sock"));
        serve_health(&foreign);
        symlink(&foreign, &link).unwrap();
        let (at_link, at_foreign) = (is_healthy(&link).await, is_healthy(&foreign).await);
        std::fs::remove_dir_all(&base).unwrap();
        assert!(!at_link && at_foreign);
    }
}
