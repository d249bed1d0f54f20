//! One attempt of a task: sends the package into the tenant, and records its messages.
//!
//! A tenant can forge every message about its task. The size of a message is bounded, and a message changes only records of the
//! tenant itself.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use package::{MAX_UNPACKED_BYTES, Task};
use protocol::problem::Code;
use protocol::tasks::{
    MAX_FRAME_BYTES, MAX_JOB_BYTES, MAX_LINE_BYTES, MAX_OUTPUT_BYTES, MAX_RESULT_BYTES, TaskJob,
    TaskMessage, TaskOutput, counted_bytes, frame,
};
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{WorkError, has_huge_number, has_nul, open};
use crate::app::App;
use crate::db::tenant_executions::{self, ExecutionRow, printed_len};
use crate::db::tenant_packages::PIECE_BYTES;
use crate::db::tenant_workflows;
use crate::tenant::Tenant;
use crate::tenant_databases::WorkConnection;

/// Bounds the wake, the transfer of the package into the tenant and the end of the task, besides the task itself.
const OVERHEAD_TIMEOUT: Duration = Duration::from_secs(300);
/// Output is written at least this often while there is some.
const WRITE_INTERVAL: Duration = Duration::from_secs(2);
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the record of a task's end waits for the last of its lines.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(20);
/// The most lines that one statement writes.
const MAX_WRITTEN_LINES: usize = 1_000;
/// The pieces of the largest archive.
const MAX_PIECES: i32 = 96;
const _: () = assert!(96 * PIECE_BYTES >= package::MAX_BYTES);
/// The largest accepted message, far above what the program of PID 1 sends.
const MAX_MESSAGE_BYTES: usize = 512 << 10;
/// The largest sum of accepted messages, far above the output of a task.
const MAX_MESSAGES_BYTES: usize = 32 * MAX_OUTPUT_BYTES;
const MAX_REASON_CHARS: usize = 300;

#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) app: &'a App,
    pub(super) tenant: &'a Tenant,
    pub(super) execution: &'a ExecutionRow,
    pub(super) task: &'a Task,
    pub(super) number: i32,
}

/// The name and the result of each task that a task depends on.
pub(super) type Results = Vec<(String, Option<Value>)>;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// The task succeeded, with its result.
    Succeeded(Option<Value>),
    Failed(String),
    /// The program certainly did not run.
    NotStarted(String),
    /// The program did not run, because the orchestrator has no free place for a task.
    Queued,
}

/// Cuts a text that the tenant may have written; it has one line.
pub(super) fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_REASON_CHARS).collect()
}

