//! An upgraded connection: bytes both ways, no buffer while nothing moves, 1001 when it must end.

use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::buffers::{Buf, Buffers};
use crate::frames::{Frames, GOING_AWAY};
use crate::policy::{Exchange, SendPermission};
use crate::stream::{ReadHalf, Stream, WriteHalf};
use crate::sweep::Deadline;
use crate::thread::{Alive, Phase, Thread};

/// A tunnel that both ends agreed to.
pub(crate) struct Made<E> {
    pub(crate) exchange: E,
    pub(crate) upstream: Stream,
    /// What the client sent already.
    pub(crate) ahead: Option<Buf>,
    /// The head of the 101, still to be sent.
    pub(crate) out: Vec<u8>,
    /// What the upstream sent already.
    pub(crate) said: Option<Buf>,
}

/// All that a tunnel is. A plain value that is polled: a future would keep what it was made of beside it, and there
/// may be many that do nothing.
pub(crate) struct Tunnel<P, E> {
    thread: Rc<Thread<P>>,
    client: Stream,
    upstream: Stream,
    exchange: E,
    up: Lane,
    down: Lane,
    /// What data waits for on its way up.
    wait: Option<SendPermission>,
    deadline: Deadline,
    closing: bool,
    last: bool,
    _alive: Alive,
}

/// One direction.
struct Lane {
    /// Boxed: there is something only while the other end is slow.
    held: Option<Box<Buf>>,
    frames: Frames,
    /// Nothing more comes in; what is held still goes out.
    ended: bool,
    /// Nothing more goes out.
    done: bool,
    /// A close of our own: so much of it is not sent.
    goodbye: Option<u8>,
    /// Whoever must know of what is held knows.
    announced: bool,
    /// What comes in goes nowhere.
    discards: bool,
}

/// What an exchange is asked and told before data passes.
trait Course {
    /// Whether it may.
    fn poll_pass(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<bool>;

    /// Pings and their like, which pass unasked, find no room: whether it is made, with what is behind them in mind.
    fn poll_stuck(&mut self, cx: &mut Context<'_>) -> Poll<bool>;
}

struct Up<'a, E> {
    exchange: &'a mut E,
    wait: &'a mut Option<SendPermission>,
}

struct Down<'a, E>(&'a E);

impl<E: Exchange> Course for Up<'_, E> {
    fn poll_pass(&mut self, cx: &mut Context<'_>, _: &[u8]) -> Poll<bool> {
        if self.wait.is_none() {
            *self.wait = self.exchange.before_sending();
        }
        let Some(wait) = self.wait else { return Poll::Ready(true) };
        let may = ready!(wait.as_mut().poll(cx));
        *self.wait = None;
        Poll::Ready(may)
    }

    /// A tenant that is frozen reads nothing: pings fill what is between until even data does not get through.
    fn poll_stuck(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.poll_pass(cx, &[])
    }
}

impl<E: Exchange> Course for Down<'_, E> {
    fn poll_pass(&mut self, _: &mut Context<'_>, data: &[u8]) -> Poll<bool> {
        self.0.on_data_received(data);
        Poll::Ready(true)
    }

    /// The client makes it, by reading.
    fn poll_stuck(&mut self, _: &mut Context<'_>) -> Poll<bool> {
        Poll::Pending
    }
}

/// How long one direction may outlive the other.
const LAST: Duration = Duration::from_secs(10);
/// How long a frame under way, the close and its answer may take.
const GOODBYE: Duration = Duration::from_secs(2);

impl<P, E: Exchange> Tunnel<P, E> {
    /// The 101 was sent.
    pub(crate) fn new(
        thread: Rc<Thread<P>>,
        client: Stream,
        made: Made<E>,
        deadline: Deadline,
        alive: Alive,
    ) -> Self {
        let Made { exchange, upstream, ahead, said, .. } = made;
        match thread.settings.tunnel_idle_timeout {
            Some(idle) => deadline.set(idle),
            None => deadline.clear(),
        }
        let (up, down) = (Lane::new(ahead), Lane::new(said));
        let (wait, closing, last) = (None, false, false);
        Self {
            thread,
            client,
            upstream,
            exchange,
            up,
            down,
            wait,
            deadline,
            closing,
            last,
            _alive: alive,
        }
    }

