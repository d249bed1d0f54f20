//! The routes that the router watches: read again from the table on every hint and on every tick of a clock.
//!
//! While the database is away it goes on serving what it read last; before it has read anything it serves nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use protocol::routes::Route;
use service::failure::Failure;
use service::watch::Feed;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::db::hints::Hints;
use crate::db::{Database, tenant};

/// A row changed by hand reaches the router within this, even if nobody told.
const CLOCK: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Routes {
    feed: Feed<Route>,
    loaded: Arc<AtomicBool>,
}

impl Routes {
    /// `epoch`: the clock's milliseconds, beyond any revision of an earlier run.
    pub fn new(epoch: u64) -> Self {
        Self { feed: Feed::new(epoch), loaded: Arc::default() }
    }

    pub fn answer(&self) -> Result<Response, Failure> {
        if !self.loaded.load(Ordering::Acquire) {
            let detail = "The routes were not read from the database yet.";
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail));
        }
        Ok(self.feed.answer())
    }

    pub fn list(&self) -> Vec<Route> {
        self.feed.list()
    }

    pub fn revision(&self) -> u64 {
        self.feed.revision()
    }

    async fn load(&self, database: &Database) -> anyhow::Result<()> {
        let rows = tenant::all(&mut *database.conn().await?).await?;
        self.feed.replace(rows.into_iter().map(route).collect());
        self.loaded.store(true, Ordering::Release);
        Ok(())
    }

    /// Keeps the feed true for as long as it is polled.
    pub async fn keep(&self, database: &Database) {
        loop {
            if let Err(error) = self.listen(database).await {
                tracing::warn!("the routes cannot be read; serving the last ones: {error:#}");
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// One connection's worth: told by `NOTIFY`, driven by the clock.
    async fn listen(&self, database: &Database) -> anyhow::Result<()> {
        let mut hints = Hints::open(database).await?;
        let mut clock = interval(CLOCK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                hint = hints.next() => hint?,
            }
            self.load(database).await?;
        }
    }
}

fn route(tenant: tenant::Tenant) -> Route {
    Route {
        tenant: tenant.tenant_id(),
        slug: tenant.slug,
        generation: tenant.generation,
        desired: tenant.desired,
        state: tenant.state,
        upstream: tenant.upstream,
    }
}
