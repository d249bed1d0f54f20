//! One client's connection: heads in, one exchange after the other, until one of the two has had enough.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::ProxyError;
use crate::buffers::Buf;
use crate::exchange::{self, After};
use crate::head::Version;
use crate::policy::{ErrorContext, Peer, Policy};
use crate::scan::Scan;
use crate::step::{Step, Went};
use crate::stream::Stream;
use crate::sweep::Deadline;
use crate::thread::{Alive, Thread, write_all};
use crate::tunnel::Tunnel;
use crate::write;

/// What comes next on a connection.
enum Next {
    /// A whole head: the first so many bytes, or as many as it turns out to be.
    Head(Buf, Option<usize>),
    Refused(ProxyError),
    /// Nothing more.
    End,
}

/// Until the end, or until it has become a tunnel.
///
/// No `async fn`: it would keep what it is given twice. A connection between two requests is as small as its waiting,
/// so what is large, or seldom said, is in a box of its own.
pub(crate) fn run<P: Policy>(
    thread: Rc<Thread<P>>,
    mut client: Stream,
    peer: Peer,
    alive: Alive,
) -> impl Future<Output = Option<Box<Tunnel<P, P::Exchange>>>> {
    let deadline = thread.sweep.deadline();
    let mut head = Head::after(None);
    async move {
        let after = loop {
            deadline.within(thread.patience.keep_alive);
            let (buf, end) =
                match poll_fn(|cx| head.poll(cx, &mut client, &thread, &deadline)).await {
                    Next::Head(buf, end) => (buf, end),
                    Next::End => return None,
                    Next::Refused(fault) => {
                        Box::pin(refuse(&thread, &mut client, &fault, &deadline)).await;
                        break After::Linger;
                    }
                };
            let after = match exchange::begin(&thread, &peer, buf, end, &deadline) {
                Ok(mut way) => match poll_fn(|cx| way.poll(cx, &mut client)).await {
                    Step::Went(Went::Well) => After::Again(way.finish()),
                    step @ (Step::Went(_) | Step::Wait(_)) => {
                        Box::pin(exchange::go_on(way, step, &mut client)).await
                    }
                },
                Err(otherwise) => {
                    Box::pin(exchange::answer(&thread, &mut client, otherwise, &deadline)).await
                }
            };
            match after {
                After::Again(left) => head = Head::after(left),
                after @ (After::Close | After::Linger | After::Tunnel(_)) => break after,
            }
        };
        match after {
            After::Again(_) | After::Close => {}
            After::Linger => Box::pin(linger(&thread, &mut client, &deadline)).await,
            After::Tunnel(made) => {
                deadline.within(thread.patience.body);
                if write_all(&mut client, &made.out, &deadline).await.is_ok() {
                    return Some(Box::new(Tunnel::new(thread, client, *made, deadline, alive)));
                }
            }
        }
        None
    }
}

/// A head that is arriving.
struct Head {
    scan: Scan,
    buf: Option<Buf>,
    begun: bool,
    /// The one empty line that may come first is behind us.
    trimmed: bool,
    looked: bool,
}

impl Head {
    /// `left`: what came beyond the request before.
    fn after(mut left: Option<Buf>) -> Self {
        left.iter_mut().for_each(Buf::grow);
        Self { scan: Scan::default(), buf: left, begun: false, trimmed: false, looked: false }
    }

