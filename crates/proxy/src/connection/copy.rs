//! Copies one direction of a message with back-pressure: reads no faster than the sink accepts.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::http::body::{Body, Consumed, Trailer};
use crate::http::event_stream::EventStreamScanner;
use crate::http::head::Header;
use crate::http::headers::Headers;
use crate::policy::Exchange;
use crate::runtime::buffers::{BufferPool, ReadBuffer};
use crate::runtime::stream::{ReadHalf, WriteHalf};

/// A serialised head, followed by a body in transit.
pub(crate) struct BodyCopy {
    /// Sent before any byte of `buf`.
    pub(crate) out: Vec<u8>,
    sent: usize,
    /// Read and unsent. `None` while empty.
    pub(crate) buf: Option<ReadBuffer>,
    /// The length of the valid prefix of `buf` that is sent unchanged.
    ready: usize,
    pub(crate) body: Body,
    /// Keeps `out` after sending, so that the head can be sent again.
    pub(crate) keeps_head: bool,
    max_bytes: Option<u64>,
    error: Option<CopyError>,
    pub(crate) has_written: bool,
    pub(crate) waits_for: Side,
}

/// The end that a copy waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Sink,
}

/// Why a copy failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CopyError {
    /// The body violates this rule.
    InvalidBody(&'static str),
    TooLarge,
    /// The source closed before the end of the body.
    SourceClosed,
    /// The sink accepts no more data.
    SinkClosed,
}

/// The hooks of an exchange for one direction of a body.
pub(crate) trait Direction {
    fn trailer(&self, header: Header<'_>, to: &mut Headers<'_>);
    fn on_read(&mut self, data: &[u8]);
}

/// Client to upstream.
pub(crate) struct ToUpstream<'a, E>(pub(crate) &'a E);
/// Upstream to client.
pub(crate) struct ToClient<'a, E> {
    pub(crate) exchange: &'a E,
    pub(crate) events: &'a mut Option<Box<EventStreamScanner>>,
}

impl<E: Exchange> Direction for ToUpstream<'_, E> {
    fn trailer(&self, header: Header<'_>, to: &mut Headers<'_>) {
        self.0.forward_request_header(header, to);
    }

    fn on_read(&mut self, _: &[u8]) {}
}

impl<E: Exchange> Direction for ToClient<'_, E> {
    fn trailer(&self, header: Header<'_>, to: &mut Headers<'_>) {
        self.exchange.forward_response_header(header, to);
    }

    fn on_read(&mut self, data: &[u8]) {
        if self.events.as_mut().is_none_or(|events| events.has_event(data)) {
            self.exchange.on_data_received();
        }
    }
}

/// A body up to this size is copied behind the head, so that both leave in one write.
const MAX_COPIED_BYTES: usize = 4 << 10;

impl BodyCopy {
    pub(crate) fn new(
        out: Vec<u8>,
        buf: Option<ReadBuffer>,
        body: Body,
        max_bytes: Option<u64>,
    ) -> Self {
        let (sent, ready, keeps_head, has_written) = (0, 0, false, false);
        let waits_for = Side::Source;
        Self {
            out,
            sent,
            buf,
            ready,
            body,
            keeps_head,
            max_bytes,
            error: None,
            has_written,
            waits_for,
        }
    }

    /// Drops the decoded input that was not sent. The input behind it stays.
    pub(crate) fn discard_unsent(&mut self) {
        if let Some(buf) = &mut self.buf {
            buf.consume(std::mem::take(&mut self.ready));
        }
        self.buf.take_if(|buf| buf.is_empty());
    }

    /// Sends the head again.
    pub(crate) fn rewind(&mut self) {
        (self.sent, self.has_written) = (0, false);
    }

