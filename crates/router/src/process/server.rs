//! Starts the threads: one for the route table and the leases, and one per CPU that serves requests.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use protocol::Domain;
use proxy::{DescriptorBudget, Listener};
use service::ServiceError;
use service::client::Client;
use service::forwarded::TrustedProxies;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::http::policy::RouterPolicy;
use crate::http::rate_limit::RateLimit;
use crate::http::request_id::RequestIds;
use crate::http::wake_progress::ProgressWatchers;
use crate::http::worker::Worker;
use crate::leases::{LeaseClient, LeaseHandle, ManagerLoop, RetryLimit};
use crate::metrics::{Metrics, RequestCounters};
use crate::process::admin::AdminListener;
use crate::process::{fd_passing, file_limit};
use crate::routes::store::{RouteReader, RouteStore};
use crate::routes::table::{EntryParameters, RouteTable};
use crate::settings::{Exposure, Settings, WaitTimes};

/// A router with open listeners. No request is served before [`Server::run`].
pub struct Server {
    settings: Settings,
    /// One per serving thread.
    public: Vec<std::net::TcpListener>,
    internal: std::net::TcpListener,
    parent: Option<Parent>,
    budget: DescriptorBudget,
}

/// The parent of this process.
struct Parent {
    link: std::os::unix::net::UnixStream,
    /// Another child serves until this child reports that it is ready.
    replaces_child: bool,
}

/// After another process took over, each connected client may send one more request within this time.
const IDLE_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// One client may have one in this many of the connections of a thread.
const CLIENT_SHARE: usize = 4;
/// Tunnels are closed this long before the end of a drain, so that the close frames arrive.
const TUNNEL_CLOSE_MARGIN: Duration = Duration::from_secs(2);

impl Server {
    /// Opens the listeners.
    ///
    /// # Errors
    /// An address is taken or not allowed, or the limit of open files is too low.
    pub fn new(settings: Settings) -> Result<Self, ServiceError> {
        let budget = file_limit::budget(settings.threads)?;
        let with_address =
            |address: SocketAddr| move |e: io::Error| anyhow::anyhow!("{address}: {e}");
        let public = proxy::bind(settings.listen, settings.threads)
            .map_err(with_address(settings.listen))?;
        let internal = std::net::TcpListener::bind(settings.internal);
        let internal = internal.map_err(with_address(settings.internal))?;
        internal.set_nonblocking(true)?;
        Ok(Self { settings, public, internal, parent: None, budget })
    }

    /// Serves with the sockets of [`Server::into_sockets`], which stay open when this process exits.
    pub(crate) fn with_sockets(
        settings: Settings,
        mut sockets: Vec<std::net::TcpListener>,
        link: std::os::unix::net::UnixStream,
        replaces_child: bool,
    ) -> Result<Self, ServiceError> {
        link.set_nonblocking(true)?;
        let internal = sockets.pop().filter(|_| !sockets.is_empty());
        let internal = internal.ok_or_else(|| anyhow::anyhow!("the parent passed no sockets"))?;
        let parent = Some(Parent { link, replaces_child });
        let budget = file_limit::budget(sockets.len())?;
        Ok(Self { settings, public: sockets, internal, parent, budget })
    }

    /// The public listeners, and last the internal listener.
    pub(crate) fn into_sockets(self) -> Vec<std::net::TcpListener> {
        self.public.into_iter().chain([self.internal]).collect()
    }

