//! Chat: a message is stored, handed to the app's program or to the model of the installation, and the reply is passed on as it
//! arrives and stored at its end. A reply goes on when its reader leaves.

mod handler;
mod model;
mod text;

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{ACCEPT, HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use protocol::Problem;
use protocol::headers::{ASSERTION, EMAIL, NAME, REQUEST_ID, ROLE, TOKENS, USER};
use protocol::history::{Author, ChatReply, SendMessage};
use protocol::problem::{Code, FieldCode};
use serde_json::json;
use tenant_service::body::read_json;
use tenant_service::fetch::FetchError;
use tenant_service::{RequestBody, RequestContext, Response, response};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;
use uuid::Uuid;

use self::handler::Question;
use self::model::MAX_CONTEXT_MESSAGES;
use self::text::Utf8Text;
use super::query::Query;
use super::{Back, CallError, history_problem, invalid_field, now, respond};
use crate::back::busy::BusyGuard;
use crate::history::HistoryError;
use crate::history::conversations::{self, NewMessage, Turn};
use crate::history::summaries::Summaries;
use crate::session_table::Session;

pub use self::handler::{ChatHandler, ModelHandler};

/// Replies at once. Each holds a connection to the program and its text so far.
pub(in crate::back) const MAX_REPLIES: usize = 16;
const MAX_MESSAGE_CHARS: usize = 32_000;
/// More than the longest message takes in any encoding.
const MAX_BODY_BYTES: usize = 512 << 10;
const MAX_REPLY_BYTES: usize = 1 << 20;
/// A program may think before it begins, and between two parts. The router waits a little longer.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(90);
const MAX_REPLY_TIME: Duration = Duration::from_secs(60 * 60);
/// A reader that takes nothing for this long counts as gone, so that it holds no place of a reply.
const READER_TIMEOUT: Duration = Duration::from_secs(30);
const EVENT_QUEUE: usize = 16;
/// A report of more tokens counts as this many.
const MAX_TOKENS: u32 = 100_000_000;
/// A reply whose storing meets a full queue is offered again, this many times.
const STORE_ATTEMPTS: u32 = 50;
const STORE_RETRY_DELAY: Duration = Duration::from_millis(100);

/// How a reply ended.
type Ending = Result<ChatReply, Box<Problem>>;

/// The part of the reply that arrived so far.
#[derive(Default)]
struct ReceivedReply {
    text: Utf8Text,
    tokens: u32,
}

/// One reply under way.
struct Reply {
    summaries: Summaries,
    handler: ChatHandler,
    conversation: Uuid,
    user_id: String,
    request_id: String,
    /// `None` once the reader left.
    events: Option<mpsc::Sender<Bytes>>,
    busy: BusyGuard,
    _slot: OwnedSemaphorePermit,
}

impl Back {
    pub(super) async fn send_message(
        &self,
        context: &RequestContext,
        session: &Session,
        headers: &HeaderMap,
        body: RequestBody,
    ) -> Result<Response, CallError> {
        let SendMessage { message, conversation } = read_json(body, MAX_BODY_BYTES).await?;
        check(&message)?;
        let handler = self.chat.clone().ok_or_else(no_handler)?;
        let keeps_context = matches!(handler, ChatHandler::Model(_));
        let slot = self.replies.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("503: the app writes {MAX_REPLIES} replies, which is the limit.");
            Box::new(Problem::new(Code::ChatBusy, detail))
        })?;
        let about_person = self.name_person(context, session)?;
        let stored = self.store_question(session, conversation, message.clone(), keeps_context);
        let (conversation, earlier) = stored.await?;
        let question = Question { conversation, text: message, earlier, headers: about_person };
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let (ended, ending) = oneshot::channel();
        let is_streamed = wants_events(headers);
        let busy = self.busy.declare(handler.busy_reason());
        let reply = Reply {
            summaries: self.summaries.clone(),
            handler,
            conversation,
            user_id: session.sub.clone(),
            request_id: context.request_id.clone(),
            events: is_streamed.then_some(events),
            busy,
            _slot: slot,
        };
        let drain = self.drain.clone();
        // Not a part of this request: what the program began to say is stored, whoever reads it.
        self.drain.spawn(async move {
            let ending = reply.run(question, async move { drain.requested().await }).await;
            // The caller may have gone.
            let _ = ended.send(ending);
        });
        if is_streamed {
            return Ok(response::events(receiver));
        }
        let abandoned = || Box::new(Problem::new(Code::Internal, "The reply was abandoned."));
        let reply = ending.await.map_err(|_| abandoned())??;
        respond(StatusCode::OK, &reply)
    }

    /// The headers by which the app knows who writes.
    fn name_person(
        &self,
        context: &RequestContext,
        session: &Session,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, CallError> {
        let assertion = self.assertions.issue(session, crate::now());
        let assertion = assertion.map_err(|error| HistoryError::Other(error.to_string()))?;
        let named = [
            (USER, session.sub.as_str()),
            (EMAIL, session.email.as_str()),
            (NAME, session.name.as_str()),
            (ROLE, session.role.as_str()),
            (ASSERTION, assertion.as_str()),
            (REQUEST_ID, context.request_id.as_str()),
        ];
        // A name that cannot stand in a header is left out; the assertion has it all the same.
        let named = named.into_iter().filter_map(|(header, value)| {
            let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
            Some((HeaderName::from_static(header), value))
        });
        Ok(named.collect())
    }

    /// Stores the message; returns its conversation, with the messages before it where `keeps_context`.
    async fn store_question(
        &self,
        session: &Session,
        conversation: Option<Uuid>,
        text: String,
        keeps_context: bool,
    ) -> Result<(Uuid, Vec<Turn>), CallError> {
        let user_id = session.sub.clone();
        let question =
            NewMessage { author: Author::User, user_id, text, tokens: 0, is_complete: true };
        let store = move |connection: &_| {
            let conversation = match conversation {
                Some(conversation) => conversation,
                None => conversations::begin(connection, &question.user_id, now())?,
            };
            let earlier = match keeps_context {
                true => {
                    conversations::latest_turns(connection, conversation, MAX_CONTEXT_MESSAGES)?
                }
                false => Vec::new(),
            };
            let stored = conversations::append(connection, conversation, &question, now())?;
            Ok(stored.map(|_| (conversation, earlier)))
        };
        let unknown = || {
            invalid_field("conversation", FieldCode::Invalid, "must be the id of a conversation")
        };
        Ok(self.summaries.write(store).await?.ok_or_else(unknown)?)
    }

    pub(super) async fn list_conversations(
        &self,
        query: Option<&str>,
    ) -> Result<Response, CallError> {
        let page = Query::parse(query, &["limit", "cursor"])?.page()?;
        let list = self.history.read(move |connection| conversations::list(connection, &page));
        respond(StatusCode::OK, &list.await?)
    }

    pub(super) async fn list_messages(
        &self,
        id: &str,
        query: Option<&str>,
    ) -> Result<Response, CallError> {
        let page = Query::parse(query, &["limit", "cursor"])?.page()?;
        let unknown = || {
            let detail = "404: there is no such conversation.";
            Box::new(Problem::new(Code::ResourceNotFound, detail))
        };
        let id = crate::channel::parse_id(id).ok_or_else(unknown)?;
        let list =
            self.history.read(move |connection| conversations::messages(connection, id, &page));
        respond(StatusCode::OK, &list.await?.ok_or_else(unknown)?)
    }
}

