//! The log lines of the services, each prefixed with the name of its service. No line is lost, and
//! no line of one service is split by a line of another.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{read, write};

/// A longer line is written in pieces, so that a line without an end takes bounded memory.
pub const MAX_LINE_BYTES: usize = 16 << 10;
/// With this much unwritten output, nothing more is read from the services until the engine reads.
const MAX_PENDING_BYTES: usize = 64 << 10;

/// Splits a stream of bytes into lines with a prefix. Pure.
#[derive(Debug)]
pub struct LineSplitter {
    prefix: String,
    partial: Vec<u8>,
}

impl LineSplitter {
    pub fn new(name: &str) -> Self {
        Self { prefix: format!("[{name}] "), partial: Vec::new() }
    }

    /// Takes bytes and appends the complete lines to `out`; an incomplete line waits for its end.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end], out);
            self.end_line(out);
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes, out);
    }

    /// Ends the last line, if it is incomplete.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.partial.is_empty() {
            self.end_line(out);
        }
    }

    fn extend(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while self.partial.len() + bytes.len() > MAX_LINE_BYTES {
            let (now, later) = bytes.split_at(MAX_LINE_BYTES - self.partial.len());
            self.partial.extend_from_slice(now);
            let end = char_boundary_before(&self.partial);
            let carried = self.partial.split_off(end);
            self.end_line(out);
            self.partial = carried;
            bytes = later;
        }
        self.partial.extend_from_slice(bytes);
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix.as_bytes());
        out.append(&mut self.partial);
        out.push(b'\n');
    }
}

/// An output stream of a service: standard output or standard error.
#[derive(Debug)]
pub struct OutputStream {
    /// `None` once every writer has closed the pipe.
    pub pipe: Option<OwnedFd>,
    lines: LineSplitter,
}

impl OutputStream {
    /// `pipe` must be in non-blocking mode.
    pub fn new(name: &str, pipe: OwnedFd) -> Self {
        Self { pipe: Some(pipe), lines: LineSplitter::new(name) }
    }

    /// Reads a bounded amount without blocking and returns the number of bytes.
    pub fn read_available(&mut self, writer: &mut OutputWriter) -> usize {
        let Some(pipe) = &self.pipe else { return 0 };
        let mut buffer = [0; 8 << 10];
        let taken = loop {
            match read(pipe, &mut buffer) {
                Err(Errno::EINTR) => {}
                taken => break taken,
            }
        };
        match taken {
            Ok(0) => {
                self.lines.finish(&mut writer.pending);
                self.pipe = None;
                0
            }
            Ok(length) => {
                self.lines.feed(&buffer[..length], &mut writer.pending);
                length
            }
            Err(Errno::EAGAIN) => 0,
            Err(_) => {
                self.pipe = None;
                0
            }
        }
    }

    /// Reads the remaining output and ends the last line. The read is bounded, because orphans may
    /// keep the pipe open and continue to write.
    pub fn drain(&mut self, writer: &mut OutputWriter) {
        let mut drained = 0;
        while drained <= MAX_PENDING_BYTES * 4 {
            match self.read_available(writer) {
                0 => break,
                taken => drained += taken,
            }
        }
        self.lines.finish(&mut writer.pending);
    }
}

/// Writes lines to the engine and never blocks PID 1, however slowly the engine reads.
#[derive(Debug)]
pub struct OutputWriter {
    pub pipe: OwnedFd,
    pending: Vec<u8>,
}

impl OutputWriter {
    /// `pipe` must be in non-blocking mode.
    pub fn new(pipe: OwnedFd) -> Self {
        Self { pipe, pending: Vec::new() }
    }

    /// Writes a log line of PID 1 itself.
    pub fn log(&mut self, text: &str) {
        let mut lines = LineSplitter::new("supervisor");
        lines.feed(text.as_bytes(), &mut self.pending);
        lines.finish(&mut self.pending);
    }

    pub fn is_full(&self) -> bool {
        self.pending.len() >= MAX_PENDING_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Writes as much as possible without blocking. Without a reader the lines are dropped, and PID
    /// 1 continues.
    pub fn flush(&mut self) {
        let mut written = 0;
        while written < self.pending.len() {
            match write(self.pipe.as_fd(), &self.pending[written..]) {
                Ok(length) => written += length,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => written = self.pending.len(),
            }
        }
        self.pending.drain(..written);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
    }
}

/// Sets a pipe to non-blocking mode.
///
/// # Errors
/// When `fcntl` fails.
pub fn set_nonblocking(pipe: OwnedFd) -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL)?);
    fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(pipe)
}

