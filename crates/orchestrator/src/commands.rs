//! Commands in tenants: their bounds, and the relay between a command of a person and its reader.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use protocol::TenantId;
use protocol::exec::{ClientMessage, Output, ServerMessage};
use tokio::io::AsyncWriteExt as _;
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

use crate::driver::{CommandControl, RunningCommand};

/// The origin of a command. Each kind has places of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandKind {
    /// A person, or a person's script.
    Person,
    /// A workflow: one attempt of a task.
    Task,
}

impl CommandKind {
    /// Concurrent commands in all tenants.
    pub const fn limit(self) -> usize {
        match self {
            Self::Person => 32,
            Self::Task => 128,
        }
    }

    /// Concurrent commands in one tenant: most places are left to the others. Workflows run one task at a time.
    pub const fn limit_per_tenant(self) -> usize {
        match self {
            Self::Person => 4,
            Self::Task => 1,
        }
    }
}

/// A reader that does not respond to two pings in a row is gone. Pings also keep proxies in between from closing a quiet
/// connection.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// A reader that takes no output for this long counts as gone: it would hold a place, and keep its tenant awake. A person may
/// pause the output in a terminal, so the time is long.
const READ_TIMEOUT: Duration = Duration::from_secs(600);
/// The longest message of a client.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// The commands under way.
#[derive(Debug, Default)]
pub struct Commands {
    running: Mutex<HashMap<(CommandKind, TenantId), usize>>,
    shutdown: CancellationToken,
    relays: TaskTracker,
}

/// A place for one command, until it is dropped.
#[derive(Debug)]
pub struct CommandSlot {
    commands: Arc<Commands>,
    kind: CommandKind,
    tenant: TenantId,
}

impl Commands {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn current(&self, kind: CommandKind) -> usize {
        count(&self.lock(), kind)
    }

    /// Takes a place; `None` at the bound of the tenant, or of all tenants.
    pub(crate) fn begin(
        self: &Arc<Self>,
        kind: CommandKind,
        tenant: TenantId,
    ) -> Option<CommandSlot> {
        let mut running = self.lock();
        let own = running.get(&(kind, tenant)).copied().unwrap_or_default();
        if count(&running, kind) >= kind.limit() || own >= kind.limit_per_tenant() {
            return None;
        }
        running.insert((kind, tenant), own + 1);
        Some(CommandSlot { commands: self.clone(), kind, tenant })
    }

    pub(crate) fn spawn(&self, relay: impl Future<Output = ()> + Send + 'static) {
        self.relays.spawn(relay);
    }

    /// Ends all commands, because their readers lose the connection.
    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Waits for the ended commands, for a bounded time.
    pub(crate) async fn wait_for_ends(&self) {
        self.relays.close();
        if tokio::time::timeout(END_TIMEOUT, self.relays.wait()).await.is_err() {
            tracing::warn!("shutdown leaves commands in tenants");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(CommandKind, TenantId), usize>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(running: &HashMap<(CommandKind, TenantId), usize>, kind: CommandKind) -> usize {
    running.iter().filter(|((of, _), _)| *of == kind).map(|(_, count)| count).sum()
}

impl Drop for CommandSlot {
    fn drop(&mut self) {
        let mut running = self.commands.lock();
        let place = (self.kind, self.tenant);
        if let Some(count) = running.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                running.remove(&place);
            }
        }
    }
}

/// The state that both directions of a relay share.
#[derive(Default)]
struct Liveness {
    /// Whether the reader sent anything since the last ping.
    has_received: AtomicBool,
    /// Whether input waits for the command, so that nothing is read from the reader.
    is_writing: AtomicBool,
}

impl CommandSlot {
    /// Resolves when this process shuts down.
    pub(crate) fn shutdown(&self) -> WaitForCancellationFutureOwned {
        self.commands.shutdown.clone().cancelled_owned()
    }

