//! Chat: a message reaches the app's program, and both it and the reply are in the history.

use std::net::SocketAddr;

use hyper::{Method, StatusCode};
use protocol::busy::BusyList;
use protocol::summaries::SummaryReport;
use serde_json::{Value, json};
use tenant_core::back::ChatHandler;
use testkit::peer::{answering_tcp, scripted_tcp};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::harness::{Core, TestResponse, ask_with, code};
use crate::history::{AT_CORE, sign_in};
use crate::tokens::KEY;

/// The `sub` of the session.
const PERSON: &str = "0192f0c1-0000-7abc-8def-0123456789ab";

pub(crate) struct Chat {
    pub(crate) core: Core,
    pub(crate) cookie: String,
}

impl Chat {
    async fn with(address: SocketAddr) -> Self {
        Self::with_handler(ChatHandler::App { address, path: "/talk".to_owned() }).await
    }

    pub(crate) async fn with_handler(handler: ChatHandler) -> Self {
        let core = Core::start_with_chat(&[("sso-key", &KEY)], Some(handler));
        let cookie = sign_in(&core, "member").await;
        Self { core, cookie }
    }

    pub(crate) async fn send(&self, body: &Value) -> TestResponse {
        let headers = [("cookie", self.cookie.as_str()), AT_CORE];
        ask_with(&self.core.socket(), Method::POST, "/chat", &headers, body.to_string()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let headers = [("cookie", self.cookie.as_str()), AT_CORE];
        let response = self.core.ask(Method::GET, path, &headers).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}: {}", response.body());
        serde_json::from_str(response.body()).unwrap()
    }

    /// The messages of the only conversation, oldest first: author, text, whether it is complete.
    pub(crate) async fn stored(&self) -> Vec<(String, String, bool)> {
        let conversations = self.get("/v1/conversations").await;
        let [conversation] = conversations["items"].as_array().unwrap().as_slice() else {
            return Vec::new();
        };
        let id = conversation["id"].as_str().unwrap();
        let messages = self.get(&format!("/v1/conversations/{id}/messages")).await;
        let text = |message: &Value, field: &str| message[field].as_str().unwrap().to_owned();
        let messages = messages["items"].as_array().unwrap().iter().rev().map(|message| {
            let is_complete = message["is_complete"].as_bool().unwrap();
            (text(message, "author"), text(message, "text"), is_complete)
        });
        messages.collect()
    }

    /// Sends a message whose reply is to be streamed.
    pub(crate) async fn stream(&self) -> BufReader<UnixStream> {
        let mut events = UnixStream::connect(self.core.socket()).await.unwrap();
        let body = json!({ "message": "Hello" }).to_string();
        let request = format!(
            "POST /v1/chat HTTP/1.1\r\nHost: acme.localhost\r\nx-cial-site: core\r\ncookie: {}\r\n\
             Accept: text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
            self.cookie,
            body.len()
        );
        events.write_all(request.as_bytes()).await.unwrap();
        BufReader::new(events)
    }

    /// Why the core keeps the tenant awake.
    pub(crate) async fn busy(&self) -> Vec<String> {
        let socket = self.core.dir.path().join("ingress-busy.sock");
        let list = ask_with(&socket, Method::GET, "/busy", &[], String::new()).await;
        let list: BusyList = serde_json::from_str(list.body()).unwrap();
        list.busy.into_iter().map(|busy| busy.reason).collect()
    }

    async fn until_stored(&self, count: usize) -> Vec<(String, String, bool)> {
        let stored = testkit::wait_for("the messages", testkit::PATIENCE, async || {
            let stored = self.stored().await;
            Ok((stored.len() == count).then_some(stored))
        });
        stored.await.unwrap()
    }
}

pub(crate) fn message(author: &str, text: &str, is_complete: bool) -> (String, String, bool) {
    (author.to_owned(), text.to_owned(), is_complete)
}

/// A program that repeats the body of each request.
fn echo() -> SocketAddr {
    answering_tcp(|request| {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /talk HTTP/1.1"), "{head}");
        let message: Value = serde_json::from_str(body).unwrap();
        assert!(head.contains(&format!("x-cial-user: {PERSON}")), "{head}");
        assert!(
            head.contains("x-cial-role: member") && head.contains("x-cial-assertion: ey"),
            "{head}"
        );
        let reply = format!("You said {}", message["message"].as_str().unwrap());
        let length = reply.len();
        format!("HTTP/1.1 200 OK\r\nX-Cial-Tokens: 5\r\nContent-Length: {length}\r\n\r\n{reply}")
            .into_bytes()
    })
    .unwrap()
}

