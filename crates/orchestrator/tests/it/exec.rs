//! Commands in tenants: their streams, their bounds, and that a tenant stays awake for them.

use std::time::Duration;

use axum::http::HeaderValue;
use futures_util::{SinkExt as _, StreamExt as _};
use orchestrator::driver::Driver as _;
use orchestrator::driver::RunningCommand;
use protocol::TenantId;
use protocol::exec::{ExecCommand, Output, TerminalSize};
use protocol::orchestrator::Phase;
use service::client::CallError;
use service::websocket::UpgradedStream;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::simulation::{SHORT_DELAYS, Simulation};
use crate::support::{PATIENCE, spec, with_install};
use crate::wire::Server;

type Socket = WebSocketStream<UpgradedStream>;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

async fn open(server: &Server, id: TenantId, query: &str) -> Result<Socket, CallError> {
    let path = format!("/v1/tenants/{id}/exec?{query}");
    let key = HeaderValue::from_static(KEY);
    let (accept, stream) = server.client().open_websocket(&path, &key, PATIENCE).await?;
    assert_eq!(accept, derive_accept_key(KEY.as_bytes()));
    Ok(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
}

async fn next(socket: &mut Socket) -> Message {
    timeout(PATIENCE, socket.next()).await.expect("a message in time").unwrap().unwrap()
}

/// Waits until the engine received a call.
async fn until_called(server: &Server, call: &str) {
    let called = async {
        while !server.engine.calls().iter().any(|seen| seen == call) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, called).await.is_ok(), "{call}: {:?}", server.engine.calls());
}

