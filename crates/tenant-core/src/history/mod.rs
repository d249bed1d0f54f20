//! The tenant's history: one SQLite file on the core's data volume, used by one thread.
//!
//! The thread and the connection begin with the first use and the connection ends when it is idle, so that a tenant
//! without history pays nothing. Writes that wait together are committed together; each is acknowledged once it is on
//! disk.

pub mod activity;
pub mod conversations;
mod error;
mod file;
mod migrations;
pub mod page;
pub mod summaries;
mod worker;
pub mod workspaces;

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

pub use error::HistoryError;
use worker::Worker;

/// Milliseconds since 1970, as the history stores times.
pub type Millis = i64;

/// A handle to the history.
#[derive(Clone)]
pub struct History(Arc<Worker>);

impl History {
    /// The history in this directory. Opens nothing yet.
    pub fn new(dir: &Path) -> Self {
        Self(Arc::new(Worker::new(dir)))
    }

    /// Runs a query.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, HistoryError> {
        self.0.read(query).await
    }

    /// Runs a change as one transaction. It survives a loss of power once this returns.
    ///
    /// # Errors
    /// [`HistoryError`], and then nothing has changed.
    pub async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, HistoryError> {
        self.0.write(change).await
    }
}
