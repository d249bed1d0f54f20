//! A command in a tenant, with this process's input, output and terminal.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use protocol::exec::{ClientMessage, Output, ServerMessage, TerminalSize};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGTERM, SIGWINCH};
use signal_hook::{flag, low_level};
use tungstenite::Message;

use crate::context::Context;
use crate::error::CliError;
use crate::http::{Broken, Request, Socket, segment};

/// Less than the longest message that the server takes.
const PIECE_BYTES: usize = 16 << 10;
/// A shell reports a command that a signal ended with this number plus the number of the signal.
const SIGNAL_BASE: i64 = 128;

/// How a command ended.
enum End {
    /// With this exit code.
    Exited(i64),
    /// By a signal to this process.
    Signal(usize),
    /// The server could not find out how the command ended; the text is the reason.
    Unknown(String),
    Broken,
}

impl From<Broken> for End {
    fn from(_: Broken) -> Self {
        Self::Broken
    }
}

/// Runs a command and returns its exit code. An empty `argv` is the shell of the tenant's image.
///
/// # Errors
/// The server refuses, the connection breaks, or the output cannot be written.
pub(crate) fn run(
    context: &Context<'_>,
    slug: &str,
    argv: &[String],
    wants_terminal: bool,
) -> Result<i64, CliError> {
    let environment = context.environment;
    let has_terminal =
        wants_terminal && environment.is_stdin_terminal && environment.is_stdout_terminal;
    let size = has_terminal.then(terminal_size);
    let path = format!("/v1/tenants/{}/exec", segment(slug));
    let command = (!argv.is_empty()).then(|| serde_json::json!(argv).to_string());
    let request = Request::get(path, format!("run a command in tenant {slug}"))
        .query("command", command.as_deref())
        .query("columns", size.map(|size| size.columns.to_string()).as_deref())
        .query("rows", size.map(|size| size.rows.to_string()).as_deref());
    let socket = context.client()?.websocket(&request)?;
    let failed = |error: io::Error| {
        CliError::failed(format!("cannot {}", request.title))
            .because(format!("this terminal cannot be used: {error}"))
            .next("try again without one: --no-tty")
    };
    let signals = SignalWatch::new().map_err(failed)?;
    // From here on the keys of the terminal, Ctrl-C too, are the command's.
    let raw = has_terminal.then(RawTerminal::enter).transpose().map_err(failed)?;
    let end = Relay { socket, signals, has_terminal }.run();
    drop(raw);
    match end {
        Ok(End::Exited(code)) => Ok(code),
        Ok(End::Signal(number)) => Ok(SIGNAL_BASE + i64::try_from(number).unwrap_or_default()),
        Ok(End::Unknown(why)) => Err(CliError::failed(format!(
            "the exit code of the command in tenant {slug} is not known"
        ))
        .because(why.trim_end_matches('.'))),
        Ok(End::Broken) => Err(explain_break(context, slug)),
        Err(error) => Err(CliError::failed("cannot write the command's output").because(error)),
    }
}

/// The server ends the connection without a message when the key is revoked or the role is lost; the next call says so.
fn explain_break(context: &Context<'_>, slug: &str) -> CliError {
    let path = format!("/v1/tenants/{}", segment(slug));
    match context.call(&Request::get(path, format!("go on with the command in tenant {slug}"))) {
        Err(error) => error,
        Ok(_) => CliError::failed(format!("the command in tenant {slug} was ended"))
            .of_connection()
            .because("the connection to the server broke")
            .next(format!("look at the tenant, then try again: cial tenants get {slug}")),
    }
}

struct Relay {
    socket: Socket,
    signals: SignalWatch,
    has_terminal: bool,
}

