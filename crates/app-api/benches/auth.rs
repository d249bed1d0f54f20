//! The price of knowing who calls, and how fast access ends, on a real Postgres. Prints one JSON object; `cargo xtask
//! bench auth` shows the figures beside their bars.

#![expect(clippy::unwrap_used, reason = "a failed unwrap ends the bench")]

#[path = "../tests/it/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests, which need more of it")]
mod harness;

use std::io::Write as _;
use std::time::{Duration, Instant};

use argon2::Params;
use axum::http::Method;
use serde_json::{Value, json};
use testkit::clock::now;

use crate::harness::{EMAIL, FakeOrchestrator, PASSWORD, Setup, TestClient, acme};

const ROUNDS: usize = 5;
const REQUESTS: usize = 1_000;
const REVOCATIONS: usize = 1_000;
const SIGN_INS: usize = 100;
const FILL_BATCH: usize = 500;
const LIST_REQUESTS: usize = 200;

#[tokio::main]
async fn main() {
    let mut report = json!({});
    for part in [request_cost().await, revocations().await, sign_ins().await, lists().await] {
        let fields = part.as_object().unwrap().clone();
        report.as_object_mut().unwrap().extend(fields);
    }
    let mut out = std::io::stdout();
    writeln!(out, "{report}").unwrap();
}

async fn setup() -> Setup {
    let mut setup = Setup::new(FakeOrchestrator::unreachable()).await;
    setup.max_changes = u32::MAX;
    setup
}

/// CPU time of this process per request, of client and server together: the client costs the same for every caller, so
/// that the differences are the server's.
async fn request_cost() -> Value {
    let server = setup().await.start().await;
    let owner = server.sign_up().await;
    let bearer = format!("Bearer {}", server.admin_key().await);
    let key = [("authorization", bearer.as_str())];
    let mut costs = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let callers: [(&TestClient, &[(&str, &str)]); 3] =
            [(&server.visitor, &[]), (&server.visitor, &key), (&owner, &[])];
        for (costs, (client, headers)) in costs.iter_mut().zip(callers) {
            let start = cpu_time();
            for _ in 0..REQUESTS {
                client.send(Method::GET, "/v1/auth/whoami", headers, "").await;
            }
            costs.push((cpu_time() - start).as_secs_f64() * 1e6 / REQUESTS as f64);
        }
    }
    let least = |costs: &[f64]| costs.iter().copied().fold(f64::INFINITY, f64::min);
    json!({
        "anonymous_us": least(&costs[0]), "key_us": least(&costs[1]), "session_us": least(&costs[2]),
    })
}

/// From the request that revokes a key at one replica until another replica refuses the key.
async fn revocations() -> Value {
    let first = setup().await.start().await;
    let owner = first.sign_up().await;
    let other = Setup {
        url: first.database.url.clone(),
        database: first.database.clone(),
        ..setup().await
    };
    let other = other.start().await;
    let mut times = Vec::new();
    for _ in 0..REVOCATIONS {
        let new = json!({ "name": "bench", "role": "read" });
        let created = owner.post("/v1/auth/keys", new).await.json();
        let bearer = format!("Bearer {}", created["key"].as_str().unwrap());
        let headers = [("authorization", bearer.as_str())];
        let call = || other.visitor.send(Method::GET, "/v1/auth/whoami", &headers, "");
        assert_eq!(call().await.status, 200);
        let path = format!("/v1/auth/keys/{}", created["id"].as_str().unwrap());
        let start = now();
        assert_eq!(owner.send(Method::DELETE, &path, &[], "").await.status, 204);
        while call().await.status != 401 {}
        times.push(milliseconds(start));
    }
    json!({ "revocation_p99_ms": quantile(times, 0.99) })
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
    let all = futures_util::future::join_all((1..=SIGN_INS).map(|n| tokio::spawn(sign_in(n))));
    let mut all = std::pin::pin!(all);
    let mut times = Vec::new();
    let statuses = loop {
        let asked = now();
        tokio::select! {
            statuses = &mut all => break statuses,
            health = server.visitor.get("/healthz") => {
                assert_eq!(health.status, 200);
                times.push(milliseconds(asked));
            }
        }
    };
    let signed_in = statuses.into_iter().filter(|status| *status.as_ref().unwrap() == 200).count();
    json!({
        "healthz_p99_ms": quantile(times, 0.99), "signed_in": signed_in, "sign_ins_ms": milliseconds(start),
    })
}

/// Pages of lists with 10,000 tenants and 100,000 entries in the audit log.
async fn lists() -> Value {
    let server = setup().await.start().await;
    let owner = server.sign_up().await;
    owner.post("/v1/tenants", acme()).await;
    server.database.sql("CREATE TABLE copy AS SELECT * FROM tenants").await;
    // In batches, because every statement has a deadline.
    for n in (0..10_000).step_by(FILL_BATCH) {
        let tenants = format!(
            "INSERT INTO tenants SELECT (jsonb_populate_record(copy, jsonb_build_object('id', gen_random_uuid(), 'slug', 'tenant-' || n, \
             'desired', 'stopped', 'state', 'stopped'))).* FROM copy, generate_series({}, {}) AS n",
            n.max(1),
            n + FILL_BATCH - 1
        );
        server.database.sql(&tenants).await;
    }
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
    let tenants = pages(&owner, |n| format!("/v1/tenants?limit=100&q=tenant-{}", n % 10)).await;
    let filtered = pages(&owner, |n| match n % 3 {
        0 => format!("/v1/audit?actor={n}@example.com"),
        1 => format!("/v1/audit?resource=tenant:tenant-{n}"),
        _ => "/v1/audit?action=tenant.start".to_owned(),
    });
    json!({ "tenants_p95_ms": tenants, "audit_p95_ms": filtered.await })
}

async fn pages(client: &TestClient, path: impl Fn(usize) -> String) -> f64 {
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

/// The time that this process computed, in user and kernel mode.
fn cpu_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let time = |value: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(value.tv_sec() * 1_000_000 + value.tv_usec()).unwrap())
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// The value at a fraction of the sorted values.
fn quantile(mut values: Vec<f64>, fraction: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * fraction).ceil() as usize;
    values.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
