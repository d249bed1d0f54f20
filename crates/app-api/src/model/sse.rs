//! Server-sent events, as their bytes arrive (WHATWG HTML §9.2.6). Keeps the data of events and ignores all else. Pure.

/// A line, or the data of an event, is longer than this: what arrives is no stream of a model.
const MAX_EVENT_BYTES: usize = 256 << 10;

/// The stream has a line, or an event, that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTooLong;

/// Splits a stream into the data of its events.
#[derive(Debug, Default)]
pub struct EventSplitter {
    /// The line that has begun.
    line: Vec<u8>,
    /// The data of the event that has begun; `None` without a line of data.
    data: Option<String>,
    /// The last line ended with a carriage return, to which a line feed may belong.
    after_return: bool,
}

impl EventSplitter {
    /// Adds bytes, and to `events` the data of each event that they complete.
    ///
    /// # Errors
    /// [`EventTooLong`], after the events before it.
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<String>) -> Result<(), EventTooLong> {
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => events.extend(self.end_line()?),
                _ if self.line.len() == MAX_EVENT_BYTES => return Err(EventTooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    /// Returns the data of an event that ends with this line, which is empty then.
    fn end_line(&mut self) -> Result<Option<String>, EventTooLong> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return Ok(self.data.take());
        }
        let line = String::from_utf8_lossy(&line);
        let Some(value) = line.strip_prefix("data:") else { return Ok(None) };
        let value = value.strip_prefix(' ').unwrap_or(value);
        match &mut self.data {
            Some(data) if data.len() + value.len() >= MAX_EVENT_BYTES => return Err(EventTooLong),
            Some(data) => {
                data.push('\n');
                data.push_str(value);
            }
            None => self.data = Some(value.to_owned()),
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(bytes: &[u8], cut: usize) -> Result<Vec<String>, EventTooLong> {
        let (mut splitter, mut events) = (EventSplitter::default(), Vec::new());
        bytes.chunks(cut).try_for_each(|part| splitter.push(part, &mut events))?;
        Ok(events)
    }

    #[test]
    fn the_data_of_events_is_found_however_lines_end() {
        for (text, expected) in [
            ("data: a\n\ndata:b\n\n", vec!["a", "b"]),
            ("data: a\r\n\r\ndata: b\r\r", vec!["a", "b"]),
            (": comment\nevent: x\nid: 1\ndata:  two\ndata: lines\n\n", vec![" two\nlines"]),
            ("event: x\n\n\n\ndata:\n\n", vec![""]),
            ("data: never ended\n", vec![]),
            ("data\n\ndatum: x\n\n", vec![]),
        ] {
            assert_eq!(split(text.as_bytes(), 3).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn an_endless_line_and_an_endless_event_are_refused() {
        let line = vec![b'x'; MAX_EVENT_BYTES + 1];
        assert_eq!(split(&line, 1_000), Err(EventTooLong));
        let event = "data: 0123456789\n".repeat(MAX_EVENT_BYTES / 10);
        assert_eq!(split(event.as_bytes(), 1_000), Err(EventTooLong));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            text in "(data: ?[a-zü]{0,3}|:x|event: y|)(\n|\r\n|\r)".prop_map(|line| line.into_bytes()),
            more in prop::collection::vec("(data: ?[a-zü]{0,3}|:x|)(\n|\r\n|\r)", 0..12),
            cut in 1..6_usize,
        ) {
            let all = [text, more.concat().into_bytes()].concat();
            prop_assert_eq!(split(&all, cut), split(&all, all.len()));
        }
    }
}
