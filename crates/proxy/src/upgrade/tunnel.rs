//! An upgraded connection: copies bytes both ways, holds no buffer while idle, and ends with 1001 on a drain
//! or when its session ends.

use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::policy::{Exchange, SendPermission, TunnelEnd};
use crate::runtime::buffers::{BufferPool, ReadBuffer};
use crate::runtime::stream::{ReadHalf, Stream, WriteHalf};
use crate::runtime::timers::Deadline;
use crate::runtime::worker::{ConnectionGuard, DrainPhase, Worker};
use crate::upgrade::frames::{Frames, GOING_AWAY};

/// A tunnel that both ends agreed to, before the 101 is sent.
pub(crate) struct AgreedTunnel<E> {
    pub(crate) exchange: E,
    pub(crate) upstream: Stream,
    /// Early input of the client.
    pub(crate) ahead: Option<ReadBuffer>,
    /// The serialised head of the 101.
    pub(crate) out: Vec<u8>,
    /// Early input of the upstream.
    pub(crate) received: Option<ReadBuffer>,
}

/// An open tunnel. A plain value with a `poll` function: a future would store its arguments a second time, and there
/// may be many idle tunnels.
pub(crate) struct Tunnel<P, E> {
    worker: Rc<Worker<P>>,
    client: Stream,
    upstream: Stream,
    exchange: E,
    up: TunnelDirection,
    down: TunnelDirection,
    /// The pending permission to send client data.
    permission: Option<SendPermission>,
    /// `None` for a tunnel that nothing but its ends and a drain ends.
    end: Option<TunnelEnd>,
    deadline: Deadline,
    phase: TunnelPhase,
    _guard: ConnectionGuard,
}

/// How far a tunnel is from its end. Each phase has a deadline of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TunnelPhase {
    Open,
    /// One direction ended; the other still may.
    HalfOpen,
    /// The client gets a close frame.
    Closing,
}

/// One direction of a tunnel.
struct TunnelDirection {
    /// Boxed because it is occupied only while the sink is slow.
    unsent: Option<Box<ReadBuffer>>,
    frames: Frames,
    input: Input,
    /// The sink was shut down.
    is_done: bool,
    /// Unsent bytes of the proxy's own close frame.
    close_frame_left: Option<u8>,
    /// The exchange was notified of the unsent data and permitted sending it.
    is_permitted: bool,
}

/// The input of one direction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    /// The source closed; unsent input is still sent.
    Ended,
    /// The exchange refused the data: input is read and dropped.
    Refused,
}

/// The hooks of an exchange for one direction of a tunnel.
trait Direction {
    /// Resolves to whether data may pass.
    fn poll_permission(&mut self, cx: &mut Context<'_>) -> Poll<bool>;

    /// Control frames pass without permission but the sink is full: resolves to whether following data may pass.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<bool>;
}

struct ToUpstream<'a, E> {
    exchange: &'a mut E,
    permission: &'a mut Option<SendPermission>,
}

struct ToClient<'a, E>(&'a E);

impl<E: Exchange> Direction for ToUpstream<'_, E> {
    fn poll_permission(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.permission.is_none() {
            *self.permission = self.exchange.before_sending();
        }
        let Some(permission) = self.permission else { return Poll::Ready(true) };
        let is_allowed = ready!(permission.as_mut().poll(cx));
        *self.permission = None;
        Poll::Ready(is_allowed)
    }

    /// A frozen tenant reads nothing: unanswered pings would fill the socket until data cannot reach the tenant.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.poll_permission(cx)
    }
}

impl<E: Exchange> Direction for ToClient<'_, E> {
    fn poll_permission(&mut self, _: &mut Context<'_>) -> Poll<bool> {
        self.0.on_data_received();
        Poll::Ready(true)
    }

    /// The client empties the sink by reading.
    fn poll_blocked(&mut self, _: &mut Context<'_>) -> Poll<bool> {
        Poll::Pending
    }
}

/// How long one direction may remain open after the other ended.
const HALF_OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the frame in progress, the close frame and its reply may take together.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

impl<P, E: Exchange> Tunnel<P, E> {
    /// Starts a tunnel after the 101 was sent.
    pub(crate) fn new(
        worker: Rc<Worker<P>>,
        client: Stream,
        agreed: AgreedTunnel<E>,
        deadline: Deadline,
        guard: ConnectionGuard,
    ) -> Self {
        let AgreedTunnel { mut exchange, upstream, ahead, received, .. } = agreed;
        match worker.settings.tunnel_idle_timeout {
            Some(idle) => deadline.set(idle),
            None => deadline.clear(),
        }
        let (up, down) = (TunnelDirection::new(ahead), TunnelDirection::new(received));
        let end = exchange.tunnel_end();
        Self {
            worker,
            client,
            upstream,
            exchange,
            up,
            down,
            permission: None,
            end,
            deadline,
            phase: TunnelPhase::Open,
            _guard: guard,
        }
    }

