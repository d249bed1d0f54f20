//! Appends and pages of a history with a million entries, through the API, beside a bare SQLite file in the same folder.
//! Prints one JSON object; `cargo xtask bench history` shows the figures beside their bars.

#![expect(clippy::unwrap_used, reason = "a failed unwrap ends the bench")]

#[path = "../tests/it/harness.rs"]
#[expect(dead_code, reason = "shared with the tests, which need more of it")]
mod harness;
#[path = "../tests/it/tokens.rs"]
#[expect(dead_code, reason = "shared with the tests, which need more of it")]
mod tokens;

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use protocol::history::AppendActivity;
use rusqlite::Connection;
use serde_json::json;
use tenant_core::history::{History, activity, workspaces};
use testkit::clock::now;
use tokio::net::UnixStream;
use uuid::Uuid;

use crate::harness::{Core, cookie};
use crate::tokens::{KEY, claims, hs256, nonce_cookie};

const ENTRIES: i64 = 1_000_000;
const FILL_BATCH: i64 = 20_000;
const APPENDS: usize = 2_000;
const PAGES: usize = 1_000;
const PEERS: i64 = 100;
const SUMMARY: &str = "A summary of the usual length, which says in one sentence what an agent did, to whom, and how it went in the end; no more than this.";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // The folder of temporary files may lie in memory, where a sync takes no time.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let workspace = fill(dir.path()).await;
    let core = Core::start_on(dir.path(), &[("sso-key", &KEY)]);
    let mut client = Client::sign_in(&core).await;
    let start = now();
    client.get("/activity?limit=1").await;
    let first_use = start.elapsed();

    let bare = Bare::open(dir.path());
    let (mut appends, mut bares) = (Vec::new(), Vec::new());
    for number in 0..APPENDS {
        let entry = json!({
            "workspace_id": workspace, "type": "note", "summary": SUMMARY,
            "source_id": peer(number as i64), "target_id": peer(number as i64 + 1),
        });
        appends.push(client.post("/activity", &entry.to_string()).await);
        bares.push(bare.append(&entry.to_string()));
    }
    let mut pages = Vec::new();
    for number in 0..PAGES {
        let before = chrono::DateTime::from_timestamp_millis(spread(number) + 1).unwrap();
        let before = before.format("%Y-%m-%dT%H:%M:%S%.3fZ");
        let filter = match number % 3 {
            0 => String::new(),
            1 => format!("&peer_id={}", peer(number as i64)),
            _ => format!("&workspace_id={workspace}&type=note"),
        };
        pages.push(client.get(&format!("/activity?limit=100&before_ts={before}{filter}")).await);
    }
    let ratios = appends.iter().zip(&bares).map(|(own, bare)| own.div_duration_f64(*bare));
    let report = json!({
        "first_use_ms": millis(first_use),
        "append_ms": quantile(&appends, 0.5), "append_p99_ms": quantile(&appends, 0.99),
        "bare_ms": quantile(&bares, 0.5), "bare_p99_ms": quantile(&bares, 0.99),
        "append_ratio": middle(ratios.collect()),
        "page_ms": quantile(&pages, 0.5), "page_p99_ms": quantile(&pages, 0.99),
    });
    let mut out = std::io::stdout();
    writeln!(out, "{report}").unwrap();
}

/// Stores the entries, a millisecond apart, and returns their workspace. The file is closed afterwards.
async fn fill(dir: &Path) -> Uuid {
    let history = History::new(dir);
    let workspace =
        history.write(|connection| workspaces::create(connection, "one", None, 0)).await;
    let workspace_id = workspace.unwrap().unwrap().id;
    for first in (0..ENTRIES).step_by(FILL_BATCH as usize) {
        let add = move |connection: &Connection| {
            for number in first..first + FILL_BATCH {
                let entry = AppendActivity {
                    workspace_id,
                    kind: if number % 2 == 0 { "note" } else { "task" }.to_owned(),
                    source_id: Some(peer(number)),
                    target_id: Some(peer(number / 7)),
                    method: None,
                    summary: Some(SUMMARY.to_owned()),
                    status: None,
                    duration_ms: None,
                    created_at: None,
                };
                activity::append(connection, entry, number)?;
            }
            Ok(())
        };
        history.write(add).await.unwrap();
    }
    drop(history);
    while dir.join("history.db-wal").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    workspace_id
}

fn peer(number: i64) -> Uuid {
    Uuid::from_u128(u128::from((number % PEERS).unsigned_abs()) + 1)
}

/// A time among the entries: requests do not read the same page twice.
fn spread(number: usize) -> i64 {
    (number as i64 * 7_919 * 97) % ENTRIES
}

/// One connection of a signed-in person.
struct Client {
    sender: SendRequest<Full<Bytes>>,
    cookie: String,
}

impl Client {
    async fn sign_in(core: &Core) -> Self {
        let mut claims = claims("bench");
        claims["site"] = json!("core");
        let path = format!("/.cial/sso?token={}", hs256(&claims));
        let headers = [("cookie", &nonce_cookie("")[..]), ("x-cial-site", "core")];
        let cookie = cookie(&core.ask(Method::GET, &path, &headers).await);
        let stream = TokioIo::new(UnixStream::connect(core.socket()).await.unwrap());
        let (sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { sender, cookie }
    }

    async fn get(&mut self, path: &str) -> Duration {
        self.call(Method::GET, path, "").await
    }

    async fn post(&mut self, path: &str, body: &str) -> Duration {
        self.call(Method::POST, path, body).await
    }

    async fn call(&mut self, method: Method, path: &str, body: &str) -> Duration {
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1{path}"))
            .header("host", "acme.localhost")
            .header("x-cial-site", "core")
            .header("cookie", &self.cookie)
            .body(Full::from(body.to_owned()))
            .unwrap();
        let start = now();
        let response = self.sender.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let took = start.elapsed();
        assert!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
        took
    }
}

/// A table without indexes that is written as durably as the history.
struct Bare(Connection);

impl Bare {
    fn open(dir: &Path) -> Self {
        let connection = Connection::open(dir.join("bare.db")).unwrap();
        let settings =
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
            CREATE TABLE entries (id INTEGER PRIMARY KEY, text TEXT NOT NULL);";
        connection.execute_batch(settings).unwrap();
        Self(connection)
    }

    fn append(&self, text: &str) -> Duration {
        let start: Instant = now();
        self.0.execute("INSERT INTO entries (text) VALUES (?)", [text]).unwrap();
        start.elapsed()
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn quantile(times: &[Duration], fraction: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let place = (fraction * (sorted.len() - 1) as f64).ceil();
    millis(sorted[place as usize])
}

fn middle(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}
