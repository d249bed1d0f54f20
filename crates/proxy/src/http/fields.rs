//! One pass over the header lines: collects everything that framing, persistence and upgrades depend on.

use crate::http::head::{Header, Version};
use crate::http::hop_by_hop;

/// The result of one pass over the header lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) host_count: u8,
    pub(crate) content_length: Option<u64>,
    pub(crate) coding: TransferCoding,
    pub(crate) connection: ConnectionOptions,
    pub(crate) expectation: Expectation,
    pub(crate) upgrade: UpgradeProtocol,
    pub(crate) content: ContentKind,
    /// One bit per header line, in order: the header is hop-by-hop by its name.
    pub(crate) hop_by_hop_bits: u128,
}

/// The values of `Expect`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Expectation {
    /// No such header, or `100-continue` alone.
    #[default]
    Known,
    Unknown,
}

/// The protocols that `Upgrade` offers or selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum UpgradeProtocol {
    /// None, or other protocols alone.
    #[default]
    Other,
    /// A WebSocket, among others perhaps.
    WebSocket,
}

/// The value of `Content-Type`, as far as it decides how a body is passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ContentKind {
    #[default]
    Other,
    /// `text/event-stream`.
    EventStream,
}

/// The value of `Transfer-Encoding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TransferCoding {
    /// No such header.
    #[default]
    Absent,
    Chunked,
    /// Obsolete since RFC 7230. Old servers send the value in responses, where it means the same as no header.
    Identity,
}

/// The options of all `Connection` lines together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionOptions(u8);

impl ConnectionOptions {
    pub(crate) const CLOSE: Self = Self(1);
    pub(crate) const KEEP_ALIVE: Self = Self(2);
    pub(crate) const UPGRADE: Self = Self(4);
    /// At least one option names a header that is not hop-by-hop by its own name.
    pub(crate) const OTHER_HEADERS: Self = Self(8);

    pub(crate) fn has(self, option: Self) -> bool {
        self.0 & option.0 != 0
    }

    fn insert(&mut self, option: Self) {
        self.0 |= option.0;
    }
}

