//! The thread that owns the connection. Jobs reach it over a bounded queue.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::HistoryError;
use super::file::HistoryFile;

/// The jobs that may wait. More are refused, so that a slow disk does not fill the memory with requests.
const MAX_QUEUED: usize = 256;
/// The jobs that are taken from the queue at once. Their writes share one commit.
const MAX_BATCH: usize = 128;
/// The connection is closed after this time without use, which gives its memory back.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The connection, or why there is none.
type Opened<'a> = Result<&'a Connection, HistoryError>;
/// Notifies the caller. A write is reported once the transaction around it has ended.
type Acknowledge = Box<dyn FnOnce(Result<(), HistoryError>) + Send>;
/// The work of the thread for one caller, and its result.
type Act = Box<dyn FnOnce(Opened<'_>) -> (Result<(), HistoryError>, Acknowledge) + Send>;

struct Job {
    is_write: bool,
    act: Act,
}

pub(super) struct Worker {
    dir: PathBuf,
    /// `None` until the first job.
    queue: Mutex<Option<SyncSender<Job>>>,
}

impl Worker {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), queue: Mutex::default() }
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, HistoryError> {
        self.perform(false, |connection| Ok(query(connection)?)).await
    }

    pub(super) async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, HistoryError> {
        self.perform(true, |connection| in_savepoint(connection, change)).await
    }

    async fn perform<T: Send + 'static>(
        &self,
        is_write: bool,
        act: impl FnOnce(&Connection) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, HistoryError> {
        let (sender, result) = oneshot::channel();
        let act: Act = Box::new(move |connection| {
            let outcome = connection.and_then(act);
            let report = outcome.as_ref().map(|_| ()).map_err(HistoryError::clone);
            // The caller may have gone.
            (report, Box::new(move |ended| drop(sender.send(ended.and(outcome)))))
        });
        self.enqueue(Job { is_write, act })?;
        result.await.map_err(|_| thread_ended())?
    }

    fn enqueue(&self, job: Job) -> Result<(), HistoryError> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = match &mut *queue {
            Some(sender) => sender,
            none => none.insert(start(&self.dir)?),
        };
        sender.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => HistoryError::Busy,
            TrySendError::Disconnected(_) => thread_ended(),
        })
    }
}

fn thread_ended() -> HistoryError {
    HistoryError::Other("the thread of the history has ended".to_owned())
}

/// The thread ends with the sender.
fn start(dir: &Path) -> Result<SyncSender<Job>, HistoryError> {
    let (sender, jobs) = sync_channel(MAX_QUEUED);
    let file = HistoryFile::new(dir);
    std::thread::Builder::new().name("history".to_owned()).spawn(move || run(file, &jobs))?;
    Ok(sender)
}

fn run(mut file: HistoryFile, jobs: &Receiver<Job>) {
    loop {
        let first = match file.is_open() {
            true => jobs.recv_timeout(IDLE_TIMEOUT),
            false => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let first = match first {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                file.close(false);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let batch = std::iter::once(first).chain(jobs.try_iter()).take(MAX_BATCH);
        // A read must not see what a write of the same batch may yet lose.
        let (writes, reads): (Vec<_>, Vec<_>) = batch.partition(|job| job.is_write);
        if perform_batch(file.open(), reads, writes) == Batch::FoundDamage {
            file.close(true);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Batch {
    Performed,
    FoundDamage,
}

fn perform_batch(opened: Opened<'_>, reads: Vec<Job>, writes: Vec<Job>) -> Batch {
    let mut results = Vec::new();
    for read in reads {
        let (result, acknowledge) = (read.act)(opened.clone());
        acknowledge(Ok(()));
        results.push(result);
    }
    if !writes.is_empty() {
        results.push(commit(opened, writes));
    }
    match results.iter().any(|result| matches!(result, Err(HistoryError::Corrupt(_)))) {
        true => Batch::FoundDamage,
        false => Batch::Performed,
    }
}

/// Performs the writes as one transaction, each of which may fail by itself, and notifies their callers.
fn commit(opened: Opened<'_>, writes: Vec<Job>) -> Result<(), HistoryError> {
    let mut transaction = opened.and_then(|connection| {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        Ok(connection)
    });
    let mut acknowledgements = Vec::with_capacity(writes.len());
    for write in writes {
        let (result, acknowledge) = (write.act)(transaction.clone());
        // A full disk, for one, makes SQLite roll back the whole transaction: no later write may begin its own.
        if transaction.as_ref().is_ok_and(|connection| connection.is_autocommit()) {
            let error = HistoryError::Other("the transaction was rolled back".to_owned());
            transaction = Err(result.err().unwrap_or(error));
        }
        acknowledgements.push(acknowledge);
    }
    let committed = transaction.and_then(|connection| {
        let committed = connection.execute_batch("COMMIT");
        if committed.is_err() && !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK")?;
        }
        Ok(committed?)
    });
    for acknowledge in acknowledgements {
        acknowledge(committed.clone());
    }
    committed
}

/// Undoes the change when it fails, and leaves the writes before it in the transaction.
fn in_savepoint<T>(
    connection: &Connection,
    change: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T, HistoryError> {
    connection.execute_batch("SAVEPOINT change")?;
    let outcome = change(connection);
    if outcome.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK TO change")?;
    }
    if !connection.is_autocommit() {
        connection.execute_batch("RELEASE change")?;
    }
    Ok(outcome?)
}