impl Attempt<'_> {
    /// Runs the task with the `results` of the earlier tasks. `place` is the permit to send a package.
    pub(super) async fn run(&self, results: Results, place: OwnedSemaphorePermit) -> Outcome {
        let timeout = Duration::from_secs(self.task.timeout_seconds.into()) + OVERHEAD_TIMEOUT;
        let late = || Outcome::Failed("The tenant did not report the end of the task.".to_owned());
        let ran = tokio::time::timeout(timeout, self.run_unbounded(results, place)).await;
        ran.unwrap_or_else(|_| late())
    }

    async fn run_unbounded(&self, results: Results, place: OwnedSemaphorePermit) -> Outcome {
        let job = serde_json::to_vec(&self.job(results)).unwrap_or_default();
        if job.len() > MAX_JOB_BYTES {
            return Outcome::Failed("The results of the tasks before it are too large.".to_owned());
        }
        let is_sent = Arc::new(AtomicBool::new(false));
        let input = self.input(&job, is_sent.clone(), place);
        let called = self.app.orchestrator.run_task(self.tenant.tenant_id(), input).await;
        let error = match called {
            Ok(output) => return self.follow(output).await,
            Err(error) => error,
        };
        if error.has_code(Code::TooManyCommands) {
            return Outcome::Queued;
        }
        tracing::warn!(tenant = %self.tenant.id, %error, "task not started");
        if error.has_code(Code::TenantStopped) {
            return Outcome::Failed("The tenant is stopped.".to_owned());
        }
        // After a refusal no program begins, even if the whole input was sent.
        let may_have_begun = error.code().is_none() && is_sent.load(Ordering::Acquire);
        if may_have_begun {
            Outcome::Failed("The connection to the tenant broke.".to_owned())
        } else {
            Outcome::NotStarted("The tenant could not be reached.".to_owned())
        }
    }

    fn job(&self, results: Results) -> TaskJob {
        let context = self.execution.context.clone().unwrap_or_default();
        let given = |name: &String| Some((name.clone(), context.get(name)?.clone()));
        let context: Map<_, _> = self.task.inputs.iter().filter_map(given).collect();
        let outputs: Map<_, _> =
            results.into_iter().map(|(name, result)| (name, result.unwrap_or_default())).collect();
        TaskJob {
            execution: self.execution.id.to_string(),
            workflow: self.execution.workflow.clone(),
            task: self.task.name.clone(),
            attempt: self.number,
            folder: self.execution.package.clone(),
            command: self.task.command.clone(),
            timeout_seconds: self.task.timeout_seconds,
            input: json!({ "context": context, "outputs": outputs }),
        }
    }

    /// The job and the package. `is_sent` is set with the last byte: before, the task cannot begin. The place is free again with
    /// the last byte, too.
    fn input(&self, job: &[u8], is_sent: Arc<AtomicBool>, place: OwnedSemaphorePermit) -> Body {
        let (pieces, unpacked) = (mpsc::channel(1), mpsc::channel(2));
        tokio::spawn(send_pieces(
            self.app.clone(),
            self.tenant.clone(),
            self.execution.package_id,
            pieces.0,
        ));
        tokio::task::spawn_blocking(move || {
            unpack(PieceReader::new(pieces.1, unpacked.0.clone()), &unpacked.0);
        });
        let package = stream::unfold(unpacked.1, async |mut frames| {
            frames.recv().await.map(|frame| (frame, frames))
        });
        let end = stream::once(async move {
            is_sent.store(true, Ordering::Release);
            drop(place);
            Ok(Bytes::from(frame(b"")))
        });
        // After a fault of the package no end is sent.
        let mut is_broken = false;
        let frames = stream::iter([Ok(Bytes::from(frame(job)))]).chain(package).chain(end);
        Body::from_stream(frames.take_while(move |frame| {
            let goes_on = !is_broken;
            is_broken |= frame.is_err();
            std::future::ready(goes_on)
        }))
    }

    /// Reads what the task reports, and writes its lines beside it: a slow database costs lines, and no time of the task.
    async fn follow(&self, output: Body) -> Outcome {
        let (lines, unwritten) = mpsc::unbounded_channel();
        let mut writing = std::pin::pin!(self.write_lines(unwritten).fuse());
        let outcome = tokio::select! {
            outcome = read_messages(output, LineQueue::new(lines)) => outcome,
            // The queue ends first.
            never = (&mut writing).then(|()| std::future::pending()) => never,
        };
        let _ = tokio::time::timeout(LAST_LINES_TIMEOUT, writing).await;
        outcome
    }

    /// Writes lines until their queue ends. Those that cannot be written are lost: the task matters more than its log.
    async fn write_lines(&self, mut unwritten: mpsc::UnboundedReceiver<Line>) {
        let mut lines = Vec::new();
        while let Some(first) = unwritten.recv().await {
            lines.push(first);
            let more = async {
                while lines.len() < MAX_WRITTEN_LINES
                    && let Some(line) = unwritten.recv().await
                {
                    lines.push(line);
                }
            };
            // Lines that come together share a connection.
            let _ = tokio::time::timeout(WRITE_INTERVAL, more).await;
            let written = tokio::time::timeout(WRITE_TIMEOUT, self.write(&lines)).await;
            lines.clear();
            let error = match written {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.into_text(),
                Err(_) => "it took too long".to_owned(),
            };
            tracing::warn!(tenant = %self.tenant.id, error, "output of a task not written");
            let text = "Lines before this one could not be written.".to_owned();
            lines.push((TaskOutput::Platform, text));
            if unwritten.is_closed() {
                // The task has ended, and its end is to be recorded.
                return;
            }
        }
    }

    async fn write(&self, lines: &[Line]) -> Result<(), WorkError> {
        let Attempt { app, tenant, execution, task, number } = *self;
        let texts: Vec<_> =
            lines.iter().map(|(output, text)| (output.as_str(), text.as_str())).collect();
        let mut conn = open(app, tenant).await?;
        let of = (task.name.as_str(), number);
        tenant_executions::add_lines(&mut conn, execution.id, of, app.clock.now(), &texts).await?;
        Ok(())
    }
}