impl Reply {
    /// `stop` resolves when the service must end.
    async fn run(mut self, question: Question, stop: impl Future<Output = ()>) -> Ending {
        let mut received = ReceivedReply::default();
        let handler = self.handler.clone();
        let receive = async {
            self.emit("conversation", &json!({ "conversation": self.conversation })).await;
            self.receive(question, &mut received).await
        };
        let failure = tokio::select! {
            ended = timeout(MAX_REPLY_TIME, receive) => match ended {
                Ok(ended) => ended.err(),
                Err(_) => Some(handler.failed("its reply takes too long")),
            },
            () = stop => Some(handler.failed("the tenant stops")),
        };
        let ReceivedReply { text, tokens } = received;
        let reply = text.into_string();
        let stored = NewMessage {
            author: Author::App,
            user_id: self.user_id.clone(),
            text: reply.clone(),
            tokens,
            is_complete: failure.is_none(),
        };
        let conversation = self.conversation;
        let ending = match (self.store(stored).await, failure) {
            (_, Some(problem)) => Err(problem),
            (Ok(message), None) => Ok(ChatReply { conversation, message, reply }),
            (Err(error), None) => Err(Box::new(history_problem(&error, &self.request_id))),
        };
        match &ending {
            Ok(reply) => self.emit("done", &json!(reply)).await,
            Err(problem) => {
                let request_id = self.request_id.clone();
                let problem = Problem { request_id, ..(**problem).clone() };
                self.emit("error", &json!(problem)).await;
            }
        }
        ending
    }

