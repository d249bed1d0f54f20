//! Calls between our own services: plain HTTP on an internal network, JSON, a bearer token, a deadline each.

use std::time::Duration;

use axum::http::{Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client as Pool, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use protocol::Problem;
use protocol::headers::REQUEST_ID;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Secret, request_id};

/// One of our services, as seen from another.
#[derive(Clone)]
pub struct Client {
    base: String,
    token: Secret,
    pool: Pool<HttpConnector, Full<Bytes>>,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The service was not reached, or broke off: whether it acted is unknown.
    #[error("{0}")]
    Unreachable(String),
    /// No answer in time: whether it acted is unknown.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// It answered, and refused.
    #[error("{} {}: {}", .0.status, .0.code, .0.detail)]
    Refused(Box<Problem>),
    /// It answered in a shape that this build does not know.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

impl CallError {
    /// The `code` of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => Some(&problem.code),
            Self::Unreachable(_) | Self::TimedOut(_) | Self::Unexpected(_) => None,
        }
    }
}

const ANSWER_LIMIT: usize = 16 << 20;

impl Client {
    /// `base` like `http://orchestrator:3200`, without a slash at its end.
    pub fn new(base: impl Into<String>, token: Secret) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(3)));
        connector.set_nodelay(true);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Self { base: base.into(), token, pool }
    }

    /// One call, JSON in and out, within `patience`. An empty answer reads as JSON `null`.
    pub async fn call<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        patience: Duration,
    ) -> Result<A, CallError> {
        let whole = async {
            let answer = self.send(method, path, body).await?;
            let bytes = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
            let bytes = bytes.map_err(|e| CallError::Unreachable(e.to_string()))?.to_bytes();
            let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
            serde_json::from_slice(text).map_err(|e| CallError::Unexpected(e.to_string()))
        };
        tokio::time::timeout(patience, whole).await.unwrap_or(Err(CallError::TimedOut(patience)))
    }

    /// The head of the answer within `patience`; its body streams for as long as it takes.
    pub async fn stream(
        &self,
        path: &str,
        patience: Duration,
    ) -> Result<Response<Incoming>, CallError> {
        let head = self.send(Method::GET, path, None::<&()>);
        tokio::time::timeout(patience, head).await.unwrap_or(Err(CallError::TimedOut(patience)))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response<Incoming>, CallError> {
        let unexpected = |e: &dyn std::error::Error| CallError::Unexpected(e.to_string());
        let body = body.map(serde_json::to_vec).transpose().map_err(|e| unexpected(&e))?;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token.reveal()));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let id = request_id::current();
        if !id.is_empty() {
            request = request.header(REQUEST_ID, id);
        }
        let request =
            request.body(Full::from(body.unwrap_or_default())).map_err(|e| unexpected(&e))?;
        let answer =
            self.pool.request(request).await.map_err(|e| CallError::Unreachable(chain(&e)))?;
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
    }
}

async fn refusal(answer: Response<Incoming>) -> CallError {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), 64 << 10).collect().await;
    let problem = body.ok().and_then(|b| serde_json::from_slice::<Problem>(&b.to_bytes()).ok());
    let plain = |s: StatusCode| {
        Problem::new(s.as_u16(), "unknown", s.canonical_reason().unwrap_or("Error"), "")
    };
    CallError::Refused(Box::new(problem.unwrap_or_else(|| plain(status))))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
