//! Threads: one that keeps the table, and one for each CPU that serves.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use protocol::Domain;
use proxy::Listener;
use service::Failed;
use service::client::Client;
use service::forwarded::Trusted;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::asking::Keeper;
use crate::http::policy::RouterPolicy;
use crate::http::rate_limit::RateLimit;
use crate::http::request_id::RequestIds;
use crate::http::wake_progress::Watchers;
use crate::http::worker::Worker;
use crate::keeping::Keeping;
use crate::leases::Leases;
use crate::metrics::{Counters, LeaseCounters};
use crate::process::admin::Admin;
use crate::process::fd_passing;
use crate::process::file_limit;
use crate::retries::Retries;
use crate::routes::store::{RouteReader, RouteStore};
use crate::routes::table::{EntryParameters, RouteTable};
use crate::settings::{Hold, Settings};

/// A router whose addresses are taken: nobody is served before [`Server::run`].
pub struct Server {
    settings: Settings,
    doors: Vec<std::net::TcpListener>,
    internal: std::net::TcpListener,
    /// To the parent, if there is one.
    link: Option<std::os::unix::net::UnixStream>,
    /// Another router serves until this one says that it does.
    follows: bool,
}

/// Where another process serves, each client that is connected may ask so long for one thing more.
const ONCE_MORE: Duration = Duration::from_secs(5);
/// Before the end of a drain, tunnels get so long to be closed in good order.
const TUNNELS_FIRST: Duration = Duration::from_secs(2);

impl Server {
    pub fn new(settings: Settings) -> Result<Self, Failed> {
        file_limit::raise_to_hard_limit();
        let taken = |address: SocketAddr| move |e: io::Error| anyhow::anyhow!("{address}: {e}");
        let doors =
            proxy::bind(settings.listen, settings.threads).map_err(taken(settings.listen))?;
        let internal = std::net::TcpListener::bind(settings.internal);
        let internal = internal.map_err(taken(settings.internal))?;
        internal.set_nonblocking(true)?;
        Ok(Self { settings, doors, internal, link: None, follows: false })
    }

    /// With the sockets of [`Server::into_sockets`], which stay open when this router ends.
    pub(crate) fn with_sockets(
        settings: Settings,
        mut sockets: Vec<std::net::TcpListener>,
        link: std::os::unix::net::UnixStream,
        follows: bool,
    ) -> Result<Self, Failed> {
        link.set_nonblocking(true)?;
        let internal = sockets.pop().filter(|_| !sockets.is_empty());
        let internal = internal.ok_or_else(|| anyhow::anyhow!("no sockets were handed over"))?;
        Ok(Self { settings, doors: sockets, internal, link: Some(link), follows })
    }

    /// The doors, and last the internal listener.
    pub(crate) fn into_sockets(self) -> Vec<std::net::TcpListener> {
        self.doors.into_iter().chain([self.internal]).collect()
    }

    /// Where tenants are served.
    pub fn public(&self) -> io::Result<SocketAddr> {
        self.doors[0].local_addr()
    }

    pub fn internal(&self) -> io::Result<SocketAddr> {
        self.internal.local_addr()
    }

    /// Serves until `stop` is asked for, and drains. `stop` is called inside the runtime.
    pub fn run(self, stop: impl FnOnce() -> io::Result<CancellationToken>) -> Result<(), Failed> {
        let Self { settings, doors, internal, link, follows } = self;
        let runtime = runtime()?;
        let inside = runtime.enter();
        let stop = stop()?;
        let leaving = Leaving::new(link.is_some());
        let parameters =
            EntryParameters { master: settings.route_secret.clone(), threads: doors.len() };
        let (directory, reader) = RouteStore::new(settings.cache.clone(), parameters);
        let directory = Arc::new(directory);
        let orchestrator =
            Client::new(settings.orchestrator.clone(), settings.leases_token.clone());
        let (leases, wanted) = Leases::new(settings.limits);
        let (watchers, watching) = Watchers::new(
            (settings.limits.watchers, settings.limits.watchers_of_one),
            orchestrator.clone(),
        );
        let retries = Arc::<Retries>::default();
        let limit = RateLimit::new(settings.rate, settings.limits.clients);
        let counters: Vec<_> = doors.iter().map(|_| Arc::new(Counters::default())).collect();
        let (mut serving, mut connections) = (Vec::new(), 0);
        for (number, (door, counters)) in doors.into_iter().zip(&counters).enumerate() {
            let share = Share {
                number,
                follows,
                reader: reader.clone(),
                domain: settings.domain.clone(),
                trusted: settings.trusted.clone(),
                limit: limit.clone(),
                hold: settings.hold,
                leases: leases.clone(),
                watchers: watchers.clone(),
                retries: retries.clone(),
                counters: counters.clone(),
                seed: getrandom::u64().map_err(|e| anyhow::anyhow!("no randomness: {e}"))?,
            };
            let stats = share.counters.engine.clone();
            let engine = proxy::Settings { stats, ..engine(&settings, &leaving) };
            connections += engine.max_connections;
            let stop = stop.clone();
            let thread = thread::Builder::new().name("serve".to_owned());
            serving.push(thread.spawn(move || share.serve(door, engine, stop))?);
        }
        if let Some(link) = link {
            let link = tokio::net::UnixStream::from_std(link)?;
            tokio::spawn(stay_linked(link, reader.clone(), leaving.clone(), stop.clone()));
        }
        let client = Client::new(settings.app_api, settings.routes_token);
        let wakes = Arc::new(LeaseCounters::default());
        let keeper = Keeper { client: orchestrator, holder: Uuid::new_v4() };
        let keeping = Keeping::new(directory.clone(), keeper, leases.room.clone(), wakes.clone());
        let room = leases.room;
        let threads = counters;
        let admin = Admin { reader, threads, wakes, room, watchers, limit, connections, stop };
        let internal = tokio::net::TcpListener::from_std(internal)?;
        drop(inside);
        runtime.block_on(async {
            // Leases are held to the last request: they end after all that serves has ended.
            let over = CancellationToken::new();
            let keeping = tokio::spawn(keeping.run(wanted, over.clone()));
            let admin = async {
                tokio::select! {
                    () = admin.run(internal) => {}
                    () = leaving.relieved.cancelled() => {}
                }
            };
            let inside = async { tokio::join!(directory.run(client), admin, watching.run()) };
            let ended = tokio::select! {
                _ = inside => Ok(Ok(())),
                ended = tokio::task::spawn_blocking(|| all(serving)) => ended,
            };
            over.cancel();
            keeping.await?;
            ended?
        })?;
        // Nothing of what still waits (a file being written aside) is worth waiting for.
        runtime.shutdown_background();
        Ok(())
    }
}

