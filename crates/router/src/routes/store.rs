//! Keeps the route table: follows app-api's feed, and keeps a copy on disk for the time when app-api is unreachable.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::TenantId;
use protocol::orchestrator::Upstream;
use protocol::routes::Route;
use protocol::watch::{Message, Replica};
use service::client::Client;
use service::watch::follow;
use tokio::sync::{Notify, watch};

use crate::routes::cache::{self, CachedRoutes};
use crate::routes::cached_lease::CachedLease;
use crate::routes::response_reports;
use crate::routes::table::{EntryParameters, RouteEntry, RouteTable};

/// Hands tables to the threads that serve requests, and takes their requests for a fresh snapshot.
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
    /// The tenants whose routes changed since [`RouteStore::changed_tenants`] returned last.
    changed: Mutex<BTreeSet<TenantId>>,
    has_changed: Notify,
    parameters: EntryParameters,
    cache_path: PathBuf,
}

/// The first pause after the feed ended; doubled up to the limit until a connection succeeds.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);
const RECONNECT_DELAY_LIMIT: Duration = Duration::from_secs(2);
/// The time from one snapshot to the next, however many threads request a resync.
const RESYNC_INTERVAL: Duration = Duration::from_millis(500);

impl RouteReader {
    /// Requests a fresh snapshot because something contradicts the table. Costs the caller nothing.
    pub(crate) fn request_resync(&self) {
        self.resync.notify_one();
    }
}

impl RouteStore {
    /// Begins with the routes on disk.
    pub(crate) fn new(cache_path: PathBuf, parameters: EntryParameters) -> (Self, RouteReader) {
        let table = match cache::read(&cache_path) {
            Ok(None) => RouteTable::default(),
            Ok(Some(CachedRoutes { revision, routes })) => {
                tracing::info!(revision, routes = routes.len(), "cached routes loaded");
                RouteTable::default().with_snapshot(revision, routes.iter(), &parameters)
            }
            Err(error) => {
                tracing::warn!(path = %cache_path.display(), %error, "cached routes unreadable");
                RouteTable::default()
            }
        };
        let (tables, table) = watch::channel(Arc::new(table));
        let (connected, is_connected) = watch::channel(false);
        let resync = Arc::new(Notify::new());
        let reader = RouteReader { tables: table, connected: is_connected, resync: resync.clone() };
        let (changed, has_changed) = (Mutex::default(), Notify::new());
        let store =
            Self { tables, connected, resync, changed, has_changed, parameters, cache_path };
        (store, reader)
    }

    pub(crate) fn get(&self, tenant: TenantId) -> Option<Arc<RouteEntry>> {
        self.tables.borrow().by_tenant(tenant).cloned()
    }

    /// Returns the tenant's lease at the address that the table shows.
    pub(crate) fn lease(&self, tenant: TenantId) -> Option<Arc<CachedLease>> {
        self.get(tenant).and_then(|entry| entry.lease.clone())
    }

    /// Waits until the feed changed routes, and returns the tenants. Has one caller.
    pub(crate) async fn changed_tenants(&self) -> BTreeSet<TenantId> {
        self.has_changed.notified().await;
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records the address that a lease grants, which wins over the feed. Returns `None` when the table knows no such
    /// tenant.
    pub(crate) fn record_upstream(
        &self,
        tenant: TenantId,
        generation: i64,
        upstream: &Upstream,
    ) -> Option<Arc<CachedLease>> {
        let entry = self.get(tenant)?;
        if let Some(lease) = entry.lease.as_ref().filter(|t| t.is_at(generation, upstream)) {
            return Some(lease.clone());
        }
        let target = (generation, upstream.clone());
        let lease = CachedLease::new(tenant, entry.keys.clone(), target, self.parameters.threads);
        self.tables.send_modify(|table| *table = Arc::new(table.with_upstream(&lease)));
        // A sleeping tenant has no address in the feed; any other difference is worth a fresh snapshot.
        if entry.route.upstream.is_some() || entry.route.generation != generation {
            self.resync.notify_one();
        }
        Some(lease)
    }

    /// Follows app-api for as long as the future is polled.
    pub(crate) async fn run(&self, client: Client) {
        let reports = response_reports::run(self, &client);
        tokio::join!(self.follow_feed(&client), self.write_cache(), reports);
    }

    async fn follow_feed(&self, client: &Client) {
        let mut delay = RECONNECT_DELAY;
        loop {
            let has_snapshot = Notify::new();
            let watching = follow::<Route>(client, "/v1/routes/watch", |replica, message| {
                if let Message::Snapshot { .. } = message {
                    has_snapshot.notify_one();
                }
                self.connected.send_if_modified(|c| !std::mem::replace(c, true));
                self.apply(replica, message);
            });
            // A resync waits until the snapshot under way has arrived. Otherwise a steady flow of resync requests
            // would keep every change out of the table.
            let resync_due = async {
                has_snapshot.notified().await;
                tokio::time::sleep(RESYNC_INTERVAL).await;
                self.resync.notified().await;
            };
            let ended = tokio::select! {
                ended = watching => ended,
                () = resync_due => continue,
            };
            if self.connected.send_replace(false) {
                delay = RECONNECT_DELAY;
            }
            tracing::warn!(error = %ended, "route feed disconnected");
            tokio::time::sleep(jittered(delay)).await;
            delay = (delay * 2).min(RECONNECT_DELAY_LIMIT);
        }
    }

    /// Applies one message of the feed, which `replica` holds already.
    fn apply(&self, replica: &Replica<Route>, message: &Message<Route>) {
        let mut changed = BTreeSet::new();
        // In one step: the loop of the leases changes the table too.
        let change = |table: &mut Arc<RouteTable>| {
            let next = match message {
                Message::Snapshot { revision, .. } => {
                    let routes = replica.items().values();
                    let next = table.with_snapshot(*revision, routes, &self.parameters);
                    changed.extend(next.changed_since(table));
                    next
                }
                Message::Changed { revision, item, .. } => {
                    changed.insert(item.tenant);
                    table.with_route(*revision, item, &self.parameters)
                }
                Message::Gone { revision, key, .. } => {
                    changed.insert(*key);
                    table.without(*revision, *key)
                }
                Message::Heartbeat { .. } => return false,
            };
            *table = Arc::new(next);
            true
        };
        if self.tables.send_if_modified(change) {
            self.changed.lock().unwrap_or_else(PoisonError::into_inner).extend(changed);
            self.has_changed.notify_one();
        }
    }

    /// Writes each table to disk. Tables that arrive while one is being written are skipped up to the newest.
    async fn write_cache(&self) {
        let mut tables = self.tables.subscribe();
        while tables.changed().await.is_ok() {
            let table = tables.borrow_and_update().clone();
            let Some(revision) = table.revision else { continue };
            let path = self.cache_path.clone();
            let written = tokio::task::spawn_blocking(move || {
                let routes = table.routes().cloned().collect();
                cache::write(&path, &CachedRoutes { revision, routes })
            });
            if let Ok(Err(error)) = written.await {
                let path = self.cache_path.display();
                tracing::warn!(%path, %error, "writing cached routes failed");
            }
        }
    }
}

/// Half to all of `delay`, so that routers that lost the same app-api do not reconnect in step.
fn jittered(delay: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    delay / 2 + (delay / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}
