//! `NOTIFY tenants`: a hint that the table changed. Heard on a connection of its own.

use anyhow::Context as _;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use futures_util::{FutureExt as _, StreamExt as _};

use super::Database;

pub struct Hints(AsyncPgConnection);

impl Hints {
    /// What changes from here on is told; what changed before must be read.
    pub async fn open(database: &Database) -> anyhow::Result<Self> {
        let mut conn = database.dial().await?;
        diesel::sql_query("LISTEN tenants").execute(&mut conn).await?;
        Ok(Self(conn))
    }

    /// Waits for the next hint, and takes those that came meanwhile along: one reading answers them all. An error is the
    /// end of the connection. Loses nothing when dropped half-way.
    pub async fn next(&mut self) -> anyhow::Result<()> {
        let mut told = std::pin::pin!(self.0.notifications_stream());
        let mut next = Some(told.next().await);
        while let Some(hint) = next {
            hint.context("the database hung up")??;
            next = told.next().now_or_never();
        }
        Ok(())
    }
}