/// Returns the length of `text` without an incomplete UTF-8 character at its end.
///
/// Text that is not UTF-8 may be cut anywhere: a leading byte counts only when its character does
/// not fit.
fn char_boundary_before(text: &[u8]) -> usize {
    let is_continuation = |byte: &u8| byte & 0b1100_0000 == 0b1000_0000;
    let trailing = text.iter().rev().take(3).take_while(|byte| is_continuation(byte)).count();
    let Some(leading_at) = text.len().checked_sub(trailing + 1) else { return text.len() };
    let char_bytes = match text[leading_at] {
        0b1100_0000..0b1110_0000 => 2,
        0b1110_0000..0b1111_0000 => 3,
        0b1111_0000..0b1111_1000 => 4,
        _ => return text.len(),
    };
    if trailing + 1 < char_bytes { leading_at } else { text.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut lines, mut out) = (LineSplitter::new("edge"), Vec::new());
        for piece in pieces {
            lines.feed(piece, &mut out);
        }
        lines.finish(&mut out);
        out
    }

    #[test]
    fn each_line_gets_the_prefix() {
        let cases: [(&[&[u8]], &str); 7] = [
            (&[], ""),
            (&[b"one\n"], "[edge] one\n"),
            (&[b"one\ntwo\n"], "[edge] one\n[edge] two\n"),
            (&[b"o", b"n", b"e\nt", b"wo"], "[edge] one\n[edge] two\n"),
            (&[b"\n\n"], "[edge] \n[edge] \n"),
            (&[b"no end"], "[edge] no end\n"),
            (&[b"cr\r\n"], "[edge] cr\r\n"),
        ];
        for (pieces, expected) in cases {
            assert_eq!(String::from_utf8_lossy(&split(pieces)), expected, "{pieces:?}");
        }
    }

    #[test]
    fn a_line_without_an_end_takes_bounded_memory_and_loses_nothing() {
        let (mut lines, mut out) = (LineSplitter::new("edge"), Vec::new());
        for _ in 0..100 {
            lines.feed(&[b'x'; 1000], &mut out);
            assert!(lines.partial.len() <= MAX_LINE_BYTES);
        }
        lines.finish(&mut out);
        assert_eq!(out.iter().filter(|byte| **byte == b'x').count(), 100_000);
    }

    /// A pipe holds 64 KiB, so the whole output is there when the service has ended. An orphan
    /// keeps the other end open.
    #[test]
    fn an_incomplete_last_line_is_drained_whole() {
        let name = "[edge] ".len();
        for (length, lines) in [(12 << 10, 1), (MAX_LINE_BYTES, 1), (60 << 10, 4)] {
            for orphaned in [false, true] {
                let (ours, theirs) = nix::unistd::pipe().unwrap();
                let mut writer =
                    OutputWriter::new(std::fs::File::open("/dev/null").unwrap().into());
                let mut stream = OutputStream::new("edge", set_nonblocking(ours).unwrap());
                let text = [vec![b'x'; length - 3], b"end".to_vec()].concat();
                assert_eq!(write(&theirs, &text), Ok(length));
                let _held = orphaned.then_some(theirs);
                stream.drain(&mut writer);
                let written = String::from_utf8(writer.pending).unwrap();
                assert!(written.ends_with("end\n"), "{length} {orphaned}");
                assert_eq!(written.lines().count(), lines, "{length} {orphaned}");
                assert_eq!(written.len(), length + lines * (name + 1), "{length} {orphaned}");
            }
        }
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        for text in ["é", "€", "🦀"] {
            for padding in MAX_LINE_BYTES - text.len()..=MAX_LINE_BYTES + 1 {
                let line = format!("{}{text}{text}tail", "x".repeat(padding));
                for read in [1, 7, line.len()] {
                    let pieces: Vec<_> = line.as_bytes().chunks(read).collect();
                    let written = String::from_utf8(split(&pieces)).expect("whole characters");
                    let bodies =
                        written.lines().map(|piece| piece.strip_prefix("[edge] ").unwrap());
                    assert!(bodies.clone().all(|body| body.len() <= MAX_LINE_BYTES));
                    assert_eq!(bodies.collect::<String>(), line, "{padding} {text} {read}");
                }
            }
        }
    }

    #[test]
    fn a_long_line_that_is_not_utf8_loses_no_byte() {
        for byte in [0x80, 0xc3, 0xf0, 0xff] {
            let written = split(&[&vec![byte; 3 * MAX_LINE_BYTES]]);
            assert_eq!(
                written.iter().filter(|b| **b == byte).count(),
                3 * MAX_LINE_BYTES,
                "{byte:x}"
            );
        }
    }

    proptest! {
        /// The lines do not depend on how reads cut the text.
        #[test]
        fn lines_do_not_depend_on_the_reads(text in "[a-z\\n]{0,200}", cuts in prop::collection::vec(0_usize..200, 0..8)) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> =
                cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let whole: String = text.lines().map(|line| format!("[edge] {line}\n")).collect();
            prop_assert_eq!(String::from_utf8(split(&pieces)).unwrap(), whole);
        }
    }
}
