//! Tasks in tenants: their input and output, their bounds, and what ends them.

use std::time::Duration;

use axum::body::Body;
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use orchestrator::driver::{Driver as _, RunningCommand};
use protocol::TenantId;
use protocol::exec::Output;
use protocol::tasks::frame;
use service::client::CallError;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::support::{PATIENCE, spec, with_install};
use crate::wire::Server;

async fn run(server: &Server, id: TenantId, input: &'static str) -> Result<Incoming, CallError> {
    let path = format!("/v1/tenants/{id}/tasks");
    let response = server.client().exchange(&path, Body::from(input), PATIENCE).await?;
    Ok(response.into_body())
}

async fn refusal(server: &Server, id: TenantId) -> String {
    match run(server, id, "x").await {
        Err(CallError::Refused(problem)) => format!("{} {}", problem.status, problem.code),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("a task runs"),
    }
}

async fn next(output: &mut Incoming) -> Vec<u8> {
    let frame = timeout(PATIENCE, output.frame()).await.expect("output in time").unwrap().unwrap();
    frame.into_data().unwrap().to_vec()
}

async fn until_called(server: &Server, call: &str) {
    let called = async {
        while !server.engine.calls().iter().any(|seen| seen == call) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, called).await.is_ok(), "{call}: {:?}", server.engine.calls());
}

#[tokio::test]
async fn a_task_runs_once_in_its_tenant_and_ends_when_its_reader_leaves() {
    let server = Server::start().await;
    assert_eq!(refusal(&server, spec("acme", "").id).await, "404 no_such_tenant");
    let id = server.run_tenant().await;
    let mut output = run(&server, id, "hello").await.unwrap();
    assert_eq!(next(&mut output).await, b"hello");
    assert_eq!(refusal(&server, id).await, "429 too_many_commands");
    assert!(!server.engine.calls().contains(&format!("end {id}")), "the first one goes on");
    drop(output);
    until_called(&server, &format!("end {id}")).await;
    let again = async {
        while run(&server, id, "again").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("its place is free again");
    server.stop_tenant(id).await;
    let refused = async { while refusal(&server, id).await != "409 tenant_stopped" {} };
    timeout(PATIENCE, refused).await.expect("the tenant is stopped");
}

/// The program that runs a task ends what the task left, unless it is killed itself.
#[tokio::test]
async fn a_task_whose_program_was_killed_is_ended_before_its_output_ends() {
    let server = Server::start().await;
    let id = server.run_tenant().await;
    let end = format!("end {id}");
    for (input, is_ended) in [("ends", false), ("killed", true)] {
        let mut output = run(&server, id, input).await.unwrap();
        let last = timeout(PATIENCE, output.frame()).await.expect("the end in time");
        assert!(last.is_none(), "{last:?}");
        assert_eq!(server.engine.calls().contains(&end), is_ended, "{input}");
    }
}

#[tokio::test]
async fn tasks_end_with_the_process() {
    let (server, serving) = Server::serving().await;
    let id = server.run_tenant().await;
    let mut output = run(&server, id, "hello").await.unwrap();
    assert_eq!(next(&mut output).await, b"hello");
    server.stop();
    timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
    assert!(server.engine.calls().contains(&format!("end {id}")));
}

/// Sends the frames of a task; returns its first line.
async fn send(running: &mut RunningCommand, frames: &[&[u8]]) -> String {
    for bytes in frames {
        running.input.write_all(&frame(bytes)).await.unwrap();
    }
    running.input.flush().await.unwrap();
    let (kind, bytes) = timeout(PATIENCE, running.output.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(kind, Output::Standard);
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn on_the_engine_a_task_has_its_package_and_ends_with_its_input() {
    with_install(async |install| {
        let driver = install.driver();
        let spec = spec("acme", "");
        driver.ensure(&spec).await.unwrap();
        driver.start(&spec).await.unwrap();
        let package = vec![7; 200 << 10];
        let mut running = driver.start_task(spec.id).await.unwrap();
        let line = send(&mut running, &[b"ends", &package, &package, b""]).await;
        assert_eq!(line, "job ends and 409600 bytes\n");
        assert!(timeout(PATIENCE, running.output.next()).await.unwrap().is_none());
        assert_eq!(running.handle.control().exit_code().await, Ok(0));
        running.handle.finished();

        // As after the death of this process: nobody ends the command, and its connection closes.
        let mut running = driver.start_task(spec.id).await.unwrap();
        let line = send(&mut running, &[b"waits", &package, b""]).await;
        assert_eq!(line, "job waits and 204800 bytes\n");
        let RunningCommand { input, output, handle } = running;
        drop((input, output));
        assert_eq!(handle.control().exit_code().await, Ok(9));
        handle.finished();
        driver.stop(spec.id).await.unwrap();
    })
    .await;
}
