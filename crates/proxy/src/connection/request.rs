//! One request, from its head to the last byte of its response.

use std::future::poll_fn;
use std::rc::Rc;

use tokio::sync::mpsc;

use crate::connection::forward::Forward;
use crate::connection::step::{End, ForwardError, Step};
use crate::connection::{
    client_wait::{self, Probe},
    streamed_response,
};
use crate::error::ProxyError;
use crate::http::body::{Body, Consumed};
use crate::http::framing::Framing;
use crate::http::head::{RequestHead, RequestInfo};
use crate::http::write;
use crate::policy::{Action, Decision, ErrorContext, Peer, PendingAction, Policy};
use crate::response::Response;
use crate::runtime::buffers::ReadBuffer;
use crate::runtime::stream::Stream;
use crate::runtime::timers::Deadline;
use crate::runtime::worker::{Worker, write_all};
use crate::upgrade::tunnel::AgreedTunnel;

/// The next step of a connection after a request.
pub(crate) enum AfterRequest<E> {
    /// The next request, which may begin with these bytes.
    NextRequest(Option<ReadBuffer>),
    Close,
    /// Close after draining unread input.
    LingeringClose,
    Tunnel(Box<AgreedTunnel<E>>),
}

/// The decision about a request.
enum RequestDecision<E> {
    Forward(E, RequestInfo),
    Pending(PendingAction<E>, RequestInfo),
    Respond(Response, RequestInfo),
    Stream(Response, mpsc::Receiver<Vec<u8>>, RequestInfo),
    /// Respond and close: the start of the next request is unknown or unwanted.
    Refuse(Response),
}

/// A request that is not forwarded at once: the decision, and the input whose first `end` bytes are the head.
pub(crate) struct NotForwarded<E> {
    decision: RequestDecision<E>,
    buf: ReadBuffer,
    end: usize,
}

/// Starts a request. The first `end` bytes of `buf` are the head; `None`: the end is not known yet.
pub(crate) fn begin<'t, P: Policy>(
    worker: &'t Rc<Worker<P>>,
    peer: &Peer,
    mut buf: ReadBuffer,
    end: Option<usize>,
    deadline: &'t Deadline,
) -> Result<Box<Forward<'t, P>>, Box<NotForwarded<P::Exchange>>> {
    let mut out = worker.buffers.take_write_buffer();
    let (decision, end) = parse_and_decide(worker, buf.data(), end, peer, &mut out);
    match decision {
        RequestDecision::Forward(exchange, info) => {
            buf.consume(end);
            Ok(Box::new(Forward::new(worker, (info, exchange), (out, buf), deadline)))
        }
        decision @ (RequestDecision::Pending(..)
        | RequestDecision::Respond(..)
        | RequestDecision::Stream(..)
        | RequestDecision::Refuse(_)) => {
            worker.buffers.return_write_buffer(out);
            Err(Box::new(NotForwarded { decision, buf, end }))
        }
    }
}

/// Completes a forwarded request from `step` on.
pub(crate) async fn finish<P: Policy>(
    mut forward: Box<Forward<'_, P>>,
    mut step: Step<P::Exchange>,
    client: &mut Stream,
) -> AfterRequest<P::Exchange> {
    let end = loop {
        step = match step {
            Step::Done(end) => break end,
            Step::Wait(pause) => match Box::pin(forward.wait(client, pause)).await {
                Some(step) => step,
                None => poll_fn(|cx| forward.poll(cx, client)).await,
            },
        };
    };
    match end {
        End::KeepAlive => AfterRequest::NextRequest(forward.finish()),
        End::Close => AfterRequest::Close,
        End::LingeringClose => AfterRequest::LingeringClose,
        End::Tunnel(out) => match forward.into_tunnel(out) {
            Some(made) => AfterRequest::Tunnel(Box::new(made)),
            None => AfterRequest::Close,
        },
        End::Respond(response) => {
            let (worker, info, deadline, keep) = forward.abandon_upstream();
            respond(worker, client, &response, &info, keep, deadline).await
        }
        End::Stream(response, parts) => {
            let (worker, info, deadline, keep) = forward.abandon_upstream();
            streamed_response::respond(worker, client, (&response, parts), &info, keep, deadline)
                .await
        }
    }
}

