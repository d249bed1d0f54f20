//! An incremental decoder of the chunked transfer coding (RFC 9112 §7.1) that checks every byte.

/// The position in a chunked body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChunkedDecoder {
    at: ChunkState,
    /// The chunk size parsed so far, then the bytes of chunk data still to come.
    left: u64,
    /// Bytes of chunk extensions that the payload has not paid for yet.
    extensions: usize,
    payload: u64,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    Size { digits: u8 },
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    End,
}

/// The kind of a prefix of the input. Never longer than the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkPart {
    /// Valid chunk sizes, extensions and line ends.
    Framing(usize),
    /// Chunk data.
    Data(usize),
    /// A part of the trailer section, which the decoder stores. The last part when
    /// [`ChunkedDecoder::is_done`] holds afterwards.
    Trailers(usize),
}

const MAX_SIZE_DIGITS: u8 = 16;
const MAX_EXTENSION_BYTES: usize = 1 << 10;
/// Payload pays for extensions, so that their bound does not depend on how long a stream lasts.
const EXTENSION_BYTES_PER_PAYLOAD_BYTE: u64 = 16;
const MAX_TRAILER_BYTES: usize = 8 << 10;

impl ChunkedDecoder {
    pub(crate) fn new() -> Self {
        let at = ChunkState::Size { digits: 0 };
        Self { at, left: 0, extensions: 0, payload: 0, trailers: Vec::new() }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at == ChunkState::End
    }

    /// Whether the next part belongs to the trailer section.
    pub(crate) fn is_in_trailers(&self) -> bool {
        self.at == ChunkState::Trailers
    }

    /// Payload bytes announced by the chunk sizes so far.
    pub(crate) fn payload(&self) -> u64 {
        self.payload
    }

