//! A request on its way: to an upstream, its answer back, both at once and neither faster than it is taken.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::body::Body;
use crate::buffers::Buf;
use crate::error::ProxyError;
use crate::framing::Framing;
use crate::head::{AnswerFacts, RequestFacts, ResponseHead};
use crate::policy::{Action, ErrorContext, Exchange, Policy};
use crate::pump::{Broken, Down, Pump, Side, Up};
use crate::response::Response;
use crate::scan::Scan;
use crate::step::{Pause, Step, Trouble, Went};
use crate::stream::Stream;
use crate::sweep::Deadline;
use crate::thread::{Thread, write_all};
use crate::tunnel::Made;
use crate::wait::{self, is_gone};
use crate::write;

/// All that one request needs until its answer is through. It stays where it was made: nothing here is moved.
pub(crate) struct Way<'t, P: Policy> {
    pub(crate) thread: &'t Rc<Thread<P>>,
    pub(crate) facts: RequestFacts,
    pub(crate) exchange: P::Exchange,
    pub(crate) deadline: &'t Deadline,
    /// Client to upstream. Its buffer also holds what the client sent beyond this request.
    pub(crate) up: Pump,
    /// Upstream to client.
    down: Pump,
    far: Far,
    stage: Stage,
    interims: usize,
    /// A loss was made good once.
    again: bool,
}

#[derive(Clone, Copy)]
enum Stage {
    Reach,
    Head,
    Copy(AnswerFacts),
}

/// The upstream's end.
#[derive(Default)]
pub(crate) struct Far {
    pub(crate) stream: Option<Stream>,
    /// What it said that was not used yet.
    pub(crate) said: Option<Buf>,
    /// Its head, while it was looked at and was not whole.
    scan: Option<Scan>,
    /// It was idle before.
    pooled: bool,
    /// Not all of the request went out yet.
    sending: bool,
    /// It takes no more of the request.
    deaf: bool,
}

/// What a head turned out to be.
enum Heard {
    Interim(Vec<u8>),
    Switch(Vec<u8>),
    Final(AnswerFacts),
    Instead(Response),
}

/// More interim answers than this are no answer.
const INTERIM_LIMIT: usize = 16;

impl<'t, P: Policy> Way<'t, P> {
    pub(crate) fn new(
        thread: &'t Rc<Thread<P>>,
        (facts, exchange): (RequestFacts, P::Exchange),
        (out, buf): (Vec<u8>, Buf),
        deadline: &'t Deadline,
    ) -> Self {
        let mut up =
            Pump::new(out, Some(buf), Body::through(facts.framing), thread.settings.max_body_bytes);
        up.keep = facts.repeatable;
        let down = Pump::new(Vec::new(), None, Body::Done, None);
        let (far, stage) = (Far::default(), Stage::Reach);
        Self { thread, facts, exchange, deadline, up, down, far, stage, interims: 0, again: false }
    }