    /// Receives the reply, part by part.
    async fn receive(
        &mut self,
        question: Question,
        received: &mut ReceivedReply,
    ) -> Result<(), Box<Problem>> {
        let handler = self.handler.clone();
        let opened = timeout(SILENCE_TIMEOUT, handler.open(question, &self.request_id)).await;
        let opened = opened.unwrap_or(Err(FetchError::TimedOut));
        let (head, mut parts) =
            opened.map_err(|error| handler.failed(&error.to_string()))?.into_parts();
        if !head.status.is_success() {
            return Err(handler.refusal(head.status, parts).await);
        }
        received.tokens = tokens(&head.headers).unwrap_or_default();
        loop {
            let part = timeout(SILENCE_TIMEOUT, parts.next()).await;
            let Some(part) = part.map_err(|_| handler.failed("it fell silent"))? else { break };
            let part = part.map_err(|error| handler.failed(&error.to_string()))?;
            self.busy.renew();
            if received.text.len() + part.len() > MAX_REPLY_BYTES {
                let why = format!("its reply is over {MAX_REPLY_BYTES} bytes");
                return Err(handler.failed(&why));
            }
            let new = received.text.push(&part);
            if !new.is_empty() {
                self.emit("delta", &json!({ "text": new })).await;
            }
        }
        received.tokens = parts.trailers().and_then(tokens).unwrap_or(received.tokens);
        handler.check_end(parts.trailers())
    }

    async fn store(&self, message: NewMessage) -> Result<i64, HistoryError> {
        let conversation = self.conversation;
        let mut attempt = 1;
        loop {
            let message = message.clone();
            let store = move |connection: &_| {
                conversations::append(connection, conversation, &message, now())
            };
            match self.summaries.write(store).await {
                Ok(Some(id)) => return Ok(id),
                Ok(None) => return Err(HistoryError::Other("the conversation is gone".to_owned())),
                Err(HistoryError::Busy) if attempt < STORE_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(STORE_RETRY_DELAY).await;
        }
    }

    async fn emit(&mut self, event: &str, data: &serde_json::Value) {
        let Some(events) = &self.events else { return };
        let sent = events.send(format!("event: {event}\ndata: {data}\n\n").into());
        if !matches!(timeout(READER_TIMEOUT, sent).await, Ok(Ok(()))) {
            self.events = None;
        }
    }
}

fn no_handler() -> Box<Problem> {
    let detail =
        "501: the app takes no messages. Its manifest names the path that does, as `chat`.";
    Box::new(Problem::new(Code::NotImplemented, detail))
}

fn check(message: &str) -> Result<(), Box<Problem>> {
    if message.trim().is_empty() {
        return Err(invalid_field("message", FieldCode::Required, "must not be empty"));
    }
    if message.chars().count() > MAX_MESSAGE_CHARS {
        let rule = format!("must have at most {MAX_MESSAGE_CHARS} characters");
        return Err(invalid_field("message", FieldCode::TooLong, &rule));
    }
    Ok(())
}

/// The tokens that the program reports. What is no number counts as no report.
fn tokens(headers: &HeaderMap) -> Option<u32> {
    let tokens: u64 = headers.get(TOKENS)?.to_str().ok()?.trim().parse().ok()?;
    Some(u32::try_from(tokens).unwrap_or(MAX_TOKENS).min(MAX_TOKENS))
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = |range: &str| range.split(';').next().map(|kind| kind.trim().to_ascii_lowercase());
    accepted.split(',').any(|range| kind(range).as_deref() == Some("text/event-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_media_types_of_a_list_count_too() {
        let wants = |accept: &'static str| {
            wants_events(&[(ACCEPT, HeaderValue::from_static(accept))].into_iter().collect())
        };
        assert!(wants("text/event-stream"));
        assert!(wants("application/json, Text/Event-Stream;q=0.9"));
        assert!(!wants("application/json"));
        assert!(!wants("text/event-streams, */*"));
    }

    #[test]
    fn a_report_of_tokens_is_a_number_within_bounds() {
        let read = |value: &'static str| {
            let name = HeaderName::from_static(TOKENS);
            tokens(&[(name, HeaderValue::from_static(value))].into_iter().collect())
        };
        assert_eq!(read("17"), Some(17));
        assert_eq!(read("99999999999"), Some(MAX_TOKENS));
        for value in ["", "-1", "many", "1.5", "99999999999999999999999"] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
