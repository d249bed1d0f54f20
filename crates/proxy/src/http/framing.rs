//! Where a body ends. A message to which no single rule applies is refused.

use crate::http::fields::{Fields, ONLY_CHUNKED, TransferCoding};
use crate::http::head::Version;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body, and no header that describes one.
    Empty,
    Length(u64),
    Chunked,
    /// Responses only: the body ends when the connection closes.
    Close,
}

impl Framing {
    /// Whether no byte of a body follows.
    pub(crate) fn is_bodiless(self) -> bool {
        matches!(self, Self::Empty | Self::Length(0))
    }
}

pub(crate) fn of_request(seen: &Fields, version: Version) -> Result<Framing, &'static str> {
    match (seen.coding, seen.content_length, version) {
        // A request with an obsolete coding is ambiguous: some servers would read a body, others would not.
        (TransferCoding::Identity, _, _) => Err(ONLY_CHUNKED),
        (TransferCoding::Chunked, _, Version::Http10) => {
            Err("HTTP/1.0 knows no Transfer-Encoding.")
        }
        (TransferCoding::Chunked, _, Version::Http11) => Ok(Framing::Chunked),
        (TransferCoding::Absent, Some(length), _) => Ok(Framing::Length(length)),
        (TransferCoding::Absent, None, _) => Ok(Framing::Empty),
    }
}

/// The framing of a response body. The `Length` of a response to `HEAD` is announced and not sent.
pub(crate) fn of_response(
    seen: &Fields,
    version: Version,
    status: u16,
    to_head: bool,
) -> Result<Framing, &'static str> {
    let bodiless = status < 200 || status == 204;
    match (seen.coding, seen.content_length, version) {
        (TransferCoding::Chunked, _, Version::Http10) => {
            Err("HTTP/1.0 knows no Transfer-Encoding.")
        }
        // Only a length of zero agrees with an absent body; another parser would take further bytes for a message.
        (TransferCoding::Chunked, _, _) if bodiless => {
            Err("a response without a body has a Transfer-Encoding")
        }
        (_, Some(1..), _) if bodiless => Err("a response without a body has a length"),
        _ if bodiless => Ok(Framing::Empty),
        (TransferCoding::Chunked, _, Version::Http11) => Ok(Framing::Chunked),
        (_, Some(length), _) => Ok(Framing::Length(length)),
        (_, None, _) if to_head || status == 304 => Ok(Framing::Empty),
        (_, None, _) => Ok(Framing::Close),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_by_the_table() {
        let none = Fields::default();
        let chunked = Fields { coding: TransferCoding::Chunked, ..none };
        let five = Fields { content_length: Some(5), ..none };
        let identity = Fields { coding: TransferCoding::Identity, ..none };
        let sized_identity = Fields { coding: TransferCoding::Identity, ..five };
        let zero = Fields { content_length: Some(0), ..none };
        let new = Version::Http11;
        for (seen, version, status, head, framing) in [
            (none, new, 200, false, Some(Framing::Close)),
            (none, new, 200, true, Some(Framing::Empty)),
            (none, new, 304, false, Some(Framing::Empty)),
            (none, new, 204, false, Some(Framing::Empty)),
            (zero, new, 204, false, Some(Framing::Empty)),
            (five, new, 204, false, None),
            (chunked, new, 204, false, None),
            (chunked, new, 103, false, None),
            (five, new, 304, false, Some(Framing::Length(5))),
            (five, new, 200, true, Some(Framing::Length(5))),
            (five, Version::Http10, 200, false, Some(Framing::Length(5))),
            (chunked, Version::Http10, 200, false, None),
            (chunked, new, 200, false, Some(Framing::Chunked)),
            (identity, new, 200, false, Some(Framing::Close)),
            (identity, Version::Http10, 200, false, Some(Framing::Close)),
            (identity, new, 204, false, Some(Framing::Empty)),
            (sized_identity, new, 200, false, Some(Framing::Length(5))),
        ] {
            assert_eq!(
                of_response(&seen, version, status, head).ok(),
                framing,
                "{seen:?} {status}"
            );
        }
    }
}
