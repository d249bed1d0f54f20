//! A body on its way: how much of what arrived may go out, and in which form.

use crate::chunks::{Chunks, Piece};
use crate::framing::Framing;
use crate::head::Header;
use crate::headers::Headers;
use crate::hop;
use crate::write;

/// Passes each trailer field on, or not.
pub(crate) type Trailer<'a> = &'a mut dyn FnMut(Header<'_>, &mut Headers<'_>);

/// One body, from the framing it came with to the framing it goes out with.
#[derive(Debug)]
pub(crate) enum Body {
    Done,
    Length(u64),
    /// Chunks as chunks.
    Chunked(Chunks),
    /// Chunks for a client that knows none: payload alone, until the connection closes.
    Unwrapped(Chunks),
    /// Until the connection closes, as chunks.
    Wrapped,
    /// Until the connection closes, as it is.
    Raw,
}

/// What became of a prefix of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Took {
    /// Goes out as it is.
    Raw(usize),
    /// Was consumed; what is to go out was appended.
    Copied(usize),
}

impl Body {
    /// A body that goes out as it came.
    pub(crate) fn through(framing: Framing) -> Self {
        match framing {
            Framing::Empty | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunks::new()),
            Framing::Close => Self::Raw,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Bytes of payload announced so far by a body that tells no length beforehand.
    pub(crate) fn announced(&self) -> u64 {
        match self {
            Self::Chunked(chunks) | Self::Unwrapped(chunks) => chunks.payload(),
            Self::Done | Self::Length(_) | Self::Wrapped | Self::Raw => 0,
        }
    }

    /// Takes a prefix of `input`, which is not empty.
    pub(crate) fn take(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        trailer: Trailer<'_>,
    ) -> Result<Took, &'static str> {
        match self {
            Self::Done => Ok(Took::Raw(0)),
            Self::Raw => Ok(Took::Raw(input.len())),
            Self::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= count as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Took::Raw(count))
            }
            Self::Wrapped => {
                write::chunk(input, out);
                Ok(Took::Copied(input.len()))
            }
            Self::Chunked(chunks) => {
                let took = pass(chunks, input, out, trailer)?;
                if chunks.is_done() {
                    *self = Self::Done;
                }
                Ok(took)
            }
            Self::Unwrapped(chunks) => {
                let took = unwrap(chunks, input, out)?;
                if chunks.is_done() {
                    *self = Self::Done;
                }
                Ok(took)
            }
        }
    }

    /// The sender closed. `false` when the body is not whole.
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Done => true,
            Self::Raw => {
                *self = Self::Done;
                true
            }
            Self::Wrapped => {
                out.extend_from_slice(b"0\r\n\r\n");
                *self = Self::Done;
                true
            }
            Self::Length(_) | Self::Chunked(_) | Self::Unwrapped(_) => false,
        }
    }
}

/// As much as is sound goes out raw; trailers are kept back until they are whole, and filtered.
fn pass(
    chunks: &mut Chunks,
    input: &[u8],
    out: &mut Vec<u8>,
    trailer: Trailer<'_>,
) -> Result<Took, &'static str> {
    let mut raw = 0;
    while raw < input.len() {
        if chunks.is_in_trailers() {
            if raw > 0 {
                break;
            }
            return keep_trailers(chunks, input, out, trailer);
        }
        match chunks.next(&input[raw..]) {
            Ok(Piece::Framing(count) | Piece::Data(count) | Piece::Trailers(count)) => raw += count,
            Err(rule) => return Err(rule),
        }
    }
    Ok(Took::Raw(raw))
}

fn keep_trailers(
    chunks: &mut Chunks,
    input: &[u8],
    out: &mut Vec<u8>,
    trailer: Trailer<'_>,
) -> Result<Took, &'static str> {
    let (Piece::Framing(count) | Piece::Data(count) | Piece::Trailers(count)) =
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
        for field in fields.iter().filter(|f| !hop::is_barred_from_trailers(f.name)) {
            trailer(Header { name: field.name, value: field.value }, &mut headers);
        }
        out.extend_from_slice(b"\r\n");
    }
    Ok(Took::Copied(count))
}

fn unwrap(chunks: &mut Chunks, input: &[u8], out: &mut Vec<u8>) -> Result<Took, &'static str> {
    let mut at = 0;
    while at < input.len() && !chunks.is_done() {
        at += match chunks.next(&input[at..])? {
            Piece::Framing(count) | Piece::Trailers(count) => count,
            Piece::Data(count) => {
                out.extend_from_slice(&input[at..at + count]);
                count
            }
        };
    }
    Ok(Took::Copied(at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that goes out for `input`, fed `step` bytes at a time, and whether the body ended.
    fn sent(mut body: Body, input: &[u8], step: usize) -> Result<(String, bool), &'static str> {
        let (mut out, mut at) = (Vec::new(), 0);
        while at < input.len() && !body.is_done() {
            let part = &input[at..(at + step).min(input.len())];
            let keep: Trailer<'_> = &mut |header, to| to.keep(header);
            match body.take(part, &mut out, keep)? {
                Took::Raw(count) => {
                    out.extend_from_slice(&part[..count]);
                    at += count;
                }
                Took::Copied(count) => at += count,
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
            assert_eq!(sent(Body::Unwrapped(Chunks::new()), text), ("hi".into(), true));
            assert!(!sent(chunked(), "2\r\nhi\r\n0\r\n").1, "cut off before its empty line");
            assert_eq!(sent(Body::Raw, "hi"), ("hi".into(), true));
        }
        let (wrapped, whole) = sent(Body::Wrapped, b"hi", 100).unwrap();
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