    /// Goes on until the end, or to something that [`Way::wait`] must wait for.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Stream,
    ) -> Poll<Step<P::Exchange>> {
        loop {
            match self.stage {
                Stage::Reach => {
                    let upstream = self.exchange.upstream().id;
                    let idle = self.thread.pool.take(upstream, !self.facts.repeatable);
                    let Some(stream) = idle else { return Poll::Ready(Step::Wait(Pause::Connect)) };
                    self.reached(stream, true);
                }
                Stage::Head => match ready!(self.poll_head(cx, client)) {
                    Ok(Heard::Final(answer)) => self.stage = Stage::Copy(answer),
                    Ok(Heard::Interim(out)) => return Poll::Ready(self.interim(out)),
                    Ok(Heard::Instead(answer)) => return went(Went::Respond(answer)),
                    Ok(Heard::Switch(out)) => {
                        self.exchange.on_tunnel_open();
                        return went(Went::Tunnel(out));
                    }
                    Err(trouble) => return Poll::Ready(self.troubled(trouble)),
                },
                Stage::Copy(answer) => {
                    let passed = ready!(self.poll_copy(cx, client));
                    return went(self.end(client, passed, answer));
                }
            }
        }
    }

    /// Waits; then it goes on, or that was the end.
    pub(crate) async fn wait(
        &mut self,
        client: &mut Stream,
        pause: Pause<P::Exchange>,
    ) -> Option<Step<P::Exchange>> {
        match pause {
            Pause::Connect => match self.connect().await {
                Ok(()) => None,
                Err(fault) => Some(self.lost(fault)),
            },
            Pause::Interim(out) => {
                let written = write_all(client, &out, self.deadline).await;
                self.thread.buffers.give_back(out);
                self.deadline.within(self.thread.patience.answer);
                written.is_err().then_some(Step::Went(Went::Close))
            }
            Pause::Again(later) => {
                self.deadline.within(self.thread.patience.answer);
                Some(Step::Went(match wait::unless_gone(client, self.deadline, later).await {
                    Ok(Action::Forward(exchange)) => {
                        self.exchange = exchange;
                        self.up.rewind();
                        self.stage = Stage::Reach;
                        return None;
                    }
                    Ok(Action::Respond(answer)) => Went::Respond(answer),
                    Ok(Action::Stream(answer, parts)) => Went::Stream(answer, parts),
                    Err(Trouble::Error(fault)) => self.fail(&fault),
                    Err(Trouble::Gone | Trouble::Lost(_)) => Went::Close,
                }))
            }
        }
    }

    fn reached(&mut self, stream: Stream, pooled: bool) {
        self.far = Far { pooled, stream: Some(stream), sending: true, ..Far::default() };
        self.stage = Stage::Head;
        self.deadline.within(self.thread.patience.answer);
    }

    async fn connect(&mut self) -> Result<(), ProxyError> {
        let connect = Stream::connect(&self.exchange.upstream().address);
        match tokio::time::timeout(self.thread.settings.connect_timeout, connect).await {
            Ok(Ok(stream)) => {
                self.reached(stream, false);
                Ok(())
            }
            Ok(Err(error)) => Err(ProxyError::UpstreamUnreachable(error.to_string())),
            Err(_) => Err(ProxyError::ConnectTimeout),
        }
    }

    fn interim(&mut self, out: Vec<u8>) -> Step<P::Exchange> {
        self.interims += 1;
        if self.interims > INTERIM_LIMIT {
            let fault = ProxyError::MalformedResponse("it has too many interim heads");
            return Step::Went(self.fail(&fault));
        }
        Step::Wait(Pause::Interim(out))
    }

    fn troubled(&mut self, trouble: Trouble) -> Step<P::Exchange> {
        match trouble {
            Trouble::Gone => Step::Went(Went::Close),
            // Of a request that cannot be repeated nobody knows whether it was done.
            Trouble::Lost(fault) if !self.facts.repeatable || self.interims > 0 => {
                Step::Went(self.fail(&fault))
            }
            // It was closed while it was idle: that says nothing about the upstream.
            Trouble::Lost(_) if self.far.pooled => {
                self.up.rewind();
                Step::Wait(Pause::Connect)
            }
            Trouble::Lost(fault) => self.lost(fault),
            Trouble::Error(fault) => Step::Went(self.fail(&fault)),
        }
    }

    /// Whatever was sent may be sent again.
    fn lost(&mut self, fault: ProxyError) -> Step<P::Exchange> {
        let first = !std::mem::replace(&mut self.again, true);
        match first.then(|| self.exchange.retry(&fault)).flatten() {
            Some(later) => Step::Wait(Pause::Again(later)),
            None => Step::Went(self.fail(&fault)),
        }
    }

    /// What the client sent beyond this request.
    pub(crate) fn finish(&mut self) -> Option<Buf> {
        for pump in [&mut self.up, &mut self.down] {
            self.thread.buffers.give_back(std::mem::take(&mut pump.out));
        }
        self.up.buf.take()
    }

    /// What an answer in place of the upstream's needs: the connection may go on if no body is left to be read.
    pub(crate) fn instead(
        &mut self,
    ) -> (&'t Rc<Thread<P>>, RequestFacts, &'t Deadline, Option<Option<Buf>>) {
        self.far = Far::default();
        let rest = self.finish();
        (self.thread, self.facts, self.deadline, self.up.body.is_done().then_some(rest))
    }

    /// The head of the 101 is still to be sent.
    pub(crate) fn into_tunnel(mut self, out: Vec<u8>) -> Option<Made<P::Exchange>> {
        let ahead = self.finish();
        let Far { stream, said, .. } = self.far;
        Some(Made { exchange: self.exchange, upstream: stream?, ahead, out, said })
    }

    /// Sends the request and waits for the head of an answer.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Stream,
    ) -> Poll<Result<Heard, Trouble>> {
        let patience = &self.thread.patience;
        if self.far.sending {
            let (mut from, _) = client.split();
            let Some(stream) = &mut self.far.stream else { return gone() };
            let (mut moved, (_, mut to)) = (false, stream.split());
            let (halves, course) = ((&mut from, &mut to), &Up(&self.exchange));
            match self.up.poll(cx, halves, &self.thread.buffers, course, &mut moved) {
                Poll::Ready(Ok(())) => {
                    self.far.sending = false;
                    self.deadline.within(patience.answer);
                }
                // It may have said why before it closed.
                Poll::Ready(Err(Broken::Sink)) => {
                    (self.far.sending, self.far.deaf) = (false, true);
                }
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(trouble(broken))),
                Poll::Pending if moved => self.deadline.within(patience.body),
                Poll::Pending => {}
            }
        }
        if let Poll::Ready(heard) = self.poll_hear(cx) {
            return Poll::Ready(heard);
        }
        self.poll_patience(cx, client, self.up.waits_for == Side::Source)
    }

    /// Ready when the client is gone, or time has passed; then `clients` says whose fault that is.
    fn poll_patience<T>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Stream,
        clients: bool,
    ) -> Poll<Result<T, Trouble>> {
        let sending = self.far.sending;
        if !sending {
            let (mut from, _) = client.split();
            if is_gone(cx, &mut from, &mut self.up.buf, &self.thread.buffers) {
                return gone();
            }
        }
        if self.deadline.has_passed(cx) {
            let clients = sending && clients;
            let fault =
                if clients { ProxyError::RequestBodyTimeout } else { ProxyError::ResponseTimeout };
            return Poll::Ready(Err(Trouble::Error(fault)));
        }
        Poll::Pending
    }

    /// Waits for the end of a head in what the upstream says.
    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<Result<Heard, Trouble>> {
        loop {
            if let Some(said) = self.far.said.take_if(|said| !said.is_empty())
                && let Some(heard) = self.look(said)
            {
                return Poll::Ready(
                    heard.map_err(|rule| Trouble::Error(ProxyError::MalformedResponse(rule))),
                );
            }
            let Far { stream: Some(stream), said, .. } = &mut self.far else { return gone() };
            let (mut answers, _) = stream.split();
            let buf = said.get_or_insert_with(|| self.thread.buffers.read());
            let read = answers.poll_read(cx, buf);
            let empty = buf.is_empty();
            if empty {
                *said = None;
            }
            match ready!(read) {
                Ok(1..) => {}
                Ok(0) | Err(_) if empty => {
                    return Poll::Ready(Err(Trouble::Lost(ProxyError::ResponseTruncated)));
                }
                Ok(0) | Err(_) => {
                    return Poll::Ready(Err(Trouble::Error(ProxyError::ResponseTruncated)));
                }
            }
        }
    }

    /// Looks at what was said. `None`: more is needed.
    fn look(&mut self, said: Buf) -> Option<Result<Heard, &'static str>> {
        let (thread, facts) = (self.thread, self.facts);
        let limit = thread.settings.response_head.bytes;
        if self.far.scan.is_none() {
            let met =
                |head: Result<ResponseHead<'_>, _>, end| (head.map(|head| self.meet(&head)), end);
            if let Some((heard, end)) =
                ResponseHead::find(said.data(), &thread.settings, &facts, met)
            {
                return Some(self.heard(said, end, heard));
            }
        }
        match self.far.scan.get_or_insert_default().end(said.data()) {
            Ok(Some(end)) if end <= limit => {
                let bytes = &said.data()[..end];
                let heard = ResponseHead::read(bytes, &thread.settings, &facts, |head| {
                    head.map(|head| self.meet(&head))
                });
                Some(self.heard(said, end, heard))
            }
            Ok(None) if said.data().len() < limit => {
                self.far.said = Some(said);
                None
            }
            Ok(_) => Some(Err("its head is too large")),
            Err(rule) => Some(Err(rule)),
        }
    }

    fn heard(
        &mut self,
        mut said: Buf,
        end: usize,
        heard: Result<Heard, &'static str>,
    ) -> Result<Heard, &'static str> {
        said.consume(end);
        self.far.scan = None;
        if !said.is_empty() {
            if let Ok(Heard::Final(_)) = heard {
                self.exchange.on_data_received(said.data());
                self.down.buf = Some(said);
            } else {
                self.far.said = Some(said);
            }
        }
        heard
    }

    /// Writes what the client gets of a head.
    fn meet(&mut self, head: &ResponseHead<'_>) -> Heard {
        let (thread, facts) = (self.thread, &self.facts);
        if let Err(answer) = self.exchange.check_response(head) {
            return Heard::Instead(answer);
        }
        let mut out = thread.buffers.write();
        match head.status() {
            101 => {
                write::interim(head, &self.exchange, &mut out);
                Heard::Switch(out)
            }
            100..200 => {
                // HTTP/1.0 knows no interim answers.
                if facts.version == crate::Version::Http11 {
                    write::interim(head, &self.exchange, &mut out);
                }
                Heard::Interim(out)
            }
            _ => {
                let close = !facts.keep_alive || thread.is_draining() || self.far.deaf;
                let body = write::answer(head, &self.exchange, facts, close, &mut out);
                self.down = Pump::new(out, None, body, None);
                self.deadline.within(thread.patience.body);
                Heard::Final(head.facts)
            }
        }
    }

    /// Passes the body of the answer on, and what is left of the request's.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Stream,
    ) -> Poll<Result<(), Trouble>> {
        let buffers = &self.thread.buffers;
        let Some(stream) = &mut self.far.stream else { return gone() };
        let (mut answers, mut to) = stream.split();
        let (mut from, mut back) = client.split();
        let mut moved = false;
        let (halves, course) = ((&mut answers, &mut back), &Down(&self.exchange));
        if let Poll::Ready(done) = self.down.poll(cx, halves, buffers, course, &mut moved) {
            return Poll::Ready(done.map_err(|broken| match broken {
                Broken::Rule(_) => {
                    Trouble::Error(ProxyError::MalformedResponse("its body breaks its framing"))
                }
                Broken::Source | Broken::TooLarge => Trouble::Error(ProxyError::ResponseTruncated),
                Broken::Sink => Trouble::Gone,
            }));
        }
        if self.far.sending {
            let (halves, course) = ((&mut from, &mut to), &Up(&self.exchange));
            match self.up.poll(cx, halves, buffers, course, &mut moved) {
                Poll::Ready(Ok(())) => self.far.sending = false,
                Poll::Ready(Err(Broken::Sink)) => {
                    (self.far.sending, self.far.deaf) = (false, true);
                }
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(trouble(broken))),
                Poll::Pending => {}
            }
        }
        if moved {
            self.deadline.within(self.thread.patience.body);
        }
        match ready!(self.poll_patience(cx, client, false)) {
            // It is the client that takes nothing.
            Err(Trouble::Error(_)) if self.down.waits_for == Side::Sink => gone(),
            ended => Poll::Ready(ended),
        }
    }

    fn end(&mut self, client: &Stream, passed: Result<(), Trouble>, answer: AnswerFacts) -> Went {
        let Self { thread, facts, up, down, far, exchange, .. } = self;
        let whole = !far.sending && !far.deaf;
        match passed {
            Ok(()) => {
                let quiet = down.buf.as_ref().is_none_or(Buf::is_empty);
                if let (true, true, true, false, Some(stream)) =
                    (answer.keep_alive, whole, quiet, thread.is_draining(), far.stream.take())
                {
                    let due = thread.sweep.due(thread.patience.pool);
                    thread.pool.put(exchange.upstream().id, stream, due);
                }
                let ends = answer.framing == Framing::Close || answer.framing == Framing::Chunked;
                let told = !(ends && facts.version == crate::Version::Http10);
                match (whole, facts.keep_alive && told && !thread.is_draining()) {
                    (true, true) => Went::Well,
                    (true, false) if up.buf.is_none() => Went::Close,
                    (true | false, _) => Went::Linger,
                }
            }
            Err(Trouble::Error(fault)) if !down.wrote => self.fail(&fault),
            Err(Trouble::Error(fault)) => {
                // Too late for an answer: the client must see that this one is not whole.
                let _ = thread.policy.error_response(&fault, ErrorContext::Exchange(exchange));
                client.abort_on_close();
                Went::Close
            }
            Err(Trouble::Gone | Trouble::Lost(_)) => Went::Close,
        }
    }

    fn fail(&self, fault: &ProxyError) -> Went {
        Went::Respond(
            self.thread.policy.error_response(fault, ErrorContext::Exchange(&self.exchange)),
        )
    }
}

fn went<E>(went: Went) -> Poll<Step<E>> {
    Poll::Ready(Step::Went(went))
}

fn gone<T>() -> Poll<Result<T, Trouble>> {
    Poll::Ready(Err(Trouble::Gone))
}

fn trouble(broken: Broken) -> Trouble {
    match broken {
        Broken::Rule(rule) => Trouble::Error(ProxyError::MalformedRequest(rule)),
        Broken::TooLarge => Trouble::Error(ProxyError::RequestBodyTooLarge),
        Broken::Source | Broken::Sink => Trouble::Gone,
    }
}
