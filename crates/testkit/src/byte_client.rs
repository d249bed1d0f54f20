//! A client that sends bytes as they are written and reads what comes back, on a blocking connection.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::clock;

/// No step of a test takes this long, even on a busy machine; a longer wait never ends.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One connection. Every wait panics after [`PATIENCE`].
pub struct ByteClient {
    pub stream: TcpStream,
    /// Received, and not yet read by the test.
    held: Vec<u8>,
}

/// A response with a length or without a body.
#[derive(Debug)]
pub struct ByteResponse {
    pub status: u16,
    /// As received, with the empty line at its end.
    pub head: String,
    pub body: String,
}

impl ByteClient {
    /// # Panics
    /// The address cannot be connected to.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        Self { stream, held: Vec::new() }
    }

    /// # Panics
    /// The other end has closed.
    pub fn send(&mut self, text: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(text.as_ref()).expect("the other end reads");
        self
    }

    /// Returns the input up to and including `end`.
    ///
    /// # Panics
    /// The other end closes before.
    pub fn until(&mut self, end: &str) -> String {
        let text = self.try_until(end);
        text.unwrap_or_else(|| {
            panic!("closed before {end:?}: {:?}", String::from_utf8_lossy(&self.held))
        })
    }

    /// Like [`ByteClient::until`]; `None` when the other end closes before.
    pub fn try_until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.held.windows(end.len()).position(|w| w == end.as_bytes()) {
                let all: Vec<_> = self.held.drain(..at + end.len()).collect();
                return Some(String::from_utf8_lossy(&all).into_owned());
            }
            if !self.receive() {
                return None;
            }
        }
    }

    /// # Panics
    /// The other end closes inside the response.
    pub fn response(&mut self) -> ByteResponse {
        let head = self.until("\r\n\r\n");
        let length = content_length(&head);
        while self.held.len() < length {
            assert!(self.receive(), "closed inside a body");
        }
        let body: Vec<_> = self.held.drain(..length).collect();
        let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
        ByteResponse { status, head, body: String::from_utf8_lossy(&body).into_owned() }
    }

    /// Returns all input until the other end closes; an abort is an end as well.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.receive() {}
        self.taken()
    }

    /// Like [`ByteClient::rest`], as text.
    pub fn rest_text(&mut self) -> String {
        String::from_utf8_lossy(&self.rest()).into_owned()
    }

    /// Like [`ByteClient::rest_text`].
    ///
    /// # Errors
    /// The other end aborted; the error is the text until then.
    pub fn whole(&mut self) -> Result<String, String> {
        let mut bytes = self.taken();
        let ended = self.stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if ended.is_ok() { Ok(text) } else { Err(text) }
    }

    /// Returns the input that has been received beyond what the test read.
    pub fn taken(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Closes the half of the connection that sends.
    ///
    /// # Panics
    /// The connection is closed already.
    pub fn close_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("an open connection");
    }

    /// Returns whether something was received before the end.
    fn receive(&mut self) -> bool {
        let mut bytes = [0; 65_536];
        let count = match self.stream.read(&mut bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("{error}"),
        };
        self.held.extend_from_slice(&bytes[..count]);
        count > 0
    }
}

impl ByteResponse {
    /// Whether the head contains this text, whatever its case.
    pub fn has(&self, text: &str) -> bool {
        self.head.to_ascii_lowercase().contains(&text.to_ascii_lowercase())
    }

    /// Returns the code of a problem.
    ///
    /// # Panics
    /// The response is no problem.
    pub fn code(&self) -> String {
        assert!(self.has("content-type: application/problem+json"), "{self:?}");
        let problem: Value = serde_json::from_str(&self.body).unwrap_or_default();
        problem["code"].as_str().map(str::to_owned).unwrap_or_else(|| panic!("{self:?}"))
    }

    /// Status, head and body.
    pub fn into_parts(self) -> (u16, String, String) {
        (self.status, self.head, self.body)
    }
}

fn content_length(head: &str) -> usize {
    let lower = head.to_ascii_lowercase();
    let value = lower.split_once("content-length: ").map(|(_, rest)| rest.split('\r').next());
    value.flatten().map_or(0, |digits| digits.parse().expect("a number"))
}

/// Waits for a condition that no event reports, on a thread of its own.
///
/// # Panics
/// The condition does not hold within [`PATIENCE`].
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = clock::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
