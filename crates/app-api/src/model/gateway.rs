//! The way of tenants' cores to the model, over one unix socket. The token of a call says whose it is; the endpoint's key stays here.
//! No text of a conversation is stored or logged.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use chrono::NaiveDate;
use futures_util::StreamExt as _;
use futures_util::stream::poll_fn;
use http_body_util::StreamBody;
use hyper::body::Frame;
use protocol::TenantId;
use protocol::headers::{PROBLEM, TOKENS};
use protocol::model::{MAX_CONTENT_BYTES, MAX_MESSAGES, ModelMessage, ReplyRequest};
use protocol::problem::{Code, FieldCode};
use service::api_error::ApiError;
use service::sealing_keys::Purpose;
use service::secret::constant_time_eq;
use service::{Secret, keys};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::completion::{Completion, Usage};
use super::quota::{self, Progress};
use super::upstream::{ModelClient, ModelError, ReplyStream};
use crate::app::App;
use crate::db::is_foreign_key_violation;
use crate::db::model::{self, Endpoint, Request, Settlement};
use crate::outbound::target::Targets;
use crate::validation::refused_field;

/// Replies at once, of all tenants. Each holds a connection to the endpoint.
pub const MAX_REPLIES: usize = 48;
const MAX_REPLIES_OF_TENANT: usize = 8;
/// The texts of a request, in which each character may be an escape of JSON.
const MAX_BODY_BYTES: usize = 6 * MAX_CONTENT_BYTES + (64 << 10);
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_REPLY_TIME: Duration = Duration::from_secs(15 * 60);
/// A core that takes nothing for this long counts as gone.
const READER_TIMEOUT: Duration = Duration::from_secs(30);
const PART_QUEUE: usize = 16;
const BUSY_RETRY_DELAY: Duration = Duration::from_secs(5);

/// The client of the endpoint, and the replies under way.
pub struct Gateway {
    client: ModelClient,
    replies: Arc<Mutex<HashMap<TenantId, usize>>>,
}

/// The place of a reply among those under way.
struct Slot {
    tenant: TenantId,
    replies: Arc<Mutex<HashMap<TenantId, usize>>>,
}

/// The tenant whose token a request carries.
pub struct CallingTenant(TenantId);

/// Whether more of a stream is to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamState {
    GoesOn,
    Ended,
}

/// One reply under way.
struct Reply {
    app: App,
    tenant: TenantId,
    endpoint: Endpoint,
    key: Option<Secret>,
    messages: Vec<ModelMessage>,
    day: NaiveDate,
    prompt_bytes: usize,
    reserved: i64,
    parts: mpsc::Sender<Frame<Bytes>>,
    _slot: Slot,
}

impl Gateway {
    pub fn new(client: ModelClient) -> Self {
        Self { client, replies: Arc::default() }
    }

    /// Where the endpoint may be.
    pub const fn targets(&self) -> Targets {
        self.client.targets()
    }

    /// Takes a place for a reply.
    ///
    /// # Errors
    /// `model_busy`.
    fn take_slot(&self, tenant: TenantId) -> Result<Slot, ApiError> {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = replies.values().sum();
        let own = replies.get(&tenant).copied().unwrap_or_default();
        let limit = match (own >= MAX_REPLIES_OF_TENANT, all >= MAX_REPLIES) {
            (true, _) => "the tenant",
            (_, true) => "the installation",
            (false, false) => {
                replies.insert(tenant, own + 1);
                return Ok(Slot { tenant, replies: self.replies.clone() });
            }
        };
        let detail =
            format!("503: as many replies of the model are under way as {limit} may have.");
        Err(ApiError::new(Code::ModelBusy, detail).with_retry_after(BUSY_RETRY_DELAY))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = replies.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                replies.remove(&self.tenant);
            }
        }
    }
}

impl FromRequestParts<App> for CallingTenant {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let value = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = value.and_then(|value| value.strip_prefix("Bearer "));
        let tenant = token.and_then(|token| tenant_of(&app.device_key, token));
        tenant.map(Self).ok_or_else(unknown_token)
    }
}

