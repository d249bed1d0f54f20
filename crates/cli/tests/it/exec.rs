//! A command in a tenant: its streams, its terminal, its exit code.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;
use tungstenite::handshake::server::{Request, Response};
use tungstenite::{Message, WebSocket, accept_hdr};

use crate::support::{Cial, Server, problem};

type Socket = WebSocket<TcpStream>;

/// Serves one command, and then one response to a request; the channel has the heads of both.
fn serve(
    command: impl FnOnce(Socket) + Send + 'static,
    response: impl Into<Vec<u8>> + Send + 'static,
) -> (Cial, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (heads, seen) = channel();
    std::thread::spawn(move || {
        #[expect(clippy::result_large_err, reason = "the library's type of an error")]
        let note = |request: &Request, response: Response| {
            let key = request.headers()["authorization"].to_str().unwrap();
            heads.send(format!("{} {key}", request.uri())).unwrap();
            Ok(response)
        };
        command(accept_hdr(listener.accept().unwrap().0, note).unwrap());
        let Ok((mut next, _)) = listener.accept() else { return };
        let mut head = [0; 4096];
        let read = next.read(&mut head).unwrap();
        let head = String::from_utf8_lossy(&head[..read]).into_owned();
        let _ = heads.send(head.lines().next().unwrap_or_default().to_owned());
        next.write_all(&response.into()).unwrap();
    });
    let cial = Cial::new().server(&url).variable("CIAL_API_KEY", "cial_test");
    (cial, seen)
}

fn output(socket: &mut Socket, kind: u8, text: &str) {
    socket.send(Message::binary([&[kind], text.as_bytes()].concat())).unwrap();
}

/// The next message, without the ends of messages' framing.
fn read(socket: &mut Socket) -> Message {
    loop {
        let message = socket.read().unwrap();
        if !matches!(message, Message::Ping(_) | Message::Pong(_)) {
            return message;
        }
    }
}

fn exit(mut socket: Socket, code: i64) {
    socket.send(Message::text(format!(r#"{{"exited":{code}}}"#))).unwrap();
    let _ = socket.close(None);
    while socket.read().is_ok() {}
}

#[test]
fn in_a_pipe_both_outputs_the_input_and_the_exit_code_are_the_commands() {
    let (cial, heads) = serve(
        |mut socket| {
            let mut input = Vec::new();
            loop {
                let message = read(&mut socket);
                let Message::Binary(bytes) = &message else {
                    break assert_eq!(message, Message::text(r#""end_of_input""#));
                };
                input.extend_from_slice(bytes);
            }
            output(&mut socket, 2, "to the error output\n");
            output(&mut socket, 1, &format!("{} bytes\n", input.len()));
            exit(socket, 42);
        },
        "",
    );
    let args = ["tenants", "exec", "acme", "--", "wc", "-c", "--help"];
    let shown = cial.run_with_input(&args, &"x".repeat(100_000));
    insta::assert_snapshot!(shown);
    let command = "%5B%22wc%22%2C%22-c%22%2C%22--help%22%5D";
    let head = heads.recv().unwrap();
    assert_eq!(head, format!("/v1/tenants/acme/exec?command={command} Bearer cial_test"));
}

/// Starts a line of a shell on a terminal.
fn on_terminal(cial: &Cial, line: &str) -> Child {
    let line = format!("stty cols 91 rows 17; {} {line}", env!("CARGO_BIN_EXE_cial"));
    let mut script = cial.program("script", &["-qec", &line, "/dev/null"]);
    script.env("TERM", "dumb").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Reads the output of a terminal up to a text.
fn until(child: &mut Child, text: &str) -> String {
    let (mut read, mut byte) = (Vec::new(), [0]);
    let stream = child.stdout.as_mut().unwrap();
    while !String::from_utf8_lossy(&read).contains(text) {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&read));
        read.push(byte[0]);
    }
    String::from_utf8(read).unwrap()
}

#[test]
fn on_a_terminal_every_key_is_the_commands_and_the_terminal_is_restored() {
    let (cial, heads) = serve(
        |mut socket| {
            output(&mut socket, 1, "ready\r\n");
            assert_eq!(read(&mut socket), Message::binary(vec![3]), "Ctrl-C");
            assert_eq!(read(&mut socket), Message::binary(vec![4]), "Ctrl-D");
            output(&mut socket, 1, "both\r\n");
            exit(socket, 0);
        },
        "",
    );
    let mut child = on_terminal(&cial, "tenants exec acme; echo code $?; stty -a");
    until(&mut child, "ready");
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(&[3]).unwrap();
    // Two keys in one message would be fine too; the test wants two.
    std::thread::sleep(std::time::Duration::from_millis(200));
    keys.write_all(&[4]).unwrap();
    let shown = until(&mut child, "-flusho");
    assert!(shown.contains("both") && shown.contains("code 0"), "{shown}");
    for mode in ["isig", "icanon", "echo", "opost"] {
        assert!(shown.split([' ', '\n', '\r']).any(|word| word == mode), "{mode}: {shown}");
    }
    drop(keys);
    child.wait().unwrap();
    let head = heads.recv().unwrap();
    assert_eq!(head, "/v1/tenants/acme/exec?columns=91&rows=17 Bearer cial_test");
}

#[test]
fn without_a_terminal_none_is_asked_for() {
    let (cial, heads) = serve(|socket| exit(socket, 7), "");
    let mut child = on_terminal(&cial, "tenants exec acme -T; echo code $?");
    until(&mut child, "code 7");
    child.wait().unwrap();
    assert_eq!(heads.recv().unwrap(), "/v1/tenants/acme/exec Bearer cial_test");
}

#[test]
fn a_connection_that_breaks_restores_the_terminal_and_says_why() {
    let invalid = problem("401 Unauthorized", "", "invalid_key", "The key is no key.", Value::Null);
    let (cial, heads) = serve(
        |mut socket| {
            output(&mut socket, 1, "ready\r\n");
        },
        invalid,
    );
    let mut child = on_terminal(&cial, "tenants exec acme; echo code $?; stty -a");
    let shown = until(&mut child, "-flusho");
    assert!(shown.contains("ready"), "{shown}");
    assert!(shown.contains("The key is no key") && shown.contains("code 4"), "{shown}");
    assert!(shown.split(' ').any(|word| word == "icanon"), "{shown}");
    child.wait().unwrap();
    heads.recv().unwrap();
    assert_eq!(heads.recv().unwrap(), "GET /v1/tenants/acme HTTP/1.1");
}

#[test]
fn a_command_whose_end_nobody_knows_is_a_failure() {
    let (cial, _heads) = serve(
        |mut socket| {
            socket.send(Message::text(r#"{"failed":"The engine is unreachable."}"#)).unwrap();
        },
        "",
    );
    insta::assert_snapshot!(cial.run(&["tenants", "exec", "acme"]));
}

#[test]
fn a_refusal_is_shown_like_every_other() {
    let stopped = problem(
        "409 Conflict",
        "",
        "tenant_stopped",
        "Its owner stopped it. No request wakes it: start it in the admin.",
        Value::Null,
    );
    let server = Server::always(stopped);
    insta::assert_snapshot!(Cial::at(&server).run(&["tenants", "exec", "acme", "--", "ls"]));
}