    /// The address where tenants are served.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn public(&self) -> io::Result<SocketAddr> {
        self.public[0].local_addr()
    }

    /// The address of health, readiness and metrics.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn internal(&self) -> io::Result<SocketAddr> {
        self.internal.local_addr()
    }

    /// Serves until `stop` is cancelled, and drains. `stop` is called inside the runtime.
    ///
    /// # Errors
    /// A thread cannot be started, or failed.
    pub fn run(
        self,
        stop: impl FnOnce() -> io::Result<CancellationToken>,
    ) -> Result<(), ServiceError> {
        let Self { settings, public, internal, parent, budget } = self;
        let runtime = runtime()?;
        let entered = runtime.enter();
        let stop = stop()?;
        let shutdown = Shutdown::new(parent.is_some());
        let replaces_child = parent.as_ref().is_some_and(|parent| parent.replaces_child);
        let parameters =
            EntryParameters { master: settings.route_secret.clone(), threads: public.len() };
        let (routes, reader) = RouteStore::new(settings.cache.clone(), parameters);
        let routes = Arc::new(routes);
        let orchestrator =
            Client::new(settings.orchestrator.clone(), settings.leases_token.clone());
        let (leases, lease_commands) = LeaseHandle::new(settings.limits);
        let (watchers, progress_relay) = ProgressWatchers::new(
            (settings.limits.watchers, settings.limits.watchers_per_tenant),
            orchestrator.clone(),
        );
        let retry_limit = Arc::<RetryLimit>::default();
        let rate_limit = RateLimit::new(settings.rate, settings.limits.clients);
        let mut metrics = Metrics::default();
        let (mut serving, mut connections_limit) = (Vec::new(), 0);
        for (number, listener) in public.into_iter().enumerate() {
            let setup = WorkerSetup {
                number,
                replaces_child,
                reader: reader.clone(),
                domain: settings.domain.clone(),
                trusted: settings.trusted.clone(),
                rate_limit: rate_limit.clone(),
                exposure: settings.exposure,
                wait_times: settings.wait_times,
                leases: leases.clone(),
                watchers: watchers.clone(),
                retry_limit: retry_limit.clone(),
                counters: metrics.add_thread(),
                request_id_seed: getrandom::u64()
                    .map_err(|e| anyhow::anyhow!("no randomness: {e}"))?,
            };
            let stats = setup.counters.engine.clone();
            let engine = proxy::Settings { stats, ..engine_settings(&settings, budget, &shutdown) };
            connections_limit += engine.max_connections;
            let stop = stop.clone();
            let thread = thread::Builder::new().name("serve".to_owned());
            serving.push(thread.spawn(move || setup.serve(listener, engine, stop))?);
        }
        if let Some(parent) = parent {
            let link = tokio::net::UnixStream::from_std(parent.link)?;
            tokio::spawn(follow_parent(link, reader.clone(), shutdown.clone(), stop.clone()));
        }
        let app_api = Client::new(settings.app_api, settings.routes_token);
        let lease_client = LeaseClient { client: orchestrator, holder: Uuid::new_v4() };
        let lease_state = leases.shared;
        let manager_loop = ManagerLoop::new(
            routes.clone(),
            lease_client,
            lease_state.clone(),
            metrics.leases.clone(),
        );
        let admin = AdminListener {
            reader,
            metrics,
            lease_state,
            watchers,
            rate_limit,
            connections_limit,
            stop,
        };
        let internal = tokio::net::TcpListener::from_std(internal)?;
        drop(entered);
        runtime.block_on(async {
            // Leases are held to the last request: they end after every serving thread has ended.
            let threads_ended = CancellationToken::new();
            let manager_loop =
                tokio::spawn(manager_loop.run(lease_commands, threads_ended.clone()));
            let admin = async {
                tokio::select! {
                    () = admin.run(internal) => {}
                    () = shutdown.replaced.cancelled() => {}
                }
            };
            let background =
                async { tokio::join!(routes.run(app_api), admin, progress_relay.run()) };
            let ended = tokio::select! {
                _ = background => Ok(Ok(())),
                ended = tokio::task::spawn_blocking(|| join_all(serving)) => ended,
            };
            threads_ended.cancel();
            manager_loop.await?;
            ended?
        })?;
        // A cache file that is being written is not worth waiting for.
        runtime.shutdown_background();
        Ok(())
    }
}

/// Whether another process serves after this process.
#[derive(Clone)]
struct Shutdown {
    /// Another process serves and owns the internal listener.
    replaced: CancellationToken,
    /// No process serves after this process: connections without a request are closed at once.
    without_successor: CancellationToken,
}

impl Shutdown {
    fn new(has_parent: bool) -> Self {
        let shutdown = Self {
            replaced: CancellationToken::new(),
            without_successor: CancellationToken::new(),
        };
        if !has_parent {
            shutdown.without_successor.cancel();
        }
        shutdown
    }
}

