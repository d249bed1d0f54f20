//! The handler that replies to messages of the chat: the app's program, or the model of the installation.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, TE};
use hyper::{HeaderMap, StatusCode};
use protocol::Problem;
use protocol::headers::{PROBLEM, REQUEST_ID, TOKENS};
use protocol::model::REPLIES_PATH;
use protocol::problem::Code;
use serde_json::json;
use service::Secret;
use tenant_service::fetch::{self, FetchError, Parts};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use uuid::Uuid;

use super::SILENCE_TIMEOUT;
use super::model::conversation;
use crate::history::conversations::Turn;

/// More than any problem takes.
const MAX_PROBLEM_BYTES: usize = 64 << 10;

#[derive(Clone, Debug)]
pub enum ChatHandler {
    /// Where the app's program takes messages.
    App {
        address: SocketAddr,
        path: String,
    },
    Model(ModelHandler),
}

/// The way to the model: the control plane knows its endpoint and the key.
#[derive(Clone)]
pub struct ModelHandler {
    pub socket: PathBuf,
    /// The tenant's own.
    pub token: Secret,
}

impl fmt::Debug for ModelHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelHandler").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// A message on its way.
pub(super) struct Question {
    pub(super) conversation: Uuid,
    pub(super) text: String,
    /// The messages before it, for a handler that keeps none itself.
    pub(super) earlier: Vec<Turn>,
    /// The person, as the edge names people to the app.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl ChatHandler {
    /// Why the tenant is kept awake during a reply.
    pub(super) const fn busy_reason(&self) -> &'static str {
        match self {
            Self::App { .. } => "the app replies to a message of the chat",
            Self::Model(_) => "the model replies to a message of the chat",
        }
    }

    /// Hands the message over. The model does not learn who wrote it.
    ///
    /// # Errors
    /// [`FetchError`].
    pub(super) async fn open(
        &self,
        question: Question,
        request_id: &str,
    ) -> Result<hyper::Response<Parts>, FetchError> {
        let Question { conversation: id, text, earlier, headers } = question;
        match self {
            Self::App { address, path } => {
                let body = json!({ "conversation": id, "message": text }).to_string();
                fetch::post(TcpStream::connect(address), path, headers, body).await
            }
            Self::Model(ModelHandler { socket, token }) => {
                let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
                    .map_err(hyper::http::Error::from)?;
                bearer.set_sensitive(true);
                let mut headers =
                    vec![(AUTHORIZATION, bearer), (TE, HeaderValue::from_static("trailers"))];
                if let Ok(id) = HeaderValue::from_str(request_id) {
                    headers.push((HeaderName::from_static(REQUEST_ID), id));
                }
                let body = json!({ "messages": conversation(earlier, text) }).to_string();
                fetch::post(UnixStream::connect(socket), REPLIES_PATH, headers, body).await
            }
        }
    }

    /// The problem of a reply that failed for this reason.
    pub(super) fn failed(&self, why: &str) -> Box<Problem> {
        let (code, who) = match self {
            Self::App { .. } => (Code::ChatFailed, "app"),
            Self::Model(_) => (Code::ModelFailed, "model"),
        };
        Box::new(Problem::new(code, format!("502: the {who} did not reply: {why}.")))
    }

    /// The problem of a message that was refused. The control plane says why; whatever an app says is its own.
    pub(super) async fn refusal(&self, status: StatusCode, parts: Parts) -> Box<Problem> {
        let unknown = || self.failed(&format!("it answered {}", status.as_u16()));
        match self {
            Self::App { .. } => unknown(),
            Self::Model(_) => match read_problem(parts).await {
                // The refusals of the tenant's token and of the request are this core's fault, and no user's.
                Some((code, detail)) if is_for_users(code) => Box::new(Problem::new(code, detail)),
                Some((code, _)) => self.failed(&format!("the control plane said {code}")),
                None => unknown(),
            },
        }
    }

    /// Whether a reply is whole. The control plane ends each reply of the model with the tokens, so that one without them broke off.
    ///
    /// # Errors
    /// The problem by which the control plane says that the model broke off, or that it did not end the reply.
    pub(super) fn check_end(&self, trailers: Option<&HeaderMap>) -> Result<(), Box<Problem>> {
        let Self::Model(_) = self else { return Ok(()) };
        let broke_off = || self.failed("it broke off");
        let trailers = trailers.ok_or_else(broke_off)?;
        let Some(code) = trailers.get(PROBLEM) else {
            return if trailers.contains_key(TOKENS) { Ok(()) } else { Err(broke_off()) };
        };
        let code = code.to_str().ok().and_then(Code::parse).filter(|code| is_for_users(*code));
        match code {
            Some(Code::ModelFailed) | None => Err(broke_off()),
            Some(code) => {
                let detail = format!("{}: the model did not reply to the end.", code.status());
                Err(Box::new(Problem::new(code, detail)))
            }
        }
    }
}

/// Whether users are shown this refusal of the control plane.
const fn is_for_users(code: Code) -> bool {
    matches!(
        code,
        Code::ModelBusy
            | Code::ModelFailed
            | Code::ModelQuota
            | Code::ModelTimedOut
            | Code::ModelUnset
            | Code::DatabaseUnavailable
    )
}

async fn read_problem(mut parts: Parts) -> Option<(Code, String)> {
    let mut body = Vec::new();
    while let Some(part) = timeout(SILENCE_TIMEOUT, parts.next()).await.ok()? {
        body.extend_from_slice(&part.ok()?);
        if body.len() > MAX_PROBLEM_BYTES {
            return None;
        }
    }
    let problem: Problem = serde_json::from_slice(&body).ok()?;
    Some((Code::parse(&problem.code)?, problem.detail))
}
