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
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::http::rate_limit::RateLimit;
use crate::http::responses::{self, ResponseFormat};
use crate::http::wake_progress::Watchers;
use crate::leases::Room;
use crate::metrics::{self, Counters, LeaseCounters, Now};
use crate::routes::store::RouteReader;

pub(crate) struct Admin {
    pub(crate) reader: RouteReader,
    pub(crate) threads: Vec<Arc<Counters>>,
    pub(crate) wakes: Arc<LeaseCounters>,
    pub(crate) room: Arc<Room>,
    pub(crate) watchers: Watchers,
    pub(crate) limit: Option<Arc<RateLimit>>,
    /// How many clients may be connected.
    pub(crate) connections: usize,
    pub(crate) stop: CancellationToken,
}

impl Admin {
    /// Serves for as long as it is polled.
    pub(crate) async fn run(self, listener: TcpListener) {
        let admin = Arc::new(self);
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, most likely.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let admin = admin.clone();
            tokio::spawn(async move {
                let answer = service_fn(move |request| {
                    let answer = admin.answer(&request);
                    std::future::ready(Ok::<_, Infallible>(answer))
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), answer);
                // Whoever breaks off inside does not want to know.
                let _ = tokio::time::timeout(std::time::Duration::from_secs(10), served).await;
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/healthz" => text("ok\n".to_owned()),
            "/readyz" => match self.missing() {
                None => text("ready\n".to_owned()),
                Some(missing) => refused(Problem::new(503, "waiting", "Not ready", missing)),
            },
            "/metrics" => {
                let now = Now {
                    table: self.reader.tables.borrow().clone(),
                    is_connected: *self.reader.connected.borrow(),
                    is_keeper_away: self.room.is_away(),
                    held: self.room.holds(),
                    watchers: self.watchers.count(),
                    clients: self.limit.as_ref().map_or(0, |limit| limit.count()),
                    connections: self.connections,
                };
                text(metrics::shown(&self.threads, &self.wakes, &now))
            }
            _ => refused(responses::not_found()),
        }
    }

    fn missing(&self) -> Option<&'static str> {
        if self.stop.is_cancelled() {
            return Some("draining");
        }
        if self.room.is_shut_out() {
            return Some("orchestrator: answers, and takes no call of ours: see the log");
        }
        let has_table = self.reader.tables.borrow().revision.is_some();
        (!has_table).then_some("routes: none from app-api and none on disk")
    }
}

fn refused(problem: Problem) -> Response<Full<Bytes>> {
    let shown =
        responses::shown(problem, &Uuid::new_v4().simple().to_string(), ResponseFormat::Problem);
    let mut answer = Response::new(Full::from(shown.body));
    *answer.status_mut() = StatusCode::from_u16(shown.status).unwrap_or_default();
    for (name, value) in shown.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

fn text(body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(body));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
