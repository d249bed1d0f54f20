//! Finds WebSocket frame boundaries (RFC 6455 §5.2), so that a close frame can be inserted between two frames.

/// Tracks frame boundaries without storing frames.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frames {
    /// The first bytes of an incomplete frame header: flags, length, up to eight bytes of extended length.
    head: [u8; 10],
    have: u8,
    /// Bytes of mask and payload still to come.
    left: u64,
    /// A close frame passed; no frame may follow.
    closed: bool,
}

/// A close frame with status 1001, going away.
pub(crate) const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

impl Frames {
    pub(crate) fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self.step(bytes);
            bytes = &bytes[count..];
        }
    }

    /// The length of the part of `bytes` that belongs to the frame in progress.
    pub(crate) fn rest_of_frame(&self, bytes: &[u8]) -> usize {
        let (mut ahead, mut at) = (*self, 0);
        while at < bytes.len() && !ahead.is_between() {
            at += ahead.step(&bytes[at..]);
        }
        at
    }

    /// The length of the prefix of `bytes` that consists of pings, pongs and closes, which do not count as use.
    pub(crate) fn control(&self, bytes: &[u8]) -> usize {
        let (mut ahead, mut at) = (*self, 0);
        while at < bytes.len() {
            let first = if ahead.is_between() { bytes[at] } else { ahead.head[0] };
            if !matches!(first & 0x0f, 8..=10) {
                break;
            }
            at += ahead.step(&bytes[at..]);
        }
        at
    }

    /// Consumes a part of a frame header, or of the mask and payload; at least one byte.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= count as u64;
            return count;
        }
        self.head[usize::from(self.have)] = bytes[0];
        self.have += 1;
        if self.have < 2 {
            return 1;
        }
        let (masked, short) = (self.head[1] & 0x80 != 0, self.head[1] & 0x7f);
        let whole = match short {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        if self.have == whole {
            let long = &self.head[2..usize::from(whole)];
            let length = match short {
                126 | 127 => long.iter().fold(0, |sum: u64, b| (sum << 8) | u64::from(*b)),
                _ => u64::from(short),
            };
            self.closed |= self.head[0] & 0x0f == 8;
            self.left = length.saturating_add(if masked { 4 } else { 0 });
            self.have = 0;
        }
        1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x82];
        match length {
            0..126 => bytes.push(mask | u8::try_from(length).unwrap()),
            126..65_536 => {
                bytes.push(mask | 126);
                bytes.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        bytes.extend(vec![0xff; length + if masked { 4 } else { 0 }]);
        bytes
    }

    #[test]
    fn a_close_is_seen() {
        let mut frames = Frames::default();
        frames.feed(&GOING_AWAY);
        assert!(frames.is_closed() && frames.is_between());
    }

    #[test]
    fn control_frames_are_distinguished_from_data_frames() {
        let ping = [0x89, 0x82, 1, 2, 3, 4, 0x81, 0x82];
        let text = [0x81, 0x82, 1, 2, 3, 4, 0x89, 0x89];
        let all = |parts: &[&[u8]]| parts.concat();
        for (bytes, control) in [
            (all(&[&ping, &[0x8a, 0], &GOING_AWAY]), 14),
            (all(&[&ping, &text]), 8),
            (all(&[&text, &ping]), 0),
            (all(&[&[0x00, 0x01, 0xff]]), 0),
            (all(&[&[0x8b, 0x00]]), 0),
            (vec![0x89], 1),
            (vec![], 0),
        ] {
            assert_eq!(Frames::default().control(&bytes), control, "{bytes:x?}");
        }
        // Payload bytes inside a frame may look like any frame header.
        for at in 1..8 {
            let (mut inside_ping, mut inside_text) = (Frames::default(), Frames::default());
            inside_ping.feed(&ping[..at]);
            inside_text.feed(&text[..at]);
            assert_eq!(inside_ping.control(&ping[at..]), 8 - at);
            assert_eq!(inside_text.control(&text[at..]), 0);
        }
    }

    proptest! {
        #[test]
        fn boundaries_are_found_at_any_pace(
            lengths in proptest::collection::vec((prop_oneof![0_usize..200, 65_530_usize..65_540], any::<bool>()), 1..5),
            step in 1_usize..300,
        ) {
            let mut ends = vec![0];
            let mut bytes = Vec::new();
            for (length, masked) in lengths {
                bytes.extend(frame(length, masked));
                ends.push(bytes.len());
            }
            let (mut frames, mut at) = (Frames::default(), 0);
            for part in bytes.chunks(step) {
                let end = ends.iter().find(|e| **e >= at).copied().unwrap();
                prop_assert_eq!(frames.rest_of_frame(&bytes[at..]), end - at);
                frames.feed(part);
                at += part.len();
                prop_assert_eq!(frames.is_between(), ends.contains(&at));
            }
        }
    }
}
