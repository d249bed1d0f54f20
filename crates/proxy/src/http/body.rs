//! The transfer of a body: how much of the input may be sent, and in which framing.

use crate::http::chunks::{ChunkPart, ChunkedDecoder};
use crate::http::framing::Framing;
use crate::http::head::Header;
use crate::http::headers::Headers;
use crate::http::hop_by_hop;
use crate::http::write;

/// Writes each trailer field, or omits the field.
pub(crate) type Trailer<'a> = &'a mut dyn FnMut(Header<'_>, &mut Headers<'_>);

/// A body in transit, from the framing in which it arrives to the framing in which it leaves.
#[derive(Debug)]
pub(crate) enum Body {
    Done,
    Length(u64),
    /// Arrives chunked and leaves chunked.
    Chunked(ChunkedDecoder),
    /// Arrives chunked and leaves as plain payload, ended by closing: for HTTP/1.0 clients.
    Dechunked(ChunkedDecoder),
    /// Arrives until close and leaves chunked.
    Chunking,
    /// Arrives until close and leaves unchanged.
    UntilClose,
}

/// The treatment of a prefix of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consumed {
    /// The prefix may be sent unchanged.
    AsIs(usize),
    /// The prefix is consumed; its replacement was appended to the output.
    Rewritten(usize),
}

impl Body {
    /// A body that leaves in the framing in which it arrives.
    pub(crate) fn through(framing: Framing) -> Self {
        match framing {
            Framing::Empty | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(ChunkedDecoder::new()),
            Framing::Close => Self::UntilClose,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Payload bytes announced so far by a body without `Content-Length`.
    pub(crate) fn announced(&self) -> u64 {
        match self {
            Self::Chunked(chunks) | Self::Dechunked(chunks) => chunks.payload(),
            Self::Done | Self::Length(_) | Self::Chunking | Self::UntilClose => 0,
        }
    }

    /// Consumes a prefix of `input`, which must not be empty.
    pub(crate) fn take(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        trailer: Trailer<'_>,
    ) -> Result<Consumed, &'static str> {
        match self {
            Self::Done => Ok(Consumed::AsIs(0)),
            Self::UntilClose => Ok(Consumed::AsIs(input.len())),
            Self::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= count as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Consumed::AsIs(count))
            }
            Self::Chunking => {
                write::chunk(input, out);
                Ok(Consumed::Rewritten(input.len()))
            }
            Self::Chunked(chunks) => {
                let took = pass(chunks, input, out, trailer)?;
                if chunks.is_done() {
                    *self = Self::Done;
                }
                Ok(took)
            }
            Self::Dechunked(chunks) => {
                let took = dechunk(chunks, input, out)?;
                if chunks.is_done() {
                    *self = Self::Done;
                }
                Ok(took)
            }
        }
    }

    /// Ends the body after the sender closed. Returns `false` when the body is incomplete.
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Done => true,
            Self::UntilClose => {
                *self = Self::Done;
                true
            }
            Self::Chunking => {
                out.extend_from_slice(b"0\r\n\r\n");
                *self = Self::Done;
                true
            }
            Self::Length(_) | Self::Chunked(_) | Self::Dechunked(_) => false,
        }
    }
}

/// Passes valid chunks unchanged. Keeps trailers back until they are complete, then filters them.
fn pass(
    chunks: &mut ChunkedDecoder,
    input: &[u8],
    out: &mut Vec<u8>,
    trailer: Trailer<'_>,
) -> Result<Consumed, &'static str> {
    let mut raw = 0;
    while raw < input.len() {
        if chunks.is_in_trailers() {
            if raw > 0 {
                break;
            }
            return keep_trailers(chunks, input, out, trailer);
        }
        match chunks.next(&input[raw..]) {
            Ok(ChunkPart::Framing(count) | ChunkPart::Data(count) | ChunkPart::Trailers(count)) => {
                raw += count
            }
            Err(rule) => return Err(rule),
        }
    }
    Ok(Consumed::AsIs(raw))
}