/// The tenant to which the token belongs. The id in it only says which token to compare with.
fn tenant_of(master: &Secret, token: &str) -> Option<TenantId> {
    let (id, _) = token.split_once('.')?;
    let tenant = id.parse().ok()?;
    constant_time_eq(keys::model_token(master, tenant), token).then_some(tenant)
}

fn unknown_token() -> ApiError {
    ApiError::new(Code::InvalidToken, "401: this is not the token of a tenant.")
}

/// `POST /v1/replies`.
pub async fn reply(
    State(app): State<App>,
    CallingTenant(tenant): CallingTenant,
    body: Body,
) -> Result<Response, ApiError> {
    // Before the body: it lies in memory.
    let slot = app.model.take_slot(tenant)?;
    let messages = read_messages(body).await?;
    let mut conn = app.conn().await?;
    let endpoint = model::endpoint(&mut conn).await?.ok_or_else(unset)?;
    let key = open_key(&app, &endpoint)?;
    let prompt_bytes = messages.iter().map(|message| message.content.len()).sum::<usize>()
        + endpoint.system_prompt.as_ref().map_or(0, String::len);
    let reserved = quota::reservation(prompt_bytes, endpoint.max_tokens);
    let now = app.clock.now();
    let (day, minute) = (now.date_naive(), quota::minute(now));
    let request = Request { tenant, day, minute, reserved };
    match model::admit(&mut conn, request, &endpoint).await {
        Ok(true) => {}
        Ok(false) => {
            let used = model::usage_on(&mut conn, tenant, day).await?;
            let used = used.map_or(0, |used| used.charged_tokens);
            return Err(quota_used_up(&endpoint, used, now));
        }
        // A tenant that is gone has no token.
        Err(error) if is_foreign_key_violation(&error) => return Err(unknown_token()),
        Err(error) => return Err(error.into()),
    }
    drop(conn);
    let (parts, mut received) = mpsc::channel(PART_QUEUE);
    let (opened, is_open) = oneshot::channel();
    let reply = Reply {
        app,
        tenant,
        endpoint,
        key,
        messages,
        day,
        prompt_bytes,
        reserved,
        parts,
        _slot: slot,
    };
    // Not a part of this request: whatever ends the request, what the reply took is counted.
    tokio::spawn(reply.run(opened));
    match is_open.await {
        Ok(Ok(())) => {
            let parts = poll_fn(move |context| received.poll_recv(context));
            Ok(streamed(Body::new(StreamBody::new(parts.map(Ok::<_, Infallible>)))))
        }
        Ok(Err(error)) => Err(refusal(error)),
        Err(_) => Err(refusal(ModelError::Stopping)),
    }
}

async fn read_messages(body: Body) -> Result<Vec<ModelMessage>, ApiError> {
    let read = timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY_BYTES)).await;
    let read = read.map_err(|_| {
        ApiError::new(Code::RequestTimedOut, "408: the body did not arrive in time.")
    })?;
    let too_large = |_| {
        let detail = format!("413: the body is over {MAX_BODY_BYTES} bytes.");
        ApiError::new(Code::BodyTooLarge, detail)
    };
    let read = read.map_err(too_large)?;
    let ReplyRequest { messages } = service::json_object::from_slice(&read)
        .map_err(|error| ApiError::new(Code::InvalidJson, format!("The body: {error}.")))?;
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    if messages.is_empty() || messages.len() > MAX_MESSAGES || bytes > MAX_CONTENT_BYTES {
        let detail = format!(
            "messages must be 1 to {MAX_MESSAGES}, with at most {MAX_CONTENT_BYTES} bytes of text."
        );
        return Err(refused_field(Code::InvalidFields, "messages", FieldCode::Invalid, detail));
    }
    Ok(messages)
}

fn open_key(app: &App, endpoint: &Endpoint) -> Result<Option<Secret>, ApiError> {
    let Some(sealed) = &endpoint.sealed_key else { return Ok(None) };
    let key = app.sealing.open(&Purpose::Model, sealed)?;
    Ok(Some(Secret::new(String::from_utf8(key)?)))
}

