//! One client connection: serves one request after the other until either end closes.

pub(crate) mod client_wait;
pub(crate) mod copy;
pub(crate) mod forward;
pub(crate) mod interim_budget;
pub(crate) mod request;
pub(crate) mod step;
pub(crate) mod streamed_response;

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::ProxyError;
use crate::connection::request::AfterRequest;
use crate::connection::step::{End, Step};
use crate::http::head::Version;
use crate::http::head_scan::HeadScan;
use crate::http::write;
use crate::policy::{ErrorContext, Peer, Policy};
use crate::runtime::buffers::ReadBuffer;
use crate::runtime::stream::Stream;
use crate::runtime::timers::Deadline;
use crate::runtime::worker::{ConnectionGuard, Worker, write_all};
use crate::upgrade::tunnel::Tunnel;

/// The next event on a connection.
enum HeadEvent {
    /// A complete head in the first bytes of the buffer; `None`: the parser will find the end.
    Head(ReadBuffer, Option<usize>),
    Refused(ProxyError),
    /// The client closed or stayed idle.
    End,
}

/// Serves a connection until it ends or becomes a tunnel.
///
/// Not an `async fn`, which would store its arguments twice. A connection between two requests must stay small, so
/// large or rare states live in boxes of their own.
pub(crate) fn run<P: Policy>(
    worker: Rc<Worker<P>>,
    mut client: Stream,
    peer: Peer,
    guard: ConnectionGuard,
) -> impl Future<Output = Option<Box<Tunnel<P, P::Exchange>>>> {
    let deadline = worker.timers.deadline();
    let mut head = ArrivingHead::after(None);
    async move {
        let after = loop {
            deadline.set_evictable(worker.timeouts.keep_alive);
            let (buf, end) =
                match poll_fn(|cx| head.poll(cx, &mut client, &worker, &deadline)).await {
                    HeadEvent::Head(buf, end) => (buf, end),
                    HeadEvent::End => return None,
                    HeadEvent::Refused(error) => {
                        Box::pin(refuse(&worker, &mut client, &error, &deadline)).await;
                        break AfterRequest::LingeringClose;
                    }
                };
            let after = match request::begin(&worker, &peer, buf, end, &deadline) {
                Ok(mut forward) => match poll_fn(|cx| forward.poll(cx, &mut client)).await {
                    Step::Done(End::KeepAlive) => AfterRequest::NextRequest(forward.finish()),
                    step @ (Step::Done(_) | Step::Wait(_)) => {
                        Box::pin(request::finish(forward, step, &mut client)).await
                    }
                },
                Err(not_forwarded) => {
                    Box::pin(request::respond_instead(
                        &worker,
                        &mut client,
                        not_forwarded,
                        &deadline,
                    ))
                    .await
                }
            };
            match after {
                AfterRequest::NextRequest(left) => head = ArrivingHead::after(left),
                after @ (AfterRequest::Close
                | AfterRequest::LingeringClose
                | AfterRequest::Tunnel(_)) => break after,
            }
        };
        match after {
            AfterRequest::NextRequest(_) | AfterRequest::Close => {}
            AfterRequest::LingeringClose => Box::pin(linger(&worker, &mut client, &deadline)).await,
            AfterRequest::Tunnel(made) => {
                deadline.set_ticks(worker.timeouts.body);
                if write_all(&mut client, &made.out, &deadline).await.is_ok() {
                    return Some(Box::new(Tunnel::new(worker, client, *made, deadline, guard)));
                }
            }
        }
        None
    }
}

/// A request head that is arriving.
struct ArrivingHead {
    scan: HeadScan,
    buf: Option<ReadBuffer>,
    progress: HeadProgress,
}

/// How much of a request head has arrived. One empty line before a request is tolerated (RFC 9112 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeadProgress {
    Nothing,
    /// The tolerated empty line, and nothing after it.
    EmptyLine,
    /// Bytes that may begin with the tolerated empty line.
    Begun,
    /// Bytes of the head itself.
    Head,
    /// Bytes of the head that were parsed once and did not end it.
    PartOfHead,
}

impl HeadProgress {
    fn is_idle(self) -> bool {
        matches!(self, Self::Nothing | Self::EmptyLine)
    }
}

impl ArrivingHead {
    /// `left`: input received beyond the previous request.
    fn after(mut left: Option<ReadBuffer>) -> Self {
        left.iter_mut().for_each(ReadBuffer::grow);
        Self { scan: HeadScan::default(), buf: left, progress: HeadProgress::Nothing }
    }

