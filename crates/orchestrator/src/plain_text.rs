//! Terminal output as plain text. Pure. A tenant's output must not steer the reader's terminal.

/// Drops escape sequences and control characters, also when a chunk boundary cuts them.
#[derive(Debug, Default)]
pub(crate) struct PlainTextFilter {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    Escape,
    /// After `ESC [`, until a final byte.
    Control,
    /// After `ESC ]` or a similar introducer, until BEL or `ESC \`.
    Command,
    CommandEscape,
    /// After the first byte of what may be a C1 control in UTF-8.
    MaybeC1,
}

impl PlainTextFilter {
    pub(crate) fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(piece.len());
        for byte in piece {
            self.state = step(self.state, *byte, &mut text);
        }
        text
    }
}

fn step(state: State, byte: u8, text: &mut Vec<u8>) -> State {
    const ESC: u8 = 0x1b;
    match (state, byte) {
        (State::Command, ESC) => State::CommandEscape,
        (_, ESC) => State::Escape,
        (State::Escape, b'[') => State::Control,
        (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::Command,
        // Intermediate bytes do not end the sequence.
        (State::Escape, 0x20..=0x2f) => State::Escape,
        (State::Escape, _) => State::Text,
        (State::Control, 0x20..=0x3f) => State::Control,
        // A line break ends a broken sequence, whose rest must not swallow text.
        (State::Control | State::Command, b'\n') => {
            text.push(byte);
            State::Text
        }
        (State::Control, _) | (State::CommandEscape, _) | (State::Command, 0x07) => State::Text,
        (State::Command, _) => State::Command,
        (State::MaybeC1, 0x9b) => State::Control,
        (State::MaybeC1, 0x80..=0x9f) => State::Text,
        (State::MaybeC1, _) => {
            text.push(0xc2);
            step(State::Text, byte, text)
        }
        (State::Text, 0xc2) => State::MaybeC1,
        (State::Text, b'\n' | b'\t' | 0x20..=0x7e | 0x80..) => {
            text.push(byte);
            State::Text
        }
        (State::Text, _) => State::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(text: &str) -> String {
        String::from_utf8(PlainTextFilter::default().take(text.as_bytes())).unwrap()
    }

    #[test]
    fn what_is_kept_and_what_is_not() {
        let table = [
            ("[edge] ready\n", "[edge] ready\n"),
            ("\x1b[1;31mred\x1b[0m\n", "red\n"),
            ("\x1b]0;title\x07text", "text"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("a\x1b(Bb", "ab"),
            ("a\r\nb\tc\x08\x7f", "a\nb\tc"),
            ("é ü ✓ \u{a0}x", "é ü ✓ \u{a0}x"),
            ("a\u{9b}31mb", "ab"),
            ("broken\x1b[31\nnext", "broken\nnext"),
            ("\x1b\x1b[2Jx", "x"),
        ];
        for (given, expected) in table {
            assert_eq!(plain(given), expected, "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn where_the_pieces_are_cut_makes_no_difference(text in "[a-z\x1b\\[\\]mé\u{9b}\n;0-9]{0,40}", cut in 0usize..60) {
            let bytes = text.as_bytes();
            let (left, right) = bytes.split_at(cut.min(bytes.len()));
            let mut pieces = PlainTextFilter::default();
            let mut joined = pieces.take(left);
            joined.extend(pieces.take(right));
            prop_assert_eq!(joined, PlainTextFilter::default().take(bytes));
        }

        #[test]
        fn no_control_character_is_left(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let left = PlainTextFilter::default().take(&bytes);
            prop_assert!(left.iter().all(|b| *b >= 0x20 && *b != 0x7f || *b == b'\n' || *b == b'\t'));
        }
    }
}