fn keep_trailers(
    chunks: &mut ChunkedDecoder,
    input: &[u8],
    out: &mut Vec<u8>,
    trailer: Trailer<'_>,
) -> Result<Consumed, &'static str> {
    let (ChunkPart::Framing(count) | ChunkPart::Data(count) | ChunkPart::Trailers(count)) =
        chunks.next(input)?;
    if chunks.is_done() {
        let mut room = [httparse::EMPTY_HEADER; 64];
        let fields = match httparse::parse_headers(chunks.trailers(), &mut room) {
            Ok(httparse::Status::Complete((_, fields))) => fields,
            Ok(httparse::Status::Partial) | Err(_) => {
                return Err("The trailers break the grammar.");
            }
        };
        let mut headers = Headers::new(out);
        for field in fields.iter().filter(|f| !hop_by_hop::is_barred_from_trailers(f.name)) {
            trailer(Header { name: field.name, value: field.value }, &mut headers);
        }
        out.extend_from_slice(b"\r\n");
    }
    Ok(Consumed::Rewritten(count))
}

fn dechunk(
    chunks: &mut ChunkedDecoder,
    input: &[u8],
    out: &mut Vec<u8>,
) -> Result<Consumed, &'static str> {
    let mut at = 0;
    while at < input.len() && !chunks.is_done() {
        at += match chunks.next(&input[at..])? {
            ChunkPart::Framing(count) | ChunkPart::Trailers(count) => count,
            ChunkPart::Data(count) => {
                out.extend_from_slice(&input[at..at + count]);
                count
            }
        };
    }
    Ok(Consumed::Rewritten(at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the output for `input` fed `step` bytes at a time, and whether the body is complete.
    fn sent(mut body: Body, input: &[u8], step: usize) -> Result<(String, bool), &'static str> {
        let (mut out, mut at) = (Vec::new(), 0);
        while at < input.len() && !body.is_done() {
            let part = &input[at..(at + step).min(input.len())];
            let keep: Trailer<'_> = &mut |header, to| to.keep(header);
            match body.take(part, &mut out, keep)? {
                Consumed::AsIs(count) => {
                    out.extend_from_slice(&part[..count]);
                    at += count;
                }
                Consumed::Rewritten(count) => at += count,
            }
        }
        let whole = body.close(&mut out);
        Ok((String::from_utf8_lossy(&out).into_owned(), whole))
    }

    fn chunked() -> Body {
        Body::through(Framing::Chunked)
    }

    #[test]
    fn bodies_end_where_their_framing_says() {
        for step in [1, 2, 3, 100] {
            let sent = |body, text: &str| sent(body, text.as_bytes(), step).unwrap();
            let five = || Body::through(Framing::Length(5));
            assert_eq!(sent(five(), "helloGET /"), ("hello".into(), true));
            assert_eq!(sent(five(), "hell"), ("hell".into(), false));
            let text = "2\r\nhi\r\n0\r\n\r\n";
            assert_eq!(sent(chunked(), &format!("{text}GET /")), (text.into(), true));
            assert_eq!(sent(Body::Dechunked(ChunkedDecoder::new()), text), ("hi".into(), true));
            assert!(!sent(chunked(), "2\r\nhi\r\n0\r\n").1, "cut off before its empty line");
            assert_eq!(sent(Body::UntilClose, "hi"), ("hi".into(), true));
        }
        let (wrapped, whole) = sent(Body::Chunking, b"hi", 100).unwrap();
        assert_eq!((wrapped.as_str(), whole), ("2\r\nhi\r\n0\r\n\r\n", true));
    }

    #[test]
    fn trailers_pass_unless_they_would_reframe_or_reroute() {
        let text = "0\r\nX-Sum: 1\r\nContent-Length: 5\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\
                    Authorization: x\r\nX-More: 2\r\n\r\n";
        for step in [1, 5, 1000] {
            let (out, whole) = sent(chunked(), text.as_bytes(), step).unwrap();
            assert_eq!((out.as_str(), whole), ("0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n", true));
        }
        assert!(sent(chunked(), b"0\r\nno colon\r\n\r\n", 100).is_err());
        assert!(sent(chunked(), b"0\r\nx : 1\r\n\r\n", 100).is_err());
    }

    proptest! {
        #[test]
        fn the_pace_of_arrival_changes_nothing_that_goes_out(
            parts in proptest::collection::vec("[a-z]{1,20}", 0..5),
            more in "[a-z0-9;\r\n]{0,12}",
            step in 1_usize..7,
        ) {
            let mut text = String::new();
            for part in &parts {
                text.push_str(&format!("{:x}\r\n{part}\r\n", part.len()));
            }
            text.push_str(&more);
            let (slow, fast) = (sent(chunked(), text.as_bytes(), step), sent(chunked(), text.as_bytes(), 1 << 16));
            prop_assert_eq!(slow, fast);
        }
    }
}