fn unset() -> ApiError {
    let detail = "503: the operator of this installation has set no model.";
    ApiError::new(Code::ModelUnset, detail)
}

fn quota_used_up(endpoint: &Endpoint, used: i64, now: protocol::Timestamp) -> ApiError {
    let (detail, wait) = if used >= endpoint.tokens_per_day {
        let limit = endpoint.tokens_per_day;
        let detail = format!("429: the tenant has used its {limit} tokens of this day.");
        (detail, quota::until_next_day(now))
    } else {
        let limit = endpoint.requests_per_minute;
        let detail = format!("429: the tenant has sent its {limit} requests of this minute.");
        (detail, quota::until_next_minute(now))
    };
    ApiError::new(Code::ModelQuota, detail).with_retry_after(wait)
}

fn refusal(error: ModelError) -> ApiError {
    let code = error.code();
    // The log has the status. People in a tenant must not learn with it what listens where.
    let why = if matches!(error, ModelError::Status(_)) {
        "the endpoint refused the request".to_owned()
    } else {
        error.to_string()
    };
    let error_response = ApiError::new(code, format!("{}: {why}.", code.status()));
    if let ModelError::Overloaded(wait) = error {
        return error_response.with_retry_after(wait.unwrap_or(BUSY_RETRY_DELAY));
    }
    error_response
}

fn streamed(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::TRAILER, "x-cial-tokens, x-cial-problem"),
    ];
    (headers, body).into_response()
}

impl Reply {
    async fn run(self, opened: oneshot::Sender<Result<(), ModelError>>) {
        let mut completion = Completion::default();
        let mut is_open = false;
        let relayed = timeout(MAX_REPLY_TIME, self.relay(&mut completion, &mut is_open, opened));
        let ended = tokio::select! {
            relayed = relayed => relayed.unwrap_or(Err(ModelError::TimedOut)),
            () = self.parts.closed() => Err(ModelError::Abandoned),
            () = self.app.stop.cancelled() => Err(ModelError::Stopping),
        };
        let (counted, reply_bytes) = (completion.usage(), completion.text_bytes());
        let progress = progress(ended, is_open);
        let taken = quota::taken(progress, counted, self.reserved, self.prompt_bytes, reply_bytes);
        let problem = ended.err();
        let (prompt_tokens, completion_tokens) = (taken.prompt_tokens, taken.completion_tokens);
        match problem {
            None => {
                tracing::debug!(tenant = %self.tenant, prompt_tokens, completion_tokens, "model replied")
            }
            Some(error) => {
                tracing::warn!(tenant = %self.tenant, %error, "reply of the model failed")
            }
        }
        // Before the end of the response: who reads the usage after a reply finds it counted.
        if let Err(error) = self.settle(taken).await {
            let error = error.into_error();
            tracing::error!(tenant = %self.tenant, error = format!("{error:#}"), "usage of the model not counted");
        }
        let trailers = Frame::trailers(trailers(taken, problem));
        // The core may have gone.
        let _ = timeout(READER_TIMEOUT, self.parts.send(trailers)).await;
    }

    /// Passes the text of the reply on.
    async fn relay(
        &self,
        completion: &mut Completion,
        is_open: &mut bool,
        opened: oneshot::Sender<Result<(), ModelError>>,
    ) -> Result<(), ModelError> {
        let client = &self.app.model.client;
        let stream = client.open(&self.endpoint, self.key.as_ref(), &self.messages).await;
        // The handler waits for this; where it has gone, the parts are closed, too.
        let mut stream = match stream {
            Ok(stream) => {
                let _ = opened.send(Ok(()));
                stream
            }
            Err(error) => {
                let _ = opened.send(Err(error));
                return Err(error);
            }
        };
        *is_open = true;
        loop {
            let mut text = String::new();
            // Not for each part of the stream: the core receives text alone, and gives up after a silence.
            let read = read_text(&mut stream, completion, &mut text);
            let read = timeout(client.silence(), read).await;
            if !text.is_empty() {
                let sent = self.parts.send(Frame::data(text.into()));
                if !matches!(timeout(READER_TIMEOUT, sent).await, Ok(Ok(()))) {
                    return Err(ModelError::Abandoned);
                }
            }
            if read.unwrap_or(Err(ModelError::TimedOut))? == StreamState::Ended {
                break;
            }
        }
        if completion.is_finished() { Ok(()) } else { Err(ModelError::BrokeOff) }
    }

