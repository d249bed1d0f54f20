//! The summaries of conversations, for the control plane to collect: counts and times, never text.
//!
//! A collection of a tenant without new messages opens no history. A file beside the history marks that there may be new
//! ones, so that a restart forgets none.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::summaries::{MAX_SUMMARIES, SummaryReport};
use rusqlite::Connection;
use tokio::sync::RwLock;
use tokio::task::spawn_blocking;

use super::{History, HistoryError, conversations};

const MARK: &str = "summaries-pending";

/// A handle to the conversations of a history and to their summaries.
#[derive(Clone)]
pub struct Summaries {
    history: History,
    pending: Arc<Pending>,
}

struct Pending {
    mark: PathBuf,
    is_marked: AtomicBool,
    /// Writers of messages share it; the end of a collection has it alone.
    writing: RwLock<()>,
}

impl Summaries {
    /// The conversations of the history in this directory.
    pub fn open(dir: &Path, history: History) -> Self {
        let mark = dir.join(MARK);
        let is_marked = AtomicBool::new(mark.exists());
        Self { history, pending: Arc::new(Pending { mark, is_marked, writing: RwLock::default() }) }
    }

    /// Changes conversations. The mark is on disk before the change.
    ///
    /// # Errors
    /// [`HistoryError`], and then nothing has changed.
    pub async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, HistoryError> {
        let _writing = self.pending.writing.read().await;
        if !self.pending.is_marked.load(Ordering::Acquire) {
            let mark = self.pending.mark.clone();
            on_disk(move || set_mark(&mark)).await?;
            self.pending.is_marked.store(true, Ordering::Release);
        }
        self.history.write(change).await
    }

    /// The summaries that changed after `position`. An empty report means that the caller has all.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub async fn report(&self, position: i64) -> Result<SummaryReport, HistoryError> {
        let everything = SummaryReport { summaries: Vec::new(), position };
        if !self.pending.is_marked.load(Ordering::Acquire) {
            return Ok(everything);
        }
        let _alone = self.pending.writing.write().await;
        let read = move |connection: &_| {
            conversations::summaries_after(connection, position, MAX_SUMMARIES)
        };
        let report = self.history.read(read).await?;
        // Only the position passes a summary that no report can show.
        if report.position == position {
            self.pending.is_marked.store(false, Ordering::Release);
            let mark = self.pending.mark.clone();
            on_disk(move || fs::remove_file(mark)).await?;
            return Ok(everything);
        }
        Ok(report)
    }
}

async fn on_disk(
    act: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), HistoryError> {
    let done = spawn_blocking(act).await;
    Ok(done.map_err(|error| HistoryError::Other(error.to_string()))??)
}

fn set_mark(mark: &Path) -> io::Result<()> {
    File::create(mark)?.sync_all()?;
    File::open(mark.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use protocol::history::Author;
    use uuid::Uuid;

    use super::*;
    use crate::history::conversations::NewMessage;

    const ANN: Uuid = Uuid::from_u128(1);

    async fn say(summaries: &Summaries, conversation: Option<Uuid>) -> Uuid {
        let say = move |connection: &_| {
            let user_id = ANN.to_string();
            let id = match conversation {
                Some(id) => id,
                None => conversations::begin(connection, &user_id, 1_000)?,
            };
            let (text, tokens) = ("a secret".to_owned(), 3);
            let message =
                NewMessage { author: Author::App, user_id, text, tokens, is_complete: true };
            conversations::append(connection, id, &message, 2_000)?;
            Ok(id)
        };
        summaries.write(say).await.unwrap()
    }

    fn open(dir: &Path) -> Summaries {
        Summaries::open(dir, History::new(dir))
    }

    #[tokio::test]
    async fn a_tenant_without_messages_opens_no_history() {
        let dir = tempfile::tempdir().unwrap();
        let report = open(dir.path()).report(7).await.unwrap();
        assert_eq!(report, SummaryReport { summaries: Vec::new(), position: 7 });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_changed_is_reported_until_the_caller_has_it_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let summaries = open(dir.path());
        let first = say(&summaries, None).await;
        say(&summaries, Some(first)).await;
        let report = summaries.report(0).await.unwrap();
        let [summary] = report.summaries.as_slice() else { panic!("{report:?}") };
        assert_eq!((summary.user_id, summary.conversation), (ANN, first));
        assert_eq!((summary.messages, summary.tokens), (2, 6));
        assert!(!serde_json::to_string(&report).unwrap().contains("secret"));

        // The report was lost on its way, and the core ended.
        drop(summaries);
        let summaries = open(dir.path());
        assert_eq!(summaries.report(0).await.unwrap(), report);
        assert_eq!(summaries.report(report.position).await.unwrap().summaries, []);
        assert!(!dir.path().join(MARK).exists());

        let second = say(&summaries, None).await;
        let newer = summaries.report(report.position).await.unwrap();
        assert_eq!(newer.summaries.iter().map(|s| s.conversation).collect::<Vec<_>>(), [second]);

        // The caller has the counts of a longer history, which was put aside.
        let all = summaries.report(newer.position + 5).await.unwrap();
        assert_eq!(all.summaries.len(), 2);
        assert_eq!(all.position, newer.position);
    }
}
