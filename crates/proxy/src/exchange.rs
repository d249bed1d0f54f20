//! One request, from its head to the last byte of its answer.

use std::future::poll_fn;
use std::rc::Rc;

use tokio::sync::mpsc;

use crate::buffers::Buf;
use crate::error::ProxyError;
use crate::framing::Framing;
use crate::head::{RequestFacts, RequestHead};
use crate::policy::{Action, Decision, ErrorContext, Peer, PendingAction, Policy};
use crate::response::Response;
use crate::step::{Step, Trouble, Went};
use crate::stream::Stream;
use crate::sweep::Deadline;
use crate::thread::{Thread, write_all};
use crate::tunnel::Made;
use crate::way::Way;
use crate::{live, wait, write};

/// What becomes of the client's connection.
pub(crate) enum After<E> {
    /// The next request, of which these bytes may be the beginning.
    Again(Option<Buf>),
    Close,
    /// Close, but not before what is still arriving was read away.
    Linger,
    Tunnel(Box<Made<E>>),
}

/// What was decided about a head.
enum Opening<E> {
    Forward(E, RequestFacts),
    Later(PendingAction<E>, RequestFacts),
    Respond(Response, RequestFacts),
    Stream(Response, mpsc::Receiver<Vec<u8>>, RequestFacts),
    /// The connection must close: where the next request begins is not certain, or not wanted.
    Refuse(Response),
}

/// What is not forwarded at once: the decision, and the request of which the first so many bytes are the head.
pub(crate) struct Otherwise<E> {
    opening: Opening<E>,
    buf: Buf,
    end: usize,
}

/// The first `end` bytes of `buf` are the head; `None`: nobody has looked for its end yet.
pub(crate) fn begin<'t, P: Policy>(
    thread: &'t Rc<Thread<P>>,
    peer: &Peer,
    mut buf: Buf,
    end: Option<usize>,
    deadline: &'t Deadline,
) -> Result<Box<Way<'t, P>>, Box<Otherwise<P::Exchange>>> {
    let mut out = thread.buffers.write();
    let (opening, end) = open(thread, buf.data(), end, peer, &mut out);
    match opening {
        Opening::Forward(exchange, facts) => {
            buf.consume(end);
            Ok(Box::new(Way::new(thread, (facts, exchange), (out, buf), deadline)))
        }
        opening @ (Opening::Later(..)
        | Opening::Respond(..)
        | Opening::Stream(..)
        | Opening::Refuse(_)) => {
            thread.buffers.give_back(out);
            Err(Box::new(Otherwise { opening, buf, end }))
        }
    }
}

/// Sees a request through from `step` on.
pub(crate) async fn go_on<P: Policy>(
    mut way: Box<Way<'_, P>>,
    mut step: Step<P::Exchange>,
    client: &mut Stream,
) -> After<P::Exchange> {
    let went = loop {
        step = match step {
            Step::Went(went) => break went,
            Step::Wait(pause) => match Box::pin(way.wait(client, pause)).await {
                Some(step) => step,
                None => poll_fn(|cx| way.poll(cx, client)).await,
            },
        };
    };
    match went {
        Went::Well => After::Again(way.finish()),
        Went::Close => After::Close,
        Went::Linger => After::Linger,
        Went::Tunnel(out) => match way.into_tunnel(out) {
            Some(made) => After::Tunnel(Box::new(made)),
            None => After::Close,
        },
        Went::Respond(answer) => {
            let (thread, facts, deadline, keep) = way.instead();
            respond(thread, client, &answer, &facts, keep, deadline).await
        }
        Went::Stream(answer, parts) => {
            let (thread, facts, deadline, keep) = way.instead();
            live::respond(thread, client, (&answer, parts), &facts, keep, deadline).await
        }
    }
}

