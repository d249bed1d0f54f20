//! A response of the proxy's own that is produced while it is sent, one chunk per part.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;

use crate::connection::request::AfterRequest;
use crate::http::framing::Framing;
use crate::http::head::{RequestInfo, Version};
use crate::http::write;
use crate::policy::Policy;
use crate::response::Response;
use crate::runtime::buffers::ReadBuffer;
use crate::runtime::stream::Stream;
use crate::runtime::timers::Deadline;
use crate::runtime::worker::Worker;

/// A response in progress.
struct StreamedResponse<'a, P> {
    worker: &'a Worker<P>,
    parts: mpsc::Receiver<Vec<u8>>,
    framing: Framing,
    out: Vec<u8>,
    sent: usize,
    has_ended: bool,
}

/// Sends a streamed response in place of an upstream's. `keep`: the connection may continue with these bytes.
pub(crate) async fn respond<P: Policy>(
    worker: &Rc<Worker<P>>,
    client: &Stream,
    (response, parts): (&Response, mpsc::Receiver<Vec<u8>>),
    info: &RequestInfo,
    keep: Option<Option<ReadBuffer>>,
    deadline: &Deadline,
) -> AfterRequest<P::Exchange> {
    let framing = match info.version {
        Version::Http11 => Framing::Chunked,
        Version::Http10 => Framing::Close,
    };
    let keeps_connection = keep.is_some()
        && info.is_persistent
        && framing == Framing::Chunked
        && !worker.is_draining();
    let mut out = worker.buffers.take_write_buffer();
    write::own_response_head(response, info.version, framing, !keeps_connection, &mut out);
    let has_ended = info.is_head() || write::is_bodiless(response.status);
    let mut stream = StreamedResponse { worker, parts, framing, out, sent: 0, has_ended };
    if !has_ended && !response.body.is_empty() {
        stream.add(&response.body);
    }
    deadline.set_ticks(worker.timeouts.body);
    let (mut input_ended, mut has_input) = (pin!(client.wait_for_input_end()), true);
    let is_complete = poll_fn(|cx| {
        loop {
            let polled = stream.poll(cx, client, deadline);
            if polled.is_ready() || !has_input || input_ended.as_mut().poll(cx).is_pending() {
                return polled;
            }
            // A client whose input ended gets the response so far, properly ended. A stream without
            // end would otherwise go on for a client that has left.
            has_input = false;
            if client.is_hung_up() || stream.has_ended {
                return Poll::Ready(false);
            }
            stream.end();
            deadline.set_ticks(worker.timeouts.body);
        }
    })
    .await;
    worker.buffers.return_write_buffer(stream.out);
    match (is_complete, keep) {
        (false, _) => AfterRequest::Close,
        (true, Some(buf)) if keeps_connection => AfterRequest::NextRequest(buf),
        (true, _) => AfterRequest::LingeringClose,
    }
}

impl<P> StreamedResponse<'_, P> {
    /// Resolves to whether the whole response was sent.
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
                deadline.set_ticks(self.worker.timeouts.body);
            }
            if self.has_ended {
                return Poll::Ready(true);
            }
            // The producer may pause for any time, so no timeout runs; only a drain wakes the task.
            deadline.clear();
            let polled = self.parts.poll_recv(cx);
            self.out.clear();
            self.sent = 0;
            match polled {
                Poll::Ready(Some(part)) => self.add(&part),
                Poll::Pending if !self.worker.is_draining() => {
                    deadline.has_passed(cx);
                    return Poll::Pending;
                }
                Poll::Ready(None) | Poll::Pending => self.end(),
            }
            deadline.set_ticks(self.worker.timeouts.body);
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
        self.has_ended = true;
        if self.framing == Framing::Chunked {
            self.out.extend_from_slice(b"0\r\n\r\n");
        }
    }
}
