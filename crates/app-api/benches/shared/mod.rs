//! The frame of benches on a real Postgres: two processors, their time, and tenants without number.

use std::io::Write as _;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::{Server, TestClient, TestDatabase, acme};

const CPUS: usize = 2;
/// Rows that one statement inserts: every statement has a deadline.
pub(crate) const FILL_BATCH: usize = 500;

/// Measures, and prints the fields of all parts as one JSON object. Everything runs on two processors, Postgres too: this process
/// starts it.
pub(crate) fn report<const PARTS: usize>(measure: impl Future<Output = [Value; PARTS]>) {
    let own = Pid::from_raw(0);
    let usable = sched_getaffinity(own).unwrap();
    let mut used = CpuSet::new();
    let cpus = (0..CpuSet::count()).filter(|cpu| usable.is_set(*cpu) == Ok(true));
    cpus.take(CPUS).for_each(|cpu| used.set(cpu).unwrap());
    sched_setaffinity(own, &used).unwrap();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(CPUS).enable_all().build().unwrap();
    let mut report = json!({});
    for part in runtime.block_on(measure) {
        report.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
    }
    let mut out = std::io::stdout();
    writeln!(out, "{report}").unwrap();
}

/// Creates the tenant acme, and copies of it until there are `count` tenants. The copies are stopped.
pub(crate) async fn copy_acme(server: &Server, owner: &TestClient, count: usize) {
    owner.post("/v1/tenants", acme()).await;
    // The server would make a schema for each copy of a tenant without one.
    server.until("acme", |tenant| tenant.is_some_and(|acme| acme.database.is_some())).await;
    server.database.sql("CREATE TABLE copy AS SELECT * FROM tenants").await;
    for n in (1..count).step_by(FILL_BATCH) {
        let tenants = format!(
            "INSERT INTO tenants SELECT (jsonb_populate_record(copy, jsonb_build_object('id', gen_random_uuid(), 'slug', 'tenant-' || n, \
             'desired', 'stopped', 'state', 'stopped'))).* FROM copy, generate_series({n}, {}) AS n",
            count.min(n + FILL_BATCH) - 1
        );
        server.database.sql(&tenants).await;
    }
}

/// The time that this process computed, in user and kernel mode.
pub(crate) fn cpu_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let time = |value: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(value.tv_sec() * 1_000_000 + value.tv_usec()).unwrap())
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// The time that the processes of Postgres computed, ended ones included. The kernel counts it in hundredths of a second.
pub(crate) fn database_cpu_time() -> Duration {
    let file = TestDatabase::server_directory().join("postmaster.pid");
    let text = std::fs::read_to_string(file).unwrap();
    let postmaster: u64 = text.lines().next().unwrap().parse().unwrap();
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc").unwrap() {
        let stat = std::fs::read_to_string(entry.unwrap().path().join("stat")).unwrap_or_default();
        // Behind the name, which may hold anything: state, parent, and from the twelfth on user, kernel, and those of
        // ended children.
        let Some((own, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<u64> = rest.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
        let is_postmaster = own.starts_with(&format!("{postmaster} "));
        if is_postmaster || fields[1] == postmaster {
            let last = if is_postmaster { 15 } else { 13 };
            ticks += fields[11..last].iter().sum::<u64>();
        }
    }
    Duration::from_millis(ticks * 10)
}