    /// Copies as much as possible and sets `moved` on progress. Ready when the body is complete.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut ReadHalf<'_>, &mut WriteHalf<'_>),
        buffers: &Rc<BufferPool>,
        direction: &mut impl Direction,
        moved: &mut bool,
    ) -> Poll<Result<(), CopyError>> {
        loop {
            self.take_input(direction);
            // A message known to be invalid is not started.
            if let (Some(error), false) = (&self.error, self.has_written) {
                return Poll::Ready(Err(error.clone()));
            }
            if self.sent < self.out.len() || self.ready > 0 {
                self.waits_for = Side::Sink;
                let raw = self.buf.as_ref().map_or(&[][..], |buf| &buf.data()[..self.ready]);
                match ready!(to.poll_write(cx, &self.out[self.sent..], raw)) {
                    Ok(count) => self.on_written(count),
                    Err(_) => return Poll::Ready(Err(CopyError::SinkClosed)),
                }
                *moved = true;
                continue;
            }
            if let Some(error) = self.error.clone() {
                return Poll::Ready(Err(error));
            }
            if self.body.is_done() {
                return Poll::Ready(Ok(()));
            }
            self.waits_for = Side::Source;
            let buf = self.buf.get_or_insert_with(|| buffers.take_read_buffer());
            match from.poll_read(cx, buf) {
                Poll::Ready(Ok(1..)) => {
                    direction.on_read(buf.data());
                    *moved = true;
                }
                Poll::Ready(Ok(0)) if self.body.close(&mut self.out) => {}
                Poll::Ready(Ok(0) | Err(_)) => self.error = Some(CopyError::SourceClosed),
                Poll::Pending => {
                    self.buf.take_if(|buf| buf.is_empty());
                    return Poll::Pending;
                }
            }
        }
    }

    /// Decodes input once all earlier input is sent.
    fn take_input(&mut self, direction: &impl Direction) {
        let Some(buf) = self.buf.as_mut().filter(|buf| !buf.is_empty()) else { return };
        if self.ready > 0 || self.body.is_done() || self.error.is_some() {
            return;
        }
        let trailer: Trailer<'_> = &mut |header, to| direction.trailer(header, to);
        match self.body.take(buf.data(), &mut self.out, trailer) {
            Ok(Consumed::AsIs(count))
                if count <= MAX_COPIED_BYTES && self.sent < self.out.len() =>
            {
                self.out.extend_from_slice(&buf.data()[..count]);
                buf.consume(count);
            }
            Ok(Consumed::AsIs(count)) => self.ready = count,
            Ok(Consumed::Rewritten(count)) => buf.consume(count),
            Err(rule) => self.error = Some(CopyError::InvalidBody(rule)),
        }
        if self.max_bytes.is_some_and(|max_bytes| self.body.announced() > max_bytes) {
            (self.error, self.ready) = (Some(CopyError::TooLarge), 0);
        }
    }

    fn on_written(&mut self, count: usize) {
        self.has_written = true;
        let head = count.min(self.out.len() - self.sent);
        self.sent += head;
        if let Some(buf) = self.buf.as_mut() {
            buf.consume(count - head);
            self.ready -= count - head;
        }
        if self.sent == self.out.len() && !self.keeps_head {
            self.out.clear();
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoHooks;

    impl Direction for NoHooks {
        fn trailer(&self, _: Header<'_>, _: &mut Headers<'_>) {}

        fn on_read(&mut self, _: &[u8]) {}
    }

    #[test]
    fn unsent_input_of_a_message_is_not_the_beginning_of_the_next_one() {
        let mut buf = BufferPool::new(64).take_read_buffer();
        buf.unfilled()[..11].copy_from_slice(b"bodyGET / H");
        buf.filled(11);
        let mut copy = BodyCopy::new(Vec::new(), Some(buf), Body::Length(4), None);
        copy.take_input(&NoHooks);
        assert!(copy.body.is_done());
        copy.discard_unsent();
        assert_eq!(copy.buf.unwrap().data(), b"GET / H");
    }
}
