//! A command that runs in a tenant's container.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use protocol::exec::{Output, TerminalSize};
use tokio::io::AsyncWrite;

use super::DriverFuture;

/// The engine's calls about one command.
pub trait CommandControl: Send + Sync + 'static {
    fn resize(&self, size: TerminalSize) -> DriverFuture<'_, ()>;
    /// The exit code, once the output has ended.
    fn exit_code(&self) -> DriverFuture<'_, i64>;
    /// Ends every process of the command.
    fn end(&self) -> DriverFuture<'_, ()>;
}

/// A piece of output.
pub type CommandOutput = (Output, Bytes);

/// A command and its streams. A command that is dropped before [`finished`](CommandHandle::finished) is ended: no process of it
/// outlives its reader. Must be dropped inside a runtime.
pub struct RunningCommand {
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// Ends with the command.
    pub output: BoxStream<'static, std::io::Result<CommandOutput>>,
    pub handle: CommandHandle,
}

/// Ends its command when dropped, unless the command has ended.
pub struct CommandHandle {
    control: Arc<dyn CommandControl>,
    has_ended: bool,
}

impl RunningCommand {
    pub fn new(
        input: Pin<Box<dyn AsyncWrite + Send>>,
        output: BoxStream<'static, std::io::Result<CommandOutput>>,
        control: Arc<dyn CommandControl>,
    ) -> Self {
        Self { input, output, handle: CommandHandle { control, has_ended: false } }
    }
}

impl CommandHandle {
    pub fn control(&self) -> Arc<dyn CommandControl> {
        self.control.clone()
    }

    /// Ends the command and waits for its end.
    pub async fn end(mut self) {
        end(&*self.control).await;
        self.has_ended = true;
    }

    /// The command ended by itself. What it left in the background goes on.
    pub fn finished(mut self) {
        self.has_ended = true;
    }
}

impl Drop for CommandHandle {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let control = self.control();
        tokio::spawn(async move { end(&*control).await });
    }
}

async fn end(control: &dyn CommandControl) {
    if let Err(error) = control.end().await {
        tracing::warn!(%error, "command not ended");
    }
}