impl Fields {
    /// # Errors
    /// Names the violated rule when two parsers could read the message differently.
    pub(crate) fn read<'a>(
        headers: impl Iterator<Item = Header<'a>>,
    ) -> Result<Self, &'static str> {
        let mut seen = Self::default();
        let mut bit = 1;
        for header in headers {
            seen.see(header, bit)?;
            bit <<= 1;
        }
        if seen.coding == TransferCoding::Chunked && seen.content_length.is_some() {
            return Err("Content-Length and Transfer-Encoding exclude each other.");
        }
        Ok(seen)
    }

    fn see(&mut self, header: Header<'_>, bit: u128) -> Result<(), &'static str> {
        if hop_by_hop::is_hop(header.name) {
            self.hop_by_hop_bits |= bit;
        }
        let name = header.name.as_bytes();
        match (name.first().map_or(0, u8::to_ascii_lowercase), name.len()) {
            (b'h', 4) if same(name, b"host") => self.host_count = self.host_count.saturating_add(1),
            (b'e', 6) if same(name, b"expect") => self.take_expectation(header.value),
            (b'u', 7) if same(name, b"upgrade") => self.take_upgrade(header.value),
            (b'c', 10) if same(name, b"connection") => self.take_connection(header.value)?,
            (b'c', 12) if same(name, b"content-type") => {
                self.take_content_type(header.value);
            }
            (b'c', 14) if same(name, b"content-length") => self.take_length(header)?,
            (b't', 17) if same(name, b"transfer-encoding") => self.take_coding(header)?,
            (b'c', 14) if header.begins("content-length") => {
                return Err("A header's name is Content-Length but for an underscore.");
            }
            (b't', 17) if header.begins("transfer-encoding") => {
                return Err("A header's name is Transfer-Encoding but for an underscore.");
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the message selects a WebSocket, in both `Connection` and `Upgrade`.
    pub(crate) fn upgrades_to_websocket(&self) -> bool {
        self.connection.has(ConnectionOptions::UPGRADE)
            && self.upgrade == UpgradeProtocol::WebSocket
    }

    pub(crate) fn keep_alive(&self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.connection.has(ConnectionOptions::CLOSE),
            Version::Http10 => {
                self.connection.has(ConnectionOptions::KEEP_ALIVE)
                    && !self.connection.has(ConnectionOptions::CLOSE)
            }
        }
    }

    fn take_expectation(&mut self, value: &[u8]) {
        if !value.eq_ignore_ascii_case(b"100-continue") {
            self.expectation = Expectation::Unknown;
        }
    }

    fn take_upgrade(&mut self, value: &[u8]) {
        if tokens(value).any(|token| is(token, "websocket")) {
            self.upgrade = UpgradeProtocol::WebSocket;
        }
    }

    fn take_content_type(&mut self, value: &[u8]) {
        if is_event_stream(value) {
            self.content = ContentKind::EventStream;
        }
    }

    fn take_connection(&mut self, value: &[u8]) -> Result<(), &'static str> {
        for token in tokens(value) {
            match token.len() {
                5 if is(token, "close") => self.connection.insert(ConnectionOptions::CLOSE),
                7 if is(token, "upgrade") => self.connection.insert(ConnectionOptions::UPGRADE),
                10 if is(token, "keep-alive") => {
                    self.connection.insert(ConnectionOptions::KEEP_ALIVE);
                }
                // A peer that believed such a line would frame or route the message differently.
                _ if ["host", "content-length", "transfer-encoding"]
                    .iter()
                    .any(|n| is(token, n)) =>
                {
                    return Err("Connection names a header that frames or routes the message.");
                }
                _ if std::str::from_utf8(token).is_ok_and(hop_by_hop::is_hop) => {}
                _ => self.connection.insert(ConnectionOptions::OTHER_HEADERS),
            }
        }
        Ok(())
    }

    /// Refuses a duplicate `Content-Length`, whatever its value: the next server may believe the other one.
    fn take_length(&mut self, header: Header<'_>) -> Result<(), &'static str> {
        if self.content_length.is_some() {
            return Err("Content-Length is there more than once.");
        }
        self.content_length =
            Some(length(header.value).ok_or("Content-Length is not one plain number.")?);
        Ok(())
    }

    fn take_coding(&mut self, header: Header<'_>) -> Result<(), &'static str> {
        if self.coding != TransferCoding::Absent {
            return Err("Transfer-Encoding is there more than once.");
        }
        self.coding = if header.value.eq_ignore_ascii_case(b"chunked") {
            TransferCoding::Chunked
        } else if header.value.eq_ignore_ascii_case(b"identity") {
            TransferCoding::Identity
        } else {
            return Err(ONLY_CHUNKED);
        };
        Ok(())
    }
}

pub(crate) const ONLY_CHUNKED: &str = "The only Transfer-Encoding served is chunked.";

fn is_event_stream(content_type: &[u8]) -> bool {
    const NAME: &[u8] = b"text/event-stream";
    content_type.get(..NAME.len()).is_some_and(|start| start.eq_ignore_ascii_case(NAME))
        && matches!(content_type.get(NAME.len()), None | Some(b';' | b' ' | b'\t'))
}

/// Parses `1*DIGIT` that fits. Parsers disagree about signs, blanks and lists, so those are refused.
fn length(value: &[u8]) -> Option<u64> {
    let plain = (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    plain.then(|| value.iter().fold(0, |sum: u64, b| sum * 10 + u64::from(b - b'0')))
}

/// The elements of a comma-separated list, without empty ones.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|t| !t.is_empty())
}

/// Whether a header name equals `lower` (letters and hyphens) without regard to case. The fixed size makes it one compare.
pub(crate) fn same<const N: usize>(name: &[u8], lower: &[u8; N]) -> bool {
    // Setting bit 0x20 lowers letters and turns no other token character into a letter; of all token characters only
    // the hyphen maps to the hyphen.
    <&[u8; N]>::try_from(name).is_ok_and(|name| {
        name.iter().zip(lower).fold(0, |differs, (have, want)| differs | ((have | 0x20) ^ want))
            == 0
    })
}

fn is(token: &[u8], name: &str) -> bool {
    token.eq_ignore_ascii_case(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[(&str, &str)]) -> Result<Fields, &'static str> {
        Fields::read(lines.iter().map(|(name, v)| Header { name, value: v.as_bytes() }))
    }

    #[test]
    fn names_are_the_same_whatever_their_case_and_nothing_else_is() {
        let lower = b"content-length";
        for byte in 0..=u8::MAX {
            let mut name = *lower;
            for place in [0, 7] {
                name[place] = byte;
                let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
                if token {
                    assert_eq!(same(&name, lower), name.eq_ignore_ascii_case(lower), "{name:?}");
                }
                name[place] = lower[place];
            }
        }
        assert!(same(b"CONTENT-Length", lower) && !same(b"content-lengt", lower));
    }

    #[test]
    fn lengths_by_the_table() {
        for (text, number) in [
            ("0", Some(0)),
            ("42", Some(42)),
            ("0042", Some(42)),
            ("9999999999999999999", Some(9_999_999_999_999_999_999)),
            ("18446744073709551616", None),
            ("", None),
            ("+1", None),
            ("-1", None),
            ("1 1", None),
            ("1,1", None),
            ("0x10", None),
            ("1.0", None),
            ("١", None),
        ] {
            assert_eq!(length(text.as_bytes()), number, "{text}");
        }
    }

    #[test]
    fn ambiguous_framing_headers_are_refused() {
        for lines in [
            &[("content-length", "1"), ("transfer-encoding", "chunked")][..],
            &[("content-length", "1"), ("Content-Length", "1")],
            &[("content_length", "1")],
            &[("transfer_encoding", "chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "identity"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "identity")],
            &[("transfer-encoding", "")],
            &[("transfer-encoding", "chunked;q=1")],
            &[("transfer-encoding", "\"chunked\"")],
            &[("connection", "close, content-length")],
        ] {
            assert!(read(lines).is_err(), "{lines:?}");
        }
        let coding = |value| read(&[("Transfer-Encoding", value)]).unwrap().coding;
        assert_eq!(coding("Chunked"), TransferCoding::Chunked);
        assert_eq!(coding("Identity"), TransferCoding::Identity);
    }

    #[test]
    fn connection_is_a_list_over_all_its_lines() {
        let seen = read(&[("connection", "x-a ,, Keep-Alive"), ("Connection", "UPGRADE,close")]);
        let seen = seen.unwrap();
        assert_eq!(seen.connection, ConnectionOptions(15));
        let known = read(&[("connection", "close, te, keep-alive")]).unwrap();
        assert!(!known.connection.has(ConnectionOptions::OTHER_HEADERS));
    }
}
