//! Reads HTTP/1.1 responses with minimal cost. These responses are known to be well-formed and to
//! contain their length.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Above 64 KiB, so that a large response takes few calls.
const ROOM: usize = 128 * 1024;

/// A connection for repeated requests.
pub(crate) struct Connection<S> {
    stream: S,
    room: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, room: vec![0; ROOM] }
    }

    /// Sends the request, reads the whole response and discards it.
    ///
    /// # Errors
    /// The connection ends, or the response lacks status 200 or a length.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await?;
        let mut had = 0;
        let (head, length) = loop {
            let count = self.stream.read(&mut self.room[had..]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            had += count;
            if let Some(end) = end_of_head(&self.room[..had]) {
                break (end, length(&self.room[..end])?);
            }
        };
        while had < head + length {
            let count = self.stream.read(&mut self.room).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            had += count;
        }
        Ok(())
    }
}

/// Returns the offset of the body.
pub(crate) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// Returns the body length of a successful response.
fn length(head: &[u8]) -> io::Result<usize> {
    let text = std::str::from_utf8(head).map_err(io::Error::other)?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    if status != "200" {
        return Err(io::Error::other(format!("answered {status:?}")));
    }
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    length.ok_or_else(|| io::Error::other("an answer without a length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_answer_with_a_length_counts() {
        let cases = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 600\r\n\r\n", Some(600)),
            ("HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 0\r\n\r\n", Some(0)),
            ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 600\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ];
        for (head, expected) in cases {
            assert_eq!(length(head.as_bytes()).ok(), expected, "{head}");
        }
        assert_eq!(end_of_head(b"a\r\n\r\nbody"), Some(5));
        assert_eq!(end_of_head(b"a\r\n\r"), None);
    }
}
