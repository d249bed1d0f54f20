//! The HTTP client between services of the control plane: JSON, a bearer token, a timeout for each call.

use std::time::Duration;

use axum::body::Body;
use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
};
use connect::is_local_shortage;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client as Pool, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use protocol::Problem;
use protocol::headers::REQUEST_ID;
use protocol::problem::Code;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::websocket::UpgradedStream;
use crate::{Secret, request_id};

/// A client of one service. Clones share one connection pool.
#[derive(Clone)]
pub struct Client {
    base: String,
    token: Secret,
    pool: Pool<HttpConnector, Body>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection failed or broke: whether the service acted is unknown.
    #[error("{0}")]
    Unreachable(String),
    /// This process ran out of descriptors, memory or ports. The failure shows nothing about the
    /// other service.
    #[error("out of resources: {0}")]
    OutOfResources(String),
    /// No response within the timeout: whether the service acted is unknown.
    #[error("no response within {0:?}")]
    TimedOut(Duration),
    /// The service answered with an error.
    #[error("{} {}: {}", .0.status, .0.code, .0.detail)]
    Refused(Box<Problem>),
    /// The request or the response is not in the form that this build knows.
    #[error("unexpected response: {0}")]
    Unexpected(String),
}

impl CallError {
    /// The `code` of the problem, when the service refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => Some(&problem.code),
            Self::Unreachable(_)
            | Self::OutOfResources(_)
            | Self::TimedOut(_)
            | Self::Unexpected(_) => None,
        }
    }

    /// Whether the service refused with this code.
    pub fn has_code(&self, code: Code) -> bool {
        self.code() == Some(code.as_str())
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_RESPONSE_BYTES: usize = 16 << 20;
const MAX_PROBLEM_BYTES: usize = 64 << 10;

impl Client {
    /// `base` is like `http://orchestrator:3200`, without a slash at its end.
    pub fn new(base: impl Into<String>, token: Secret) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build(connector);
        Self { base: base.into(), token, pool }
    }

    /// Makes one call with JSON in and out. An empty response body reads as JSON `null`.
    ///
    /// # Errors
    /// [`CallError`]; the whole call, response body included, is bounded by `timeout`.
    pub async fn call<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        timeout: Duration,
    ) -> Result<A, CallError> {
        let exchange = async {
            let response = self.send(method, path, body).await?;
            let bytes = Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect().await;
            let bytes = bytes.map_err(|e| transport_error(e.as_ref()))?.to_bytes();
            let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
            serde_json::from_slice(text).map_err(|e| CallError::Unexpected(e.to_string()))
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(CallError::TimedOut(timeout)))
    }

    /// Requests a stream: `timeout` bounds the response head, and nothing bounds the body.
    ///
    /// # Errors
    /// [`CallError`] until the head has arrived.
    pub async fn stream(
        &self,
        path: &str,
        timeout: Duration,
    ) -> Result<Response<Incoming>, CallError> {
        let head = self.send(Method::GET, path, None::<&()>);
        tokio::time::timeout(timeout, head).await.unwrap_or(Err(CallError::TimedOut(timeout)))
    }

    /// Opens a WebSocket with another's `Sec-WebSocket-Key`. Returns the value of `Sec-WebSocket-Accept` and the connection,
    /// which carries frames: this client reads and writes none.
    ///
    /// # Errors
    /// [`CallError`] until the connection is a WebSocket, for which `timeout` is the bound.
    pub async fn open_websocket(
        &self,
        path: &str,
        key: &HeaderValue,
        timeout: Duration,
    ) -> Result<(HeaderValue, UpgradedStream), CallError> {
        let upgrade = [
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
            (header::SEC_WEBSOCKET_KEY, key.clone()),
        ];
        let open = async {
            let response = self.send_with(Method::GET, path, None::<&()>, upgrade).await?;
            let accept = accept_of(response.status(), response.headers());
            let accept = accept.ok_or_else(|| {
                CallError::Unexpected(format!("{} instead of a WebSocket", response.status()))
            })?;
            let stream = hyper::upgrade::on(response).await.map_err(|e| transport_error(&e))?;
            Ok((accept, UpgradedStream::new(stream)))
        };
        tokio::time::timeout(timeout, open).await.unwrap_or(Err(CallError::TimedOut(timeout)))
    }

    /// Sends a stream and receives one. `timeout` bounds the time until the response's head, which may need the whole of
    /// `body`; nothing bounds the response's body.
    ///
    /// # Errors
    /// [`CallError`] until the head has arrived.
    pub async fn exchange(
        &self,
        path: &str,
        body: Body,
        timeout: Duration,
    ) -> Result<Response<Incoming>, CallError> {
        let content_type =
            (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let head = self.send_body(Method::POST, path, body, [content_type]);
        tokio::time::timeout(timeout, head).await.unwrap_or(Err(CallError::TimedOut(timeout)))
    }

    /// Sends a stream by PUT. `timeout` bounds the whole call.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::Unreachable`] when `body` ends with an error.
    pub async fn upload(&self, path: &str, body: Body, timeout: Duration) -> Result<(), CallError> {
        let content_type =
            (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let sent = self.send_body(Method::PUT, path, body, [content_type]);
        let sent = tokio::time::timeout(timeout, sent).await;
        sent.unwrap_or(Err(CallError::TimedOut(timeout))).map(drop)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response<Incoming>, CallError> {
        self.send_with(method, path, body, []).await
    }

    async fn send_with(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) -> Result<Response<Incoming>, CallError> {
        let json = body.map(serde_json::to_vec).transpose().map_err(|e| unexpected(&e))?;
        let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let content_type = json.is_some().then_some(content_type);
        let body = Body::from(json.unwrap_or_default());
        self.send_body(method, path, body, headers.into_iter().chain(content_type)).await
    }

    async fn send_body(
        &self,
        method: Method,
        path: &str,
        body: Body,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) -> Result<Response<Incoming>, CallError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token.reveal()));
        let id = request_id::current();
        if !id.is_empty() {
            request = request.header(REQUEST_ID, id);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(body).map_err(|e| unexpected(&e))?;
        let response = self.pool.request(request).await.map_err(|e| transport_error(&e))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            Ok(response)
        } else {
            Err(read_refusal(response).await)
        }
    }
}

fn unexpected(error: &dyn std::error::Error) -> CallError {
    CallError::Unexpected(error.to_string())
}

fn accept_of(status: StatusCode, headers: &HeaderMap) -> Option<HeaderValue> {
    let accept = headers.get(header::SEC_WEBSOCKET_ACCEPT).cloned();
    accept.filter(|_| status == StatusCode::SWITCHING_PROTOCOLS)
}

/// Reads the problem of an error response, or makes one of its status.
async fn read_refusal(response: Response<Incoming>) -> CallError {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_PROBLEM_BYTES).collect().await;
    let problem = body.ok().and_then(|b| serde_json::from_slice::<Problem>(&b.to_bytes()).ok());
    let without_problem = || Problem::about_blank(status.as_u16());
    CallError::Refused(Box::new(problem.unwrap_or_else(without_problem)))
}

/// Distinguishes a failure of this process from a failure of the other service.
fn transport_error(error: &(dyn std::error::Error + 'static)) -> CallError {
    // A lookup of a name hides the cause.
    let cannot_open =
        || std::fs::File::open("/dev/null").is_err_and(|error| is_local_shortage(&error));
    if is_local_shortage(error) || cannot_open() {
        CallError::OutOfResources(with_sources(error))
    } else {
        CallError::Unreachable(with_sources(error))
    }
}

/// The message of an error and of all its sources.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
