//! Distinguishes the events of an event stream (`text/event-stream`) from comments, which only keep
//! the connection open.

use crate::http::chunks::{ChunkPart, ChunkedDecoder};
use crate::http::framing::Framing;

/// Follows an event stream over reads, however its lines and chunks are cut.
#[derive(Debug)]
pub(crate) struct EventStreamScanner {
    /// Present while the stream arrives chunked.
    decoder: Option<ChunkedDecoder>,
    line: Line,
}

/// The position in the current line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Start,
    /// The line began with a colon.
    Comment,
    Field,
}

impl EventStreamScanner {
    pub(crate) fn new(framing: Framing) -> Self {
        let decoder = (framing == Framing::Chunked).then(ChunkedDecoder::new);
        Self { decoder, line: Line::Start }
    }

    /// Whether `data` holds a part of an event: any byte of a line that is neither empty nor a comment.
    pub(crate) fn has_event(&mut self, data: &[u8]) -> bool {
        let Some(decoder) = &mut self.decoder else { return has_field(&mut self.line, data) };
        let (mut at, mut found) = (0, false);
        while at < data.len() && !decoder.is_done() {
            match decoder.next(&data[at..]) {
                Ok(ChunkPart::Data(count)) => {
                    found |= has_field(&mut self.line, &data[at..at + count]);
                    at += count;
                }
                Ok(ChunkPart::Framing(count) | ChunkPart::Trailers(count)) => at += count,
                // The copy of the body fails for the same reason and ends the response.
                Err(_) => return true,
            }
        }
        found
    }
}

fn has_field(line: &mut Line, payload: &[u8]) -> bool {
    let mut found = false;
    for byte in payload {
        *line = match (*line, byte) {
            (_, b'\n' | b'\r') => Line::Start,
            (Line::Start, b':') => Line::Comment,
            (Line::Start, _) => Line::Field,
            (line, _) => line,
        };
        found |= *line == Line::Field;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether any of the reads of `step` bytes each holds a part of an event.
    fn has_event(framing: Framing, data: &[u8], step: usize) -> bool {
        let mut scanner = EventStreamScanner::new(framing);
        data.chunks(step).fold(false, |found, part| found | scanner.has_event(part))
    }

    #[test]
    fn a_comment_is_no_event_however_it_is_cut() {
        let chunked = |parts: &[&str]| {
            let chunk = |part: &&str| format!("{:x};ext=\"1\"\r\n{part}\r\n", part.len());
            parts.iter().map(chunk).collect::<String>()
        };
        for (parts, event) in [
            (&[": keep-alive\n\n"][..], false),
            (&[": keep-", "alive\n", "\n"], false),
            (&[":", "data: x", "\r\n\r\n"], false),
            (&[": a\n: b\n\n", ": c\r\n", ": d\r"], false),
            (&["\n", "\r\n"], false),
            (&[""], false),
            (&["data: x\n\n"], true),
            (&["d", "ata: x\n\n"], true),
            (&[": a\n", "id: 1\n"], true),
            (&[": a\ndata", ": x\n\n"], true),
        ] {
            for step in 1..40 {
                let plain = parts.concat();
                assert_eq!(has_event(Framing::Close, plain.as_bytes(), step), event, "{parts:?}");
                let framed =
                    chunked(&parts.iter().filter(|p| !p.is_empty()).copied().collect::<Vec<_>>());
                assert_eq!(
                    has_event(Framing::Chunked, framed.as_bytes(), step),
                    event,
                    "{parts:?}"
                );
            }
        }
        assert!(!has_event(Framing::Chunked, b"3\r\n:a\n\r\n0\r\nX-Sum: 1\r\n\r\n", 100));
    }
}