async fn read_messages(output: Body, mut lines: LineQueue) -> Outcome {
    let mut messages = std::pin::pin!(messages(output));
    loop {
        match messages.next().await {
            Some(TaskMessage::Line { output, text }) => lines.add(output, &text),
            Some(TaskMessage::Ended { failure: None, result }) => return succeeded(result),
            Some(TaskMessage::Ended { failure: Some(failure), .. }) => {
                return Outcome::Failed(bounded(&failure));
            }
            None => return Outcome::Failed("The tenant ended while the task ran.".to_owned()),
        }
    }
}

/// Refuses a result above the bound that the program of PID 1 keeps: another program sent it.
fn succeeded(result: Option<Value>) -> Outcome {
    let failed = |why: &str| Outcome::Failed(why.to_owned());
    match &result {
        Some(value) if value.to_string().len() > MAX_RESULT_BYTES => {
            failed("Its result is too large.")
        }
        Some(value) if printed_len(value) > tenant_executions::MAX_OUTPUT_BYTES => failed(
            "Its result is too large with all digits of its numbers. Leave such numbers as texts.",
        ),
        Some(value) if has_nul(value) => failed("Its result holds the character U+0000."),
        Some(value) if has_huge_number(value) => {
            failed("Its result holds a number above 1e300. Leave such numbers as texts.")
        }
        Some(_) | None => Outcome::Succeeded(result),
    }
}

/// Reads the pieces of an archive, one after the other. A failure ends the archive early, which the reader notices.
async fn send_pieces(app: App, tenant: Tenant, package: uuid::Uuid, pieces: mpsc::Sender<Vec<u8>>) {
    let mut open_conn: Option<WorkConnection> = None;
    // The tenant owns the table, and could add pieces without end.
    for number in 0..MAX_PIECES {
        let place = match pieces.try_reserve() {
            Ok(place) => place,
            Err(_) => {
                // A tenant that reads slowly keeps no connection from the others.
                open_conn = None;
                let Ok(place) = pieces.reserve().await else { return };
                place
            }
        };
        let read = async {
            let conn = match &mut open_conn {
                Some(conn) => conn,
                None => open_conn.insert(open(&app, &tenant).await?),
            };
            Ok::<_, WorkError>(tenant_workflows::package_piece(conn, package, number).await?)
        };
        match read.await {
            Ok(Some(piece)) if !piece.is_empty() => place.send(piece),
            Ok(_) => return,
            Err(error) => {
                let error = error.into_text();
                tracing::warn!(tenant = %tenant.id, error, "reading a package failed");
                return;
            }
        }
    }
}

/// Sends what an archive holds as frames.
fn unpack(archive: PieceReader, frames: &mpsc::Sender<io::Result<Bytes>>) {
    let read = || -> io::Result<()> {
        let mut unpacked = package::decompress(archive)?.take(MAX_UNPACKED_BYTES);
        loop {
            let mut piece = Vec::with_capacity(MAX_FRAME_BYTES / 4);
            let bound = u64::try_from(piece.capacity()).unwrap_or(u64::MAX);
            if unpacked.by_ref().take(bound).read_to_end(&mut piece)? == 0 {
                return Ok(());
            }
            if frames.blocking_send(Ok(frame(&piece).into())).is_err() {
                return Ok(());
            }
        }
    };
    if let Err(error) = read() {
        // The receiver is gone once the attempt has ended.
        let _ = frames.blocking_send(Err(error));
    }
}