#[tokio::test]
async fn a_message_is_answered_by_the_app_and_both_are_kept() {
    let chat = Chat::with(echo()).await;
    let first = chat.send(&json!({ "message": "Hello!" })).await;
    assert_eq!(first.status(), StatusCode::OK, "{}", first.body());
    let first: Value = serde_json::from_str(first.body()).unwrap();
    assert_eq!(first["reply"], "You said Hello!");
    let again = json!({ "message": "Again", "conversation": first["conversation"] });
    assert_eq!(chat.send(&again).await.status(), StatusCode::OK);
    let expected = [
        message("user", "Hello!", true),
        message("app", "You said Hello!", true),
        message("user", "Again", true),
        message("app", "You said Again", true),
    ];
    assert_eq!(chat.stored().await, expected);
    let conversation = first["conversation"].as_str().unwrap();
    let listed = chat.get(&format!("/v1/conversations/{conversation}/messages")).await;
    let newest = &listed["items"][0];
    assert_eq!((&newest["tokens"], &newest["user_id"]), (&json!(5), &json!(PERSON)));
    assert_eq!(listed["items"][1]["tokens"], 0);

    let socket = chat.core.dir.path().join("ingress-busy.sock");
    let report = async |query: &str| {
        let path = format!("/summaries{query}");
        ask_with(&socket, Method::GET, &path, &[], String::new()).await
    };
    let counted = report("?after=0").await;
    assert!(!counted.body().contains("Hello"), "{}", counted.body());
    let counted: SummaryReport = serde_json::from_str(counted.body()).unwrap();
    let [summary] = counted.summaries.as_slice() else { panic!("{counted:?}") };
    assert_eq!(
        (summary.user_id.to_string().as_str(), summary.messages, summary.tokens),
        (PERSON, 4, 10)
    );
    let rest = report(&format!("?after={}", counted.position)).await;
    assert!(rest.body().starts_with(r#"{"summaries":[]"#), "{}", rest.body());
    for query in ["", "?after=", "?after=x", "?before=1"] {
        assert_eq!(report(query).await.status(), StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_sent_is_refused_and_not_kept() {
    let chat = Chat::with(echo()).await;
    let nowhere = "0192f0c1-2345-7abc-8def-0123456789ab";
    for body in [
        json!({ "message": " " }),
        json!({ "message": "x".repeat(32_001) }),
        json!({ "message": "Hello", "conversation": nowhere }),
    ] {
        assert_eq!(code(&chat.send(&body).await), "invalid_fields");
    }
    assert_eq!(chat.stored().await, []);
    let path = format!("/v1/conversations/{nowhere}/messages");
    let headers = [("cookie", chat.cookie.as_str()), AT_CORE];
    let unknown = chat.core.ask(Method::GET, &path, &headers).await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_app_without_a_chat_says_so() {
    let core = Core::start(&[("sso-key", &KEY)]);
    let cookie = sign_in(&core, "member").await;
    let chat = Chat { core, cookie };
    assert_eq!(code(&chat.send(&json!({ "message": "Hello" })).await), "not_implemented");
    assert_eq!(chat.stored().await, []);
}

#[tokio::test]
async fn a_reply_that_fails_is_an_error_and_what_arrived_is_kept() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let script = |text: &str| scripted_tcp(text).unwrap();
    for (program, kept) in [
        (nobody, ""),
        (script("noise\r\n\r\n"), ""),
        (script("HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno"), ""),
        (script("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nHalf of"), "Half of"),
    ] {
        let chat = Chat::with(program).await;
        assert_eq!(code(&chat.send(&json!({ "message": "Hello" })).await), "chat_failed");
        let expected = [message("user", "Hello", true), message("app", kept, false)];
        assert_eq!(chat.stored().await, expected);
    }
}

/// A program under the test's control, and a reader of events.
struct Live {
    chat: Chat,
    program: TcpStream,
    events: BufReader<UnixStream>,
}

impl Live {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let chat = Chat::with(listener.local_addr().unwrap()).await;
        let events = chat.stream().await;
        let (mut program, _) = listener.accept().await.unwrap();
        let mut head = [0; 16];
        program.read_exact(&mut head).await.unwrap();
        let head =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Cial-Tokens\r\n\r\n";
        program.write_all(head.as_bytes()).await.unwrap();
        Self { chat, program, events }
    }

    /// The program sends a part of its reply.
    async fn say(&mut self, part: &[u8]) {
        let chunk = [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
        self.program.write_all(&chunk).await.unwrap();
    }

    async fn end(&mut self) {
        self.program.write_all(b"0\r\nX-Cial-Tokens: 9\r\n\r\n").await.unwrap();
    }

    async fn event(&mut self, begin: &str) -> String {
        next_line(&mut self.events, begin).await
    }
}

/// Reads until a line begins like this.
pub(crate) async fn next_line(events: &mut BufReader<UnixStream>, begin: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(events.read_line(&mut line).await.unwrap(), 0, "no {begin}");
        if line.starts_with(begin) {
            return line;
        }
    }
}

#[tokio::test]
async fn a_reply_is_passed_on_as_it_arrives() {
    let mut live = Live::start().await;
    live.event("data: {\"conversation\":").await;
    // The first byte of a character, whose second comes later.
    live.say(b"Gr\xc3").await;
    assert_eq!(live.event("data: {\"text\"").await.trim(), r#"data: {"text":"Gr"}"#);
    live.say(b"\xbc\xc3\x9fe").await;
    assert_eq!(live.event("data: {\"text\"").await.trim(), "data: {\"text\":\"üße\"}");
    live.end().await;
    live.event("event: done").await;
    assert!(live.event("data: ").await.contains("\"reply\":\"Grüße\""));
    let expected = [message("user", "Hello", true), message("app", "Grüße", true)];
    assert_eq!(live.chat.stored().await, expected);
    let conversations = live.chat.get("/v1/conversations").await;
    let id = conversations["items"][0]["id"].as_str().unwrap();
    let messages = live.chat.get(&format!("/v1/conversations/{id}/messages")).await;
    assert_eq!(messages["items"][0]["tokens"], 9, "from the trailer");
}

#[tokio::test]
async fn a_reply_keeps_the_tenant_awake_and_is_kept_although_its_reader_left() {
    let mut live = Live::start().await;
    live.say(b"begun ").await;
    live.event("data: {\"text\"").await;
    assert_eq!(live.chat.busy().await, ["the app replies to a message of the chat"]);
    live.events = BufReader::new(UnixStream::pair().unwrap().0);
    live.say(b"and ended").await;
    live.end().await;
    let expected = [message("user", "Hello", true), message("app", "begun and ended", true)];
    assert_eq!(live.chat.until_stored(2).await, expected);
    let is_idle = async || Ok(live.chat.busy().await.is_empty());
    testkit::eventually("the end of the declaration", testkit::PATIENCE, is_idle).await.unwrap();
}

#[tokio::test]
async fn a_stop_keeps_what_arrived_of_a_reply() {
    let mut live = Live::start().await;
    live.say(b"begun").await;
    live.event("data: {\"text\"").await;
    live.chat.core.stop.cancel();
    assert_eq!(live.event("event: error").await.trim(), "event: error");
    assert!(live.event("data: ").await.contains("\"code\":\"chat_failed\""));
    let Live { chat, events, .. } = live;
    drop(events);
    let chat = Chat { core: chat.core.restarted().await, cookie: chat.cookie };
    let expected = [message("user", "Hello", true), message("app", "begun", false)];
    assert_eq!(chat.stored().await, expected);
}

#[tokio::test]
async fn sixteen_replies_at_once_are_the_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let chat = Chat::with(silent.local_addr().unwrap()).await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut events = chat.stream().await;
        next_line(&mut events, "event: conversation").await;
        streams.push(events);
    }
    assert_eq!(code(&chat.send(&json!({ "message": "Hello" })).await), "chat_busy");
    // The connections that wait to be accepted end with the listener, and so do the replies.
    drop(silent);
    for mut events in streams {
        next_line(&mut events, "event: error").await;
    }
    assert_eq!(code(&chat.send(&json!({ "message": "Hello" })).await), "chat_failed");
}
