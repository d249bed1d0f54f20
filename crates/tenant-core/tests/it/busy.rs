//! The busy API: three sockets, one for each caller, and no access through the edge.

use std::time::Duration;

use hyper::{Method, StatusCode};
use protocol::busy::{BusyLease, BusyList, BusyOwner};
use protocol::gauges::{Gauge, GaugeName, GaugeReport};
use serde_json::{Value, json};
use tenant_core::busy::{MAX_AGENT_DECLARATIONS, REQUEST_BURST};
use tenant_service::gauges::serve_gauges;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::harness::{Core, MAX_CONNECTIONS, TestResponse, ask_with, code, header};

const CORE: &str = "core-busy.sock";
const AGENT: &str = "agent-busy.sock";
const ORCHESTRATOR: &str = "ingress-busy.sock";

async fn call(core: &Core, socket: &str, method: Method, path: &str, body: &Value) -> TestResponse {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    ask_with(&core.dir.path().join(socket), method, path, &[], body).await
}

async fn declare(core: &Core, socket: &str, reason: &str, ttl: u32) -> BusyLease {
    let wish = json!({ "reason": reason, "ttl_seconds": ttl });
    let answer = call(core, socket, Method::POST, "/busy", &wish).await;
    assert_eq!(answer.status(), StatusCode::CREATED, "{}", answer.body());
    serde_json::from_str(answer.body()).unwrap()
}

async fn reasons(core: &Core, socket: &str) -> Vec<(BusyOwner, String)> {
    let answer = call(core, socket, Method::GET, "/busy", &Value::Null).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let list: BusyList = serde_json::from_str(answer.body()).unwrap();
    list.busy.into_iter().map(|busy| (busy.owner, busy.reason)).collect()
}

