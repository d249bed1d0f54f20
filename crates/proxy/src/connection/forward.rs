//! Forwards one request to its upstream and the response to the client, both at once, with back-pressure both ways.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::connection::client_wait::{self, ClientInput, HalfClose, Probe, read_ahead};
use crate::connection::copy::{BodyCopy, CopyError, Side, ToClient, ToUpstream};
use crate::connection::interim_budget::InterimBudget;
use crate::connection::step::{End, ForwardError, Pause, Step};
use crate::error::{ErrorOrigin, ProxyError};
use crate::http::body::Body;
use crate::http::event_stream::EventStreamScanner;
use crate::http::head::{RequestInfo, ResponseHead, ResponseInfo};
use crate::http::head_scan::HeadScan;
use crate::http::write;
use crate::policy::{Action, ErrorContext, Exchange, Policy};
use crate::response::Response;
use crate::runtime::buffers::ReadBuffer;
use crate::runtime::stream::Stream;
use crate::runtime::timers::Deadline;
use crate::runtime::worker::{Worker, write_all};
use crate::upgrade::tunnel::AgreedTunnel;

/// The state of one forwarded request until its response is complete. Boxed once and never moved.
pub(crate) struct Forward<'t, P: Policy> {
    pub(crate) worker: &'t Rc<Worker<P>>,
    pub(crate) info: RequestInfo,
    pub(crate) exchange: P::Exchange,
    pub(crate) deadline: &'t Deadline,
    /// Client to upstream. Its buffer may hold pipelined input beyond this request.
    pub(crate) up: BodyCopy,
    /// Upstream to client.
    down: BodyCopy,
    upstream: UpstreamState,
    stage: Stage,
    half_close: Option<Box<HalfClose>>,
    /// The response head announced that the connection closes.
    closes_client: bool,
    /// Present since the first interim head.
    interims: Option<InterimBudget>,
    /// Present while the response is an event stream.
    events: Option<Box<EventStreamScanner>>,
    /// The one permitted retry was used.
    has_retried: bool,
}

#[derive(Clone, Copy)]
enum Stage {
    Connect,
    ResponseHead,
    Copy(ResponseInfo),
}

/// The upstream side of a forwarded request.
#[derive(Default)]
pub(crate) struct UpstreamState {
    pub(crate) stream: Option<Stream>,
    /// Received and not yet consumed.
    pub(crate) received: Option<ReadBuffer>,
    /// The scan of an incomplete response head.
    scan: Option<HeadScan>,
    /// The connection was idle in the pool before.
    was_pooled: bool,
    request: RequestProgress,
}

/// How much of the request the upstream has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum RequestProgress {
    /// Nothing is left to send.
    #[default]
    Sent,
    Sending,
    /// The upstream accepts no more.
    Refused,
}

/// The meaning of a received response head.
enum HeadOutcome {
    Interim(Vec<u8>),
    SwitchProtocols(Vec<u8>),
    Final(ResponseInfo),
    Replaced(Response),
}

impl<'t, P: Policy> Forward<'t, P> {
    pub(crate) fn new(
        worker: &'t Rc<Worker<P>>,
        (info, exchange): (RequestInfo, P::Exchange),
        (out, buf): (Vec<u8>, ReadBuffer),
        deadline: &'t Deadline,
    ) -> Self {
        let mut up = BodyCopy::new(
            out,
            Some(buf),
            Body::through(info.framing),
            worker.settings.max_body_bytes,
        );
        up.keeps_head = info.is_repeatable();
        let down = BodyCopy::new(Vec::new(), None, Body::Done, None);
        let (upstream, stage) = (UpstreamState::default(), Stage::Connect);
        Self {
            worker,
            info,
            exchange,
            deadline,
            up,
            down,
            upstream,
            stage,
            half_close: None,
            closes_client: false,
            interims: None,
            events: None,
            has_retried: false,
        }
    }

