//! An answer of our own that is made as it goes out: one chunk a part.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;

use crate::buffers::Buf;
use crate::exchange::After;
use crate::framing::Framing;
use crate::head::{RequestFacts, Version};
use crate::policy::Policy;
use crate::response::Response;
use crate::stream::Stream;
use crate::sweep::Deadline;
use crate::thread::Thread;
use crate::write;

/// What is on its way out.
struct Live<'a, P> {
    thread: &'a Thread<P>,
    parts: mpsc::Receiver<Vec<u8>>,
    framing: Framing,
    out: Vec<u8>,
    sent: usize,
    ended: bool,
}

/// Answers in place of an upstream. `keep`: the connection may go on, with these bytes.
pub(crate) async fn respond<P: Policy>(
    thread: &Rc<Thread<P>>,
    client: &Stream,
    (answer, parts): (&Response, mpsc::Receiver<Vec<u8>>),
    facts: &RequestFacts,
    keep: Option<Option<Buf>>,
    deadline: &Deadline,
) -> After<P::Exchange> {
    let framing = match facts.version {
        Version::Http11 => Framing::Chunked,
        Version::Http10 => Framing::Close,
    };
    let stays =
        keep.is_some() && facts.keep_alive && framing == Framing::Chunked && !thread.is_draining();
    let mut out = thread.buffers.write();
    write::own_head(answer, facts.version, framing, !stays, &mut out);
    let ended = facts.is_head || write::is_bodiless(answer.status);
    let mut live = Live { thread, parts, framing, out, sent: 0, ended };
    if !ended && !answer.body.is_empty() {
        live.add(&answer.body);
    }
    deadline.within(thread.patience.body);
    let mut gone = pin!(client.closed());
    let whole = poll_fn(|cx| {
        let polled = live.poll(cx, client, deadline);
        if polled.is_pending() && gone.as_mut().poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        polled
    })
    .await;
    thread.buffers.give_back(live.out);
    match (whole, keep) {
        (false, _) => After::Close,
        (true, Some(buf)) if stays => After::Again(buf),
        (true, _) => After::Linger,
    }
}

impl<P> Live<'_, P> {
    /// Whether all of it went out.
    fn poll(&mut self, cx: &mut Context<'_>, client: &Stream, deadline: &Deadline) -> Poll<bool> {
        loop {
            while self.sent < self.out.len() {
                if deadline.has_passed(cx) {
                    return Poll::Ready(false);
                }
                match ready!(client.poll_send(cx, &self.out[self.sent..])) {
                    Ok(count) => self.sent += count,
                    Err(_) => return Poll::Ready(false),
                }
                deadline.within(self.thread.patience.body);
            }
            if self.ended {
                return Poll::Ready(true);
            }
            // The maker of the parts may take its time; only the end of this thread is watched for.
            deadline.clear();
            let polled = self.parts.poll_recv(cx);
            self.out.clear();
            self.sent = 0;
            match polled {
                Poll::Ready(Some(part)) => self.add(&part),
                Poll::Pending if !self.thread.is_draining() => {
                    deadline.has_passed(cx);
                    return Poll::Pending;
                }
                Poll::Ready(None) | Poll::Pending => self.end(),
            }
            deadline.within(self.thread.patience.body);
        }
    }

    fn add(&mut self, part: &[u8]) {
        if self.framing == Framing::Chunked {
            write::chunk(part, &mut self.out);
        } else {
            self.out.extend_from_slice(part);
        }
    }

    fn end(&mut self) {
        self.ended = true;
        if self.framing == Framing::Chunked {
            self.out.extend_from_slice(b"0\r\n\r\n");
        }
    }
}
