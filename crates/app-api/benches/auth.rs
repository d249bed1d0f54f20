//! The price of knowing who calls, and how fast access ends, on a real Postgres. Prints one JSON object; `cargo xtask
//! bench auth` shows the figures beside their bars.

#![expect(clippy::unwrap_used, reason = "a failed unwrap ends the bench")]

#[path = "../tests/it/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests, which need more of it")]
mod harness;
mod shared;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use argon2::Params;
use axum::http::{Method, Request};
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use testkit::clock::now;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::{EMAIL, FakeOrchestrator, PASSWORD, Setup, acme};
use crate::shared::{FILL_BATCH, copy_acme, cpu_time, database_cpu_time};

const ROUNDS: usize = 5;
/// Enough that a request always waits for a processor.
const CONNECTIONS: usize = 64;
const REQUESTS_PER_CONNECTION: usize = 200;
const REVOCATIONS: usize = 1_000;
/// The end of a stream takes up to a second each.
const STREAMS: usize = 50;
const SIGN_INS: usize = 100;
const PROBE_INTERVAL: Duration = Duration::from_millis(5);
const LIST_REQUESTS: usize = 200;

fn main() {
    shared::report(async {
        [request_cost().await, revocations().await, sign_ins().await, lists().await]
    });
}

async fn setup() -> Setup {
    let mut setup = Setup::new(FakeOrchestrator::unreachable()).await;
    setup.max_changes = u32::MAX;
    setup
}

/// The cost of one request in a round.
#[derive(Clone, Copy)]
struct Cost {
    /// CPU time of this process, of client and server together: the client costs the same for every caller, so that
    /// the differences are the server's.
    process_us: f64,
    database_us: f64,
    per_second: f64,
}

/// The cost of a request at saturation, by its credential.
async fn request_cost() -> Value {
    let server = setup().await.start().await;
    let owner = server.sign_up().await;
    let key = format!("Bearer {}", server.admin_key().await);
    let session = owner.cookie.clone().unwrap();
    let address = server.visitor.address();
    let mut costs = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let callers = [None, Some(("authorization", &*key)), Some(("cookie", &*session))];
        for (costs, credential) in costs.iter_mut().zip(callers) {
            costs.push(saturate(address, credential).await);
        }
    }
    // A disturbance only adds to a round.
    let best = |costs: &[Cost]| {
        let least = |of: fn(&Cost) -> f64| costs.iter().map(of).fold(f64::INFINITY, f64::min);
        let rate = costs.iter().map(|cost| cost.per_second).fold(0.0, f64::max);
        (least(|cost| cost.process_us), least(|cost| cost.database_us), rate)
    };
    let (anonymous, key, session) = (best(&costs[0]), best(&costs[1]), best(&costs[2]));
    json!({
        "anonymous_us": anonymous.0, "anonymous_per_second": anonymous.2,
        "key_us": key.0, "key_database_us": key.1, "key_per_second": key.2,
        "session_us": session.0, "session_database_us": session.1, "session_per_second": session.2,
    })
}

/// Sends requests on all connections at once, each after the response to the one before.
async fn saturate(address: SocketAddr, credential: Option<(&str, &str)>) -> Cost {
    let (start, process, database) = (now(), cpu_time(), database_cpu_time());
    let credential = credential.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let calls = (0..CONNECTIONS).map(|_| tokio::spawn(call(address, credential.clone())));
    for done in join_all(calls).await {
        done.unwrap();
    }
    let count = (CONNECTIONS * REQUESTS_PER_CONNECTION) as f64;
    let each = |from: Duration, to: Duration| (to - from).as_secs_f64() * 1e6 / count;
    Cost {
        process_us: each(process, cpu_time()),
        database_us: each(database, database_cpu_time()),
        per_second: count / start.elapsed().as_secs_f64(),
    }
}

async fn call(address: SocketAddr, credential: Option<(String, String)>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..REQUESTS_PER_CONNECTION {
        let mut request = Request::get("/v1/auth/whoami").header("host", address.to_string());
        if let Some((name, value)) = &credential {
            request = request.header(name, value);
        }
        sender.ready().await.unwrap();
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let expected = if credential.is_some() { 200 } else { 401 };
        assert_eq!(response.status(), expected);
        response.into_body().collect().await.unwrap();
    }
}