    /// Proceeds until the request ends or needs [`Forward::wait`].
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Stream,
    ) -> Poll<Step<P::Exchange>> {
        loop {
            match self.stage {
                Stage::Connect => {
                    let upstream = self.exchange.upstream().id;
                    let idle = self.worker.pool.take_idle(upstream, !self.info.is_repeatable());
                    let Some(stream) = idle else { return Poll::Ready(Step::Wait(Pause::Connect)) };
                    self.on_connected(stream, true);
                }
                Stage::ResponseHead => match ready!(self.poll_head(cx, client)) {
                    Ok(HeadOutcome::Final(response)) => self.stage = Stage::Copy(response),
                    Ok(HeadOutcome::Interim(out)) => return Poll::Ready(self.on_interim(out)),
                    Ok(HeadOutcome::Replaced(response)) => return done(End::Respond(response)),
                    Ok(HeadOutcome::SwitchProtocols(out)) => {
                        self.exchange.on_tunnel_open();
                        return done(End::Tunnel(out));
                    }
                    Err(error) => return Poll::Ready(self.on_error(error)),
                },
                Stage::Copy(response) => {
                    let passed = ready!(self.poll_copy(cx, client));
                    return done(self.end(client, passed, response));
                }
            }
        }
    }

    /// Performs a rare wait. `None` continues with [`Forward::poll`].
    pub(crate) async fn wait(
        &mut self,
        client: &mut Stream,
        pause: Pause<P::Exchange>,
    ) -> Option<Step<P::Exchange>> {
        match pause {
            Pause::Connect => match self.connect().await {
                Ok(()) => None,
                // Another upstream would meet the same shortage.
                Err(error) if error.origin() == ErrorOrigin::Local => {
                    Some(Step::Done(self.fail(&error)))
                }
                Err(error) => Some(self.retry_or_fail(error)),
            },
            Pause::Interim(out) => {
                let written = write_all(client, &out, self.deadline).await;
                self.worker.buffers.return_write_buffer(out);
                self.deadline.set_ticks(self.worker.timeouts.response);
                written.is_err().then_some(Step::Done(End::Close))
            }
            Pause::Retry(later) => {
                let half_close = (
                    self.worker.settings.half_close_timeout,
                    Probe::before_response(self.info.version),
                );
                self.deadline.set_ticks(self.worker.timeouts.response);
                Some(Step::Done(
                    match client_wait::unless_client_leaves(
                        client,
                        self.deadline,
                        half_close,
                        later,
                    )
                    .await
                    {
                        Ok(Action::Forward(exchange)) => {
                            self.exchange = exchange;
                            self.up.rewind();
                            self.stage = Stage::Connect;
                            return None;
                        }
                        Ok(Action::Respond(response)) => End::Respond(response),
                        Ok(Action::Stream(response, parts)) => End::Stream(response, parts),
                        Err(ForwardError::Error(error)) => self.fail(&error),
                        Err(ForwardError::ClientGone | ForwardError::UpstreamLost(_)) => End::Close,
                    },
                ))
            }
        }
    }

    fn on_connected(&mut self, stream: Stream, was_pooled: bool) {
        self.upstream = UpstreamState {
            was_pooled,
            stream: Some(stream),
            request: RequestProgress::Sending,
            ..UpstreamState::default()
        };
        self.stage = Stage::ResponseHead;
        self.deadline.set_ticks(self.worker.timeouts.response);
    }

    async fn connect(&mut self) -> Result<(), ProxyError> {
        let connect = Stream::connect(&self.exchange.upstream().address);
        match tokio::time::timeout(self.worker.settings.connect_timeout, connect).await {
            Ok(Ok(stream)) => {
                self.on_connected(stream, false);
                Ok(())
            }
            Ok(Err(error)) => {
                let error = ProxyError::of_connect(&error);
                if let ProxyError::LocalShortage(_) = error {
                    self.worker.free_descriptors();
                }
                Err(error)
            }
            Err(_) => Err(ProxyError::ConnectTimeout),
        }
    }

    fn on_interim(&mut self, out: Vec<u8>) -> Step<P::Exchange> {
        let tick = self.worker.timers.now();
        let budget = self.interims.get_or_insert_with(|| InterimBudget::new(tick));
        if !budget.spend(out.len(), tick) {
            let error = ProxyError::MalformedResponse("its interim heads arrive too fast");
            return Step::Done(self.fail(&error));
        }
        Step::Wait(Pause::Interim(out))
    }

    fn on_error(&mut self, error: ForwardError) -> Step<P::Exchange> {
        match error {
            ForwardError::ClientGone => Step::Done(End::Close),
            // The upstream may have processed the request, so the request must not be repeated.
            ForwardError::UpstreamLost(error)
                if !self.info.is_repeatable() || self.interims.is_some() =>
            {
                Step::Done(self.fail(&error))
            }
            // The upstream closed the connection while it was idle, which shows nothing about its
            // health.
            ForwardError::UpstreamLost(_) if self.upstream.was_pooled => {
                self.up.rewind();
                Step::Wait(Pause::Connect)
            }
            ForwardError::UpstreamLost(error) => self.retry_or_fail(error),
            ForwardError::Error(error) => Step::Done(self.fail(&error)),
        }
    }

    /// Repeats the request once if the exchange offers another upstream.
    fn retry_or_fail(&mut self, error: ProxyError) -> Step<P::Exchange> {
        // Another upstream would meet the same shortage.
        if error.origin() == ErrorOrigin::Local {
            return Step::Done(self.fail(&error));
        }
        let first = !std::mem::replace(&mut self.has_retried, true);
        match first.then(|| self.exchange.retry(&error)).flatten() {
            Some(later) => Step::Wait(Pause::Retry(later)),
            None => Step::Done(self.fail(&error)),
        }
    }

    /// Returns the write buffers, and the input beyond this request.
    pub(crate) fn finish(&mut self) -> Option<ReadBuffer> {
        for copy in [&mut self.up, &mut self.down] {
            self.worker.buffers.return_write_buffer(std::mem::take(&mut copy.out));
        }
        self.up.buf.take()
    }

    /// Drops the upstream for a response of the proxy's own. The connection may continue if no request body is unread.
    pub(crate) fn abandon_upstream(
        &mut self,
    ) -> (&'t Rc<Worker<P>>, RequestInfo, &'t Deadline, Option<Option<ReadBuffer>>) {
        self.upstream = UpstreamState::default();
        self.up.discard_unsent();
        let rest = self.finish();
        (self.worker, self.info, self.deadline, self.up.body.is_done().then_some(rest))
    }

    /// Becomes a tunnel; the head of the 101 is still unsent.
    pub(crate) fn into_tunnel(mut self, out: Vec<u8>) -> Option<AgreedTunnel<P::Exchange>> {
        let ahead = self.finish();
        let UpstreamState { stream, received, .. } = self.upstream;
        Some(AgreedTunnel { exchange: self.exchange, upstream: stream?, ahead, out, received })
    }

    /// Sends the request and waits for a response head.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Stream,
    ) -> Poll<Result<HeadOutcome, ForwardError>> {
        let timeout = &self.worker.timeouts;
        if self.upstream.request == RequestProgress::Sending {
            let (mut from, _) = client.split();
            let Some(stream) = &mut self.upstream.stream else { return client_gone() };
            let (mut moved, (_, mut to)) = (false, stream.split());
            let (halves, direction) = ((&mut from, &mut to), &mut ToUpstream(&self.exchange));
            match self.up.poll(cx, halves, &self.worker.buffers, direction, &mut moved) {
                Poll::Ready(Ok(())) => {
                    self.upstream.request = RequestProgress::Sent;
                    self.deadline.set_ticks(timeout.response);
                }
                // The upstream may have sent a response before it closed.
                Poll::Ready(Err(CopyError::SinkClosed)) => {
                    self.upstream.request = RequestProgress::Refused;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(upload_error(error))),
                Poll::Pending if moved => self.deadline.set_ticks(timeout.body),
                Poll::Pending => {}
            }
        }
        if let Poll::Ready(outcome) = self.poll_receive_head(cx) {
            return Poll::Ready(outcome);
        }
        self.poll_client_and_timeout(cx, client, Probe::before_response(self.info.version))
    }

    /// Ready when the client is gone or the deadline passed.
    fn poll_client_and_timeout<T>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Stream,
        probe: Probe,
    ) -> Poll<Result<T, ForwardError>> {
        let sending = self.upstream.request == RequestProgress::Sending;
        if !sending && self.half_close.is_none() {
            let (mut from, _) = client.split();
            match read_ahead(cx, &mut from, &mut self.up.buf, &self.worker.buffers) {
                ClientInput::Open => {}
                ClientInput::Failed => return client_gone(),
                ClientInput::Ended => {
                    let timeout = self.worker.settings.half_close_timeout;
                    self.half_close = Some(Box::new(HalfClose::new(timeout)));
                }
            }
        }
        if let Some(half_close) = &mut self.half_close
            && half_close.poll_gone(cx, client, probe).is_ready()
        {
            return client_gone();
        }
        if self.deadline.has_passed(cx) {
            let is_client_late = sending
                && matches!(self.stage, Stage::ResponseHead)
                && self.up.waits_for == Side::Source;
            let error = if is_client_late {
                ProxyError::RequestBodyTimeout
            } else {
                ProxyError::ResponseTimeout
            };
            return Poll::Ready(Err(ForwardError::Error(error)));
        }
        Poll::Pending
    }

    /// Receives until a response head is complete.
    fn poll_receive_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<HeadOutcome, ForwardError>> {
        loop {
            if let Some(received) = self.upstream.received.take_if(|received| !received.is_empty())
                && let Some(outcome) = self.read_head(received)
            {
                return Poll::Ready(
                    outcome
                        .map_err(|rule| ForwardError::Error(ProxyError::MalformedResponse(rule))),
                );
            }
            let UpstreamState { stream: Some(stream), received, .. } = &mut self.upstream else {
                return client_gone();
            };
            let (mut responses, _) = stream.split();
            let buf = received.get_or_insert_with(|| self.worker.buffers.take_read_buffer());
            let read = responses.poll_read(cx, buf);
            let empty = buf.is_empty();
            if empty {
                *received = None;
            }
            match ready!(read) {
                Ok(1..) => {}
                Ok(0) | Err(_) if empty => {
                    return Poll::Ready(Err(ForwardError::UpstreamLost(
                        ProxyError::ResponseTruncated,
                    )));
                }
                Ok(0) | Err(_) => {
                    return Poll::Ready(Err(ForwardError::Error(ProxyError::ResponseTruncated)));
                }
            }
        }
    }

    /// Parses a response head. `None`: the head is incomplete.
    fn read_head(&mut self, received: ReadBuffer) -> Option<Result<HeadOutcome, &'static str>> {
        let (worker, info) = (self.worker, self.info);
        let limit = worker.settings.response_head.bytes;
        if self.upstream.scan.is_none() {
            let read = |head: Result<ResponseHead<'_>, _>, end| {
                (head.map(|head| self.write_head(&head)), end)
            };
            if let Some((outcome, end)) =
                ResponseHead::find(received.data(), &worker.settings, &info, read)
            {
                return Some(self.take_outcome(received, end, outcome));
            }
        }
        match self.upstream.scan.get_or_insert_default().end(received.data()) {
            Ok(Some(end)) if end <= limit => {
                let bytes = &received.data()[..end];
                let outcome = ResponseHead::read(bytes, &worker.settings, &info, |head| {
                    head.map(|head| self.write_head(&head))
                });
                Some(self.take_outcome(received, end, outcome))
            }
            Ok(None) if received.data().len() < limit => {
                self.upstream.received = Some(received);
                None
            }
            Ok(_) => Some(Err("its head is too large")),
            Err(rule) => Some(Err(rule)),
        }
    }

    fn take_outcome(
        &mut self,
        mut received: ReadBuffer,
        end: usize,
        outcome: Result<HeadOutcome, &'static str>,
    ) -> Result<HeadOutcome, &'static str> {
        received.consume(end);
        self.upstream.scan = None;
        if !received.is_empty() {
            if let Ok(HeadOutcome::Final(_)) = outcome {
                let is_use = self.events.as_mut().is_none_or(|e| e.has_event(received.data()));
                if is_use {
                    self.exchange.on_data_received();
                }
                self.down.buf = Some(received);
            } else {
                self.upstream.received = Some(received);
            }
        }
        outcome
    }

    /// Writes the head for the client.
    fn write_head(&mut self, head: &ResponseHead<'_>) -> HeadOutcome {
        let (worker, info) = (self.worker, &self.info);
        if let Err(response) = self.exchange.check_response(head) {
            return HeadOutcome::Replaced(response);
        }
        let mut out = worker.buffers.take_write_buffer();
        match head.status() {
            101 => {
                write::interim(head, &self.exchange, &mut out);
                HeadOutcome::SwitchProtocols(out)
            }
            100..200 => {
                // HTTP/1.0 has no interim responses.
                if info.version == crate::Version::Http11 {
                    write::interim(head, &self.exchange, &mut out);
                }
                HeadOutcome::Interim(out)
            }
            _ => {
                // A client that is still sending its body would lose the next request to an unannounced close.
                let close = !info.is_persistent || worker.is_draining() || !self.up.body.is_done();
                let (body, closes) = write::response(head, &self.exchange, info, close, &mut out);
                self.closes_client = closes;
                if head.info.is_event_stream {
                    let scanner = EventStreamScanner::new(head.info.framing);
                    self.events = Some(Box::new(scanner));
                }
                self.down = BodyCopy::new(out, None, body, None);
                self.deadline.set_ticks(worker.timeouts.body);
                HeadOutcome::Final(head.info)
            }
        }
    }

    /// Copies the response body, and the rest of the request body.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Stream,
    ) -> Poll<Result<(), ForwardError>> {
        let buffers = &self.worker.buffers;
        let Some(stream) = &mut self.upstream.stream else { return client_gone() };
        let (mut responses, mut to) = stream.split();
        let (mut from, mut back) = client.split();
        let mut moved = false;
        let (halves, direction) = (
            (&mut responses, &mut back),
            &mut ToClient { exchange: &self.exchange, events: &mut self.events },
        );
        if let Poll::Ready(done) = self.down.poll(cx, halves, buffers, direction, &mut moved) {
            return Poll::Ready(done.map_err(|error| match error {
                CopyError::InvalidBody(_) => ForwardError::Error(ProxyError::MalformedResponse(
                    "its body breaks its framing",
                )),
                CopyError::SourceClosed | CopyError::TooLarge => {
                    ForwardError::Error(ProxyError::ResponseTruncated)
                }
                CopyError::SinkClosed => ForwardError::ClientGone,
            }));
        }
        if self.upstream.request == RequestProgress::Sending {
            let (halves, direction) = ((&mut from, &mut to), &mut ToUpstream(&self.exchange));
            match self.up.poll(cx, halves, buffers, direction, &mut moved) {
                Poll::Ready(Ok(())) => self.upstream.request = RequestProgress::Sent,
                Poll::Ready(Err(CopyError::SinkClosed)) => {
                    self.upstream.request = RequestProgress::Refused;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(upload_error(error))),
                Poll::Pending => {}
            }
        }
        if moved {
            self.deadline.set_ticks(self.worker.timeouts.body);
            self.half_close.iter_mut().for_each(|half_close| half_close.on_progress());
        }
        match ready!(self.poll_client_and_timeout(cx, client, Probe::Silence)) {
            // The client accepts no data.
            Err(ForwardError::Error(_)) if self.down.waits_for == Side::Sink => client_gone(),
            ended => Poll::Ready(ended),
        }
    }

    fn end(
        &mut self,
        client: &Stream,
        passed: Result<(), ForwardError>,
        response: ResponseInfo,
    ) -> End {
        let Self { worker, up, down, upstream, exchange, .. } = self;
        match passed {
            Ok(()) => {
                let took_request = upstream.request == RequestProgress::Sent;
                let has_no_extra_input = down.buf.as_ref().is_none_or(ReadBuffer::is_empty);
                if let (true, true, true, false, Some(stream)) = (
                    response.is_persistent,
                    took_request,
                    has_no_extra_input,
                    worker.is_draining(),
                    upstream.stream.take(),
                ) {
                    let due = worker.timers.due(worker.timeouts.pool);
                    worker.pool.put(exchange.upstream().id, stream, due);
                }
                up.discard_unsent();
                match (up.body.is_done(), self.closes_client) {
                    (true, false) => End::KeepAlive,
                    (true, true) if up.buf.is_none() => End::Close,
                    (true | false, _) => End::LingeringClose,
                }
            }
            Err(ForwardError::Error(error)) if !down.has_written => self.fail(&error),
            Err(ForwardError::Error(error)) => {
                // The response has begun: a reset shows the client that the response is incomplete.
                let _ = worker.policy.error_response(&error, ErrorContext::Exchange(exchange));
                client.reset_on_close();
                End::Close
            }
            Err(ForwardError::ClientGone | ForwardError::UpstreamLost(_)) => End::Close,
        }
    }

    fn fail(&self, error: &ProxyError) -> End {
        End::Respond(
            self.worker.policy.error_response(error, ErrorContext::Exchange(&self.exchange)),
        )
    }
}

fn done<E>(end: End) -> Poll<Step<E>> {
    Poll::Ready(Step::Done(end))
}

fn client_gone<T>() -> Poll<Result<T, ForwardError>> {
    Poll::Ready(Err(ForwardError::ClientGone))
}

fn upload_error(error: CopyError) -> ForwardError {
    match error {
        CopyError::InvalidBody(rule) => ForwardError::Error(ProxyError::MalformedRequest(rule)),
        CopyError::TooLarge => ForwardError::Error(ProxyError::RequestBodyTooLarge),
        CopyError::SourceClosed | CopyError::SinkClosed => ForwardError::ClientGone,
    }
}
