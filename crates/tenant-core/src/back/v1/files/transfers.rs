//! Bounds of what reads and writes files at once.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::Problem;
use protocol::problem::Code;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::conflict;
use crate::back::v1::CallError;

/// Downloads and parts of uploads at once.
pub(in crate::back) const MAX_TRANSFERS: usize = 8;

/// The transfers under way.
#[derive(Clone)]
pub(in crate::back) struct Transfers {
    places: Arc<Semaphore>,
    /// One turn: the files of the app keep one thread busy, and the core's own writes have the other.
    disk: Arc<Semaphore>,
    uploads: Arc<Mutex<HashSet<Uuid>>>,
}

/// A place among the transfers, until it is dropped.
pub(super) struct Transfer {
    disk: Arc<Semaphore>,
    _place: OwnedSemaphorePermit,
}

/// The right to change an upload, which one request has at a time.
pub(super) struct UploadLock {
    id: Uuid,
    uploads: Arc<Mutex<HashSet<Uuid>>>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_TRANSFERS)),
            disk: Arc::new(Semaphore::new(1)),
            uploads: Arc::default(),
        }
    }
}

impl Transfers {
    /// # Errors
    /// `files_busy` when no place is left.
    pub(super) fn begin(&self) -> Result<Transfer, CallError> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            let detail =
                format!("503: {MAX_TRANSFERS} transfers are under way, which is the limit.");
            Box::new(Problem::new(Code::FilesBusy, detail))
        })?;
        Ok(Transfer { disk: self.disk.clone(), _place: place })
    }

    /// # Errors
    /// `file_conflict` while another request changes the upload.
    pub(super) fn lock(&self, id: Uuid) -> Result<UploadLock, CallError> {
        let uploads = self.uploads.clone();
        if !uploads.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            return Err(conflict("another request writes this upload"));
        }
        Ok(UploadLock { id, uploads })
    }
}

impl Drop for UploadLock {
    fn drop(&mut self) {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Transfer {
    /// Runs `work`, which goes on when the caller leaves.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let turn = self.disk.clone().acquire_owned().await.map_err(io::Error::other)?;
        let work = move || {
            let _turn = turn;
            work()
        };
        spawn_blocking(work).await.map_err(io::Error::other)?
    }
}