/// The inputs of one serving thread.
struct WorkerSetup {
    number: usize,
    replaces_child: bool,
    reader: RouteReader,
    domain: Domain,
    trusted: TrustedProxies,
    rate_limit: Option<Arc<RateLimit>>,
    exposure: Exposure,
    wait_times: WaitTimes,
    leases: LeaseHandle,
    watchers: ProgressWatchers,
    retry_limit: Arc<RetryLimit>,
    counters: Arc<RequestCounters>,
    request_id_seed: u64,
}

impl WorkerSetup {
    fn serve(
        self,
        listener: std::net::TcpListener,
        engine: proxy::Settings,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let (mut tables, runtime) = (self.reader.tables.clone(), runtime()?);
        if self.replaces_child && !runtime.block_on(wait_for_table(&mut tables, &stop)) {
            return Ok(());
        }
        let table = RefCell::new(tables.borrow_and_update().clone());
        let worker = Rc::new(Worker {
            number: self.number,
            table,
            reader: self.reader,
            domain: self.domain,
            trusted: self.trusted,
            rate_limit: self.rate_limit.clone(),
            exposure: self.exposure,
            wait_times: self.wait_times,
            request_ids: RequestIds::new(self.request_id_seed),
            leases: self.leases,
            watchers: self.watchers,
            retry_limit: self.retry_limit,
            counters: self.counters,
        });
        let policy = RouterPolicy(worker.clone());
        let take_tables = async {
            while tables.changed().await.is_ok() {
                *worker.table.borrow_mut() = tables.borrow_and_update().clone();
            }
            // The store has ended: the last table is served to the end.
            std::future::pending::<()>().await;
        };
        runtime.block_on(async {
            tokio::select! {
                served = proxy::serve(vec![Listener::Tcp(listener)], policy, engine, stop) => served,
                () = take_tables => Ok(()),
            }
        })
    }
}

/// Joins all threads and returns the first error.
fn join_all(threads: Vec<thread::JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let ended = threads.into_iter().map(|thread| {
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a serving thread panicked")))
    });
    let ended: Vec<_> = ended.collect();
    ended.into_iter().collect()
}

/// Waits for the first route table. Returns `false` if a stop is requested before.
async fn wait_for_table(
    tables: &mut watch::Receiver<Arc<RouteTable>>,
    stop: &CancellationToken,
) -> bool {
    tokio::select! {
        table = tables.wait_for(|table| table.revision.is_some()) => table.is_ok(),
        () = stop.cancelled() => false,
    }
}

/// Reports to the parent that this process is ready, and stops when the parent requests it or is gone.
async fn follow_parent(
    link: tokio::net::UnixStream,
    reader: RouteReader,
    shutdown: Shutdown,
    stop: CancellationToken,
) {
    let (mut incoming, mut outgoing) = link.into_split();
    let mut tables = reader.tables;
    tokio::spawn(async move {
        // A process without a table is not ready: the process before is the better router.
        if tables.wait_for(|table| table.revision.is_some()).await.is_ok() {
            let _ = outgoing.write_all(fd_passing::READY).await;
        }
    });
    match fd_passing::wait_for_end(&mut incoming).await {
        true => shutdown.replaced.cancel(),
        false => shutdown.without_successor.cancel(),
    }
    stop.cancel();
}

fn engine_settings(
    settings: &Settings,
    budget: DescriptorBudget,
    shutdown: &Shutdown,
) -> proxy::Settings {
    proxy::Settings {
        max_connections: budget.max_connections,
        max_connections_per_client: budget.max_connections / CLIENT_SHARE,
        max_idle_upstreams: budget.max_idle_per_upstream,
        idle_drain_timeout: IDLE_DRAIN_TIMEOUT,
        close_idle: shutdown.without_successor.clone(),
        max_body_bytes: (settings.body_limit > 0).then_some(settings.body_limit),
        drain_timeout: settings.drain,
        tunnel_drain_timeout: settings.drain.saturating_sub(TUNNEL_CLOSE_MARGIN),
        ..proxy::Settings::default()
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
