//! Text that arrives in pieces.

/// Text that arrives in pieces, whose ends may split a character.
#[derive(Debug, Default)]
pub(super) struct Utf8Text {
    text: String,
    /// The beginning of a character.
    begun: Vec<u8>,
}

impl Utf8Text {
    /// Adds bytes and returns what they complete. Bytes that are no UTF-8 become U+FFFD.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        let bytes = [std::mem::take(&mut self.begun).as_slice(), bytes].concat();
        let mut new = String::new();
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            new.push_str(chunk.valid());
            let invalid = chunk.invalid();
            let is_begun = chunks.peek().is_none()
                && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if is_begun {
                self.begun = invalid.to_vec();
            } else if !invalid.is_empty() {
                new.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.text.push_str(&new);
        new
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    pub(super) fn into_string(mut self) -> String {
        if !self.begun.is_empty() {
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        self.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_become_the_text_that_they_are(
            bytes in prop::collection::vec(
                prop_oneof![Just(0xc3_u8), Just(0xbc), Just(0xf0), Just(0x9f), Just(0xff), any::<u8>()],
                0..40,
            ),
            cut in 1..5_usize,
        ) {
            let mut text = Utf8Text::default();
            let parts: String = bytes.chunks(cut).map(|piece| text.push(piece)).collect();
            let whole = text.into_string();
            prop_assert!(whole.starts_with(&parts));
            prop_assert_eq!(whole, String::from_utf8_lossy(&bytes));
        }
    }
}