    async fn settle(&self, taken: Usage) -> Result<(), ApiError> {
        let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        let settlement = Settlement {
            reserved: self.reserved,
            prompt_tokens: count(taken.prompt_tokens),
            completion_tokens: count(taken.completion_tokens),
        };
        let mut conn = self.app.conn().await?;
        Ok(model::settle(&mut conn, self.tenant, self.day, settlement).await?)
    }
}

/// Reads until there is text, or the end.
async fn read_text(
    stream: &mut ReplyStream,
    completion: &mut Completion,
    text: &mut String,
) -> Result<StreamState, ModelError> {
    while text.is_empty() {
        if completion.is_done() {
            return Ok(StreamState::Ended);
        }
        let Some(bytes) = stream.next().await? else { return Ok(StreamState::Ended) };
        completion.push(&bytes, text)?;
    }
    Ok(StreamState::GoesOn)
}

/// How far the reply came. `is_open`: the endpoint had accepted the request.
const fn progress(ended: Result<(), ModelError>, is_open: bool) -> Progress {
    match ended {
        Ok(()) => Progress::Whole,
        Err(error) if !is_open && error.is_refusal() => Progress::Refused,
        Err(_) => Progress::Partial,
    }
}

fn trailers(taken: Usage, problem: Option<ModelError>) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(HeaderName::from_static(TOKENS), HeaderValue::from(taken.total()));
    if let Some(error) = problem {
        let code = HeaderValue::from_static(error.code().as_str());
        trailers.insert(HeaderName::from_static(PROBLEM), code);
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_tenants_and_names_it_truly() {
        let master = Secret::new("8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa");
        let [a, b]: [TenantId; 2] =
            ["0192f0c1-2345-7abc-8def-0123456789ab", "0192f0c1-2345-7abc-8def-0123456789ac"]
                .map(|id| id.parse().unwrap());
        let token = keys::model_token(&master, a);
        assert_eq!(tenant_of(&master, &token), Some(a));
        let (_, proof) = token.split_once('.').unwrap();
        let other_master = keys::model_token(&Secret::new("another-master-secret-0123456789"), a);
        for forged in [
            format!("{b}.{proof}"),
            format!("{a}."),
            a.to_string(),
            format!("{token}x"),
            token.to_uppercase(),
            proof.to_owned(),
            other_master,
            String::new(),
        ] {
            assert_eq!(tenant_of(&master, &forged), None, "{forged}");
        }
    }

    #[test]
    fn places_are_bounded_for_each_tenant_and_for_all() {
        let gateway =
            Gateway::new(ModelClient::new(Targets::Public, Duration::from_secs(1)).unwrap());
        let tenant = |number: usize| TenantId::new(uuid::Uuid::from_u128(number as u128));
        let mut own: Vec<_> =
            (0..MAX_REPLIES_OF_TENANT).map(|_| gateway.take_slot(tenant(1)).unwrap()).collect();
        assert!(gateway.take_slot(tenant(1)).is_err());
        let others = 2..2 + MAX_REPLIES - MAX_REPLIES_OF_TENANT;
        let others: Vec<_> = others.map(|n| gateway.take_slot(tenant(n)).unwrap()).collect();
        assert!(gateway.take_slot(tenant(999)).is_err());
        own.pop();
        assert!(gateway.take_slot(tenant(999)).is_ok(), "a place that is free again");
        drop((own, others));
        assert!(gateway.replies.lock().unwrap().is_empty());
    }
}