    fn poll<P>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Stream,
        worker: &Rc<Worker<P>>,
        deadline: &Deadline,
    ) -> Poll<HeadEvent> {
        let (mut from, _) = client.split();
        loop {
            if let Some(next) = self.examine(worker, deadline) {
                return Poll::Ready(next);
            }
            let buf = self.buf.get_or_insert_with(|| worker.buffers.take_read_buffer());
            buf.grow();
            match from.poll_read(cx, buf) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(HeadEvent::End),
                Poll::Pending => {
                    self.buf.take_if(|buf| buf.is_empty());
                    // A client that sends its head slowly occupies only the bytes it sent.
                    self.buf.iter_mut().for_each(ReadBuffer::shrink);
                    // Checked after reading: input that arrived before the stop is still served.
                    let is_idle = self.progress.is_idle();
                    if worker.closes_idle() && is_idle {
                        return Poll::Ready(HeadEvent::End);
                    }
                    ready!(poll_deadline(deadline, cx));
                    return Poll::Ready(match is_idle {
                        true => HeadEvent::End,
                        false => HeadEvent::Refused(ProxyError::RequestHeadTimeout),
                    });
                }
            }
        }
    }

    /// Examines the input. `None`: the head is incomplete.
    fn examine<P>(&mut self, worker: &Worker<P>, deadline: &Deadline) -> Option<HeadEvent> {
        let limit = worker.settings.request_head.bytes;
        let buf = self.buf.as_mut().filter(|buf| !buf.is_empty())?;
        if self.progress.is_idle() {
            let was_empty_line = self.progress == HeadProgress::EmptyLine;
            self.progress = if was_empty_line { HeadProgress::Head } else { HeadProgress::Begun };
            deadline.set_evictable(worker.timeouts.head);
        }
        if self.progress == HeadProgress::Begun {
            match buf.data() {
                b"\r" => return None,
                [b'\r', b'\n', ..] => buf.consume(2),
                _ => {}
            }
            if buf.is_empty() {
                self.progress = HeadProgress::EmptyLine;
                deadline.set_evictable(worker.timeouts.keep_alive);
                return None;
            }
            self.progress = HeadProgress::Head;
        }
        // Most heads arrive alone in one read, so the parser itself finds the end.
        if std::mem::replace(&mut self.progress, HeadProgress::PartOfHead) == HeadProgress::Head
            && buf.data().len() <= limit
            && buf.data().ends_with(b"\r\n\r\n")
        {
            return Some(HeadEvent::Head(self.buf.take()?, None));
        }
        let end = match self.scan.end(buf.data()) {
            Ok(end) => end,
            Err(rule) => return Some(HeadEvent::Refused(ProxyError::MalformedRequest(rule))),
        };
        match end {
            Some(end) if end <= limit => {
                let buf = self.buf.take()?;
                Some(HeadEvent::Head(buf, Some(end)))
            }
            None if buf.data().len() < limit => None,
            _ => {
                let target = memchr::memchr(b'\n', &buf.data()[..limit]).is_none();
                Some(HeadEvent::Refused(ProxyError::RequestHeadTooLarge { target }))
            }
        }
    }
}

fn poll_deadline(deadline: &Deadline, cx: &mut Context<'_>) -> Poll<()> {
    if deadline.has_passed(cx) { Poll::Ready(()) } else { Poll::Pending }
}

/// Responds to a head that was not understood.
async fn refuse<P: Policy>(
    worker: &Rc<Worker<P>>,
    client: &mut Stream,
    error: &ProxyError,
    deadline: &Deadline,
) {
    let response = worker.policy.error_response(error, ErrorContext::Unparsed);
    let mut out = worker.buffers.take_write_buffer();
    write::own_response(&response, Version::Http11, false, true, &mut out);
    deadline.set_ticks(worker.timeouts.body);
    // A client that left needs no response.
    let _ = write_all(client, &out, deadline).await;
    worker.buffers.return_write_buffer(out);
}

/// The bounds of draining unread input before a close.
const MAX_LINGER_BYTES: usize = 64 << 20;
const LINGER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// Closes so that the response arrives: closing with unread input resets the connection (RFC 9112 §9.6).
async fn linger<P>(worker: &Rc<Worker<P>>, client: &mut Stream, deadline: &Deadline) {
    deadline.set(LINGER_TIMEOUT);
    let mut seen = 0;
    let (mut from, mut to) = client.split();
    poll_fn(|cx| {
        if let Poll::Ready(Err(_)) = to.poll_shutdown(cx) {
            return Poll::Ready(());
        }
        let mut buf = worker.buffers.take_read_buffer();
        loop {
            if deadline.has_passed(cx) || seen > MAX_LINGER_BYTES {
                return Poll::Ready(());
            }
            match ready!(from.poll_read(cx, &mut buf)) {
                Ok(count @ 1..) => {
                    seen += count;
                    buf.consume(count);
                }
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;
    use crate::settings::Settings;

    #[tokio::test(flavor = "current_thread")]
    async fn a_head_that_arrives_slowly_holds_what_arrived_and_no_more() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut client = Stream::Unix(tokio::net::UnixStream::from_std(ours).unwrap());
        let worker = Worker::new((), Settings::default());
        let deadline = worker.timers.deadline();
        deadline.set(Duration::from_secs(20));
        let mut head = ArrivingHead::after(None);
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 1..text.len() {
            theirs.write_all(&text[end - 1..end]).unwrap();
            poll_fn(|cx| {
                let polled = head.poll(cx, &mut client, &worker, &deadline);
                assert!(polled.is_pending(), "the head is not complete");
                match &head.buf {
                    Some(buf) if buf.data() == &text[..end] => {
                        assert_eq!(buf.size(), end);
                        Poll::Ready(())
                    }
                    Some(_) | None => Poll::Pending,
                }
            })
            .await;
        }
        theirs.write_all(b"\n").unwrap();
        let next = poll_fn(|cx| head.poll(cx, &mut client, &worker, &deadline)).await;
        assert!(matches!(next, HeadEvent::Head(buf, Some(27)) if buf.data() == text));
    }
}
