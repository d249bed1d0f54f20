//! One id a request, told to the tenant, to the client and to the log.

use std::cell::Cell;

/// Makes ids for one thread: unique, and not meant to be unguessable.
pub(crate) struct RequestIds {
    thread: u64,
    count: Cell<u64>,
}

/// 8 to 64 letters, digits and hyphens.
#[derive(Clone, Copy)]
pub(crate) struct RequestId {
    bytes: [u8; 64],
    length: u8,
}

impl RequestIds {
    /// `thread` tells this thread's ids from those of all others, of other routers and other runs.
    pub(crate) fn new(thread: u64) -> Self {
        Self { thread, count: Cell::new(0) }
    }

    /// The inbound id, if it is plausible; a new one otherwise.
    pub(crate) fn of(&self, inbound: Option<&[u8]>) -> RequestId {
        let plain = |id: &&[u8]| id.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        match inbound.filter(|id| (8..=64).contains(&id.len())).filter(plain) {
            Some(id) => RequestId::of(id),
            None => self.next(),
        }
    }

    pub(crate) fn next(&self) -> RequestId {
        self.count.set(self.count.get() + 1);
        let mut bytes = [0; 32];
        let whole = (u128::from(self.thread) << 64) | u128::from(self.count.get());
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = b"0123456789abcdef"
                [usize::try_from((whole >> (124 - 4 * place)) & 15).unwrap_or(0)];
        }
        RequestId::of(&bytes)
    }
}

impl RequestId {
    fn of(id: &[u8]) -> Self {
        let mut bytes = [0; 64];
        bytes[..id.len()].copy_from_slice(id);
        Self { bytes, length: u8::try_from(id.len()).unwrap_or(0) }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbound_id_is_taken_over_if_it_is_plausible() {
        let ids = RequestIds::new(0xabc);
        assert_eq!(ids.of(Some(b"0192f0c1-2345")).as_str(), "0192f0c1-2345");
        for bad in [&b"short"[..], b"has space 123", b"<script>alert", &[b'x'; 65], b""] {
            assert_eq!(ids.of(Some(bad)).as_str().len(), 32);
        }
        assert_eq!(RequestIds::new(0xabc).next().as_str(), "0000000000000abc0000000000000001");
        assert_ne!(ids.next().as_str(), ids.next().as_str());
    }
}
