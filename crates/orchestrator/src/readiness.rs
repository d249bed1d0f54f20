//! Whether a tenant's health answers, learnt without polling: a watch on its directory tells when PID 1 has
//! put the socket there, and one request then waits in the accept queue until all five services are ready.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use inotify::{Inotify, WatchDescriptor, WatchMask, Watches};
use protocol::TenantId;
use protocol::inside;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::local_error::is_local;
use crate::tenant_dirs::TenantDirs;

const REQUEST: &[u8] =
    b"GET /.cial/api/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const GOOD: &[u8] = b"HTTP/1.1 200 ";

/// For one that has answered before.
const SOON: Duration = Duration::from_secs(1);

/// Between two probes of one tenant while this process lacks descriptors.
const LOCAL_RETRY_DELAY: Duration = Duration::from_millis(200);

type Tell = Arc<dyn Fn(TenantId, String) + Send + Sync>;

/// The probes of all tenants that run, and which of them have answered.
pub struct ReadinessProbes {
    tenant_dirs: TenantDirs,
    tell: Tell,
    open: Arc<Mutex<Open>>,
    _reader: AbortOnDropHandle<()>,
}

struct Open {
    watches: Watches,
    probes: HashMap<TenantId, Door>,
    watched: HashMap<WatchDescriptor, TenantId>,
}

struct Door {
    container: String,
    ready: bool,
    /// Rings when a socket appeared.
    bell: Arc<Notify>,
    watch: WatchDescriptor,
    _asking: AbortOnDropHandle<()>,
}

impl ReadinessProbes {
    /// `tell` hears once for each start whose health has answered. Must be called inside a runtime.
    pub fn new(
        tenant_dirs: TenantDirs,
        tell: impl Fn(TenantId, String) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let watches = inotify.watches();
        let open = Open { watches, probes: HashMap::default(), watched: HashMap::default() };
        let open = Arc::new(Mutex::new(open));
        let mut events = inotify.into_event_stream(vec![0; 16 << 10])?;
        let reader = tokio::spawn({
            let open = open.clone();
            async move {
                while let Some(event) = events.next().await {
                    // An overflow loses names, not truth: whoever waits looks again.
                    let Ok(event) = event else { continue };
                    let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                    let named = event
                        .name
                        .is_some_and(|n| n.as_bytes() == inside::INGRESS_SOCKET.as_bytes());
                    open.ring(&event.wd, named);
                }
            }
        });
        let tell = Arc::new(tell);
        Ok(Self { tenant_dirs, tell, open, _reader: AbortOnDropHandle::new(reader) })
    }

    /// Waits for `container` to answer. Its directory must exist; a wait for another container ends.
    pub fn expect_anew(&self, id: TenantId, container: &str) -> io::Result<()> {
        let mut open = self.lock();
        open.close(id);
        let directory = self.tenant_dirs.ingress_dir(id);
        let watch = open
            .watches
            .add(directory, WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::ONLYDIR)?;
        let bell = Arc::new(Notify::new());
        let probe = Door {
            container: container.to_owned(),
            ready: false,
            watch: watch.clone(),
            _asking: self.ask(id, container, &bell),
            bell,
        };
        open.watched.insert(watch, id);
        open.probes.insert(id, probe);
        Ok(())
    }

    /// The same for a container that was found running: one that is waited for, or has answered, is left alone.
    pub fn expect(&self, id: TenantId, container: &str) -> io::Result<()> {
        if let Some(probe) = self.lock().probes.get(&id).filter(|d| d.container == container) {
            if !probe.ready {
                probe.bell.notify_one();
            }
            return Ok(());
        }
        self.expect_anew(id, container)
    }

    pub fn is_ready(&self, id: TenantId, container: &str) -> bool {
        self.lock().probes.get(&id).is_some_and(|d| d.container == container && d.ready)
    }

    /// Which container is waited for, or has answered.
    pub fn container(&self, id: TenantId) -> Option<String> {
        self.lock().probes.get(&id).map(|probe| probe.container.clone())
    }

