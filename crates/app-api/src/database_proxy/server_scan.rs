//! Reads the server's messages up to the first `ReadyForQuery`: the client has authenticated then, and the server has
//! named the key by which a query of the session is cancelled. Pure. The bytes go to the client unchanged.

use super::startup::CancelKey;

const BACKEND_KEY_DATA: u8 = b'K';
const READY_FOR_QUERY: u8 = b'Z';
/// A type, then a length that counts itself.
const HEAD_BYTES: usize = 5;
const LENGTH_BYTES: usize = 4;

#[derive(Debug, Default)]
pub(super) struct ServerScan {
    head: Vec<u8>,
    /// The payload of a message that matters.
    payload: Vec<u8>,
    /// Bytes of the current message that are still to come.
    remaining: usize,
    is_ready: bool,
}

/// A fact that the server's messages reveal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Key(CancelKey),
    Ready,
}

impl ServerScan {
    /// Takes the next bytes of the server, and returns what they complete. After [`Found::Ready`] nothing is read.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Vec<Found> {
        let mut found = Vec::new();
        while !self.is_ready && !bytes.is_empty() {
            if self.head.len() < HEAD_BYTES {
                let taken = bytes.len().min(HEAD_BYTES - self.head.len());
                self.head.extend_from_slice(&bytes[..taken]);
                bytes = &bytes[taken..];
                let Some((kind, length)) = self.message() else { continue };
                if kind == READY_FOR_QUERY {
                    self.is_ready = true;
                    found.push(Found::Ready);
                    break;
                }
                self.remaining = length.saturating_sub(LENGTH_BYTES);
            } else {
                let taken = bytes.len().min(self.remaining);
                if self.head.first() == Some(&BACKEND_KEY_DATA) {
                    let room = (CancelKey::MAX_BYTES + 1).saturating_sub(self.payload.len());
                    self.payload.extend_from_slice(&bytes[..taken.min(room)]);
                }
                bytes = &bytes[taken..];
                self.remaining -= taken;
            }
            if self.head.len() == HEAD_BYTES && self.remaining == 0 {
                found.extend(CancelKey::new(&self.payload).map(Found::Key));
                self.payload.clear();
                self.head.clear();
            }
        }
        found
    }

    fn message(&self) -> Option<(u8, usize)> {
        let (kind, length) = self.head.split_first()?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        Some((*kind, usize::try_from(length).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As a server sends it after a password: AuthenticationOk, a parameter, the key, ready, then a row.
    const BYTES: &[u8] = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x10TimeZone\0UTCK\0\0\0\x0c\0\0\0\x07abcdZ\0\0\0\x05IK\0\0\0\x0c\0\0\0\x08efgh";

    fn expected() -> Vec<Found> {
        vec![Found::Key(CancelKey::new(b"\0\0\0\x07abcd").unwrap()), Found::Ready]
    }

    #[test]
    fn the_key_and_the_readiness_are_found_and_nothing_after_them() {
        let mut scan = ServerScan::default();
        assert_eq!(scan.feed(BYTES), expected());
        assert_eq!(scan.feed(BYTES), []);
    }

    #[test]
    fn a_refused_client_is_never_ready() {
        let mut scan = ServerScan::default();
        assert_eq!(scan.feed(b"R\0\0\0\x08\0\0\0\x03E\0\0\0\x09SF\0\0\0"), []);
    }

    proptest! {
        #[test]
        fn the_parts_in_which_bytes_arrive_make_no_difference(
            cuts in prop::collection::vec(0..BYTES.len(), 0..8),
        ) {
            let mut cuts = cuts;
            cuts.extend([0, BYTES.len()]);
            cuts.sort_unstable();
            let mut scan = ServerScan::default();
            let found: Vec<_> =
                cuts.windows(2).flat_map(|cut| scan.feed(&BYTES[cut[0]..cut[1]])).collect();
            prop_assert_eq!(found, expected());
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut scan = ServerScan::default();
            for part in bytes.chunks(7) {
                scan.feed(part);
            }
        }
    }
}
