//! One direction of a message: what arrives goes out, no faster than it is taken.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::body::{Body, Took, Trailer};
use crate::buffers::{Buf, Buffers};
use crate::head::Header;
use crate::headers::Headers;
use crate::policy::Exchange;
use crate::stream::{ReadHalf, WriteHalf};

/// A head that is written already, then a body that is on its way.
pub(crate) struct Pump {
    /// Goes out before anything of `buf`.
    pub(crate) out: Vec<u8>,
    sent: usize,
    /// Read and not sent yet. `None` while there is nothing.
    pub(crate) buf: Option<Buf>,
    /// So much of `buf` is sound and goes out as it is.
    ready: usize,
    pub(crate) body: Body,
    /// `out` is still needed after it was sent.
    pub(crate) keep: bool,
    limit: Option<u64>,
    broken: Option<Broken>,
    pub(crate) wrote: bool,
    pub(crate) waits_for: Side,
}

/// Which of the two ends a pump waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Sink,
}

/// Why a pump stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The body breaks this rule.
    Rule(&'static str),
    TooLarge,
    /// The source ended before the body did.
    Source,
    /// The sink takes no more.
    Sink,
}

/// What an exchange is asked and told while a body passes.
pub(crate) trait Course {
    fn trailer(&self, header: Header<'_>, to: &mut Headers<'_>);
    fn read(&self, data: &[u8]);
}

/// From the client to the upstream.
pub(crate) struct Up<'a, E>(pub(crate) &'a E);
/// From the upstream to the client.
pub(crate) struct Down<'a, E>(pub(crate) &'a E);

impl<E: Exchange> Course for Up<'_, E> {
    fn trailer(&self, header: Header<'_>, to: &mut Headers<'_>) {
        self.0.forward_request_header(header, to);
    }

    fn read(&self, _: &[u8]) {}
}

impl<E: Exchange> Course for Down<'_, E> {
    fn trailer(&self, header: Header<'_>, to: &mut Headers<'_>) {
        self.0.forward_response_header(header, to);
    }

    fn read(&self, data: &[u8]) {
        self.0.on_data_received(data);
    }
}

/// A body of this size goes out in one piece with the head, at the price of a copy.
const COPIED: usize = 4 << 10;

impl Pump {
    pub(crate) fn new(out: Vec<u8>, buf: Option<Buf>, body: Body, limit: Option<u64>) -> Self {
        let (sent, ready, keep, wrote) = (0, 0, false, false);
        let waits_for = Side::Source;
        Self { out, sent, buf, ready, body, keep, limit, broken: None, wrote, waits_for }
    }

    /// Sends the head again.
    pub(crate) fn rewind(&mut self) {
        (self.sent, self.wrote) = (0, false);
    }

    /// Moves what can be moved; says in `moved` whether anything did. Ready when the body is through.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut ReadHalf<'_>, &mut WriteHalf<'_>),
        buffers: &Rc<Buffers>,
        course: &impl Course,
        moved: &mut bool,
    ) -> Poll<Result<(), Broken>> {
        loop {
            self.take(course);
            // Nothing of a message that is known to be broken, if nothing went out yet.
            if let (Some(broken), false) = (&self.broken, self.wrote) {
                return Poll::Ready(Err(broken.clone()));
            }
            if self.sent < self.out.len() || self.ready > 0 {
                self.waits_for = Side::Sink;
                let raw = self.buf.as_ref().map_or(&[][..], |buf| &buf.data()[..self.ready]);
                match ready!(to.poll_write(cx, &self.out[self.sent..], raw)) {
                    Ok(count) => self.went(count),
                    Err(_) => return Poll::Ready(Err(Broken::Sink)),
                }
                *moved = true;
                continue;
            }
            if let Some(broken) = self.broken.clone() {
                return Poll::Ready(Err(broken));
            }
            if self.body.is_done() {
                return Poll::Ready(Ok(()));
            }
            self.waits_for = Side::Source;
            let buf = self.buf.get_or_insert_with(|| buffers.read());
            match from.poll_read(cx, buf) {
                Poll::Ready(Ok(1..)) => {
                    course.read(buf.data());
                    *moved = true;
                }
                Poll::Ready(Ok(0)) if self.body.close(&mut self.out) => {}
                Poll::Ready(Ok(0) | Err(_)) => self.broken = Some(Broken::Source),
                Poll::Pending => {
                    self.buf.take_if(|buf| buf.is_empty());
                    return Poll::Pending;
                }
            }
        }
    }

    /// Looks at what was read, once what was looked at before is sent.
    fn take(&mut self, course: &impl Course) {
        let Some(buf) = self.buf.as_mut().filter(|buf| !buf.is_empty()) else { return };
        if self.ready > 0 || self.body.is_done() || self.broken.is_some() {
            return;
        }
        let trailer: Trailer<'_> = &mut |header, to| course.trailer(header, to);
        match self.body.take(buf.data(), &mut self.out, trailer) {
            Ok(Took::Raw(count)) if count <= COPIED && self.sent < self.out.len() => {
                self.out.extend_from_slice(&buf.data()[..count]);
                buf.consume(count);
            }
            Ok(Took::Raw(count)) => self.ready = count,
            Ok(Took::Copied(count)) => buf.consume(count),
            Err(rule) => self.broken = Some(Broken::Rule(rule)),
        }
        if self.limit.is_some_and(|limit| self.body.announced() > limit) {
            (self.broken, self.ready) = (Some(Broken::TooLarge), 0);
        }
    }

    fn went(&mut self, count: usize) {
        self.wrote = true;
        let head = count.min(self.out.len() - self.sent);
        self.sent += head;
        if let Some(buf) = self.buf.as_mut() {
            buf.consume(count - head);
            self.ready -= count - head;
        }
        if self.sent == self.out.len() && !self.keep {
            self.out.clear();
            self.sent = 0;
        }
    }
}