    /// A run of `container` ended, the next one may follow: whether it had answered.
    pub fn ended(&self, id: TenantId, container: &str) -> bool {
        let mut open = self.lock();
        let Some(probe) = open.probes.get_mut(&id).filter(|d| d.container == container) else {
            return false;
        };
        if std::mem::take(&mut probe.ready) {
            probe._asking = self.ask(id, container, &probe.bell);
            return true;
        }
        false
    }

    /// Hints were missed: what had answered is asked again, and called silent unless it answers soon. `doubted`
    /// hears of each that does not.
    pub fn ask_again(self: &Arc<Self>, doubted: impl Fn(TenantId) + Clone + Send + 'static) {
        let ready: Vec<_> = {
            let open = self.lock();
            let ready = open.probes.iter().filter(|(_, probe)| probe.ready);
            ready.map(|(id, probe)| (*id, probe.container.clone())).collect()
        };
        for (id, container) in ready {
            let (probes, doubted) = (self.clone(), doubted.clone());
            tokio::spawn(async move {
                let socket = probes.tenant_dirs.ingress_socket(id);
                let soon = tokio::time::timeout(SOON, answers(&socket)).await;
                if soon != Ok(true) && probes.ended(id, &container) {
                    doubted(id);
                }
            });
        }
    }

    /// Ends once its health answers well; never where nobody listens, or where it answers otherwise.
    pub async fn wait_until_responsive(&self, id: TenantId) {
        if !answers(&self.tenant_dirs.ingress_socket(id)).await {
            std::future::pending().await
        }
    }

    pub fn close(&self, id: TenantId) {
        self.lock().close(id);
    }

    /// `container` does not exist any more; another of the same tenant may.
    pub fn gone(&self, id: TenantId, container: &str) {
        let mut open = self.lock();
        if open.probes.get(&id).is_some_and(|d| d.container == container) {
            open.close(id);
        }
    }

    fn ask(&self, id: TenantId, container: &str, bell: &Arc<Notify>) -> AbortOnDropHandle<()> {
        let (bell, socket, container) =
            (bell.clone(), self.tenant_dirs.ingress_socket(id), container.to_owned());
        let (open, tell) = (self.open.clone(), self.tell.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            while !answers(&socket).await {
                bell.notified().await;
            }
            let first = {
                let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                let probe = open.probes.get_mut(&id).filter(|d| d.container == container);
                probe.is_some_and(|probe| !std::mem::replace(&mut probe.ready, true))
            };
            if first {
                tell(id, container);
            }
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn ring(&mut self, watch: &WatchDescriptor, named: bool) {
        let Some(probe) = self.watched.get(watch).and_then(|id| self.probes.get(id)) else {
            // The queue overflowed (no watch of ours) or the directory is gone.
            self.probes.values().filter(|d| !d.ready).for_each(|d| d.bell.notify_one());
            return;
        };
        if named {
            probe.bell.notify_one();
        }
    }

    fn close(&mut self, id: TenantId) {
        if let Some(probe) = self.probes.remove(&id) {
            self.watched.remove(&probe.watch);
            // Gone already where the directory is.
            let _ = self.watches.remove(probe.watch);
        }
    }
}

/// Asks once and waits for as long as it takes: the wait is in PID 1's accept queue. `false` at once when
/// nobody listens there.
async fn answers(socket: &Path) -> bool {
    loop {
        match probe_once(socket).await {
            Ok(is_good) => return is_good,
            // This process lacks descriptors or memory: nothing is known of the tenant.
            Err(error) if is_local(&error) => tokio::time::sleep(LOCAL_RETRY_DELAY).await,
            Err(_) => return false,
        }
    }
}

async fn probe_once(socket: &Path) -> io::Result<bool> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(REQUEST).await?;
    let mut head = [0; GOOD.len()];
    stream.read_exact(&mut head).await?;
    Ok(head == *GOOD)
}
