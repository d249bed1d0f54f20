//! Chat with the model of the installation: what the core sends to the control plane, and what it makes of the replies.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hyper::StatusCode;
use serde_json::{Value, json};
use service::Secret;
use tempfile::TempDir;
use tenant_core::back::{ChatHandler, ModelHandler};
use testkit::peer::{answering_unix, scripted_unix};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use crate::chat::{Chat, message, next_line};
use crate::harness::code;

const TOKEN: &str = "0192f0c1-2345-7abc-8def-0123456789ab.the-proof";
const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-cial-tokens, x-cial-problem\r\n\r\n";

struct Gateway {
    dir: TempDir,
}

impl Gateway {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("models.sock")
    }

    async fn chat(&self) -> Chat {
        let handler = ModelHandler { socket: self.socket(), token: Secret::new(TOKEN) };
        Chat::with_handler(ChatHandler::Model(handler)).await
    }

    /// Plays these bytes to every request.
    async fn scripted(script: &str) -> (Self, Chat) {
        let gateway = Self::new();
        scripted_unix(&gateway.socket(), script).unwrap();
        let chat = gateway.chat().await;
        (gateway, chat)
    }
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn refusal(status: &str, code: &str, detail: &str) -> String {
    let number: u16 = status.split(' ').next().unwrap().parse().unwrap();
    let body = json!({
        "type": "urn:cial:problem:x", "title": "x", "status": number, "detail": detail, "code": code, "request_id": "r",
    });
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn the_model_reads_the_conversation_and_not_who_writes() {
    let gateway = Gateway::new();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let received = requests.clone();
    answering_unix(&gateway.socket(), move |request| {
        received.lock().unwrap().push(request.to_owned());
        format!("{HEAD}{}0\r\nx-cial-tokens: 9\r\n\r\n", chunk("Indeed.")).into_bytes()
    })
    .unwrap();
    let chat = gateway.chat().await;
    let first = chat.send(&json!({ "message": "Hello" })).await;
    assert_eq!(first.status(), StatusCode::OK, "{}", first.body());
    let first: Value = serde_json::from_str(first.body()).unwrap();
    assert_eq!(first["reply"], "Indeed.");
    let again = json!({ "message": "Why?", "conversation": first["conversation"] });
    assert_eq!(chat.send(&again).await.status(), StatusCode::OK);

    let requests = requests.lock().unwrap().clone();
    let [one, two] = requests.as_slice() else { panic!("{requests:?}") };
    let (head, body) = one.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/replies HTTP/1.1"), "{head}");
    assert!(head.contains(&format!("authorization: Bearer {TOKEN}")), "{head}");
    assert!(head.contains("te: trailers") && head.contains("x-request-id: "), "{head}");
    assert!(!head.contains("x-cial-user") && !one.contains("a@b.c"), "{one}");
    let user = |text: &str| json!({ "role": "user", "content": text });
    assert_eq!(
        serde_json::from_str::<Value>(body).unwrap(),
        json!({ "messages": [user("Hello")] })
    );
    let (_, body) = two.split_once("\r\n\r\n").unwrap();
    let reply = json!({ "role": "assistant", "content": "Indeed." });
    let expected = json!({ "messages": [user("Hello"), reply, user("Why?")] });
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected);

    let id = first["conversation"].as_str().unwrap();
    let messages = chat.get(&format!("/v1/conversations/{id}/messages")).await;
    assert_eq!(messages["items"][0]["tokens"], 9, "from the trailer");
    assert!(!messages.to_string().contains("the-proof"));
}