/// Completes a request that is not forwarded at once.
pub(crate) async fn respond_instead<P: Policy>(
    worker: &Rc<Worker<P>>,
    client: &mut Stream,
    not_forwarded: Box<NotForwarded<P::Exchange>>,
    deadline: &Deadline,
) -> AfterRequest<P::Exchange> {
    let NotForwarded { mut decision, mut buf, end } = *not_forwarded;
    let mut out = Vec::new();
    if let RequestDecision::Pending(later, info) = decision {
        deadline.set_ticks(worker.timeouts.response);
        let half_close = (worker.settings.half_close_timeout, Probe::before_response(info.version));
        // Many requests may wait for the same decision for a long time.
        buf.shrink();
        let decided = client_wait::unless_client_leaves(client, deadline, half_close, later).await;
        buf.grow();
        out = worker.buffers.take_write_buffer();
        decision = match decided {
            Ok(Action::Respond(response)) => RequestDecision::Respond(response, info),
            Ok(Action::Stream(response, parts)) => RequestDecision::Stream(response, parts, info),
            Ok(Action::Forward(exchange)) => {
                parse_again(worker, &buf.data()[..end], exchange, &mut out)
            }
            Err(ForwardError::Error(error)) => RequestDecision::Respond(
                worker.policy.error_response(&error, ErrorContext::Unparsed),
                info,
            ),
            Err(ForwardError::ClientGone | ForwardError::UpstreamLost(_)) => {
                return AfterRequest::Close;
            }
        };
    }
    buf.consume(end);
    match decision {
        RequestDecision::Forward(exchange, info) => {
            let forward = Forward::new(worker, (info, exchange), (out, buf), deadline);
            let mut forward = Box::new(forward);
            let step = poll_fn(|cx| forward.poll(cx, client)).await;
            finish(forward, step, client).await
        }
        RequestDecision::Respond(response, info) => {
            let keep = skip_buffered_body(info.framing, buf);
            respond(worker, client, &response, &info, keep, deadline).await
        }
        RequestDecision::Stream(response, parts, info) => {
            let (keep, made) = (skip_buffered_body(info.framing, buf), (&response, parts));
            streamed_response::respond(worker, client, made, &info, keep, deadline).await
        }
        RequestDecision::Refuse(response) => {
            respond(worker, client, &response, &RequestInfo::UNPARSED, None, deadline).await
        }
        RequestDecision::Pending(..) => AfterRequest::Close,
    }
}

/// Parses the head and decides about the request. Also returns the length of the head.
fn parse_and_decide<P: Policy>(
    worker: &Worker<P>,
    bytes: &[u8],
    end: Option<usize>,
    peer: &Peer,
    out: &mut Vec<u8>,
) -> (RequestDecision<P::Exchange>, usize) {
    let settings = &worker.settings;
    match end {
        Some(end) => RequestHead::read(&bytes[..end], settings, |head| {
            (decide(worker, head, peer, out), end)
        }),
        None => {
            RequestHead::find(bytes, settings, |head, end| (decide(worker, head, peer, out), end))
        }
    }
}

fn decide<P: Policy>(
    worker: &Worker<P>,
    head: Result<RequestHead<'_>, ProxyError>,
    peer: &Peer,
    out: &mut Vec<u8>,
) -> RequestDecision<P::Exchange> {
    let policy = &worker.policy;
    let head = match head {
        Ok(head) => head,
        Err(error) => {
            return RequestDecision::Refuse(policy.error_response(&error, ErrorContext::Unparsed));
        }
    };
    if let (Framing::Length(length), Some(limit)) =
        (head.info.framing, worker.settings.max_body_bytes)
        && length > limit
    {
        return RequestDecision::Refuse(
            policy.error_response(&ProxyError::RequestBodyTooLarge, ErrorContext::Head(&head)),
        );
    }
    match policy.decide(&head, peer) {
        Decision::Ready(Action::Respond(response)) => RequestDecision::Respond(response, head.info),
        Decision::Ready(Action::Stream(response, parts)) => {
            RequestDecision::Stream(response, parts, head.info)
        }
        Decision::Ready(Action::Forward(exchange)) => {
            write::request(&head, &exchange, out);
            RequestDecision::Forward(exchange, head.info)
        }
        Decision::Pending(later) => RequestDecision::Pending(later, head.info),
    }
}

/// Parses the same head again after a pending decision.
fn parse_again<P: Policy>(
    worker: &Worker<P>,
    bytes: &[u8],
    exchange: P::Exchange,
    out: &mut Vec<u8>,
) -> RequestDecision<P::Exchange> {
    RequestHead::read(bytes, &worker.settings, |head| match head {
        Ok(head) => {
            write::request(&head, &exchange, out);
            RequestDecision::Forward(exchange, head.info)
        }
        Err(error) => {
            RequestDecision::Refuse(worker.policy.error_response(&error, ErrorContext::Unparsed))
        }
    })
}

/// Returns the input beyond the request if the whole request body has arrived already; then the connection can go on.
fn skip_buffered_body(framing: Framing, mut buf: ReadBuffer) -> Option<Option<ReadBuffer>> {
    let (mut body, mut unused) = (Body::through(framing), Vec::new());
    while !body.is_done() && !buf.is_empty() {
        match body.take(buf.data(), &mut unused, &mut |_, _| {}) {
            Ok(Consumed::AsIs(count) | Consumed::Rewritten(count)) => buf.consume(count),
            Err(_) => return None,
        }
    }
    body.is_done().then_some(Some(buf))
}

/// Sends a response in place of an upstream's. `keep`: the connection may continue with these bytes.
pub(crate) async fn respond<P: Policy>(
    worker: &Rc<Worker<P>>,
    client: &mut Stream,
    response: &Response,
    info: &RequestInfo,
    keep: Option<Option<ReadBuffer>>,
    deadline: &Deadline,
) -> AfterRequest<P::Exchange> {
    let keeps_connection = keep.is_some() && info.is_persistent && !worker.is_draining();
    let mut out = worker.buffers.take_write_buffer();
    write::own_response(response, info.version, info.is_head(), !keeps_connection, &mut out);
    deadline.set_ticks(worker.timeouts.body);
    let written = write_all(client, &out, deadline).await;
    worker.buffers.return_write_buffer(out);
    match (written, keep) {
        (Err(_), _) => AfterRequest::Close,
        (Ok(()), Some(buf)) if keeps_connection => AfterRequest::NextRequest(buf),
        (Ok(()), _) => AfterRequest::LingeringClose,
    }
}