/// Whether another process serves when this one is told to stop.
#[derive(Clone)]
struct Leaving {
    /// It does: the internal listener is that one's.
    relieved: CancellationToken,
    /// It does not, and nobody will: no client is waited for that has nothing to ask.
    alone: CancellationToken,
}

impl Leaving {
    fn new(is_linked: bool) -> Self {
        let leaving = Self { relieved: CancellationToken::new(), alone: CancellationToken::new() };
        if !is_linked {
            leaving.alone.cancel();
        }
        leaving
    }
}

/// What one serving thread is given.
struct Share {
    number: usize,
    follows: bool,
    reader: RouteReader,
    domain: Domain,
    trusted: Trusted,
    limit: Option<Arc<RateLimit>>,
    hold: Hold,
    leases: Leases,
    watchers: Watchers,
    retries: Arc<Retries>,
    counters: Arc<Counters>,
    seed: u64,
}

impl Share {
    fn serve(
        self,
        door: std::net::TcpListener,
        engine: proxy::Settings,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let (mut tables, runtime) = (self.reader.tables.clone(), runtime()?);
        if self.follows && !runtime.block_on(has_table(&mut tables, &stop)) {
            return Ok(());
        }
        let table = RefCell::new(tables.borrow_and_update().clone());
        let thread = Rc::new(Worker {
            number: self.number,
            table,
            reader: self.reader,
            domain: self.domain,
            trusted: self.trusted,
            limit: self.limit.as_ref().map(RateLimit::local),
            hold: self.hold,
            ids: RequestIds::new(self.seed),
            leases: self.leases,
            watchers: self.watchers,
            retries: self.retries,
            counters: self.counters,
        });
        let gate = RouterPolicy(thread.clone());
        let fresh = async {
            while tables.changed().await.is_ok() {
                *thread.table.borrow_mut() = tables.borrow_and_update().clone();
            }
            // Nobody keeps the table any more: the last one is served to the end.
            std::future::pending::<()>().await;
        };
        runtime.block_on(async {
            tokio::select! {
                served = proxy::serve(vec![Listener::Tcp(door)], gate, engine, stop) => served,
                () = fresh => Ok(()),
            }
        })
    }
}

/// Waits for all threads; the first that failed is told.
fn all(serving: Vec<thread::JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let ended = serving.into_iter().map(|thread| {
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a serving thread panicked")))
    });
    let ended: Vec<_> = ended.collect();
    ended.into_iter().collect()
}

/// Waits for routes; `false` if the end is asked for before.
async fn has_table(
    tables: &mut watch::Receiver<Arc<RouteTable>>,
    stop: &CancellationToken,
) -> bool {
    tokio::select! {
        table = tables.wait_for(|table| table.revision.is_some()) => table.is_ok(),
        () = stop.cancelled() => false,
    }
}

/// Tells the parent once there is a table to serve by, and stops when the parent wants it, or is gone.
async fn stay_linked(
    link: tokio::net::UnixStream,
    reader: RouteReader,
    leaving: Leaving,
    stop: CancellationToken,
) {
    let (mut hears, mut says) = link.into_split();
    let mut tables = reader.tables;
    tokio::spawn(async move {
        // Without a table nobody is told anything: the one before is the better router.
        if tables.wait_for(|table| table.revision.is_some()).await.is_ok() {
            let _ = says.write_all(fd_passing::READY).await;
        }
    });
    match fd_passing::wait_for_end(&mut hears).await {
        true => leaving.relieved.cancel(),
        false => leaving.alone.cancel(),
    }
    stop.cancel();
}

fn engine(settings: &Settings, leaving: &Leaving) -> proxy::Settings {
    proxy::Settings {
        idle_drain_timeout: ONCE_MORE,
        close_idle: leaving.alone.clone(),
        max_body_bytes: (settings.body_limit > 0).then_some(settings.body_limit),
        drain_timeout: settings.drain,
        tunnel_drain_timeout: settings.drain.saturating_sub(TUNNELS_FIRST),
        ..proxy::Settings::default()
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