    /// Ready when the tunnel ended. The tenant counts as busy until the tunnel is dropped.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { worker, exchange, up, down, permission, end, deadline, .. } = self;
        let (mut from_client, mut to_client) = self.client.split();
        let (mut from_upstream, mut to_upstream) = self.upstream.split();
        let mut moved = false;
        if end.take_if(|end| end.as_mut().poll(cx).is_ready()).is_some() {
            up.unsent = None;
            // The tunnel ends within `CLOSE_TIMEOUT` in any case.
            let _ = up.refuse(cx, &mut to_upstream);
        }
        let halves = (&mut from_client, &mut to_upstream);
        let sent = up.poll(
            cx,
            halves,
            &mut ToUpstream { exchange, permission },
            &worker.buffers,
            &mut moved,
        );
        let must_close =
            up.input == Input::Refused || worker.phase.get() == DrainPhase::ClosingTunnels;
        if must_close && self.phase != TunnelPhase::Closing {
            self.phase = TunnelPhase::Closing;
            down.close_frame_left = Some(GOING_AWAY.len() as u8);
            deadline.set(CLOSE_TIMEOUT);
        }
        let halves = (&mut from_upstream, &mut to_client);
        let received = down.poll(cx, halves, &mut ToClient(exchange), &worker.buffers, &mut moved);
        if sent.is_err() || received.is_err() || (up.is_done && down.is_done) {
            return Poll::Ready(());
        }
        if self.phase == TunnelPhase::Open {
            if up.is_done || down.is_done {
                self.phase = TunnelPhase::HalfOpen;
                deadline.set(HALF_OPEN_TIMEOUT);
            } else if let (true, Some(idle)) = (moved, worker.settings.tunnel_idle_timeout) {
                deadline.set(idle);
            }
        }
        if deadline.has_passed(cx) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl TunnelDirection {
    fn new(unsent: Option<ReadBuffer>) -> Self {
        Self {
            unsent: unsent.map(Box::new),
            frames: Frames::default(),
            input: Input::Open,
            is_done: false,
            close_frame_left: None,
            is_permitted: false,
        }
    }

    /// Copies as much as possible. An error ends the tunnel.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut ReadHalf<'_>, &mut WriteHalf<'_>),
        direction: &mut impl Direction,
        buffers: &Rc<BufferPool>,
        moved: &mut bool,
    ) -> Result<(), std::io::Error> {
        let mut buf = self.unsent.take().map(|unsent| *unsent);
        while !self.is_done {
            let step = self.step(cx, from, to, direction, &mut buf, buffers);
            buf.take_if(|buf| self.input == Input::Refused || buf.is_empty());
            match step {
                Poll::Ready(Ok(())) => *moved = true,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.unsent = buf.map(Box::new);
        Ok(())
    }

    fn step(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
        direction: &mut impl Direction,
        buf: &mut Option<ReadBuffer>,
        buffers: &Rc<BufferPool>,
    ) -> Poll<std::io::Result<()>> {
        if self.close_frame_left.is_some() && self.frames.is_between() {
            return self.send_close(cx, to);
        }
        if let Some(buf) = buf {
            let mut data = buf.data();
            if self.close_frame_left.is_some() {
                data = &data[..self.frames.rest_of_frame(data)];
            }
            let mut is_control = false;
            if !self.is_permitted {
                let control = self.frames.control(data);
                let is_allowed =
                    if control > 0 { Poll::Ready(true) } else { direction.poll_permission(cx) };
                match is_allowed {
                    Poll::Ready(true) if control > 0 => {
                        (data, is_control) = (&data[..control], true);
                    }
                    Poll::Ready(true) => self.is_permitted = true,
                    Poll::Ready(false) => return self.refuse(cx, to),
                    Poll::Pending => {
                        // The wait may last as long as a container start, for every open tunnel.
                        buf.shrink();
                        return Poll::Pending;
                    }
                }
            }
            let count = match to.poll_write(cx, data, &[])? {
                Poll::Ready(count) => count,
                Poll::Pending if !is_control => return Poll::Pending,
                // The exchange now knows of all unsent data.
                Poll::Pending if ready!(direction.poll_blocked(cx)) => {
                    self.is_permitted = true;
                    return Poll::Pending;
                }
                Poll::Pending => return self.refuse(cx, to),
            };
            self.frames.feed(&data[..count]);
            buf.consume(count);
            return Poll::Ready(Ok(()));
        }
        if self.input == Input::Ended {
            self.is_done = true;
            return to.poll_shutdown(cx);
        }
        self.is_permitted = false;
        let read = ready!(from.poll_read(cx, buf.insert(buffers.take_read_buffer())))?;
        match self.input {
            Input::Open if read == 0 => self.input = Input::Ended,
            // The sink is shut down already.
            Input::Refused if read == 0 => self.is_done = true,
            Input::Open | Input::Ended | Input::Refused => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the direction without sending the unsent data.
    fn refuse(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut WriteHalf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.input = Input::Refused;
        to.poll_shutdown(cx)
    }

    /// Sends the close frame between two frames, unless the remote end already sent one.
    fn send_close(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut WriteHalf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.close_frame_left {
            Some(left @ 1..) if !self.frames.is_closed() => {
                let rest = &GOING_AWAY[GOING_AWAY.len() - usize::from(left)..];
                let count = ready!(to.poll_write(cx, rest, &[]))?;
                self.close_frame_left = Some(left - u8::try_from(count).unwrap_or(left));
                Poll::Ready(Ok(()))
            }
            _ => {
                self.is_done = true;
                to.poll_shutdown(cx)
            }
        }
    }
}
