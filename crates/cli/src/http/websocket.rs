//! A WebSocket of the API, for a command that waits for more than one thing: no call blocks after the handshake.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::handshake::HandshakeError;
use tungstenite::{Message, WebSocket};
use ureq::http::{HeaderValue, header};

use super::client::{Client, USER_AGENT};
use super::failure::{transport_error, wrong_server};
use super::request::Request;
use super::response::Response;
use super::tls;
use crate::config::ServerUrl;
use crate::error::CliError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than the server takes to wake a tenant.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(90);
/// A server that the network lost is noticed after about this time, also while nobody types.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// More than any problem has.
const MAX_PROBLEM_BYTES: u64 = 64 << 10;

/// A connection with or without TLS.
enum Transport {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// The handshake owns its connection, and a refusal is read from the same one.
#[derive(Clone)]
struct SharedTransport(Rc<RefCell<Transport>>);

/// An open WebSocket.
pub(crate) struct Socket {
    socket: WebSocket<SharedTransport>,
    /// The same connection, to wait for.
    tcp: TcpStream,
}

/// The connection ended before its protocol did.
#[derive(Debug)]
pub(crate) struct Broken;

impl Read for SharedTransport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut *self.0.borrow_mut() {
            Transport::Plain(stream) => stream.read(buffer),
            Transport::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for SharedTransport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.0.borrow_mut() {
            Transport::Plain(stream) => stream.write(bytes),
            Transport::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut *self.0.borrow_mut() {
            Transport::Plain(stream) => stream.flush(),
            Transport::Tls(stream) => stream.flush(),
        }
    }
}

impl Socket {
    /// Returns a message that has arrived, if one has.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn receive(&mut self) -> Result<Option<Message>, Broken> {
        match self.socket.read() {
            Ok(message) => Ok(Some(message)),
            Err(error) if would_block(&error) => Ok(None),
            Err(_) => Err(Broken),
        }
    }

    /// Queues a message; [`flush`](Self::flush) sends it.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn send(&mut self, message: Message) -> Result<(), Broken> {
        match self.socket.write(message) {
            Err(error) if !would_block(&error) => Err(Broken),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Sends what is queued. Returns whether everything was sent.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn flush(&mut self) -> Result<bool, Broken> {
        match self.socket.flush() {
            Ok(()) => Ok(true),
            Err(error) if would_block(&error) => Ok(false),
            Err(_) => Err(Broken),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

fn would_block(error: &tungstenite::Error) -> bool {
    matches!(error, tungstenite::Error::Io(error) if error.kind() == ErrorKind::WouldBlock)
}

impl Client {
    /// Opens a WebSocket. A proxy of the environment is not used.
    ///
    /// # Errors
    /// There is no connection, or the server refuses.
    pub(crate) fn websocket(&self, request: &Request) -> Result<Socket, CliError> {
        let failed =
            |error: io::Error| transport_error(request, &self.server, &ureq::Error::Io(error));
        let url = &self.server.url;
        let tcp = connect(url).map_err(failed)?;
        let transport = match url.is_https() {
            true => secure(url, tcp.try_clone().map_err(failed)?).map_err(failed)?,
            false => Transport::Plain(tcp.try_clone().map_err(failed)?),
        };
        let transport = SharedTransport(Rc::new(RefCell::new(transport)));
        let head = self.handshake(request).map_err(|error| failed(io::Error::other(error)))?;
        match tungstenite::client(head, transport.clone()) {
            Ok((socket, response)) => {
                self.note_facts(response.headers());
                tcp.set_nonblocking(true).map_err(failed)?;
                Ok(Socket { socket, tcp })
            }
            Err(HandshakeError::Failure(tungstenite::Error::Http(head))) => {
                let response = read_refusal(*head, transport).map_err(failed)?;
                self.note_facts(&response.headers);
                match self.check(request, response.clone()) {
                    Ok(_) => Err(wrong_server(request, &self.server, &response)),
                    Err(error) => Err(error),
                }
            }
            Err(HandshakeError::Failure(tungstenite::Error::Io(error))) => Err(failed(error)),
            Err(HandshakeError::Failure(error)) => Err(failed(io::Error::other(error))),
            Err(HandshakeError::Interrupted(_)) => Err(failed(ErrorKind::TimedOut.into())),
        }
    }

    fn handshake(
        &self,
        request: &Request,
    ) -> Result<tungstenite::handshake::client::Request, tungstenite::Error> {
        let address = self.server.url.join(&request.path);
        // `http` becomes `ws`, and `https` `wss`.
        let address = format!("ws{}", address.trim_start_matches("http"));
        let mut head = address.into_client_request()?;
        let headers = head.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if let Some(key) = self.key() {
            headers.insert(header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {key}"))?);
        }
        Ok(head)
    }
}

fn connect(url: &ServerUrl) -> io::Result<TcpStream> {
    let mut last = io::Error::from(ErrorKind::NotFound);
    for address in (url.host(), url.port()).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(tcp) => {
                tcp.set_nodelay(true)?;
                tcp.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
                tcp.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
                watch_silence(&tcp)?;
                return Ok(tcp);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Makes the kernel ask whether the server is still there.
fn watch_silence(tcp: &TcpStream) -> io::Result<()> {
    const PROBES: u32 = 4;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, SILENCE_TIMEOUT / PROBES)?;
    sockopt::set_tcp_keepintvl(tcp, SILENCE_TIMEOUT / PROBES)?;
    sockopt::set_tcp_keepcnt(tcp, PROBES)?;
    Ok(())
}

fn secure(url: &ServerUrl, tcp: TcpStream) -> io::Result<Transport> {
    let name = ServerName::try_from(url.host().to_owned()).map_err(io::Error::other)?;
    let config = tls::client_config().map_err(io::Error::other)?;
    let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    Ok(Transport::Tls(Box::new(StreamOwned::new(connection, tcp))))
}

/// Reads the rest of a response that is no handshake.
fn read_refusal(
    head: tungstenite::handshake::client::Response,
    transport: SharedTransport,
) -> io::Result<Response> {
    let (head, begun) = head.into_parts();
    let mut body = begun.unwrap_or_default();
    let length = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length: u64 = length.and_then(|value| value.parse().ok()).unwrap_or_default();
    let begun = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let rest = length.min(MAX_PROBLEM_BYTES).saturating_sub(begun);
    transport.take(rest).read_to_end(&mut body)?;
    Ok(Response { status: head.status, headers: head.headers, body })
}