/// From the request that revokes a key at one replica until another replica refuses the key, and until a log that the
/// key follows there ends.
async fn revocations() -> Value {
    let setup = setup().await;
    setup.orchestrator.endless_logs.store(true, Ordering::Relaxed);
    let replica = setup.replica();
    let (first, other) = (setup.start().await, replica.start().await);
    let owner = first.sign_up().await;
    owner.post("/v1/tenants", acme()).await;
    let (mut refused, mut ended) = (Vec::new(), Vec::new());
    for number in 0..REVOCATIONS {
        // More of one session are refused within five minutes.
        if number % 250 == 249 {
            first.advance_clock(Duration::from_secs(300));
        }
        let new = json!({ "name": "bench", "role": "read" });
        let created = owner.post("/v1/auth/keys", new).await.json();
        let bearer = format!("Bearer {}", created["key"].as_str().unwrap());
        let headers = [("authorization", bearer.as_str())];
        let call = || other.visitor.send(Method::GET, "/v1/auth/whoami", &headers, "");
        assert_eq!(call().await.status, 200);
        let mut stream = None;
        if number < STREAMS {
            let path = "/v1/tenants/acme/logs?follow=1";
            let opened = other.visitor.send_streaming(Method::GET, path, &headers, "").await;
            assert_eq!(opened.status(), 200);
            stream = Some(opened);
        }
        let path = format!("/v1/auth/keys/{}", created["id"].as_str().unwrap());
        let start = now();
        assert_eq!(owner.send(Method::DELETE, &path, &[], "").await.status, 204);
        while call().await.status != 401 {}
        refused.push(milliseconds(start));
        if let Some(mut stream) = stream {
            while let Some(Ok(_)) = stream.frame().await {}
            ended.push(milliseconds(start));
        }
    }
    json!({ "revocation_p99_ms": quantile(refused, 0.99), "stream_end_ms": quantile(ended, 1.0) })
}

/// Health responses while a hundred people sign in at once from different addresses, at the real price of a password.
async fn sign_ins() -> Value {
    let mut setup = setup().await;
    setup.password_cost = Params::default();
    setup.env.push(("CIAL_TRUSTED_PROXIES", "127.0.0.1".to_owned()));
    let server = setup.start().await;
    server.sign_up().await;
    let people = format!(
        "INSERT INTO users (id, email, name, role, password_hash) SELECT gen_random_uuid(), n || '@example.com', 'n', 'none', \
         password_hash FROM users, generate_series(1, {SIGN_INS}) AS n WHERE email = '{EMAIL}'"
    );
    assert_eq!(server.database.sql(&people).await, SIGN_INS);
    let sign_in = |n: usize| {
        let client = server.visitor.clone();
        async move {
            let from = format!("10.0.0.{n}");
            let body = json!({ "email": format!("{n}@example.com"), "password": PASSWORD });
            let headers = [("x-forwarded-for", from.as_str())];
            let path = "/api/auth/sign-in/email";
            client.json(Method::POST, path, &headers, body).await.status.as_u16()
        }
    };
    let start = now();
    let all = join_all((1..=SIGN_INS).map(|n| tokio::spawn(sign_in(n))));
    let mut all = std::pin::pin!(all);
    let (mut probes, mut due) = (Vec::new(), interval(PROBE_INTERVAL));
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let statuses = loop {
        tokio::select! {
            statuses = &mut all => break statuses,
            // A probe that is due does not wait for the one before: a stall counts for all that it holds up.
            at = due.tick() => {
                let visitor = server.visitor.clone();
                probes.push(tokio::spawn(async move {
                    assert_eq!(visitor.get("/healthz").await.status, 200);
                    at.elapsed().as_secs_f64() * 1e3
                }));
            }
        }
    };
    let sign_ins_ms = milliseconds(start);
    let times: Vec<_> = join_all(probes).await.into_iter().map(Result::unwrap).collect();
    let signed_in = statuses.into_iter().filter(|status| *status.as_ref().unwrap() == 200).count();
    json!({
        "healthz_p99_ms": quantile(times, 0.99), "signed_in": signed_in, "sign_ins_ms": sign_ins_ms,
    })
}

/// Pages of lists with 10,000 tenants and 100,000 entries in the audit log.
async fn lists() -> Value {
    let server = setup().await.start().await;
    let owner = server.sign_up().await;
    copy_acme(&server, &owner, 10_000).await;
    for n in (0..100_000).step_by(FILL_BATCH) {
        let entries = format!(
            "INSERT INTO audit_log (id, at, actor_kind, actor, role, action, resource_kind, resource, address, request_id, hash) \
             SELECT 1000 + n, now(), 'user', n % 100 || '@example.com', 'owner', 'tenant.start', 'tenant', 'tenant-' || n % 1000, \
             '127.0.0.1', 'bench', sha256('') FROM generate_series({n}, {}) AS n",
            n + FILL_BATCH - 1
        );
        server.database.sql(&entries).await;
    }
    server.database.sql("ANALYZE").await;
    let tenants = pages(&owner, |n| match n % 2 {
        0 => "/v1/tenants?limit=100".to_owned(),
        _ => format!("/v1/tenants?limit=100&state=stopped&q=tenant-{}", n % 10),
    });
    let tenants = tenants.await;
    let filtered = pages(&owner, |n| match n % 3 {
        0 => format!("/v1/audit?actor={n}@example.com"),
        1 => format!("/v1/audit?resource=tenant:tenant-{n}"),
        _ => "/v1/audit?action=tenant.start".to_owned(),
    });
    json!({ "tenants_p95_ms": tenants, "audit_p95_ms": filtered.await })
}

async fn pages(client: &harness::TestClient, path: impl Fn(usize) -> String) -> f64 {
    let mut times = Vec::new();
    for n in 0..LIST_REQUESTS {
        let start = now();
        let page = client.get(&path(n)).await;
        times.push(milliseconds(start));
        assert_eq!(page.status, 200, "{}", page.text());
    }
    quantile(times, 0.95)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The value at a fraction of the sorted values.
fn quantile(mut values: Vec<f64>, fraction: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * fraction).ceil() as usize;
    values.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