    /// Relays between a command and the WebSocket of its reader until the command ends. Ends the command when the reader
    /// leaves, or this process shuts down.
    pub(crate) async fn relay<S>(self, socket: S, command: RunningCommand)
    where
        S: Stream<Item = tungstenite::Result<Message>>
            + Sink<Message, Error = tungstenite::Error>
            + Send,
    {
        let (mut sink, stream) = socket.split();
        let RunningCommand { input, output, handle } = command;
        let (liveness, control) = (Liveness::default(), handle.control());
        let has_ended = tokio::select! {
            ended = send_output(&mut sink, output, &liveness) => ended,
            () = read_messages(stream, input, &*control, &liveness) => false,
            () = self.commands.shutdown.cancelled() => false,
        };
        if !has_ended {
            tracing::info!(tenant = %self.tenant, "command ended: its reader left");
            handle.end().await;
            return;
        }
        let last = match control.exit_code().await {
            Ok(code) => {
                handle.finished();
                ServerMessage::Exited(code)
            }
            Err(error) => ServerMessage::Failed(error.detail),
        };
        let text = serde_json::to_string(&last).unwrap_or_default();
        let tell = async {
            sink.send(Message::text(text)).await?;
            sink.close().await
        };
        // A reader that left needs no exit code.
        let _ = tokio::time::timeout(END_TIMEOUT, tell).await;
    }
}

/// Returns whether the output ended, and not the reader.
async fn send_output<S: Sink<Message> + Unpin>(
    sink: &mut S,
    mut output: impl Stream<Item = std::io::Result<(Output, Bytes)>> + Unpin,
    liveness: &Liveness,
) -> bool {
    let mut ping = tokio::time::interval(PING_INTERVAL);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is immediate.
    ping.tick().await;
    let mut unanswered = 0;
    loop {
        let message = tokio::select! {
            piece = output.next() => match piece {
                Some(Ok((kind, bytes))) => to_message(kind, &bytes),
                // The exit code says whether the command or its container ended.
                Some(Err(_)) | None => return true,
            },
            _ = ping.tick() => {
                let has_received = liveness.has_received.swap(false, Ordering::Relaxed);
                let is_silent = !has_received && !liveness.is_writing.load(Ordering::Relaxed);
                unanswered = if is_silent { unanswered + 1 } else { 0 };
                if unanswered > 2 {
                    return false;
                }
                Message::Ping(Bytes::new())
            }
        };
        match tokio::time::timeout(READ_TIMEOUT, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return false,
        }
    }
}

fn to_message(kind: Output, bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(kind as u8);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

/// Returns when the reader has left.
async fn read_messages(
    mut stream: impl Stream<Item = tungstenite::Result<Message>> + Unpin,
    input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
    control: &dyn CommandControl,
    liveness: &Liveness,
) {
    // `None` once the command takes no more input.
    let mut input = Some(input);
    while let Some(Ok(message)) = stream.next().await {
        liveness.has_received.store(true, Ordering::Relaxed);
        match message {
            Message::Binary(bytes) => {
                let Some(open) = &mut input else { continue };
                liveness.is_writing.store(true, Ordering::Relaxed);
                let written = async {
                    open.write_all(&bytes).await?;
                    open.flush().await
                }
                .await;
                liveness.is_writing.store(false, Ordering::Relaxed);
                if written.is_err() {
                    input = None;
                }
            }
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(ClientMessage::Resize(size)) => {
                    // The command may have ended meanwhile.
                    let _ = control.resize(size).await;
                }
                Ok(ClientMessage::EndOfInput) => {
                    if let Some(mut open) = input.take() {
                        let _ = open.shutdown().await;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "message of a command's reader not understood");
                    return;
                }
            },
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            Message::Close(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{sink, stream};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn commands_of_each_kind_are_bounded_for_each_tenant_and_in_all() {
        let commands = Arc::new(Commands::new());
        let tenant = || TenantId::new(Uuid::new_v4());
        let first = tenant();
        let mut held = Vec::new();
        for kind in [CommandKind::Person, CommandKind::Task] {
            let own: Vec<_> = (0..kind.limit_per_tenant())
                .map(|_| commands.begin(kind, first).unwrap())
                .collect();
            assert!(commands.begin(kind, first).is_none());
            let rest = kind.limit() - own.len();
            held.extend((0..rest).map(|_| commands.begin(kind, tenant()).unwrap()));
            assert!(commands.begin(kind, tenant()).is_none());
            assert_eq!(commands.current(kind), kind.limit());
            drop(own);
            held.extend(commands.begin(kind, first));
            assert_eq!(commands.current(kind), rest + 1);
        }
        drop(held);
        assert!(commands.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_gone_after_a_while() {
        let stuck =
            sink::unfold((), async |(), _: Message| std::future::pending::<Result<(), ()>>().await);
        let output = stream::iter([Ok((Output::Standard, Bytes::from_static(b"x")))]);
        let has_ended = send_output(&mut Box::pin(stuck), output, &Liveness::default()).await;
        assert!(!has_ended);
    }
}