    /// The trailer section as received, including its empty line. Complete once the decoder is done.
    pub(crate) fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Consumes a prefix of `input`, which must not be empty.
    ///
    /// # Errors
    /// Names the violated rule. The decoder must not be used afterwards.
    pub(crate) fn next(&mut self, input: &[u8]) -> Result<ChunkPart, &'static str> {
        match self.at {
            ChunkState::Data => {
                let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
                self.left -= count as u64;
                if self.left == 0 {
                    self.at = ChunkState::DataCr;
                }
                Ok(ChunkPart::Data(count))
            }
            ChunkState::Trailers => self.keep_trailers(input),
            ChunkState::End => Ok(ChunkPart::Framing(0)),
            ChunkState::Size { .. }
            | ChunkState::Extension
            | ChunkState::SizeLf
            | ChunkState::DataCr
            | ChunkState::DataLf => {
                let mut count = 0;
                for byte in input {
                    if matches!(self.at, ChunkState::Data | ChunkState::Trailers) {
                        break;
                    }
                    self.step(*byte)?;
                    count += 1;
                }
                Ok(ChunkPart::Framing(count))
            }
        }
    }

    fn step(&mut self, byte: u8) -> Result<(), &'static str> {
        self.at = match (self.at, byte) {
            (ChunkState::Size { digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == MAX_SIZE_DIGITS {
                    return Err("A chunk's size has too many digits.");
                }
                let value = char::from(byte).to_digit(16).unwrap_or(0);
                self.left = (self.left << 4) | u64::from(value);
                ChunkState::Size { digits: digits + 1 }
            }
            (ChunkState::Size { digits: 1.. }, b';') => ChunkState::Extension,
            (ChunkState::Size { digits: 1.. } | ChunkState::Extension, b'\r') => ChunkState::SizeLf,
            (ChunkState::Extension, b'\t' | b' '..=b'~') => {
                self.extensions += 1;
                if self.extensions > MAX_EXTENSION_BYTES {
                    return Err("The chunk extensions are too long.");
                }
                ChunkState::Extension
            }
            (ChunkState::SizeLf, b'\n') => {
                self.payload = self.payload.saturating_add(self.left);
                let paid = self.left.saturating_mul(EXTENSION_BYTES_PER_PAYLOAD_BYTE);
                let paid = usize::try_from(paid).unwrap_or(usize::MAX);
                self.extensions = self.extensions.saturating_sub(paid);
                if self.left == 0 { ChunkState::Trailers } else { ChunkState::Data }
            }
            (ChunkState::DataCr, b'\r') => ChunkState::DataLf,
            (ChunkState::DataLf, b'\n') => ChunkState::Size { digits: 0 },
            _ => return Err("A chunk breaks the grammar."),
        };
        Ok(())
    }

    fn keep_trailers(&mut self, input: &[u8]) -> Result<ChunkPart, &'static str> {
        for (at, byte) in input.iter().enumerate() {
            let after_cr = self.trailers.last() == Some(&b'\r');
            if after_cr != (*byte == b'\n') {
                return Err("A line of the trailers ends with a bare CR or LF.");
            }
            self.trailers.push(*byte);
            if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
                self.at = ChunkState::End;
                return Ok(ChunkPart::Trailers(at + 1));
            }
            if self.trailers.len() > MAX_TRAILER_BYTES {
                return Err("The trailers are too long.");
            }
        }
        Ok(ChunkPart::Trailers(input.len()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the payload and the consumed length when `text` arrives `step` bytes at a time.
    fn fed(text: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), &'static str> {
        let (mut chunks, mut data, mut at) = (ChunkedDecoder::new(), Vec::new(), 0);
        while at < text.len() && !chunks.is_done() {
            let input = &text[at..(at + step).min(text.len())];
            at += match chunks.next(input)? {
                ChunkPart::Framing(count) | ChunkPart::Trailers(count) => count,
                ChunkPart::Data(count) => {
                    data.extend_from_slice(&input[..count]);
                    count
                }
            };
        }
        Ok((data, at, chunks.is_done()))
    }

    #[test]
    fn bodies_by_the_table() {
        let long = format!("{}\r\n", "0".repeat(17));
        let wide = format!("1;{}\r\n", "e".repeat(1100));
        for (text, data) in [
            ("0\r\n\r\n", Some("")),
            ("5\r\nhello\r\n0\r\n\r\n", Some("hello")),
            ("5;a=b\r\nhello\r\n0;last\r\n\r\n", Some("hello")),
            ("a\r\n0123456789\r\nA\r\n0123456789\r\n00\r\n\r\n", Some("01234567890123456789")),
            ("1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\n", Some("x")),
            ("5\nhello\r\n0\r\n\r\n", None),
            ("5\r\nhello\n0\r\n\r\n", None),
            ("5\r\nhelloX\r\n0\r\n\r\n", None),
            ("5 \r\nhello\r\n0\r\n\r\n", None),
            (" 5\r\nhello\r\n0\r\n\r\n", None),
            ("+5\r\nhello\r\n0\r\n\r\n", None),
            ("0x5\r\nhello\r\n0\r\n\r\n", None),
            ("\r\n\r\n", None),
            (";a\r\n", None),
            ("5;a\nb\r\n", None),
            ("5;a\rb\r\n", None),
            ("5;\0\r\n", None),
            ("g\r\n", None),
            ("0\r\nA: b\n\r\n", None),
            ("0\r\nA: b\r\r\n", None),
            ("0\r\n\n", None),
            (long.as_str(), None),
            (wide.as_str(), None),
        ] {
            let seen = fed(text.as_bytes(), usize::MAX >> 1);
            let wanted = data.map(|d| (d.as_bytes().to_vec(), text.len(), true));
            assert_eq!(seen.ok(), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_long_stream_may_have_extensions_in_proportion_to_its_payload() {
        let mut stream = "2;ping=1234567890\r\n:\n\r\n".repeat(5_000);
        stream.push_str("0\r\n\r\n");
        assert_eq!(fed(stream.as_bytes(), 1 << 20).unwrap().0.len(), 10_000);
        let greedy = format!("1;{}\r\nx\r\n", "e".repeat(500)).repeat(4);
        assert!(fed(greedy.as_bytes(), 1 << 20).is_err());
    }

    #[test]
    fn what_follows_a_body_is_not_part_of_it() {
        let seen = fed(b"1\r\nx\r\n0\r\n\r\nGET / HTTP/1.1\r\n", 1 << 20).unwrap();
        assert_eq!(seen, (b"x".to_vec(), 11, true));
    }

    proptest! {
        #[test]
        fn the_pace_of_arrival_changes_nothing(
            text in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), Just(b';'), Just(b'a')], 0..40),
            step in 1_usize..5,
        ) {
            let (slow, fast) = (fed(&text, step), fed(&text, 1 << 20));
            prop_assert_eq!(slow, fast);
        }

        #[test]
        fn any_body_comes_through_at_any_pace(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            step in 1_usize..9,
        ) {
            let mut text = Vec::new();
            for part in &parts {
                text.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                text.extend_from_slice(part);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\nx-sum: 1\r\n\r\n");
            prop_assert_eq!(fed(&text, step), Ok((parts.concat(), text.len(), true)));
        }
    }
}