    fn poll<P>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Stream,
        thread: &Rc<Thread<P>>,
        deadline: &Deadline,
    ) -> Poll<Next> {
        let (mut from, _) = client.split();
        loop {
            if let Some(next) = self.look(thread, deadline) {
                return Poll::Ready(next);
            }
            let buf = self.buf.get_or_insert_with(|| thread.buffers.read());
            buf.grow();
            match from.poll_read(cx, buf) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::End),
                Poll::Pending => {
                    self.buf.take_if(|buf| buf.is_empty());
                    // Whoever sends its head slowly holds no more than what it sent.
                    self.buf.iter_mut().for_each(Buf::shrink);
                    // Only now: what has arrived by the time of the stop is still served.
                    if thread.drops_idle() && !self.begun {
                        return Poll::Ready(Next::End);
                    }
                    ready!(passed(deadline, cx));
                    return Poll::Ready(match self.begun {
                        true => Next::Refused(ProxyError::RequestHeadTimeout),
                        false => Next::End,
                    });
                }
            }
        }
    }

    /// Looks at what is there. `None`: more is needed.
    fn look<P>(&mut self, thread: &Thread<P>, deadline: &Deadline) -> Option<Next> {
        let limit = thread.settings.request_head.bytes;
        let buf = self.buf.as_mut().filter(|buf| !buf.is_empty())?;
        if !self.begun {
            self.begun = true;
            deadline.within(thread.patience.head);
        }
        if !self.trimmed {
            // One empty line in front of a request is an old habit (RFC 9112 §2.2).
            match buf.data() {
                b"\r" => return None,
                [b'\r', b'\n', ..] => buf.consume(2),
                _ => {}
            }
            self.trimmed = true;
            if buf.is_empty() {
                self.begun = false;
                deadline.within(thread.patience.keep_alive);
                return None;
            }
        }
        // Most heads come in one piece, with nothing behind them: whoever reads them finds their end.
        if !std::mem::replace(&mut self.looked, true)
            && buf.data().len() <= limit
            && buf.data().ends_with(b"\r\n\r\n")
        {
            return Some(Next::Head(self.buf.take()?, None));
        }
        let end = match self.scan.end(buf.data()) {
            Ok(end) => end,
            Err(rule) => return Some(Next::Refused(ProxyError::MalformedRequest(rule))),
        };
        match end {
            Some(end) if end <= limit => {
                let buf = self.buf.take()?;
                Some(Next::Head(buf, Some(end)))
            }
            None if buf.data().len() < limit => None,
            _ => {
                let target = memchr::memchr(b'\n', &buf.data()[..limit]).is_none();
                Some(Next::Refused(ProxyError::RequestHeadTooLarge { target }))
            }
        }
    }
}

fn passed(deadline: &Deadline, cx: &mut Context<'_>) -> Poll<()> {
    if deadline.has_passed(cx) { Poll::Ready(()) } else { Poll::Pending }
}

/// Answers what could not be understood.
async fn refuse<P: Policy>(
    thread: &Rc<Thread<P>>,
    client: &mut Stream,
    fault: &ProxyError,
    deadline: &Deadline,
) {
    let answer = thread.policy.error_response(fault, ErrorContext::Unparsed);
    let mut out = thread.buffers.write();
    write::own(&answer, Version::Http11, false, true, &mut out);
    deadline.within(thread.patience.body);
    // A client that is gone needs no answer.
    let _ = write_all(client, &out, deadline).await;
    thread.buffers.give_back(out);
}

/// How much is read, and for how long, of what nobody will look at.
const LINGER_BYTES: usize = 1 << 20;
const LINGER: std::time::Duration = std::time::Duration::from_secs(2);

/// Closes so that the answer arrives: a close with unread bytes would take it back (RFC 9112 §9.6).
async fn linger<P>(thread: &Rc<Thread<P>>, client: &mut Stream, deadline: &Deadline) {
    deadline.set(LINGER);
    let mut seen = 0;
    let (mut from, mut to) = client.split();
    poll_fn(|cx| {
        if let Poll::Ready(Err(_)) = to.poll_shutdown(cx) {
            return Poll::Ready(());
        }
        let mut buf = thread.buffers.read();
        loop {
            if deadline.has_passed(cx) || seen > LINGER_BYTES {
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
        let thread = Thread::new((), Settings::default());
        let deadline = thread.sweep.deadline();
        deadline.set(Duration::from_secs(20));
        let mut head = Head::after(None);
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 1..text.len() {
            theirs.write_all(&text[end - 1..end]).unwrap();
            poll_fn(|cx| {
                let polled = head.poll(cx, &mut client, &thread, &deadline);
                assert!(polled.is_pending(), "it is not whole");
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
        let next = poll_fn(|cx| head.poll(cx, &mut client, &thread, &deadline)).await;
        assert!(matches!(next, Next::Head(buf, Some(27)) if buf.data() == text));
    }
}
