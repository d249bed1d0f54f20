//! The feed of routes that the router watches: read from the table on every notification and on a timer.
//!
//! While the database is unreachable the feed serves the last routes; before the first read it serves none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::response::Response;
use protocol::problem::Code;
use protocol::routes::Route;
use service::api_error::ApiError;
use service::watch::Feed;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::db::change_listener::ChangeListener;
use crate::db::{self, Database};
use crate::settings::Addresses;
use crate::tenant::Tenant;

/// A change without a notification reaches the router within this time.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
const _: () = assert!(REFRESH_INTERVAL.as_secs() < 5, "a route is at most five seconds old");
const RECONNECT_DELAY: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub struct RouteFeed {
    feed: Feed<Route>,
    addresses: Arc<Addresses>,
    is_loaded: Arc<AtomicBool>,
}

impl RouteFeed {
    /// `epoch`: the wall clock in milliseconds, greater than any revision of an earlier process.
    pub fn new(epoch: u64, addresses: Addresses) -> Self {
        Self { feed: Feed::new(epoch), addresses: Arc::new(addresses), is_loaded: Arc::default() }
    }

    /// The streaming response to a watch.
    ///
    /// # Errors
    /// `not_ready` before the routes were read for the first time.
    pub fn watch_response(&self) -> Result<Response, ApiError> {
        if !self.is_loaded.load(Ordering::Acquire) {
            let detail = "The routes were not read from the database yet.";
            return Err(ApiError::new(Code::NotReady, detail));
        }
        Ok(self.feed.watch_response())
    }

    pub fn list(&self) -> Vec<Route> {
        self.feed.list()
    }

    pub fn revision(&self) -> u64 {
        self.feed.revision()
    }

    async fn load(&self, database: &Database) -> anyhow::Result<()> {
        let tenants = db::tenant::all(&mut *database.conn().await?).await?;
        let route = |tenant| route(tenant, &self.addresses);
        self.feed.replace(tenants.into_iter().map(route).collect());
        self.is_loaded.store(true, Ordering::Release);
        Ok(())
    }

    /// Keeps the feed equal to the table for as long as the future is polled.
    pub async fn run(&self, database: &Database) {
        loop {
            if let Err(error) = self.follow_changes(database).await {
                let error = format!("{error:#}");
                tracing::warn!(error, "reading routes failed, serving the last ones");
            }
            sleep(RECONNECT_DELAY).await;
        }
    }

    /// Follows the changes of the table until the connection ends.
    async fn follow_changes(&self, database: &Database) -> anyhow::Result<()> {
        let mut changes = ChangeListener::connect(database).await?;
        let mut timer = interval(REFRESH_INTERVAL);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = timer.tick() => {}
                change = changes.next_change() => change?,
            }
            self.load(database).await?;
        }
    }
}

fn route(tenant: Tenant, addresses: &Addresses) -> Route {
    Route {
        requires_sign_in: tenant.policy.require_sign_in,
        sign_in_url: Some(addresses.sign_in_url(&tenant.slug)),
        tenant: tenant.tenant_id(),
        slug: tenant.slug,
        generation: tenant.generation,
        desired: tenant.desired,
        state: tenant.state,
        upstream: tenant.upstream,
    }
}
