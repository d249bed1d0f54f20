//! Keeps the table: by list and watch from app-api, on disk for when app-api is away, in memory for every thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::TenantId;
use protocol::orchestrator::Upstream;
use protocol::routes::Route;
use protocol::watch::Message;
use service::client::Client;
use service::watch::follow;
use tokio::sync::{Notify, watch};

use crate::routes::cache::{self, Cached};
use crate::routes::table::{EntryParameters, RouteEntry, RouteTable};
use crate::tenure::Tenure;

/// Where the threads that serve get the table from, and how they ask for a fresh one.
#[derive(Clone)]
pub(crate) struct RouteReader {
    pub(crate) tables: watch::Receiver<Arc<RouteTable>>,
    pub(crate) connected: watch::Receiver<bool>,
    resync: Arc<Notify>,
}

pub(crate) struct RouteStore {
    tables: watch::Sender<Arc<RouteTable>>,
    connected: watch::Sender<bool>,
    resync: Arc<Notify>,
    making: EntryParameters,
    path: PathBuf,
}

/// Between two tries; a try that got somewhere begins anew.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_LIMIT: Duration = Duration::from_secs(2);
/// From one list to the next, however many threads ask for a fresh table.
const RESYNC_PAUSE: Duration = Duration::from_millis(500);

impl RouteReader {
    /// Something contradicts the table: list again. Costs the caller nothing.
    pub(crate) fn doubt(&self) {
        self.resync.notify_one();
    }
}

impl RouteStore {
    /// Begins with what is on disk.
    pub(crate) fn new(path: PathBuf, making: EntryParameters) -> (Self, RouteReader) {
        let table = match cache::read(&path) {
            Ok(None) => RouteTable::default(),
            Ok(Some(Cached { revision, routes })) => {
                tracing::info!(revision, routes = routes.len(), "routes read from disk");
                RouteTable::default().next(revision, routes, &making)
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "routes on disk are unreadable");
                RouteTable::default()
            }
        };
        let (tables, table) = watch::channel(Arc::new(table));
        let (connected, is_connected) = watch::channel(false);
        let resync = Arc::new(Notify::new());
        let reader = RouteReader { tables: table, connected: is_connected, resync: resync.clone() };
        (Self { tables, connected, resync, making, path }, reader)
    }

    pub(crate) fn get(&self, tenant: TenantId) -> Option<Arc<RouteEntry>> {
        self.tables.borrow().of(tenant).cloned()
    }

    /// Changes with each table.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<RouteTable>> {
        self.tables.subscribe()
    }

    /// The tenant where a lease says that it is, which wins over the table; `None` when the table knows no such tenant.
    pub(crate) fn settle(
        &self,
        tenant: TenantId,
        generation: i64,
        upstream: &Upstream,
    ) -> Option<Arc<Tenure>> {
        let entry = self.get(tenant)?;
        if let Some(tenure) = entry.tenure.as_ref().filter(|t| t.is_at(generation, upstream)) {
            return Some(tenure.clone());
        }
        let target = (generation, upstream.clone());
        let tenure = Tenure::new(tenant, entry.keys.clone(), target, self.making.threads);
        self.tables.send_modify(|table| *table = Arc::new(table.moved(&tenure)));
        // A sleeper has no address in the table; any other difference is worth a fresh list.
        if entry.route.upstream.is_some() || entry.route.generation != generation {
            self.resync.notify_one();
        }
        Some(tenure)
    }

    /// Follows app-api for as long as it is polled.
    pub(crate) async fn run(&self, client: Client) {
        tokio::join!(self.follow(&client), self.keep());
    }

    async fn follow(&self, client: &Client) {
        let mut pause = BACKOFF;
        loop {
            let listed = Notify::new();
            let watching = follow::<Route>(client, "/v1/routes/watch", |replica, message| {
                if let Message::Snapshot { .. } = message {
                    listed.notify_one();
                }
                self.connected.send_if_modified(|c| !std::mem::replace(c, true));
                let routes = || replica.items().values().cloned().collect();
                match (message, replica.revision()) {
                    (Message::Heartbeat { .. }, _) | (_, None) => {}
                    (_, Some(revision)) => self.take(revision, routes()),
                }
            });
            // A doubt never takes the place of a list that is on its way: where there are always new ones, no change
            // would arrive any more.
            let doubted = async {
                listed.notified().await;
                tokio::time::sleep(RESYNC_PAUSE).await;
                self.resync.notified().await;
            };
            let ended = tokio::select! {
                ended = watching => ended,
                () = doubted => continue,
            };
            if self.connected.send_replace(false) {
                pause = BACKOFF;
            }
            tracing::warn!(%ended, "the watch of the routes ended; the last table is served");
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(BACKOFF_LIMIT);
        }
    }

    fn take(&self, revision: u64, routes: Vec<Route>) {
        self.tables.send_modify(|table| {
            *table = Arc::new(table.next(revision, routes, &self.making));
        });
    }

    /// Writes each new table to disk; while one is being written, only the last of the others counts.
    async fn keep(&self) {
        let mut tables = self.tables.subscribe();
        while tables.changed().await.is_ok() {
            let table = tables.borrow_and_update().clone();
            let Some(revision) = table.revision else { continue };
            let cached = Cached { revision, routes: table.routes().cloned().collect() };
            let path = self.path.clone();
            let written = tokio::task::spawn_blocking(move || cache::write(&path, &cached)).await;
            if let Ok(Err(error)) = written {
                let path = self.path.display();
                tracing::warn!(%path, %error, "routes could not be kept on disk");
            }
        }
    }
}

/// Half to all of `pause`, so that routers that lost the same app-api do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let chance = getrandom::u32().unwrap_or(u32::MAX);
    pause / 2 + (pause / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX))
}
