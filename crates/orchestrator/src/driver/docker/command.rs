//! Runs a command in a tenant's container, as `agent`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, StatusCode, header};
use bollard::Docker as Client;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use protocol::TenantId;
use protocol::exec::{ExecCommand, Output, TerminalSize};
use protocol::inside::{self, AGENT_UID, supervisor_commands};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::UnixStream;
use uuid::Uuid;

use super::container::labels_of;
use super::engine::{ACTION_TIMEOUT, INSPECT_TIMEOUT, driver_error, optional, with_timeout};
use super::{DockerDriver, disk_error};
use crate::driver::{
    CommandControl, CommandOutput, DriverError, DriverErrorCode, DriverFuture, RunningCommand,
};

/// The longest piece of output.
const MAX_PIECE_BYTES: usize = 16 << 10;
const MAX_ERROR_BYTES: usize = 64 << 10;

/// The engine learns of a command's end from the container's runtime, a little after the output's end.
const EXIT_CODE_STEP: Duration = Duration::from_millis(20);
const EXIT_CODE_TIMEOUT: Duration = Duration::from_secs(10);

struct EngineCommand {
    client: Client,
    /// The engine's id of the command.
    exec: String,
    /// The id by which the processes of the command are found.
    id: String,
    container: String,
    supervisor: String,
}

impl DockerDriver {
    pub(super) async fn run_command(
        &self,
        id: TenantId,
        command: &ExecCommand,
    ) -> Result<RunningCommand, DriverError> {
        self.run_in_tenant(id, supervisor_commands::RUN, command).await
    }

    /// Runs the program of PID 1 with a subcommand of [`supervisor_commands`] and the arguments of `command`.
    pub(super) async fn run_in_tenant(
        &self,
        id: TenantId,
        subcommand: &str,
        command: &ExecCommand,
    ) -> Result<RunningCommand, DriverError> {
        let client = self.engine.client().await?;
        let name = id.container();
        let container = optional(INSPECT_TIMEOUT, client.inspect_container(&name, None)).await?;
        let container = container.ok_or_else(|| DriverError::no_such_tenant(id))?;
        self.claim("container", &name, labels_of(&container), id)?;
        // The program of PID 1, whatever the image.
        let entrypoint = container.config.and_then(|config| config.entrypoint).unwrap_or_default();
        let supervisor = entrypoint.into_iter().next().unwrap_or_else(|| "supervisor".to_owned());
        let container = container.id.unwrap_or(name);
        let command_id = Uuid::new_v4().to_string();
        let mut env = vec![format!("{}={command_id}", inside::COMMAND_ID)];
        let variables = self.tenant_dirs.variables(id).map_err(|error| disk_error(&error))?;
        // The engine shows the environment of a command to nobody.
        env.extend(variables.map(|json| format!("{}={json}", inside::COMMAND_VARIABLES)));
        let ours = [supervisor.clone(), subcommand.to_owned()];
        let is_terminal = command.terminal.is_some();
        let created = client.create_exec(
            &container,
            CreateExecOptions {
                attach_stdin: Some(true),
                attach_stdout: Some(true),
                attach_stderr: Some(true),
                tty: Some(is_terminal),
                env: Some(env),
                cmd: Some(ours.into_iter().chain(command.argv.iter().cloned()).collect()),
                // By number, with the group: what the image's own files call the user does not count.
                user: Some(agent()),
                ..CreateExecOptions::default()
            },
        );
        let exec = with_timeout(ACTION_TIMEOUT, created).await?.id;
        let attached = self.attach(&client, &exec, is_terminal);
        let attached = tokio::time::timeout(ACTION_TIMEOUT, attached).await;
        let attached = attached.unwrap_or(Err(Error::RequestTimeoutError));
        let stream = attached.map_err(|error| driver_error(&error))?;
        let (output, input) = tokio::io::split(stream);
        let control = EngineCommand { client, exec, id: command_id, container, supervisor };
        let output = OutputReader::new(output, is_terminal).pieces();
        let running = RunningCommand::new(Box::pin(input), output, Arc::new(control));
        if let Some(size) = command.terminal {
            // A terminal of another size is better than none; a command that has ended already has none.
            if let Err(error) = running.handle.control().resize(size).await {
                tracing::debug!(tenant = %id, %error, "terminal not resized");
            }
        }
        Ok(running)
    }

    /// Starts the command and returns the connection of its streams. Not by bollard: its decoder takes what a terminal
    /// shows for a frame when the bytes look like one, and waits for as many bytes as they say.
    async fn attach(
        &self,
        client: &Client,
        exec: &str,
        is_terminal: bool,
    ) -> Result<TokioIo<Upgraded>, Error> {
        let failed = |error: hyper::Error| Error::from(io::Error::other(error));
        let stream = UnixStream::connect(self.engine.socket()).await?;
        let (mut requests, connection) = handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // Ends with the connection, whose error the request has too.
        tokio::spawn(connection.with_upgrades());
        let body = serde_json::json!({ "Detach": false, "Tty": is_terminal }).to_string();
        let request = Request::post(format!("/v{}/exec/{exec}/start", client.client_version()))
            .header(header::HOST, "engine")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "tcp")
            .body(Full::<Bytes>::from(body))
            .map_err(|error| Error::from(io::Error::other(error)))?;
        let response = requests.send_request(request).await.map_err(failed)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return hyper::upgrade::on(response).await.map(TokioIo::new).map_err(failed);
        }
        let status_code = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ERROR_BYTES).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let told = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default();
        let message = told["message"].as_str().unwrap_or("no reason given").to_owned();
        Err(Error::DockerResponseServerError { status_code, message })
    }
}

fn agent() -> String {
    format!("{AGENT_UID}:{AGENT_UID}")
}

