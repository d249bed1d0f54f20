//! The client of the model's endpoint. An admin of the platform chose the address, through the API, so that it is a public one unless
//! a setting of the operator's permits others; redirects are not followed, because they could lead elsewhere with the key.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use protocol::model::ModelMessage;
use protocol::problem::Code;
use serde_json::{Value, json};
use service::Secret;
use tokio::time::timeout;
use url::Url;

use super::completion::StreamError;
use super::endpoint::completions_url;
use crate::db::model::Endpoint;
use crate::outbound::target::Targets;
use crate::outbound::{self, PermittedClient};

/// The time until the endpoint accepts the request, and again until the first text and from each text to the next. Shorter than a
/// tenant's core waits, which receives text alone: it learns why the reply ends.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(80);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_IDLE_CONNECTIONS: usize = 8;
/// The longest wait that is passed on from the endpoint.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// Why the model did not reply. Nothing that the endpoint wrote is part of it: an error text can hold the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    #[error("the endpoint cannot be reached")]
    Unreachable,
    #[error("the endpoint answered {0}")]
    Status(StatusCode),
    #[error("the endpoint takes no more requests at the moment")]
    Overloaded(Option<Duration>),
    #[error("the endpoint sent no text for too long, or its reply took too long")]
    TimedOut,
    #[error("the reply broke off")]
    BrokeOff,
    #[error("the endpoint sent what is no reply")]
    Malformed,
    #[error("the endpoint reported an error")]
    Reported,
    #[error("the reply is too long")]
    TooLong,
    #[error("the control plane restarts")]
    Stopping,
    #[error("the tenant reads no more")]
    Abandoned,
}

impl From<StreamError> for ModelError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Malformed => Self::Malformed,
            StreamError::Reported => Self::Reported,
            StreamError::TooLong => Self::TooLong,
        }
    }
}

impl ModelError {
    /// Whether the endpoint was not reached or refused the request, if this came before it accepted one.
    pub const fn is_refusal(self) -> bool {
        match self {
            Self::Unreachable | Self::Status(_) | Self::Overloaded(_) | Self::Malformed => true,
            Self::TimedOut
            | Self::BrokeOff
            | Self::Reported
            | Self::TooLong
            | Self::Stopping
            | Self::Abandoned => false,
        }
    }

    pub const fn code(self) -> Code {
        match self {
            Self::Overloaded(_) => Code::ModelBusy,
            Self::TimedOut => Code::ModelTimedOut,
            Self::Unreachable
            | Self::Status(_)
            | Self::BrokeOff
            | Self::Malformed
            | Self::Reported
            | Self::TooLong
            | Self::Stopping
            | Self::Abandoned => Code::ModelFailed,
        }
    }
}

/// Clones share their connections.
#[derive(Clone)]
pub struct ModelClient {
    targets: Targets,
    silence: Duration,
    client: PermittedClient,
}

/// A reply that is under way, as the endpoint streams it.
pub struct ReplyStream {
    body: Incoming,
}

impl ModelClient {
    /// `silence` bounds the wait for the endpoint's consent.
    ///
    /// # Errors
    /// When the provider of TLS does not support the protocol versions.
    pub fn new(targets: Targets, silence: Duration) -> anyhow::Result<Self> {
        let connector = outbound::connector(targets, CONNECT_TIMEOUT)?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .build(connector);
        Ok(Self { targets, silence, client })
    }

    pub const fn targets(&self) -> Targets {
        self.targets
    }

    /// The bound of a silence, also of one within a reply.
    pub const fn silence(&self) -> Duration {
        self.silence
    }

    /// Requests a reply. Returns once the endpoint has accepted the request.
    ///
    /// # Errors
    /// [`ModelError`].
    pub async fn open(
        &self,
        endpoint: &Endpoint,
        key: Option<&Secret>,
        messages: &[ModelMessage],
    ) -> Result<ReplyStream, ModelError> {
        // Again, as the setting may have changed since the endpoint was set. Names are checked when they are resolved.
        let url: Url = endpoint.base_url.parse().map_err(|_| ModelError::Unreachable)?;
        if !self.targets.permits_url(&url) {
            tracing::warn!("the address of the model endpoint is not public");
            return Err(ModelError::Unreachable);
        }
        let request = request(endpoint, key, messages).ok_or(ModelError::Unreachable)?;
        let sent = timeout(self.silence, self.client.request(request)).await;
        let response = sent.map_err(|_| ModelError::TimedOut)?.map_err(fault_of)?;
        check_head(&response)?;
        Ok(ReplyStream { body: response.into_body() })
    }
}

/// Why no head of a response came. Whether the endpoint received the request decides what the reply costs.
fn fault_of(error: hyper_util::client::legacy::Error) -> ModelError {
    let is_connect = error.is_connect();
    let error = anyhow::Error::from(error);
    let cause = error.chain().find_map(|cause| cause.downcast_ref::<hyper::Error>());
    let fault = match (is_connect, cause.is_some_and(hyper::Error::is_parse)) {
        (true, _) => ModelError::Unreachable,
        (false, true) => ModelError::Malformed,
        (false, false) => ModelError::BrokeOff,
    };
    tracing::warn!(?error, "no response of the model endpoint");
    fault
}

impl ReplyStream {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// [`ModelError`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, ModelError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(_)) => return Err(ModelError::BrokeOff),
                Some(Ok(frame)) => {
                    // Trailers mean nothing here.
                    if let Ok(bytes) = Frame::into_data(frame) {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

fn request(
    endpoint: &Endpoint,
    key: Option<&Secret>,
    messages: &[ModelMessage],
) -> Option<Request<Full<Bytes>>> {
    let mut request = Request::post(completions_url(&endpoint.base_url))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "text/event-stream")
        .header(header::USER_AGENT, concat!("cial/", env!("CARGO_PKG_VERSION")));
    if let Some(key) = key {
        let mut value = HeaderValue::try_from(format!("Bearer {}", key.reveal())).ok()?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    request.body(Full::new(body(endpoint, messages).to_string().into())).ok()
}

/// The system prompt and the conversation. Neither people nor the tenant are named.
fn body(endpoint: &Endpoint, messages: &[ModelMessage]) -> Value {
    let system = endpoint.system_prompt.as_deref();
    let system = system.map(|prompt| json!({ "role": "system", "content": prompt }));
    let all: Vec<_> = system.into_iter().chain(messages.iter().map(|m| json!(m))).collect();
    let mut body = json!({
        "model": endpoint.model,
        "messages": all,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    if let Some(max_tokens) = endpoint.max_tokens {
        body["max_tokens"] = max_tokens.into();
    }
    body
}

fn check_head(response: &Response<Incoming>) -> Result<(), ModelError> {
    let (status, headers) = (response.status(), response.headers());
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Err(ModelError::Overloaded(retry_after(headers)));
    }
    if !status.is_success() {
        return Err(ModelError::Status(status));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_stream =
        kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/event-stream"));
    if is_stream { Ok(()) } else { Err(ModelError::Malformed) }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}
