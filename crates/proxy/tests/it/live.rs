//! A response of the policy's own that is produced while it is sent.

use std::time::Duration;

use proxy::Settings;
use tokio::sync::mpsc;

use crate::harness::{Server, eventually, settings};
use crate::hooks::{Script, World};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn live(parts: mpsc::Receiver<Vec<u8>>, server: &Server) -> World {
    World::new(server, Script { stream: Some(parts), ..Script::default() })
}

#[test]
fn a_streamed_response_is_sent_as_it_is_produced() {
    let server = Server::always(OK);
    let (send, parts) = mpsc::channel(4);
    let world = live(parts, &server);
    let mut client = world.client();
    client.send("GET /live HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.until("\r\n\r\n").to_ascii_lowercase();
    assert!(head.contains("503") && head.contains("transfer-encoding: chunked"), "{head}");
    assert_eq!(client.until("first\n\r\n"), "6\r\nfirst\n\r\n");
    for part in ["second", "", "third"] {
        send.blocking_send(part.into()).unwrap();
        if !part.is_empty() {
            assert_eq!(
                client.until(&format!("{part}\r\n")).split_once("\r\n").unwrap().1,
                format!("{part}\r\n")
            );
        }
    }
    drop(send);
    assert_eq!(client.until("0\r\n\r\n"), "0\r\n\r\n");
    client.send(ASK);
    assert_eq!(client.response().body, "ok", "and the connection goes on");
}

#[test]
fn a_streamed_response_ends_properly_for_a_client_that_ended_its_input() {
    let server = Server::always(OK);
    let (send, parts) = mpsc::channel(4);
    let world = live(parts, &server);
    let mut client = world.client();
    client.send("GET /live HTTP/1.1\r\nHost: a\r\n\r\n").close_sending();
    assert!(client.rest_text().ends_with("first\n\r\n0\r\n\r\n"));
    eventually("the producer notices", || send.is_closed());
}

#[test]
fn a_streamed_response_ends_when_the_client_leaves_or_a_drain_begins() {
    let server = Server::always(OK);
    let (send, parts) = mpsc::channel(4);
    let world = live(parts, &server);
    let mut client = world.client();
    client.send("GET /live HTTP/1.1\r\nHost: a\r\n\r\n");
    client.until("first\n");
    drop(client);
    eventually("its maker learns it", || send.is_closed());

    let (send, parts) = mpsc::channel(4);
    let mut world = live(parts, &server);
    let mut client = world.client();
    client.send("GET /live HTTP/1.1\r\nHost: a\r\n\r\n");
    client.until("first\n\r\n");
    world.stop.cancel();
    assert_eq!(client.rest_text(), "0\r\n\r\n", "whole, so that whoever wants more asks again");
    world.ended();
    assert!(send.is_closed());
}

#[test]
fn a_streamed_response_suits_http_1_0_clients_and_head_requests() {
    let server = Server::always(OK);
    for (ask, body) in [
        ("GET /live HTTP/1.0\r\n\r\n", "first\nsecond"),
        ("HEAD /live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", ""),
    ] {
        let (send, parts) = mpsc::channel(4);
        send.blocking_send(b"second".into()).unwrap();
        drop(send);
        let world = live(parts, &server);
        let mut client = world.client();
        client.send(ask);
        let head = client.until("\r\n\r\n");
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(client.rest_text(), body);
    }
}

#[test]
fn a_reader_who_stops_reading_what_is_made_is_let_go() {
    let server = Server::always(OK);
    let (send, parts) = mpsc::channel(1);
    let bounds = Settings { body_idle_timeout: Duration::from_millis(60), ..settings() };
    let world = World::with(&server, Script { stream: Some(parts), ..Script::default() }, bounds);
    let mut client = world.client();
    client.send("GET /live HTTP/1.1\r\nHost: a\r\n\r\n");
    client.until("first\n");
    let sent = (0..1_000).take_while(|_| send.blocking_send(vec![b'x'; 1 << 20]).is_ok()).count();
    assert!(sent < 100, "{sent} MiB were taken, and nobody read");
}