/// Whatever else was decided.
pub(crate) async fn answer<P: Policy>(
    thread: &Rc<Thread<P>>,
    client: &mut Stream,
    otherwise: Box<Otherwise<P::Exchange>>,
    deadline: &Deadline,
) -> After<P::Exchange> {
    let Otherwise { mut opening, mut buf, end } = *otherwise;
    let mut out = Vec::new();
    if let Opening::Later(later, facts) = opening {
        deadline.within(thread.patience.answer);
        // Many may wait for the same thing, and long.
        buf.shrink();
        let waited = wait::unless_gone(client, deadline, later).await;
        buf.grow();
        out = thread.buffers.write();
        opening = match waited {
            Ok(Action::Respond(answer)) => Opening::Respond(answer, facts),
            Ok(Action::Stream(answer, parts)) => Opening::Stream(answer, parts, facts),
            Ok(Action::Forward(exchange)) => reopen(thread, &buf.data()[..end], exchange, &mut out),
            Err(Trouble::Error(fault)) => Opening::Respond(
                thread.policy.error_response(&fault, ErrorContext::Unparsed),
                facts,
            ),
            Err(Trouble::Gone | Trouble::Lost(_)) => return After::Close,
        };
    }
    buf.consume(end);
    match opening {
        Opening::Forward(exchange, facts) => {
            let way = Way::new(thread, (facts, exchange), (out, buf), deadline);
            let mut way = Box::new(way);
            let step = poll_fn(|cx| way.poll(cx, client)).await;
            go_on(way, step, client).await
        }
        Opening::Respond(answer, facts) => {
            let keep = facts.is_bodiless().then_some(Some(buf));
            respond(thread, client, &answer, &facts, keep, deadline).await
        }
        Opening::Stream(answer, parts, facts) => {
            let (keep, made) = (facts.is_bodiless().then_some(Some(buf)), (&answer, parts));
            live::respond(thread, client, made, &facts, keep, deadline).await
        }
        Opening::Refuse(answer) => {
            respond(thread, client, &answer, &RequestFacts::NONE, None, deadline).await
        }
        Opening::Later(..) => After::Close,
    }
}

/// Reads the head and decides about it; its length as well.
fn open<P: Policy>(
    thread: &Thread<P>,
    bytes: &[u8],
    end: Option<usize>,
    peer: &Peer,
    out: &mut Vec<u8>,
) -> (Opening<P::Exchange>, usize) {
    let settings = &thread.settings;
    match end {
        Some(end) => RequestHead::read(&bytes[..end], settings, |head| {
            (decide(thread, head, peer, out), end)
        }),
        None => {
            RequestHead::find(bytes, settings, |head, end| (decide(thread, head, peer, out), end))
        }
    }
}

fn decide<P: Policy>(
    thread: &Thread<P>,
    head: Result<RequestHead<'_>, ProxyError>,
    peer: &Peer,
    out: &mut Vec<u8>,
) -> Opening<P::Exchange> {
    let policy = &thread.policy;
    let head = match head {
        Ok(head) => head,
        Err(fault) => {
            return Opening::Refuse(policy.error_response(&fault, ErrorContext::Unparsed));
        }
    };
    if let (Framing::Length(length), Some(limit)) =
        (head.facts.framing, thread.settings.max_body_bytes)
        && length > limit
    {
        return Opening::Refuse(
            policy.error_response(&ProxyError::RequestBodyTooLarge, ErrorContext::Head(&head)),
        );
    }
    match policy.decide(&head, peer) {
        Decision::Ready(Action::Respond(answer)) => Opening::Respond(answer, head.facts),
        Decision::Ready(Action::Stream(answer, parts)) => {
            Opening::Stream(answer, parts, head.facts)
        }
        Decision::Ready(Action::Forward(exchange)) => {
            write::request(&head, &exchange, out);
            Opening::Forward(exchange, head.facts)
        }
        Decision::Pending(later) => Opening::Later(later, head.facts),
    }
}

/// The same head again, after its decision took a while.
fn reopen<P: Policy>(
    thread: &Thread<P>,
    bytes: &[u8],
    exchange: P::Exchange,
    out: &mut Vec<u8>,
) -> Opening<P::Exchange> {
    RequestHead::read(bytes, &thread.settings, |head| match head {
        Ok(head) => {
            write::request(&head, &exchange, out);
            Opening::Forward(exchange, head.facts)
        }
        Err(fault) => Opening::Refuse(thread.policy.error_response(&fault, ErrorContext::Unparsed)),
    })
}

/// Answers in place of an upstream. `keep`: the connection may go on, with these bytes.
pub(crate) async fn respond<P: Policy>(
    thread: &Rc<Thread<P>>,
    client: &mut Stream,
    answer: &Response,
    facts: &RequestFacts,
    keep: Option<Option<Buf>>,
    deadline: &Deadline,
) -> After<P::Exchange> {
    let stays = keep.is_some() && facts.keep_alive && !thread.is_draining();
    let mut out = thread.buffers.write();
    write::own(answer, facts.version, facts.is_head, !stays, &mut out);
    deadline.within(thread.patience.body);
    let written = write_all(client, &out, deadline).await;
    thread.buffers.give_back(out);
    match (written, keep) {
        (Err(_), _) => After::Close,
        (Ok(()), Some(buf)) if stays => After::Again(buf),
        (Ok(()), _) => After::Linger,
    }
}
