//! Buffers of one thread: a connection holds a read buffer only while it has unread input.

use std::cell::RefCell;
use std::rc::Rc;

/// Spare buffers for reuse.
pub(crate) struct BufferPool {
    size: usize,
    reads: RefCell<Vec<Box<[u8]>>>,
    writes: RefCell<Vec<Vec<u8>>>,
}

/// Spare buffers kept; others return to the allocator. A read buffer is in use for moments only, and eight of them
/// exceed half a megabyte, which counts beside thousands of idle connections. A write buffer is in use while an
/// upstream works on a response.
const MAX_SPARE_READ_BUFFERS: usize = 8;
const MAX_SPARE_WRITE_BUFFERS: usize = 128;
/// Holds most heads, so that writing a head does not reallocate.
const WRITE_BUFFER_BYTES: usize = 1 << 10;
/// A larger write buffer is not kept.
const MAX_KEPT_WRITE_BYTES: usize = 8 << 10;

impl BufferPool {
    pub(crate) fn new(size: usize) -> Rc<Self> {
        Rc::new(Self { size, reads: RefCell::default(), writes: RefCell::default() })
    }

    pub(crate) fn take_read_buffer(self: &Rc<Self>) -> ReadBuffer {
        let spare = self.reads.borrow_mut().pop();
        let bytes = spare.unwrap_or_else(|| vec![0; self.size].into_boxed_slice());
        ReadBuffer { bytes, start: 0, end: 0, home: self.clone() }
    }

    fn return_read_buffer(&self, bytes: Box<[u8]>) {
        let mut reads = self.reads.borrow_mut();
        // A shrunken buffer cannot be reused.
        if bytes.len() == self.size && reads.len() < MAX_SPARE_READ_BUFFERS {
            reads.push(bytes);
        }
    }

    pub(crate) fn take_write_buffer(&self) -> Vec<u8> {
        self.writes.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(WRITE_BUFFER_BYTES))
    }

    pub(crate) fn return_write_buffer(&self, mut out: Vec<u8>) {
        let mut writes = self.writes.borrow_mut();
        if (1..=MAX_KEPT_WRITE_BYTES).contains(&out.capacity())
            && writes.len() < MAX_SPARE_WRITE_BUFFERS
        {
            out.clear();
            writes.push(out);
        }
    }
}

/// Input that was read and not yet consumed.
pub(crate) struct ReadBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    home: Rc<BufferPool>,
}

impl ReadBuffer {
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

    /// The space for further input; empty only when the whole buffer is unconsumed input.
    pub(crate) fn unfilled(&mut self) -> &mut [u8] {
        if self.end == self.bytes.len() && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.bytes[self.end..]
    }

    /// Releases all space beyond the unconsumed input, for a long wait.
    pub(crate) fn shrink(&mut self) {
        if self.bytes.len() == self.home.size {
            let data = self.data().into();
            self.swap(data);
        }
    }

    /// Restores the full size and keeps the unconsumed input.
    pub(crate) fn grow(&mut self) {
        if self.bytes.len() == self.home.size {
            return;
        }
        let mut whole = self.home.take_read_buffer();
        let data = self.data();
        whole.bytes[..data.len()].copy_from_slice(data);
        let bytes = std::mem::take(&mut whole.bytes);
        self.swap(bytes);
    }

    #[cfg(test)]
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Replaces the storage. `bytes` must begin with the unconsumed input.
    fn swap(&mut self, bytes: Box<[u8]>) {
        (self.start, self.end) = (0, self.end - self.start);
        let old = std::mem::replace(&mut self.bytes, bytes);
        self.home.return_read_buffer(old);
    }

    /// Marks `count` bytes of the unfilled space as input.
    pub(crate) fn filled(&mut self, count: usize) {
        self.end += count;
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        self.home.return_read_buffer(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shrunken_buffer_holds_only_its_unread_input() {
        let buffers = BufferPool::new(64);
        let mut buf = buffers.take_read_buffer();
        buf.unfilled()[..10].copy_from_slice(b"0123456789");
        buf.filled(10);
        buf.consume(4);
        buf.shrink();
        assert_eq!((buf.data(), buf.bytes.len()), (&b"456789"[..], 6));
        assert_eq!(buffers.reads.borrow().len(), 1, "the whole one is free for others");
        buf.grow();
        assert_eq!(buf.data(), b"456789");
        assert_eq!(buf.unfilled().len(), 58);
        drop(buf);
        assert_eq!(buffers.reads.borrow().len(), 1, "and the small one is gone");
    }
}
