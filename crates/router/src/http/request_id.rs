//! One id per request, for the tenant, the client and the log.

use std::cell::Cell;

/// Makes unique ids for one thread. The ids may be guessable.
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
    /// `thread` differs between all threads of all routers and all runs.
    pub(crate) fn new(thread: u64) -> Self {
        Self { thread, count: Cell::new(0) }
    }

    /// Returns the inbound id if it is plausible, else a new id.
    pub(crate) fn adopt_or_next(&self, inbound: Option<&[u8]>) -> RequestId {
        let is_plain = |id: &&[u8]| id.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        match inbound.filter(|id| (8..=64).contains(&id.len())).filter(is_plain) {
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
    fn a_plausible_inbound_id_is_adopted() {
        let ids = RequestIds::new(0xabc);
        assert_eq!(ids.adopt_or_next(Some(b"0192f0c1-2345")).as_str(), "0192f0c1-2345");
        for bad in [&b"short"[..], b"has space 123", b"<script>alert", &[b'x'; 65], b""] {
            assert_eq!(ids.adopt_or_next(Some(bad)).as_str().len(), 32);
        }
        assert_eq!(RequestIds::new(0xabc).next().as_str(), "0000000000000abc0000000000000001");
        assert_ne!(ids.next().as_str(), ids.next().as_str());
    }
}
