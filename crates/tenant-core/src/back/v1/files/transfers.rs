//! Bounds of what reads and writes files at once.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::Problem;
use protocol::files::FilePath;
use protocol::problem::Code;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::conflict;
use crate::back::v1::CallError;
use crate::session_table::Session;

/// Downloads and parts of uploads at once.
pub(in crate::back) const MAX_TRANSFERS: usize = 8;
/// Downloads among them: a reader may take hours, and whoever uploads does not wait for readers.
const MAX_DOWNLOADS: usize = 4;
/// One person, in all sessions, leaves half of both to the others.
const MAX_TRANSFERS_OF_PERSON: usize = 4;
const MAX_DOWNLOADS_OF_PERSON: usize = 2;

/// A client repeats a request whose response was lost within seconds.
const MAX_FINISHES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Download,
    Upload,
}

/// One transfer under way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UnderWay {
    direction: Direction,
    /// The id of the person whose session began it.
    person: String,
}

/// The transfers under way.
#[derive(Clone)]
pub(in crate::back) struct Transfers {
    under_way: Arc<Mutex<Vec<UnderWay>>>,
    /// One turn: the files of the app keep one thread busy, and the core's own writes have the other.
    disk: Arc<Semaphore>,
    uploads: Arc<Mutex<HashSet<Uuid>>>,
    /// The latest that were requested and not refused, the earliest first.
    finishes: Arc<Mutex<VecDeque<Finish>>>,
}

/// The end of an upload: its file goes to the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finish {
    pub(super) id: Uuid,
    pub(super) path: FilePath,
    pub(super) size: u64,
}

/// A place among the transfers, until it is dropped.
pub(super) struct Transfer {
    disk: Arc<Semaphore>,
    own: UnderWay,
    under_way: Arc<Mutex<Vec<UnderWay>>>,
}

/// The right to change an upload, which one request has at a time.
pub(super) struct UploadLock {
    id: Uuid,
    uploads: Arc<Mutex<HashSet<Uuid>>>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            under_way: Arc::default(),
            disk: Arc::new(Semaphore::new(1)),
            uploads: Arc::default(),
            finishes: Arc::default(),
        }
    }
}

impl Transfers {
    /// # Errors
    /// `files_busy` when no place is left, or none for this person.
    pub(super) fn begin(
        &self,
        direction: Direction,
        session: &Session,
    ) -> Result<Transfer, CallError> {
        let own = UnderWay { direction, person: session.sub.clone() };
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bound) = reached_bound(&under_way, &own) {
            let detail = format!("503: {bound} are under way, which is the limit.");
            return Err(Box::new(Problem::new(Code::FilesBusy, detail)).into());
        }
        under_way.push(own.clone());
        Ok(Transfer { disk: self.disk.clone(), own, under_way: self.under_way.clone() })
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

    pub(super) fn note_finish(&self, finish: Finish) {
        self.forget_finish(finish.id);
        let mut finishes = self.finishes.lock().unwrap_or_else(PoisonError::into_inner);
        if finishes.len() >= MAX_FINISHES {
            finishes.pop_front();
        }
        finishes.push_back(finish);
    }

    pub(super) fn forget_finish(&self, id: Uuid) {
        let mut finishes = self.finishes.lock().unwrap_or_else(PoisonError::into_inner);
        finishes.retain(|finish| finish.id != id);
    }

    pub(super) fn is_noted(&self, finish: &Finish) -> bool {
        self.finishes.lock().unwrap_or_else(PoisonError::into_inner).contains(finish)
    }
}

/// The bound that leaves no place for `new`, if there is one. Pure.
fn reached_bound(under_way: &[UnderWay], new: &UnderWay) -> Option<String> {
    let is_download = |transfer: &UnderWay| transfer.direction == Direction::Download;
    let count = |of_person: bool, downloads: bool| {
        let counts = |transfer: &&UnderWay| {
            (!of_person || transfer.person == new.person) && (!downloads || is_download(transfer))
        };
        under_way.iter().filter(counts).count()
    };
    let bounds = [
        (false, false, MAX_TRANSFERS, "transfers"),
        (true, false, MAX_TRANSFERS_OF_PERSON, "transfers of yours"),
        (false, true, MAX_DOWNLOADS, "downloads"),
        (true, true, MAX_DOWNLOADS_OF_PERSON, "downloads of yours"),
    ];
    let mut applied = bounds.iter().filter(|(_, downloads, ..)| !downloads || is_download(new));
    let reached =
        applied.find(|(of_person, downloads, max, _)| count(*of_person, *downloads) >= *max);
    reached.map(|(_, _, max, what)| format!("{max} {what}"))
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = under_way.iter().position(|transfer| *transfer == self.own) {
            under_way.swap_remove(place);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_person_and_all_downloads_together_leave_places_to_the_others() {
        let of = |person: &str, direction| UnderWay { direction, person: person.to_owned() };
        let (down, up) =
            (|person| of(person, Direction::Download), |person| of(person, Direction::Upload));
        for (under_way, new, expected) in [
            (vec![], down("a"), None),
            (vec![down("a")], down("a"), None),
            (vec![down("a"), down("a")], down("a"), Some("2 downloads of yours")),
            (vec![down("a"), down("a")], up("a"), None),
            (vec![down("a"), down("a")], down("b"), None),
            (vec![down("a"), up("a"), up("a"), up("a")], up("a"), Some("4 transfers of yours")),
            (vec![down("a"), up("a"), up("a"), up("a")], down("a"), Some("4 transfers of yours")),
            (vec![down("a"), down("a"), down("b"), down("b")], down("c"), Some("4 downloads")),
            (vec![down("a"), down("a"), down("b"), down("b")], up("c"), None),
            (vec![up("a"), up("a"), up("a"), up("a"), up("b"), up("b"), up("b")], up("b"), None),
            (["a", "b"].repeat(4).into_iter().map(up).collect(), up("c"), Some("8 transfers")),
        ] {
            let reached = reached_bound(&under_way, &new);
            assert_eq!(reached.as_deref(), expected, "{new:?} beside {under_way:?}");
        }
    }
}