/// Reads the pieces as one stream, until the receiver is gone: a large archive may unpack to little.
struct PieceReader {
    pieces: mpsc::Receiver<Vec<u8>>,
    frames: mpsc::Sender<io::Result<Bytes>>,
    piece: io::Cursor<Vec<u8>>,
}

impl PieceReader {
    fn new(pieces: mpsc::Receiver<Vec<u8>>, frames: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Self { pieces, frames, piece: io::Cursor::default() }
    }
}

impl BufRead for PieceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.frames.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.piece.fill_buf()?.is_empty()
            && let Some(piece) = self.pieces.blocking_recv()
        {
            self.piece = io::Cursor::new(piece);
        }
        self.piece.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.piece.consume(amount);
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// Parses the messages of a task. An invalid message ends the stream, and so do more than [`MAX_MESSAGES_BYTES`].
fn messages(output: Body) -> impl Stream<Item = TaskMessage> {
    let begin = (output.into_data_stream(), Vec::new(), 0_usize);
    stream::unfold(begin, async |(mut pieces, mut read, mut total)| {
        let mut searched = 0;
        loop {
            let new = read.get(searched..).unwrap_or_default();
            if let Some(end) = new.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = read.drain(..=searched + end).collect();
                let message = serde_json::from_slice(&line).ok()?;
                return Some((message, (pieces, read, total)));
            }
            searched = read.len();
            if searched > MAX_MESSAGE_BYTES || total > MAX_MESSAGES_BYTES {
                return None;
            }
            let piece: Bytes = pieces.next().await?.ok()?;
            total += piece.len();
            read.extend_from_slice(&piece);
        }
    })
}

type Line = (TaskOutput, String);

/// Takes lines to be written, up to a bound on all of an attempt.
struct LineQueue {
    lines: mpsc::UnboundedSender<Line>,
    bytes: usize,
}

impl LineQueue {
    fn new(lines: mpsc::UnboundedSender<Line>) -> Self {
        Self { lines, bytes: 0 }
    }

    fn add(&mut self, output: TaskOutput, text: &str) {
        let printable = |c: &char| !c.is_control() || *c == '\t';
        let text: String = text.chars().filter(printable).take(MAX_LINE_BYTES).collect();
        self.bytes = self.bytes.saturating_add(counted_bytes(text.len()));
        // The program of PID 1 keeps a lower bound, and reports when it is reached.
        if self.bytes <= 2 * MAX_OUTPUT_BYTES {
            // The receiver outlives the task.
            let _ = self.lines.send((output, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_an_attempt_are_bounded_however_short() {
        for (text, kept) in
            [("", 2 * MAX_OUTPUT_BYTES / 100), (&*"x".repeat(999), 2 * MAX_OUTPUT_BYTES / 1_000)]
        {
            let (sender, mut lines) = mpsc::unbounded_channel();
            let mut queue = LineQueue::new(sender);
            (0..100_000).for_each(|_| queue.add(TaskOutput::Stdout, text));
            assert_eq!(lines.len(), kept);
            assert_eq!(lines.try_recv().unwrap(), (TaskOutput::Stdout, text.to_owned()));
        }
    }

    #[test]
    fn a_result_counts_with_all_digits_of_its_numbers() {
        let numbers = |count: usize| Some(Value::from(vec![1e300; count]));
        assert_eq!(succeeded(numbers(400)), Outcome::Succeeded(numbers(400)));
        assert!(matches!(succeeded(numbers(10_000)), Outcome::Failed(_)));
    }
}
