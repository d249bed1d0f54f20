//! `LISTEN tenants`: receives a hint whenever the table changes, on a connection of its own.

use anyhow::Context as _;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use futures_util::{FutureExt as _, StreamExt as _};

use super::Database;

pub struct ChangeListener(AsyncPgConnection);

impl ChangeListener {
    /// Starts listening. Earlier changes are not announced: read the table once afterwards.
    pub async fn connect(database: &Database) -> anyhow::Result<Self> {
        let mut conn = database.connect_listener().await?;
        diesel::sql_query("LISTEN tenants").execute(&mut conn).await?;
        Ok(Self(conn))
    }

    /// Waits for the next hint and consumes all that queued up: one read of the table covers them. Cancel-safe.
    ///
    /// # Errors
    /// When the connection ended.
    pub async fn next_change(&mut self) -> anyhow::Result<()> {
        let mut notifications = std::pin::pin!(self.0.notifications_stream());
        let mut next = Some(notifications.next().await);
        while let Some(hint) = next {
            hint.context("the database closed the connection")??;
            next = notifications.next().now_or_never();
        }
        Ok(())
    }
}
