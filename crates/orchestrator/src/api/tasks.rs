//! One attempt of a task in a tenant: see [`protocol::tasks`]. The body of the request is its input, that of the response its output.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use protocol::exec::Output;
use protocol::problem::Code;
use service::api_error::ApiError;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::input::TenantPath;
use super::{driver_failure, exec, leases};
use crate::commands::{CommandKind, CommandSlot, Commands};
use crate::driver::{CommandHandle, CommandOutput, RunningCommand};
use crate::operations::Operations;
use crate::sleep::{AwakeHold, SleepController};

/// Bounds the transfer of a package into the tenant. Without it, a tenant that reads too slowly would keep its place forever:
/// that the caller left is noticed only while the body is read.
const INPUT_TIMEOUT: Duration = Duration::from_secs(120);
/// The length of the program's own message in one line of the log.
const MAX_LOGGED_CHARS: usize = 300;

/// Wakes a tenant that rests, and keeps it awake while the task runs. Responds once the whole input is in the tenant.
pub(super) async fn run(
    State(sleep): State<Arc<SleepController>>,
    State(operations): State<Arc<Operations>>,
    State(commands): State<Arc<Commands>>,
    TenantPath(id): TenantPath,
    body: Body,
) -> Result<Response, ApiError> {
    let kind = CommandKind::Task;
    let slot = commands.begin(kind, id).ok_or_else(|| exec::too_many(kind))?;
    let hold = sleep.hold_awake(id).await.map_err(leases::lease_failure)?;
    let RunningCommand { input, output, handle } =
        operations.start_task(id).await.map_err(driver_failure)?;
    let shutdown = Box::pin(slot.shutdown());
    let place = Some(Place { handle, _hold: hold, _slot: slot });
    let mut running = RunningTask { output, shutdown, place, input };
    let sent = tokio::time::timeout(INPUT_TIMEOUT, send_input(body, &mut running.input)).await;
    let late = || ApiError::new(Code::EngineTimeout, "The tenant did not read its input in time.");
    sent.map_err(|_| late())??;
    let mut response = Body::from_stream(running.into_messages()).into_response();
    let content_type = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

async fn send_input(
    body: Body,
    input: &mut Pin<Box<dyn AsyncWrite + Send>>,
) -> Result<(), ApiError> {
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        // Without the rest of the input the task cannot begin. It ends when its place is dropped.
        let piece = piece.map_err(|_| ApiError::new(Code::InvalidBody, "The body ended early."))?;
        if input.write_all(&piece).await.is_err() {
            // The program has ended, and its output has the reason.
            return Ok(());
        }
    }
    let _ = input.flush().await;
    Ok(())
}

/// A task whose output is read. Dropping it ends the task, and then lets the tenant rest and run the next one.
struct RunningTask {
    output: BoxStream<'static, std::io::Result<CommandOutput>>,
    /// Resolves when this process shuts down.
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    /// `None` once the task has ended.
    place: Option<Place>,
    /// Open as long as somebody reads the output.
    input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// The place of a task, held until none of its processes is left: two tasks of a tenant never run side by side.
struct Place {
    handle: CommandHandle,
    _hold: AwakeHold,
    _slot: CommandSlot,
}

impl Place {
    async fn end(self) {
        self.handle.end().await;
    }

    /// Handles the end of the output. The program of PID 1 ends the processes that the task left, unless it was killed.
    async fn settle(self) {
        match self.handle.control().exit_code().await {
            Ok(0) => self.handle.finished(),
            Ok(_) | Err(_) => self.handle.end().await,
        }
    }
}

impl Drop for RunningTask {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            tokio::spawn(place.end());
        }
    }
}

impl RunningTask {
    /// The messages of the task. What its program writes to the error output is not among them.
    fn into_messages(self) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
        stream::unfold(self, async |mut task| {
            loop {
                let piece = tokio::select! {
                    piece = task.output.next() => piece,
                    () = &mut task.shutdown => {
                        if let Some(place) = task.place.take() {
                            place.end().await;
                        }
                        return None;
                    }
                };
                match piece {
                    Some(Ok((Output::Standard, bytes))) => return Some((Ok(bytes), task)),
                    Some(Ok((Output::Error, bytes))) => {
                        // The tenant can write here as much as it likes.
                        let text = String::from_utf8_lossy(&bytes);
                        let text: String = text.chars().take(MAX_LOGGED_CHARS).collect();
                        tracing::debug!(error = %text.escape_debug(), "program of a task failed");
                    }
                    Some(Err(error)) => return Some((Err(error), task)),
                    None => {
                        if let Some(place) = task.place.take() {
                            place.settle().await;
                        }
                        return None;
                    }
                }
            }
        })
    }
}
