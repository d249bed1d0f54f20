//! The chunked coding (RFC 9112 §7.1), checked byte by byte as it passes.

/// Where in a chunked body we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    at: At,
    /// Of this chunk's size so far, then of its data still to come.
    left: u64,
    /// Bytes of chunk extensions so far, over the whole body.
    extensions: usize,
    payload: u64,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size { digits: u8 },
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    End,
}

/// What a prefix of the input is. Never longer than the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Sizes and line ends, sound.
    Framing(usize),
    /// Payload.
    Data(usize),
    /// Kept back: a part of the trailers, or of the empty line in their place. The last one when
    /// [`Chunks::is_done`] holds afterwards.
    Trailers(usize),
}

const SIZE_DIGITS: u8 = 16;
const EXTENSIONS_LIMIT: usize = 1 << 10;
const TRAILERS_LIMIT: usize = 8 << 10;

impl Chunks {
    pub(crate) fn new() -> Self {
        let at = At::Size { digits: 0 };
        Self { at, left: 0, extensions: 0, payload: 0, trailers: Vec::new() }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at == At::End
    }

    /// Whether the next piece is kept back.
    pub(crate) fn is_in_trailers(&self) -> bool {
        self.at == At::Trailers
    }

    /// Bytes of payload announced or seen so far.
    pub(crate) fn payload(&self) -> u64 {
        self.payload
    }

    /// The trailer section as it came, its empty line included. Whole once all is done.
    pub(crate) fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Consumes a prefix of `input`, which is not empty. An error names the rule; nothing may follow it.
    pub(crate) fn next(&mut self, input: &[u8]) -> Result<Piece, &'static str> {
        match self.at {
            At::Data => {
                let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
                self.left -= count as u64;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                Ok(Piece::Data(count))
            }
            At::Trailers => self.keep_trailers(input),
            At::End => Ok(Piece::Framing(0)),
            At::Size { .. } | At::Extension | At::SizeLf | At::DataCr | At::DataLf => {
                let mut count = 0;
                for byte in input {
                    if matches!(self.at, At::Data | At::Trailers) {
                        break;
                    }
                    self.step(*byte)?;
                    count += 1;
                }
                Ok(Piece::Framing(count))
            }
        }
    }

    fn step(&mut self, byte: u8) -> Result<(), &'static str> {
        self.at = match (self.at, byte) {
            (At::Size { digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == SIZE_DIGITS {
                    return Err("A chunk's size has too many digits.");
                }
                let value = char::from(byte).to_digit(16).unwrap_or(0);
                self.left = (self.left << 4) | u64::from(value);
                At::Size { digits: digits + 1 }
            }
            (At::Size { digits: 1.. }, b';') => At::Extension,
            (At::Size { digits: 1.. } | At::Extension, b'\r') => At::SizeLf,
            (At::Extension, b'\t' | b' '..=b'~') => {
                self.extensions += 1;
                if self.extensions > EXTENSIONS_LIMIT {
                    return Err("The chunk extensions are too long.");
                }
                At::Extension
            }
            (At::SizeLf, b'\n') => {
                self.payload = self.payload.saturating_add(self.left);
                if self.left == 0 { At::Trailers } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size { digits: 0 },
            _ => return Err("A chunk breaks the grammar."),
        };
        Ok(())
    }

    fn keep_trailers(&mut self, input: &[u8]) -> Result<Piece, &'static str> {
        for (at, byte) in input.iter().enumerate() {
            let after_cr = self.trailers.last() == Some(&b'\r');
            if after_cr != (*byte == b'\n') {
                return Err("A line of the trailers ends with a bare CR or LF.");
            }
            self.trailers.push(*byte);
            if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
                self.at = At::End;
                return Ok(Piece::Trailers(at + 1));
            }
            if self.trailers.len() > TRAILERS_LIMIT {
                return Err("The trailers are too long.");
            }
        }
        Ok(Piece::Trailers(input.len()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Payload, and how many bytes the body took, when fed `step` bytes at a time.
    fn fed(text: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), &'static str> {
        let (mut chunks, mut data, mut at) = (Chunks::new(), Vec::new(), 0);
        while at < text.len() && !chunks.is_done() {
            let input = &text[at..(at + step).min(text.len())];
            at += match chunks.next(input)? {
                Piece::Framing(count) | Piece::Trailers(count) => count,
                Piece::Data(count) => {
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
