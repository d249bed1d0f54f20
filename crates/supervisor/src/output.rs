//! What services print, line by line under their names. No line is lost, none is split by another's.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{read, write};

/// A longer line is told in pieces, so that a service that never ends its line costs no memory.
pub const LONGEST: usize = 16 << 10;
/// More than this waits for the engine to take it before anything else is read from the services.
const FULL: usize = 64 << 10;

/// Turns one stream of bytes into lines that begin with a name. Pure.
#[derive(Debug)]
pub struct Lines {
    prefix: String,
    partial: Vec<u8>,
}

impl Lines {
    pub fn new(name: &str) -> Self {
        Self { prefix: format!("[{name}] "), partial: Vec::new() }
    }

    /// Takes some bytes; whole lines go to `out`, what is left waits for its end.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end], out);
            self.end_line(out);
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes, out);
    }

    /// The last line may lack its end.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.partial.is_empty() {
            self.end_line(out);
        }
    }

    fn extend(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while self.partial.len() + bytes.len() > LONGEST {
            let (now, later) = bytes.split_at(LONGEST - self.partial.len());
            self.partial.extend_from_slice(now);
            self.end_line(out);
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

/// One of a service's two streams.
#[derive(Debug)]
pub struct Stream {
    /// `None` once every writer has closed it.
    pub pipe: Option<OwnedFd>,
    lines: Lines,
}

impl Stream {
    /// `pipe` must not block.
    pub fn new(name: &str, pipe: OwnedFd) -> Self {
        Self { pipe: Some(pipe), lines: Lines::new(name) }
    }

    /// Takes what can be read at once, a bounded amount, and says how much that was.
    pub fn pump(&mut self, outlet: &mut Outlet) -> usize {
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
                self.lines.finish(&mut outlet.waiting);
                self.pipe = None;
                0
            }
            Ok(length) => {
                self.lines.feed(&buffer[..length], &mut outlet.waiting);
                length
            }
            Err(Errno::EAGAIN) => 0,
            Err(_) => {
                self.pipe = None;
                0
            }
        }
    }

    /// Takes all that is there and ends the last line. Bounded: orphans may hold the stream open and print on.
    pub fn drain(&mut self, outlet: &mut Outlet) {
        let mut drained = 0;
        while drained <= FULL * 4 {
            match self.pump(outlet) {
                0 => break,
                taken => drained += taken,
            }
        }
        self.lines.finish(&mut outlet.waiting);
    }
}

/// Where lines leave: never blocks PID 1, however slowly the engine reads.
#[derive(Debug)]
pub struct Outlet {
    pub pipe: OwnedFd,
    waiting: Vec<u8>,
}

impl Outlet {
    /// `pipe` must not block.
    pub fn new(pipe: OwnedFd) -> Self {
        Self { pipe, waiting: Vec::new() }
    }

    /// A line of PID 1's own.
    pub fn say(&mut self, text: &str) {
        let mut lines = Lines::new("supervisor");
        lines.feed(text.as_bytes(), &mut self.waiting);
        lines.finish(&mut self.waiting);
    }

    pub fn is_full(&self) -> bool {
        self.waiting.len() >= FULL
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Writes what can be written at once. Nobody reading is no reason to end: then lines are lost.
    pub fn flush(&mut self) {
        let mut written = 0;
        while written < self.waiting.len() {
            match write(self.pipe.as_fd(), &self.waiting[written..]) {
                Ok(length) => written += length,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => written = self.waiting.len(),
            }
        }
        self.waiting.drain(..written);
        if self.waiting.is_empty() {
            self.waiting = Vec::new();
        }
    }
}

/// Makes a descriptor of a pipe not block.
pub fn unblock(pipe: OwnedFd) -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL)?);
    fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(pipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut lines, mut out) = (Lines::new("edge"), Vec::new());
        for piece in pieces {
            lines.feed(piece, &mut out);
        }
        lines.finish(&mut out);
        out
    }

    #[test]
    fn lines() {
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
            assert_eq!(String::from_utf8_lossy(&through(pieces)), expected, "{pieces:?}");
        }
    }

    #[test]
    fn a_line_without_end_costs_bounded_memory_and_loses_nothing() {
        let (mut lines, mut out) = (Lines::new("edge"), Vec::new());
        for _ in 0..100 {
            lines.feed(&[b'x'; 1000], &mut out);
            assert!(lines.partial.len() <= LONGEST);
        }
        lines.finish(&mut out);
        assert_eq!(out.iter().filter(|byte| **byte == b'x').count(), 100_000);
    }

    /// A pipe takes 64 KiB, so all of it is there when the service is already dead. Its orphan holds the other end.
    #[test]
    fn a_last_line_without_end_is_drained_whole() {
        let name = "[edge] ".len();
        for (length, lines) in [(12 << 10, 1), (LONGEST, 1), (60 << 10, 4)] {
            for orphaned in [false, true] {
                let (ours, theirs) = nix::unistd::pipe().unwrap();
                let mut outlet = Outlet::new(std::fs::File::open("/dev/null").unwrap().into());
                let mut stream = Stream::new("edge", unblock(ours).unwrap());
                let text = [vec![b'x'; length - 3], b"end".to_vec()].concat();
                assert_eq!(write(&theirs, &text), Ok(length));
                let _held = orphaned.then_some(theirs);
                stream.drain(&mut outlet);
                let said = String::from_utf8(outlet.waiting).unwrap();
                assert!(said.ends_with("end\n"), "{length} {orphaned}");
                assert_eq!(said.lines().count(), lines, "{length} {orphaned}");
                assert_eq!(said.len(), length + lines * (name + 1), "{length} {orphaned}");
            }
        }
    }

    proptest! {
        /// However a text is cut into reads, the same lines come out, and all of them.
        #[test]
        fn cuts_do_not_matter(text in "[a-z\\n]{0,200}", cuts in prop::collection::vec(0_usize..200, 0..8)) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> =
                cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let whole: String = text.lines().map(|line| format!("[edge] {line}\n")).collect();
            prop_assert_eq!(String::from_utf8(through(&pieces)).unwrap(), whole);
        }
    }
}
