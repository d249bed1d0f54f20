//! The price of triggers that are not due, and how triggers that are due in one second wake their tenants, on a real Postgres and a
//! scripted orchestrator. Prints one JSON object; `cargo xtask bench triggers` shows the figures beside their bars.

#![expect(clippy::unwrap_used, reason = "a failed unwrap ends the bench")]

#[path = "../tests/it/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests, which need more of it")]
mod harness;
mod shared;

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::time::Duration;

use app_api::db::trigger::CLAIM;
use app_api::summaries::COLLECTION_INTERVAL;
use serde_json::{Value, json};
use testkit::clock::now;

use crate::harness::orchestrator::TaskReply;
use crate::harness::work::{DUE_AT, insert_triggers};
use crate::harness::{FakeOrchestrator, Setup, TestDatabase};
use crate::shared::{copy_acme, cpu_time, database_cpu_time};

const RESTING: usize = 10_000;
/// After it, what the new rows caused is done.
const SETTLE: Duration = Duration::from_secs(15);
const WINDOW: Duration = Duration::from_secs(60);
const DUE: usize = 1_000;
/// About the first byte of a sleeping tenant, as `bench wake` measures it.
const WAKE: Duration = Duration::from_millis(400);
const TASK: Duration = Duration::from_millis(100);
/// Longer than 1,000 wakes one after the other.
const DUE_TIMEOUT: Duration = Duration::from_secs(600);

fn main() {
    shared::report(async { [resting().await, due().await] });
}

async fn setup(orchestrator: FakeOrchestrator) -> Setup {
    let mut setup = Setup::new(orchestrator).await;
    setup.max_changes = u32::MAX;
    setup.summary_interval = COLLECTION_INTERVAL;
    setup
}

/// The server at rest with 10,000 tenants, before each of them has a trigger and after that.
async fn resting() -> Value {
    let setup = setup(FakeOrchestrator::unreachable()).await;
    let mut log = StatementLog::of(&setup.database).await;
    let server = setup.start().await;
    let owner = server.sign_up().await;
    copy_acme(&server, &owner, RESTING).await;
    let without = log.load().await;
    let later = "'2030-01-01Z'::timestamptz + random() * interval '1 day'";
    let of_all = "tenants t, generate_series(1, 1) n";
    assert_eq!(insert_triggers(&server.database, later, of_all).await, RESTING);
    server.database.sql("ANALYZE triggers").await;
    let with = log.load().await;
    json!({
        "resting_ms": with.process_ms, "resting_database_ms": with.database_ms,
        "resting_looks": with.looks, "resting_statements": with.statements,
        "none_ms": without.process_ms, "none_database_ms": without.database_ms,
        "none_statements": without.statements,
    })
}

/// The costs of the server at rest, each a second.
struct Load {
    process_ms: f64,
    database_ms: f64,
    /// Queries for triggers that are due.
    looks: f64,
    statements: f64,
}

/// The log of Postgres, with every statement of one database.
struct StatementLog(File);

impl StatementLog {
    /// Connections that are opened from now on log their statements.
    async fn of(database: &TestDatabase) -> Self {
        let log_all = "DO $$ BEGIN \
             EXECUTE format('ALTER DATABASE %I SET log_statement = ''all''', current_database()); END $$";
        database.sql(log_all).await;
        Self(File::open(TestDatabase::server_directory().join("log")).unwrap())
    }

    async fn load(&mut self) -> Load {
        tokio::time::sleep(SETTLE).await;
        self.0.seek(SeekFrom::End(0)).unwrap();
        let (begin, process, database) = (now(), cpu_time(), database_cpu_time());
        tokio::time::sleep(WINDOW).await;
        let seconds = begin.elapsed().as_secs_f64();
        let each = |from: Duration, to: Duration| (to - from).as_secs_f64() * 1e3 / seconds;
        let (process_ms, database_ms) =
            (each(process, cpu_time()), each(database, database_cpu_time()));
        let mut text = Vec::new();
        self.0.read_to_end(&mut text).unwrap();
        let text = String::from_utf8_lossy(&text);
        let (claim, _) = CLAIM.split_once(" WHERE ").unwrap();
        let is_statement =
            |line: &&str| ["LOG:  execute ", "LOG:  statement: "].iter().any(|l| line.contains(l));
        let statements: Vec<_> = text.lines().filter(is_statement).collect();
        let looks = statements.iter().filter(|line| line.contains(claim)).count();
        let each = |count: usize| count as f64 / seconds;
        Load { process_ms, database_ms, looks: each(looks), statements: each(statements.len()) }
    }
}

/// Triggers of 1,000 tenants that sleep, all due in one second.
async fn due() -> Value {
    let server = setup(FakeOrchestrator::obedient()).await.start().await;
    let owner = server.sign_up().await;
    server.tenants_with_workflows(&owner, DUE).await;
    let orchestrator = &server.orchestrator;
    let replies = std::iter::repeat_n(TaskReply::Wakes { wake: WAKE, run: TASK }, DUE);
    orchestrator.task_replies.lock().unwrap().extend(replies);
    let of_all = "tenants t, generate_series(1, 1) n";
    assert_eq!(insert_triggers(&server.database, DUE_AT, of_all).await, DUE);
    let begin = now();
    server.advance_clock(Duration::from_secs(60));
    let started = testkit::eventually("all tasks start", DUE_TIMEOUT, async || {
        Ok(orchestrator.jobs.lock().unwrap().len() == DUE)
    });
    started.await.unwrap();
    let seconds = begin.elapsed().as_secs_f64();
    json!({
        "all_started_s": seconds, "wake_s": WAKE.as_secs_f64(), "due": DUE,
        "most_waking": orchestrator.waking.most(), "most_tasks": orchestrator.tasks.most(),
    })
}