#[tokio::test]
async fn what_is_declared_is_told_to_the_orchestrator() {
    let core = Core::start(&[]);
    assert_eq!(reasons(&core, ORCHESTRATOR).await, []);
    let backup = declare(&core, CORE, "nightly backup", 900).await;
    declare(&core, AGENT, "training", 60).await;
    let all = [(BusyOwner::Core, "nightly backup".into()), (BusyOwner::Agent, "training".into())];
    assert_eq!(reasons(&core, ORCHESTRATOR).await, all);
    assert_eq!(reasons(&core, CORE).await, all);
    assert_eq!(reasons(&core, AGENT).await, all[1..], "agent sees its own");

    let own = format!("/busy/{}", backup.id);
    let renew = json!({ "ttl_seconds": 30 });
    let renewed = call(&core, CORE, Method::PUT, &own, &renew).await;
    assert_eq!(renewed.status(), StatusCode::OK);
    let renewed: BusyLease = serde_json::from_str(renewed.body()).unwrap();
    assert!(renewed.busy.until < backup.busy.until);

    let foreign = call(&core, AGENT, Method::PUT, &own, &renew).await;
    assert_eq!((foreign.status(), code(&foreign).as_str()), (StatusCode::NOT_FOUND, "busy_ended"));
    for (socket, left) in [(AGENT, 2), (CORE, 1), (CORE, 1)] {
        let withdrawn = call(&core, socket, Method::DELETE, &own, &Value::Null).await;
        assert_eq!(withdrawn.status(), StatusCode::NO_CONTENT);
        assert_eq!(reasons(&core, ORCHESTRATOR).await.len(), left, "by {socket}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_it_said_it_would() {
    let core = Core::start(&[]);
    let job = declare(&core, AGENT, "job", 60).await;
    tokio::time::advance(Duration::from_secs(58)).await;
    assert_eq!(reasons(&core, ORCHESTRATOR).await.len(), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(reasons(&core, ORCHESTRATOR).await, []);
    let renew = json!({ "ttl_seconds": 60 });
    let late = call(&core, AGENT, Method::PUT, &format!("/busy/{}", job.id), &renew).await;
    assert_eq!(code(&late), "busy_ended");
}

#[tokio::test]
async fn a_faulty_declaration_is_told_its_fields() {
    let core = Core::start(&[]);
    let wrong = json!({ "reason": "a\nb", "ttl_seconds": 901 });
    let answer = call(&core, AGENT, Method::POST, "/busy", &wrong).await;
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let problem: Value = serde_json::from_str(answer.body()).unwrap();
    let fields: Vec<_> =
        problem["errors"].as_array().unwrap().iter().map(|e| &e["field"]).collect();
    assert_eq!(fields, ["reason", "ttl_seconds"]);
    assert_eq!(code(&answer), "invalid_fields");

    let long = json!({ "reason": "x".repeat(5_000), "ttl_seconds": 1 });
    for (body, status, expected) in [
        (json!("job"), StatusCode::BAD_REQUEST, "invalid_json"),
        (json!({ "reason": "x", "ttl_seconds": -1 }), StatusCode::BAD_REQUEST, "invalid_json"),
        (
            json!({ "reason": "x", "ttl_seconds": 1, "owner": "core" }),
            StatusCode::BAD_REQUEST,
            "invalid_json",
        ),
        (long, StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
    ] {
        let answer = call(&core, AGENT, Method::POST, "/busy", &body).await;
        assert_eq!((answer.status(), code(&answer).as_str()), (status, expected), "{body}");
    }
    assert_eq!(reasons(&core, ORCHESTRATOR).await, []);
}

#[tokio::test]
async fn agent_has_its_quota_and_the_core_is_not_hindered() {
    let core = Core::start(&[]);
    for number in 0..MAX_AGENT_DECLARATIONS {
        declare(&core, AGENT, &format!("job {number}"), 900).await;
    }
    let wish = json!({ "reason": "one more", "ttl_seconds": 1 });
    let full = call(&core, AGENT, Method::POST, "/busy", &wish).await;
    assert_eq!(
        (full.status(), code(&full).as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "busy_quota")
    );
    // The time until the first declaration ends.
    let retry_after: u32 = header(&full, "retry-after").unwrap().parse().unwrap();
    assert!((800..=900).contains(&retry_after), "{retry_after}");
    declare(&core, CORE, "backup", 900).await;
}

#[tokio::test(start_paused = true)]
async fn agent_cannot_ask_without_end() {
    let core = Core::start(&[]);
    for _ in 0..REQUEST_BURST {
        reasons(&core, AGENT).await;
    }
    let often = call(&core, AGENT, Method::GET, "/busy", &Value::Null).await;
    assert_eq!(
        (often.status(), code(&often).as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "busy_rate")
    );
    assert_eq!(header(&often, "retry-after"), Some("1"));
    assert_eq!(reasons(&core, CORE).await, []);
    tokio::time::advance(Duration::from_secs(1)).await;
    reasons(&core, AGENT).await;
}

#[tokio::test(start_paused = true)]
async fn connections_of_agent_s_that_say_nothing_hold_nobody_up() {
    let core = Core::start(&[]);
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(UnixStream::connect(core.dir.path().join(AGENT)).await.unwrap());
    }
    declare(&core, CORE, "backup", 60).await;
    assert_eq!(reasons(&core, ORCHESTRATOR).await.len(), 1);
    // This request is last in the queue, and is served once the time of the connections before it
    // is up.
    declare(&core, AGENT, "job", 60).await;
    for mut connection in silent {
        let _ = connection.write_all(b"GET").await;
        let read = connection.read(&mut [0; 1]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "still open: {read:?}");
    }
}

#[tokio::test]
async fn the_orchestrator_s_socket_only_tells() {
    let core = Core::start(&[]);
    let wish = json!({ "reason": "x", "ttl_seconds": 1 });
    let declared = call(&core, ORCHESTRATOR, Method::POST, "/busy", &wish).await;
    assert_eq!(declared.status(), StatusCode::METHOD_NOT_ALLOWED);
    for path in ["/", "/busyness", "/busy/", "/session", "/healthz", "/.cial/sso?token=x"] {
        let answer = call(&core, ORCHESTRATOR, Method::GET, path, &Value::Null).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let id = format!("/busy/{}", declare(&core, CORE, "backup", 60).await.id);
    let withdrawn = call(&core, ORCHESTRATOR, Method::DELETE, &id, &Value::Null).await;
    assert_eq!(withdrawn.status(), StatusCode::NOT_FOUND);
    assert_eq!(reasons(&core, ORCHESTRATOR).await.len(), 1);
}

/// `/.cial/api/busy` arrives here as `/busy`.
#[tokio::test]
async fn nobody_outside_sees_or_declares_anything() {
    let core = Core::start(&[]);
    let id = format!("/busy/{}", declare(&core, CORE, "backup", 60).await.id);
    let wish = json!({ "reason": "x", "ttl_seconds": 1 });
    for (method, path, body) in [
        (Method::GET, "/busy", Value::Null),
        (Method::POST, "/busy", wish),
        (Method::PUT, &id, json!({ "ttl_seconds": 900 })),
        (Method::DELETE, &id, Value::Null),
    ] {
        let answer = call(&core, "back.sock", method.clone(), path, &body).await;
        assert_eq!(
            (answer.status(), code(&answer).as_str()),
            (StatusCode::NOT_FOUND, "not_found"),
            "{method}"
        );
    }
    assert_eq!(reasons(&core, ORCHESTRATOR).await.len(), 1);
}

#[tokio::test]
async fn the_orchestrator_reads_the_gauges_of_the_core_and_of_the_edge() {
    let core = Core::start(&[]);
    let edge = Gauge::new(GaugeName::EdgeConnections, 7, 4_096);
    serve_gauges(&core.dir.path().join("edge-gauges.sock"), move || vec![edge]).unwrap();
    declare(&core, AGENT, "training", 60).await;
    let _open = UnixStream::connect(core.socket()).await.unwrap();
    // The connection is accepted before one that came later is answered.
    core.get("/echo-path").await;
    let report = loop {
        let answer = call(&core, ORCHESTRATOR, Method::GET, "/gauges", &Value::Null).await;
        let report: GaugeReport = serde_json::from_str(answer.body()).unwrap();
        // A slow machine may miss the time that the edge has for its report.
        if report.gauges.contains(&edge) {
            break report;
        }
    };
    let find = |name| report.gauges.iter().find(|gauge| gauge.name == name).copied();
    let connections = find(GaugeName::CoreBackConnections).unwrap();
    assert!((1..=2).contains(&connections.current), "{connections:?}");
    assert_eq!(connections.limit, MAX_CONNECTIONS as u64);
    let declarations = Gauge::new(GaugeName::AgentBusyDeclarations, 1, MAX_AGENT_DECLARATIONS);
    assert_eq!(find(GaugeName::AgentBusyDeclarations), Some(declarations));
    assert_eq!(
        find(GaugeName::TenantSessions),
        Some(Gauge::new(GaugeName::TenantSessions, 0, 1_000))
    );
    for socket in [CORE, AGENT] {
        let answer = call(&core, socket, Method::GET, "/gauges", &Value::Null).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{socket}");
    }
}
