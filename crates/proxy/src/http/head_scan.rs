//! Finds the end of a head as bytes arrive. Refuses bare line ends and folded lines (obs-fold,
//! RFC 9112 §5.2), which parsers interpret differently: the material of request smuggling.

/// Scan position in a head. Each byte is examined once, however slowly the bytes arrive.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeadScan {
    /// Start of the incomplete line.
    line: usize,
}

pub(crate) const BARE: &str = "A line of the head ends with a bare CR or LF.";
const FOLDED: &str = "A line of the head begins with white space.";
const EMPTY: &str = "The head begins with an empty line.";

impl HeadScan {
    /// Returns the length of the head in `bytes`, including the empty line. `bytes` must only grow between calls.
    pub(crate) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        loop {
            let rest = &bytes[self.line..];
            if let Some(b' ' | b'\t') = rest.first() {
                return Err(FOLDED);
            }
            let Some(at) = memchr::memchr2(b'\r', b'\n', rest) else { return Ok(None) };
            match (rest[at], rest.get(at + 1)) {
                (b'\r', Some(b'\n')) if at == 0 && self.line == 0 => return Err(EMPTY),
                (b'\r', Some(b'\n')) if at == 0 => return Ok(Some(self.line + 2)),
                (b'\r', Some(b'\n')) => self.line += at + 2,
                (b'\r', None) => return Ok(None),
                _ => return Err(BARE),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at_once(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        HeadScan::default().end(bytes)
    }

    #[test]
    fn ends_by_the_table() {
        for (text, end) in [
            ("", Ok(None)),
            ("GET / HTTP/1.1", Ok(None)),
            ("GET / HTTP/1.1\r", Ok(None)),
            ("GET / HTTP/1.1\r\n\r\n", Ok(Some(18))),
            ("a\r\nb\r\n\r\nrest\n", Ok(Some(8))),
            ("a\n\n", Err(BARE)),
            ("a\r\nb\n\r\n", Err(BARE)),
            ("a\r\nb\rc\r\n\r\n", Err(BARE)),
            ("a\r\n\r\r\n", Err(BARE)),
            ("a\r\n\n", Err(BARE)),
            ("a\r\n b\r\n\r\n", Err(FOLDED)),
            ("a\r\n\tb\r\n\r\n", Err(FOLDED)),
            (" a\r\n\r\n", Err(FOLDED)),
            ("\r\n\r\n", Err(EMPTY)),
        ] {
            assert_eq!(at_once(text.as_bytes()), end, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_pace_of_arrival_changes_nothing(
            text in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b' '), Just(b'a')], 0..24),
        ) {
            let mut slow = HeadScan::default();
            let mut first = Ok(None);
            for end in 0..=text.len() {
                first = slow.end(&text[..end]);
                if first != Ok(None) {
                    break;
                }
            }
            prop_assert_eq!(first, at_once(&text));
        }
    }
}
