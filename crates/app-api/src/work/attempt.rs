//! One attempt of a task: sends the package into the tenant, and keeps what comes back.
//!
//! A tenant can forge every message about its task. The size of a message is bounded, and a message changes only records of the
//! tenant itself.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::{Stream, StreamExt as _, stream};
use package::{MAX_UNPACKED_BYTES, Task};
use protocol::problem::Code;
use protocol::tasks::{
    MAX_FRAME_BYTES, MAX_JOB_BYTES, MAX_LINE_BYTES, MAX_OUTPUT_BYTES, MAX_RESULT_BYTES, TaskJob,
    TaskMessage, TaskOutput, frame,
};
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::MissedTickBehavior;

use super::{WorkError, has_nul, open};
use crate::app::App;
use crate::db::tenant_executions::{self, ExecutionRow};
use crate::db::tenant_packages::PIECE_BYTES;
use crate::db::tenant_workflows;
use crate::tenant::Tenant;
use crate::tenant_databases::WorkConnection;

/// How long a wake, the way of the package into the tenant and the end of a task may take, beside the task itself.
const OVERHEAD_TIMEOUT: Duration = Duration::from_secs(300);
/// Output is written at least this often while there is some.
const FLUSH_INTERVAL: Duration = Duration::from_secs(2);
const MAX_UNWRITTEN_LINES: usize = 200;
/// The pieces of the largest archive.
const MAX_PIECES: i32 = 96;
const _: () = assert!(96 * PIECE_BYTES >= package::MAX_BYTES);
/// Far above the largest message.
const MAX_MESSAGE_BYTES: usize = 512 << 10;
/// Far above all output of a task as messages.
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
    /// With what the task left as its result.
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
    /// Runs the task with the `results` of those before it. `place`: one of those that send a package.
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
        if error.code() == Some(Code::TooManyCommands.as_str()) {
            return Outcome::Queued;
        }
        tracing::warn!(tenant = %self.tenant.id, %error, "task not started");
        if error.code() == Some(Code::TenantStopped.as_str()) {
            return Outcome::Failed("The tenant is stopped.".to_owned());
        }
        // After a refusal no program begins, however much was sent.
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

    async fn follow(&self, output: Body) -> Outcome {
        let mut log = Log::new(*self);
        let mut messages = std::pin::pin!(messages(output));
        let mut ticks = tokio::time::interval(FLUSH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outcome = loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(TaskMessage::Line { output, text }) => log.add(output, &text).await,
                    Some(TaskMessage::Ended { failure: None, result }) => break succeeded(result),
                    Some(TaskMessage::Ended { failure: Some(failure), .. }) => {
                        break Outcome::Failed(bounded(&failure));
                    }
                    None => {
                        break Outcome::Failed("The tenant ended while the task ran.".to_owned());
                    }
                },
                _ = ticks.tick() => log.flush().await,
            }
        };
        log.flush().await;
        outcome
    }
}

/// The program inside keeps the same bound; what another program says instead of it does not count.
fn succeeded(result: Option<Value>) -> Outcome {
    let failed = |why: &str| Outcome::Failed(why.to_owned());
    match &result {
        Some(value) if value.to_string().len() > MAX_RESULT_BYTES => {
            failed("Its result is too large.")
        }
        Some(value) if has_nul(value) => failed("Its result holds the character U+0000."),
        Some(_) | None => Outcome::Succeeded(result),
    }
}

/// Reads the pieces of an archive, one after the other. A failure ends the archive early, which the reader notices.
async fn send_pieces(app: App, tenant: Tenant, package: uuid::Uuid, pieces: mpsc::Sender<Vec<u8>>) {
    let mut open_conn: Option<WorkConnection> = None;
    // The tenant owns the table, and may make pieces without end of it.
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

/// Reads what arrives in pieces, until nobody wants the content any more: an archive can hold much that unpacks to nothing.
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

/// The messages of a task. What is none ends the stream, and so does more than a task can have to say.
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

/// Lines that are not written yet.
struct Log<'a> {
    attempt: Attempt<'a>,
    lines: Vec<(TaskOutput, String)>,
    bytes: usize,
}

impl<'a> Log<'a> {
    fn new(attempt: Attempt<'a>) -> Self {
        Self { attempt, lines: Vec::new(), bytes: 0 }
    }

    async fn add(&mut self, output: TaskOutput, text: &str) {
        let printable = |c: &char| !c.is_control() || *c == '\t';
        let text: String = text.chars().filter(printable).take(MAX_LINE_BYTES).collect();
        self.bytes = self.bytes.saturating_add(text.len() + 1);
        // The program inside keeps the same bound, and says when it is reached.
        if self.bytes > 2 * MAX_OUTPUT_BYTES {
            return;
        }
        self.lines.push((output, text));
        if self.lines.len() >= MAX_UNWRITTEN_LINES {
            self.flush().await;
        }
    }

    async fn flush(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        let Attempt { app, tenant, execution, task, number } = self.attempt;
        let texts: Vec<_> =
            lines.iter().map(|(output, text)| (output.as_str(), text.as_str())).collect();
        let written = async {
            let mut conn = open(app, tenant).await?;
            let of = (task.name.as_str(), number);
            tenant_executions::add_lines(&mut conn, execution.id, of, app.clock.now(), &texts)
                .await?;
            Ok::<_, WorkError>(())
        };
        // The task matters more than its log.
        if let Err(error) = written.await {
            let error = error.into_text();
            tracing::warn!(tenant = %tenant.id, error, "output of a task not written");
        }
    }
}