#[tokio::test]
async fn a_command_has_input_output_a_size_and_an_exit_code() {
    let server = Server::start().await;
    let id = server.run_tenant().await;
    let mut socket = open(&server, id, "command=%5B%22cat%22%5D&columns=80&rows=24").await.unwrap();
    socket.send(Message::binary("hello")).await.unwrap();
    let message = next(&mut socket).await;
    assert_eq!(message, Message::binary(b"\x01hello".to_vec()));
    socket.send(Message::text(r#"{"resize":{"columns":132,"rows":50}}"#)).await.unwrap();
    until_called(&server, &format!("resize 132x50 {id}")).await;
    socket.send(Message::text(r#""end_of_input""#)).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::text(r#"{"exited":0}"#));
    assert!(matches!(next(&mut socket).await, Message::Close(_)));
    let mut failing = open(&server, id, "command=%5B%22fails%22%5D").await.unwrap();
    assert_eq!(next(&mut failing).await, Message::text(r#"{"exited":3}"#));
    let ended = format!("end {id}");
    assert!(!server.engine.calls().contains(&ended), "commands that ended need no end");
}

#[tokio::test]
async fn a_command_is_ended_when_its_reader_leaves() {
    let server = Server::start().await;
    let id = server.run_tenant().await;
    let mut socket = open(&server, id, "").await.unwrap();
    socket.send(Message::binary("hello")).await.unwrap();
    next(&mut socket).await;
    drop(socket);
    until_called(&server, &format!("end {id}")).await;
}

#[tokio::test]
async fn commands_end_with_the_process() {
    let (server, serving) = Server::serving().await;
    let id = server.run_tenant().await;
    let _socket = open(&server, id, "").await.unwrap();
    server.stop();
    timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
    assert!(server.engine.calls().contains(&format!("end {id}")));
}

#[tokio::test]
async fn a_command_that_cannot_run_is_refused_with_its_reason() {
    let server = Server::start().await;
    let refused = async |id, query: &str| match open(&server, id, query).await {
        Err(CallError::Refused(problem)) => format!("{} {}", problem.status, problem.code),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("a command runs"),
    };
    let unknown = spec("acme", "").id;
    assert_eq!(refused(unknown, "").await, "404 no_such_tenant");
    let id = server.run_tenant().await;
    for query in ["command=ls", "columns=80", "user=cial", "command=%5B%22%22%5D"] {
        assert_eq!(refused(id, query).await, "422 invalid_query", "{query}");
    }
    let mut open_sockets = Vec::new();
    for _ in 0..orchestrator::commands::CommandKind::Person.limit_per_tenant() {
        open_sockets.push(open(&server, id, "").await.unwrap());
    }
    assert_eq!(refused(id, "").await, "429 too_many_commands");
    drop(open_sockets);
    server.stop_tenant(id).await;
    assert_eq!(refused(id, "").await, "409 tenant_stopped");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_is_woken_and_stays_awake_for_a_command() {
    let (simulation, running, spec) = Simulation::with_sleeping(SHORT_DELAYS).await;
    let sleep_controller = running.controller.sleep.clone();
    let hold = sleep_controller.hold_awake(spec.id).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    running.until_phase(spec.id, Phase::Ready).await;
    assert_eq!(simulation.count(spec.id, "freeze"), 1, "before it fell asleep");
    let status = sleep_controller.status(spec.id).unwrap();
    assert_eq!(status.awake_because, ["In use: 1 stream."]);
    drop(hold);
    running.until_phase(spec.id, Phase::Frozen).await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_tenant_is_not_stopped_under_a_command() {
    let (simulation, running, spec) = Simulation::with_ready(SHORT_DELAYS).await;
    running.until_phase(spec.id, Phase::Frozen).await;
    let _hold = running.controller.sleep.hold_awake(spec.id).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(simulation.count(spec.id, "stop"), 0);
    running.until_phase(spec.id, Phase::Ready).await;
}

/// All output up to its end, by kind.
async fn read(running: &mut RunningCommand) -> (String, String) {
    let (mut standard, mut error) = (Vec::new(), Vec::new());
    while let Some(piece) = timeout(PATIENCE, running.output.next()).await.unwrap() {
        let (kind, bytes) = piece.unwrap();
        match kind {
            Output::Standard => standard.extend(bytes),
            Output::Error => error.extend(bytes),
        }
    }
    (String::from_utf8(standard).unwrap(), String::from_utf8(error).unwrap())
}

#[tokio::test]
async fn on_the_engine_a_command_runs_as_the_user_of_the_app() {
    with_install(async |install| {
        let driver = install.driver();
        let spec = spec("acme", "");
        driver.ensure(&spec).await.unwrap();
        driver.start(&spec).await.unwrap();
        let argv = vec!["say".to_owned(), "a b".to_owned()];
        let command = ExecCommand { argv: argv.clone(), terminal: None };
        let mut running = driver.exec(spec.id, &command).await.unwrap();
        running.input.write_all(b"from outside\n").await.unwrap();
        running.input.shutdown().await.unwrap();
        let (standard, error) = read(&mut running).await;
        let (who, echo) = standard.split_once('\n').unwrap();
        assert!(who.contains(r#"["say", "a b"] Uid:"#), "{who}");
        assert!(who.contains("1001\t1001\t1001\t1001"), "{who}");
        assert!(who.contains("CapEff:\t0000000000000000"), "{who}");
        assert_eq!((echo, error.as_str()), ("from outside\n", "at the end\n"));
        assert_eq!(running.handle.control().exit_code().await, Ok(7));

        let size = TerminalSize { columns: 91, rows: 17 };
        let command = ExecCommand { argv, terminal: Some(size) };
        let mut on_terminal = driver.exec(spec.id, &command).await.unwrap();
        on_terminal.input.write_all(b"typed\n\x04").await.unwrap();
        let (standard, error) = read(&mut on_terminal).await;
        let shown = standard.matches("typed\r\n").count();
        assert_eq!(shown, 2, "by the terminal, and by the command: {standard}");
        assert!(standard.contains("at the end\r\n") && error.is_empty(), "{standard}");
        assert_eq!(on_terminal.handle.control().exit_code().await, Ok(7));

        let command = ExecCommand { argv: vec!["waits".to_owned()], terminal: None };
        let mut waiting = driver.exec(spec.id, &command).await.unwrap();
        let (kind, _) = timeout(PATIENCE, waiting.output.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(kind, Output::Standard);
        let RunningCommand { mut output, handle, .. } = waiting;
        handle.end().await;
        while timeout(PATIENCE, output.next()).await.expect("the command goes on").is_some() {}
        driver.stop(spec.id).await.unwrap();
    })
    .await;
}