impl Relay {
    /// Passes everything on until the command ends.
    ///
    /// # Errors
    /// The output cannot be written.
    fn run(mut self) -> io::Result<End> {
        let stdin = io::stdin();
        let mut is_open = true;
        loop {
            if let Some(end) = self.print_received()? {
                return Ok(end);
            }
            if let Some(end) = self.signals.ended() {
                return Ok(end);
            }
            if self.has_terminal && self.signals.take_resized() {
                let resize = ClientMessage::Resize(terminal_size());
                if self.send(resize).is_err() {
                    return Ok(End::Broken);
                }
            }
            let Ok(is_flushed) = self.socket.flush() else { return Ok(End::Broken) };
            let wanted = if is_flushed { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            let mut waits = vec![
                PollFd::new(&self.socket, wanted),
                PollFd::new(&self.signals.pipe, PollFlags::IN),
            ];
            // Input that the server does not take yet stays where it is.
            if is_open && is_flushed {
                waits.push(PollFd::new(&stdin, PollFlags::IN));
            }
            match poll(&mut waits, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let has_input = waits.get(2).is_some_and(|wait| !wait.revents().is_empty());
            drop(waits);
            if has_input && let Some(end) = self.read_input(&mut is_open) {
                return Ok(end);
            }
        }
    }

    /// Everything that has arrived, first of all: TLS may hold more than the connection shows.
    fn print_received(&mut self) -> io::Result<Option<End>> {
        loop {
            let message = match self.socket.receive() {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(None),
                Err(broken) => return Ok(Some(broken.into())),
            };
            match message {
                Message::Binary(bytes) => print(&bytes)?,
                Message::Text(text) => {
                    return Ok(Some(match serde_json::from_str(&text) {
                        Ok(ServerMessage::Exited(code)) => End::Exited(code),
                        Ok(ServerMessage::Failed(why)) => End::Unknown(why),
                        Err(_) => End::Unknown("the server's message is not understood".to_owned()),
                    }));
                }
                Message::Close(_) => return Ok(Some(End::Broken)),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    fn read_input(&mut self, is_open: &mut bool) -> Option<End> {
        let mut piece = [0_u8; PIECE_BYTES];
        let sent = match rustix::io::read(io::stdin().as_fd(), &mut piece) {
            Err(Errno::INTR | Errno::AGAIN) => Ok(()),
            Ok(0) | Err(_) => {
                *is_open = false;
                self.send(ClientMessage::EndOfInput)
            }
            Ok(read) => self.socket.send(Message::binary(piece[..read].to_vec())),
        };
        sent.err().map(End::from)
    }

    fn send(&mut self, message: ClientMessage) -> Result<(), Broken> {
        self.socket.send(Message::text(serde_json::json!(message).to_string()))
    }
}

fn print(message: &[u8]) -> io::Result<()> {
    let Some((kind, bytes)) = message.split_first() else { return Ok(()) };
    if Output::from_byte(*kind) == Some(Output::Error) {
        let mut stream = io::stderr().lock();
        stream.write_all(bytes)?;
        return stream.flush();
    }
    let mut stream = io::stdout().lock();
    stream.write_all(bytes)?;
    stream.flush()
}

/// The size of this terminal; a common one where it says none.
fn terminal_size() -> TerminalSize {
    let size = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or(TerminalSize { columns: 80, rows: 24 }, |size| TerminalSize {
        columns: size.ws_col,
        rows: size.ws_row,
    })
}

/// The signals that concern a command.
struct SignalWatch {
    /// Readable after a signal.
    pipe: UnixStream,
    was_resized: Arc<AtomicBool>,
    ended_by: Arc<AtomicUsize>,
}

impl SignalWatch {
    fn new() -> io::Result<Self> {
        let (pipe, wakes) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let (was_resized, ended_by) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        flag::register(SIGWINCH, Arc::clone(&was_resized))?;
        low_level::pipe::register(SIGWINCH, wakes.try_clone()?)?;
        for signal in [SIGTERM, SIGHUP] {
            let number = usize::try_from(signal).unwrap_or_default();
            flag::register_usize(signal, Arc::clone(&ended_by), number)?;
            low_level::pipe::register(signal, wakes.try_clone()?)?;
        }
        Ok(Self { pipe, was_resized, ended_by })
    }

    fn take_resized(&self) -> bool {
        self.was_resized.swap(false, Ordering::Relaxed)
    }

    fn ended(&self) -> Option<End> {
        // Empties the pipe, so that the next wait is one.
        let _ = rustix::io::read(&self.pipe, &mut [0_u8; 64]);
        let number = self.ended_by.load(Ordering::Relaxed);
        (number > 0).then_some(End::Signal(number))
    }
}

/// The terminal as it was before, for every way out of the process.
static BEFORE: OnceLock<Termios> = OnceLock::new();

/// A terminal that passes every key on, until it is dropped.
struct RawTerminal;

impl RawTerminal {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        if BEFORE.set(before).is_ok() {
            // A panic ends the process without unwinding.
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore_terminal();
                report(panic);
            }));
        }
        let entered = Self;
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(entered)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore_terminal();
    }
}

fn restore_terminal() {
    if let Some(before) = BEFORE.get() {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, before);
    }
}