#[tokio::test]
async fn a_refusal_of_the_control_plane_is_the_callers_when_it_concerns_the_caller() {
    for (script, expected, detail) in [
        (refusal("429 Too Many", "model_quota", "429: used up."), "model_quota", "429: used up."),
        (refusal("503 Oh", "model_unset", "503: no model."), "model_unset", "503: no model."),
        (refusal("503 Oh", "model_busy", "503: busy."), "model_busy", "503: busy."),
        (refusal("504 Oh", "model_timed_out", "504: slow."), "model_timed_out", "504: slow."),
        (refusal("503 Oh", "database_unavailable", "down"), "database_unavailable", "down"),
        // The user is signed in; it is the core whose token is not known.
        (
            refusal("401 No", "invalid_token", "no"),
            "model_failed",
            "502: the model did not reply: the control plane said invalid_token.",
        ),
        (
            refusal("500 Oh", "of_tomorrow", "?"),
            "model_failed",
            "502: the model did not reply: it answered 500.",
        ),
        (
            "HTTP/1.1 502 Oh\r\nContent-Length: 5\r\n\r\nnoise".to_owned(),
            "model_failed",
            "502: the model did not reply: it answered 502.",
        ),
    ] {
        let (_gateway, chat) = Gateway::scripted(&script).await;
        let refused = chat.send(&json!({ "message": "Hello" })).await;
        assert_eq!(code(&refused), expected);
        let problem: Value = serde_json::from_str(refused.body()).unwrap();
        assert_eq!(problem["detail"], detail);
        // The message of the person is kept.
        let kept = [message("user", "Hello", true), message("app", "", false)];
        assert_eq!(chat.stored().await, kept);
    }
}

#[tokio::test]
async fn a_reply_that_broke_off_is_kept_as_far_as_it_arrived() {
    let half = chunk("Half of");
    for (end, expected) in [
        // The control plane says why, or is gone.
        ("0\r\nx-cial-tokens: 3\r\nx-cial-problem: model_timed_out\r\n\r\n", "model_timed_out"),
        ("0\r\nx-cial-tokens: 3\r\nx-cial-problem: model_failed\r\n\r\n", "model_failed"),
        ("0\r\nx-cial-problem: of_tomorrow\r\n\r\n", "model_failed"),
        ("5\r\n", "model_failed"),
        // The control plane ends each reply with the tokens.
        ("0\r\n\r\n", "model_failed"),
        ("0\r\nx-other: 1\r\n\r\n", "model_failed"),
    ] {
        let (_gateway, chat) = Gateway::scripted(&format!("{HEAD}{half}{end}")).await;
        assert_eq!(code(&chat.send(&json!({ "message": "Hello" })).await), expected, "{end}");
        let kept = [message("user", "Hello", true), message("app", "Half of", false)];
        assert_eq!(chat.stored().await, kept);
    }
    let gateway = Gateway::new();
    let chat = gateway.chat().await;
    let unreachable = chat.send(&json!({ "message": "Hello" })).await;
    assert_eq!(code(&unreachable), "model_failed", "no socket");
}

#[tokio::test]
async fn a_reply_of_the_model_is_passed_on_as_it_arrives_and_keeps_the_tenant_awake() {
    let gateway = Gateway::new();
    let listener = UnixListener::bind(gateway.socket()).unwrap();
    let chat = gateway.chat().await;
    let mut events = chat.stream().await;
    let (mut control_plane, _) = listener.accept().await.unwrap();
    control_plane.read_exact(&mut [0; 16]).await.unwrap();
    let begun = format!("{HEAD}{}", chunk("begun "));
    control_plane.write_all(begun.as_bytes()).await.unwrap();
    let delta = next_line(&mut events, "data: {\"text\"").await;
    assert_eq!(delta.trim(), r#"data: {"text":"begun "}"#);
    assert_eq!(chat.busy().await, ["the model replies to a message of the chat"]);
    let rest = format!("{}0\r\nx-cial-tokens: 4\r\n\r\n", chunk("and ended"));
    control_plane.write_all(rest.as_bytes()).await.unwrap();
    next_line(&mut events, "event: done").await;
    let expected = [message("user", "Hello", true), message("app", "begun and ended", true)];
    assert_eq!(chat.stored().await, expected);
    let is_idle = async || Ok(chat.busy().await.is_empty());
    testkit::eventually("the end of the declaration", testkit::PATIENCE, is_idle).await.unwrap();
}
