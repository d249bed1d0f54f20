//! The internal listener: health, readiness, metrics. Never published.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use protocol::Problem;
use protocol::problem::Code;
use service::metrics::{self, Bounded};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::http::rate_limit::RateLimit;
use crate::http::responses::{self, ResponseFormat};
use crate::http::wake_progress::ProgressWatchers;
use crate::leases::SharedState;
use crate::metrics::{Gauges, Metrics};
use crate::routes::store::RouteReader;

pub(crate) struct AdminListener {
    pub(crate) reader: RouteReader,
    pub(crate) metrics: Metrics,
    pub(crate) lease_state: Arc<SharedState>,
    pub(crate) watchers: ProgressWatchers,
    pub(crate) rate_limit: Option<Arc<RateLimit>>,
    /// Clients that may be connected at once, on all threads.
    pub(crate) connections_limit: usize,
    pub(crate) stop: CancellationToken,
}

impl AdminListener {
    /// Serves for as long as the future is polled.
    pub(crate) async fn run(self, listener: TcpListener) {
        let admin = Arc::new(self);
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // The process is out of descriptors, most likely.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let admin = admin.clone();
            tokio::spawn(async move {
                let respond = service_fn(move |request| {
                    let response = admin.respond(&request);
                    std::future::ready(Ok::<_, Infallible>(response))
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), respond);
                // A client that breaks off needs no report.
                let _ = tokio::time::timeout(std::time::Duration::from_secs(10), served).await;
            });
        }
    }

    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/healthz" => text("ok\n"),
            "/readyz" => match self.not_ready_reason() {
                None => text("ready\n"),
                Some(reason) => problem_response(Problem::new(Code::Waiting, reason)),
            },
            "/metrics" => with_type(self.metrics.text(&self.gauges()), metrics::CONTENT_TYPE),
            _ => problem_response(responses::not_found()),
        }
    }

    fn gauges(&self) -> Gauges {
        let (leases, limits) = (&self.lease_state, &self.lease_state.limits);
        let rate_limit = self.rate_limit.as_deref();
        Gauges {
            table: self.reader.tables.borrow().clone(),
            is_feed_connected: *self.reader.connected.borrow(),
            is_orchestrator_unreachable: leases.is_orchestrator_unreachable(),
            held_requests: Bounded { current: leases.held_requests(), limit: limits.max_waiters },
            wake_watchers: Bounded { current: self.watchers.count(), limit: limits.watchers },
            rate_limit_pairs: rate_limit.map_or_else(Bounded::default, |limit| Bounded {
                current: limit.count(),
                limit: limit.max_pairs,
            }),
            connections_limit: self.connections_limit,
        }
    }

    fn not_ready_reason(&self) -> Option<&'static str> {
        if self.stop.is_cancelled() {
            return Some("draining");
        }
        if self.lease_state.is_rejected_by_orchestrator() {
            return Some("orchestrator: refuses every call, see the log");
        }
        let has_table = self.reader.tables.borrow().revision.is_some();
        (!has_table).then_some("routes: none from app-api and none on disk")
    }
}

fn problem_response(problem: Problem) -> Response<Full<Bytes>> {
    let rendered =
        responses::render(problem, &Uuid::new_v4().simple().to_string(), ResponseFormat::Problem);
    let mut response = Response::new(Full::from(rendered.body));
    *response.status_mut() = StatusCode::from_u16(rendered.status).unwrap_or_default();
    for (name, value) in rendered.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn text(body: &'static str) -> Response<Full<Bytes>> {
    with_type(body, "text/plain; charset=utf-8")
}

fn with_type(body: impl Into<Full<Bytes>>, content_type: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