/// Reads the output of a command. A terminal's output is bare; any other is in frames: a byte for the kind of output, three
/// of nothing, the length in four, and as many bytes.
struct OutputReader<R> {
    reader: R,
    is_terminal: bool,
    output: Output,
    /// The bytes that are left of the frame.
    left: usize,
}

impl<R: AsyncRead + Unpin + Send + 'static> OutputReader<R> {
    fn new(reader: R, is_terminal: bool) -> Self {
        Self { reader, is_terminal, output: Output::Standard, left: 0 }
    }

    fn pieces(self) -> BoxStream<'static, io::Result<CommandOutput>> {
        stream::try_unfold(self, |mut reader| async move {
            let piece = reader.read().await?;
            io::Result::Ok(piece.map(|piece| (piece, reader)))
        })
        .boxed()
    }

    async fn read(&mut self) -> io::Result<Option<CommandOutput>> {
        while !self.is_terminal && self.left == 0 {
            let mut head = [0; 8];
            if self.reader.read(&mut head[..1]).await? == 0 {
                return Ok(None);
            }
            self.reader.read_exact(&mut head[1..]).await?;
            let [kind, _, _, _, length @ ..] = head;
            self.output = Output::from_byte(kind).unwrap_or(Output::Standard);
            self.left = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
        }
        let bound = if self.is_terminal { MAX_PIECE_BYTES } else { self.left.min(MAX_PIECE_BYTES) };
        let mut piece = BytesMut::with_capacity(bound);
        let bound = u64::try_from(bound).map_err(io::Error::other)?;
        let read = (&mut self.reader).take(bound).read_buf(&mut piece).await?;
        self.left = self.left.saturating_sub(read);
        match read {
            0 if self.is_terminal => Ok(None),
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(Some((self.output, piece.freeze()))),
        }
    }
}

impl EngineCommand {
    async fn read_exit_code(&self) -> Result<i64, DriverError> {
        loop {
            let seen = self.client.inspect_exec(&self.exec).await.map_err(|e| driver_error(&e))?;
            match (seen.running, seen.exit_code) {
                (Some(false), Some(code)) => return Ok(code),
                (Some(_) | None, Some(_) | None) => tokio::time::sleep(EXIT_CODE_STEP).await,
            }
        }
    }

    async fn end_processes(&self) -> Result<(), DriverError> {
        let words = [self.supervisor.as_str(), supervisor_commands::END, &self.id];
        let created = self.client.create_exec(
            &self.container,
            CreateExecOptions {
                cmd: Some(words.map(str::to_owned).to_vec()),
                user: Some(agent()),
                ..CreateExecOptions::default()
            },
        );
        let ending = async {
            let exec = created.await?.id;
            let options = StartExecOptions { detach: true, ..StartExecOptions::default() };
            self.client.start_exec(&exec, Some(options)).await?;
            // It ends after the last process of the command.
            while self.client.inspect_exec(&exec).await?.running == Some(true) {
                tokio::time::sleep(EXIT_CODE_STEP).await;
            }
            Ok(())
        };
        match optional(ACTION_TIMEOUT, ending).await {
            Ok(_) => Ok(()),
            // A container that does not run has no processes.
            Err(error) if error.detail.contains("is not running") => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl CommandControl for EngineCommand {
    fn resize(&self, size: TerminalSize) -> DriverFuture<'_, ()> {
        let TerminalSize { columns: width, rows: height } = size;
        Box::pin(async move {
            let options = ResizeExecOptions { height, width };
            with_timeout(INSPECT_TIMEOUT, self.client.resize_exec(&self.exec, options)).await
        })
    }

    fn exit_code(&self) -> DriverFuture<'_, i64> {
        Box::pin(async move {
            let code = tokio::time::timeout(EXIT_CODE_TIMEOUT, self.read_exit_code()).await;
            code.unwrap_or_else(|_| {
                let detail = "The output of the command ended, and the command did not: it may have closed its output.";
                Err(DriverError::new(DriverErrorCode::EngineTimeout, detail))
            })
        })
    }

    fn end(&self) -> DriverFuture<'_, ()> {
        Box::pin(self.end_processes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(
        bytes: &[u8],
        is_terminal: bool,
    ) -> Vec<Result<(Output, Vec<u8>), io::ErrorKind>> {
        let pieces = OutputReader::new(io::Cursor::new(bytes.to_vec()), is_terminal).pieces();
        let shown = |piece: io::Result<CommandOutput>| {
            piece.map(|(output, bytes)| (output, bytes.to_vec())).map_err(|error| error.kind())
        };
        pieces.map(shown).collect().await
    }

    #[tokio::test]
    async fn frames_become_pieces_of_two_outputs() {
        let bytes = b"\x01\0\0\0\0\0\0\x02ab\x02\0\0\0\0\0\0\x00\x02\0\0\0\0\0\0\x01c";
        let expected = [Ok((Output::Standard, b"ab".to_vec())), Ok((Output::Error, b"c".to_vec()))];
        assert_eq!(read(bytes, false).await, expected);
        let cut = read(&bytes[..9], false).await;
        assert_eq!(cut, [Ok((Output::Standard, b"a".to_vec())), Err(io::ErrorKind::UnexpectedEof)]);
        let long = [b"\x01\0\0\0\0\0\xff\xff".as_slice(), &[7; 0xffff]].concat();
        let pieces = read(&long, false).await;
        assert_eq!(pieces.len(), 4, "no piece is longer than the bound");
    }

    #[tokio::test]
    async fn what_a_terminal_shows_is_no_frame() {
        let looks_like_one = b"\x01\0\0\0\xff\xff\xff\xffa";
        let shown = read(looks_like_one, true).await;
        assert_eq!(shown, [Ok((Output::Standard, looks_like_one.to_vec()))]);
    }
}
