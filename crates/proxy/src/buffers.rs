//! Read buffers of one thread: a connection holds one only while it has something unread.

use std::cell::RefCell;
use std::rc::Rc;

/// Where spare buffers wait.
pub(crate) struct Buffers {
    size: usize,
    reads: RefCell<Vec<Box<[u8]>>>,
    writes: RefCell<Vec<Vec<u8>>>,
}

/// Spare buffers kept; the rest is given back to the allocator. A read buffer is held for moments only, and eight are
/// over half a megabyte, which counts beside thousands of connections that do nothing; a write buffer is held while an
/// upstream thinks.
const SPARE_READS: usize = 8;
const SPARE_WRITES: usize = 128;
/// Room for most heads, so that writing one does not grow it step by step.
const WRITE: usize = 1 << 10;
/// A write buffer that grew beyond this is not kept.
const WRITE_KEPT: usize = 8 << 10;

impl Buffers {
    pub(crate) fn new(size: usize) -> Rc<Self> {
        Rc::new(Self { size, reads: RefCell::default(), writes: RefCell::default() })
    }

    pub(crate) fn read(self: &Rc<Self>) -> Buf {
        let spare = self.reads.borrow_mut().pop();
        let bytes = spare.unwrap_or_else(|| vec![0; self.size].into_boxed_slice());
        Buf { bytes, start: 0, end: 0, home: self.clone() }
    }

    fn take_back(&self, bytes: Box<[u8]>) {
        let mut reads = self.reads.borrow_mut();
        // One that was shrunk is of no use to anyone.
        if bytes.len() == self.size && reads.len() < SPARE_READS {
            reads.push(bytes);
        }
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        self.writes.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(WRITE))
    }

    pub(crate) fn give_back(&self, mut out: Vec<u8>) {
        let mut writes = self.writes.borrow_mut();
        if (1..=WRITE_KEPT).contains(&out.capacity()) && writes.len() < SPARE_WRITES {
            out.clear();
            writes.push(out);
        }
    }
}

/// Bytes that were read and not used yet.
pub(crate) struct Buf {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    home: Rc<Buffers>,
}

impl Buf {
    pub(crate) fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end, "more was used than was read");
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Where the next bytes go; empty only when all of the buffer is unused data.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.end == self.bytes.len() && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.bytes[self.end..]
    }

    /// Gives back all but the room that the unused data needs, for a long wait.
    pub(crate) fn shrink(&mut self) {
        if self.bytes.len() == self.home.size {
            let data = self.data().into();
            self.swap(data);
        }
    }

    /// A whole buffer again, with the same unused data.
    pub(crate) fn grow(&mut self) {
        if self.bytes.len() == self.home.size {
            return;
        }
        let mut whole = self.home.read();
        let data = self.data();
        whole.bytes[..data.len()].copy_from_slice(data);
        let bytes = std::mem::take(&mut whole.bytes);
        self.swap(bytes);
    }

    #[cfg(test)]
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// `bytes` begins with the unused data.
    fn swap(&mut self, bytes: Box<[u8]>) {
        (self.start, self.end) = (0, self.end - self.start);
        let old = std::mem::replace(&mut self.bytes, bytes);
        self.home.take_back(old);
    }

    /// `count` bytes of the room were filled.
    pub(crate) fn filled(&mut self, count: usize) {
        self.end += count;
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.home.take_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_costs_no_more_than_what_is_unused() {
        let buffers = Buffers::new(64);
        let mut buf = buffers.read();
        buf.room()[..10].copy_from_slice(b"0123456789");
        buf.filled(10);
        buf.consume(4);
        buf.shrink();
        assert_eq!((buf.data(), buf.bytes.len()), (&b"456789"[..], 6));
        assert_eq!(buffers.reads.borrow().len(), 1, "the whole one is free for others");
        buf.grow();
        assert_eq!(buf.data(), b"456789");
        assert_eq!(buf.room().len(), 58);
        drop(buf);
        assert_eq!(buffers.reads.borrow().len(), 1, "and the small one is gone");
    }
}