    /// Ready when it has ended. Only when it is dropped is nobody busy any more.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { thread, exchange, up, down, wait, deadline, .. } = self;
        let (mut from_client, mut to_client) = self.client.split();
        let (mut from_upstream, mut to_upstream) = self.upstream.split();
        let mut moved = false;
        let halves = (&mut from_client, &mut to_upstream);
        let went = up.poll(cx, halves, &mut Up { exchange, wait }, &thread.buffers, &mut moved);
        if !self.closing && (up.discards || thread.phase.get() == Phase::Closing) {
            (self.closing, self.last) = (true, true);
            down.goodbye = Some(GOING_AWAY.len() as u8);
            deadline.set(GOODBYE);
        }
        let halves = (&mut from_upstream, &mut to_client);
        let came = down.poll(cx, halves, &mut Down(exchange), &thread.buffers, &mut moved);
        if went.is_err() || came.is_err() || (up.done && down.done) {
            return Poll::Ready(());
        }
        if (up.done || down.done) && !self.last {
            self.last = true;
            deadline.set(LAST);
        } else if let (true, false, Some(idle)) =
            (moved, self.last, thread.settings.tunnel_idle_timeout)
        {
            deadline.set(idle);
        }
        if deadline.has_passed(cx) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Lane {
    fn new(held: Option<Buf>) -> Self {
        Self {
            held: held.map(Box::new),
            frames: Frames::default(),
            ended: false,
            done: false,
            goodbye: None,
            announced: false,
            discards: false,
        }
    }

    /// Moves what can be moved. An error ends the tunnel.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut ReadHalf<'_>, &mut WriteHalf<'_>),
        course: &mut impl Course,
        buffers: &Rc<Buffers>,
        moved: &mut bool,
    ) -> Result<(), std::io::Error> {
        let mut buf = self.held.take().map(|held| *held);
        while !self.done {
            let step = self.step(cx, from, to, course, &mut buf, buffers);
            buf.take_if(|buf| self.discards || buf.is_empty());
            match step {
                Poll::Ready(Ok(())) => *moved = true,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.held = buf.map(Box::new);
        Ok(())
    }

    fn step(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
        course: &mut impl Course,
        buf: &mut Option<Buf>,
        buffers: &Rc<Buffers>,
    ) -> Poll<std::io::Result<()>> {
        if self.goodbye.is_some() && self.frames.is_between() {
            return self.part(cx, to);
        }
        if let Some(buf) = buf {
            let mut data = buf.data();
            if self.goodbye.is_some() {
                data = &data[..self.frames.rest_of_frame(data)];
            }
            let mut is_control = false;
            if !self.announced {
                let control = self.frames.control(data);
                let may = if control > 0 { Poll::Ready(true) } else { course.poll_pass(cx, data) };
                match may {
                    Poll::Ready(true) if control > 0 => {
                        (data, is_control) = (&data[..control], true);
                    }
                    Poll::Ready(true) => self.announced = true,
                    Poll::Ready(false) => return self.refuse(cx, to),
                    Poll::Pending => {
                        // It may take as long as a start, for as many as there are tunnels.
                        buf.shrink();
                        return Poll::Pending;
                    }
                }
            }
            let count = match to.poll_write(cx, data, &[])? {
                Poll::Ready(count) => count,
                Poll::Pending if !is_control => return Poll::Pending,
                // Whoever is told now is told of all that is held.
                Poll::Pending if ready!(course.poll_stuck(cx)) => {
                    self.announced = true;
                    return Poll::Pending;
                }
                Poll::Pending => return self.refuse(cx, to),
            };
            self.frames.feed(&data[..count]);
            buf.consume(count);
            return Poll::Ready(Ok(()));
        }
        if self.ended {
            self.done = true;
            return to.poll_shutdown(cx);
        }
        self.announced = false;
        let read = from.poll_read(cx, buf.insert(buffers.read()));
        self.ended = ready!(read)? == 0;
        Poll::Ready(Ok(()))
    }

    /// What is held may not pass, and nothing after it.
    fn refuse(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut WriteHalf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.discards = true;
        to.poll_shutdown(cx)
    }

    /// Says goodbye between two frames, unless the other end has done so.
    fn part(&mut self, cx: &mut Context<'_>, to: &mut WriteHalf<'_>) -> Poll<std::io::Result<()>> {
        match self.goodbye {
            Some(left @ 1..) if !self.frames.is_closed() => {
                let rest = &GOING_AWAY[GOING_AWAY.len() - usize::from(left)..];
                let count = ready!(to.poll_write(cx, rest, &[]))?;
                self.goodbye = Some(left - u8::try_from(count).unwrap_or(left));
                Poll::Ready(Ok(()))
            }
            _ => {
                self.done = true;
                to.poll_shutdown(cx)
            }
        }
    }
}
