//! Chat: a message is stored, handed to the app's program, and its reply is passed on as it arrives and stored at its end.
//! A reply goes on when its reader leaves.

use std::net::SocketAddr;
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
use tenant_service::fetch::{self, FetchError};
use tenant_service::{RequestBody, RequestContext, Response, response};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;
use uuid::Uuid;

use super::query::Query;
use super::{Back, CallError, history_problem, invalid_field, now, respond};
use crate::back::busy::BusyGuard;
use crate::history::HistoryError;
use crate::history::conversations::{self, NewMessage};
use crate::history::summaries::Summaries;
use crate::session_table::Session;

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

/// Where the app's program takes messages.
#[derive(Clone, Debug)]
pub struct ChatHandler {
    pub address: SocketAddr,
    pub path: String,
}

/// How a reply ended.
type Ending = Result<ChatReply, Box<Problem>>;

/// A message on its way to the program.
struct Question {
    conversation: Uuid,
    text: String,
    /// The person, as the edge names people to the app.
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What the program sent so far.
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
        let slot = self.replies.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("503: the app writes {MAX_REPLIES} replies, which is the limit.");
            Box::new(Problem::new(Code::ChatBusy, detail))
        })?;
        let about_person = self.name_person(context, session)?;
        let conversation = self.store_question(session, conversation, message.clone()).await?;
        let question = Question { conversation, text: message, headers: about_person };
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let (ended, ending) = oneshot::channel();
        let is_streamed = wants_events(headers);
        let reply = Reply {
            summaries: self.summaries.clone(),
            handler,
            conversation,
            user_id: session.sub.clone(),
            request_id: context.request_id.clone(),
            events: is_streamed.then_some(events),
            busy: self.busy.declare("the app replies to a message of the chat"),
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

    async fn store_question(
        &self,
        session: &Session,
        conversation: Option<Uuid>,
        text: String,
    ) -> Result<Uuid, CallError> {
        let user_id = session.sub.clone();
        let question =
            NewMessage { author: Author::User, user_id, text, tokens: 0, is_complete: true };
        let store = move |connection: &_| {
            let conversation = match conversation {
                Some(conversation) => conversation,
                None => conversations::begin(connection, &question.user_id, now())?,
            };
            let stored = conversations::append(connection, conversation, &question, now())?;
            Ok(stored.map(|_| conversation))
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
        let receive = async {
            self.emit("conversation", &json!({ "conversation": self.conversation })).await;
            self.receive(question, &mut received).await
        };
        let failure = tokio::select! {
            ended = timeout(MAX_REPLY_TIME, receive) => match ended {
                Ok(ended) => ended.err(),
                Err(_) => Some(failed("its reply takes too long")),
            },
            () = stop => Some(failed("the tenant stops")),
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

    /// Receives the reply of the program, part by part.
    async fn receive(
        &mut self,
        question: Question,
        received: &mut ReceivedReply,
    ) -> Result<(), Box<Problem>> {
        let ChatHandler { address, path } = self.handler.clone();
        let Question { conversation, text, headers } = question;
        let body = json!({ "conversation": conversation, "message": text }).to_string();
        let opened = fetch::post(TcpStream::connect(address), &path, headers, body);
        let opened = timeout(SILENCE_TIMEOUT, opened).await.unwrap_or(Err(FetchError::TimedOut));
        let (head, mut parts) = opened.map_err(|error| failed(&error.to_string()))?.into_parts();
        if !head.status.is_success() {
            return Err(failed(&format!("it answered {}", head.status.as_u16())));
        }
        received.tokens = tokens(&head.headers).unwrap_or_default();
        loop {
            let part = timeout(SILENCE_TIMEOUT, parts.next()).await;
            let Some(part) = part.map_err(|_| failed("it fell silent"))? else { break };
            let part = part.map_err(|error| failed(&error.to_string()))?;
            self.busy.renew();
            if received.text.len() + part.len() > MAX_REPLY_BYTES {
                return Err(failed(&format!("its reply is over {MAX_REPLY_BYTES} bytes")));
            }
            let new = received.text.push(&part);
            if !new.is_empty() {
                self.emit("delta", &json!({ "text": new })).await;
            }
        }
        received.tokens = parts.trailers().and_then(tokens).unwrap_or(received.tokens);
        Ok(())
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

fn failed(why: &str) -> Box<Problem> {
    Box::new(Problem::new(Code::ChatFailed, format!("502: the app did not reply: {why}.")))
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

/// Text that arrives in pieces, whose ends may split a character.
#[derive(Debug, Default)]
struct Utf8Text {
    text: String,
    /// The beginning of a character.
    begun: Vec<u8>,
}

impl Utf8Text {
    /// Adds bytes and returns what they complete. Bytes that are no UTF-8 become U+FFFD.
    fn push(&mut self, bytes: &[u8]) -> String {
        let bytes = [std::mem::take(&mut self.begun).as_slice(), bytes].concat();
        let mut new = String::new();
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            new.push_str(chunk.valid());
            let invalid = chunk.invalid();
            let is_begun = chunks.peek().is_none()
                && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if is_begun {
                self.begun = invalid.to_vec();
            } else if !invalid.is_empty() {
                new.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.text.push_str(&new);
        new
    }

    fn len(&self) -> usize {
        self.text.len()
    }

    fn into_string(mut self) -> String {
        if !self.begun.is_empty() {
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        self.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_become_the_text_that_they_are(
            bytes in prop::collection::vec(
                prop_oneof![Just(0xc3_u8), Just(0xbc), Just(0xf0), Just(0x9f), Just(0xff), any::<u8>()],
                0..40,
            ),
            cut in 1..5_usize,
        ) {
            let mut text = Utf8Text::default();
            let parts: String = bytes.chunks(cut).map(|piece| text.push(piece)).collect();
            let whole = text.into_string();
            prop_assert!(whole.starts_with(&parts));
            prop_assert_eq!(whole, String::from_utf8_lossy(&bytes));
        }
    }
}
