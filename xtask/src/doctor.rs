//! `doctor`: named checks of the machine, the engine and the installation. They also find objects
//! on the engine without a tenant, and tenants without their objects.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use protocol::TenantId;
use protocol::orchestrator::{
    DiskCapacity, DiskEnforcement, DiskUse, Drift, EngineReport, QuotaService,
};
use protocol::spec::Limits;
use protocol::text::describe_bytes;
use serde_json::{Value, json};

use crate::environment::{exit_code, print_line};
use crate::local::{self, Compose, Installation};

#[derive(clap::Args)]
pub struct Args {
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
}

struct Check {
    name: &'static str,
    /// Empty if the check passes.
    problems: Vec<String>,
    /// Facts that are no problem.
    notes: Vec<String>,
}

impl Check {
    const fn new(name: &'static str) -> Self {
        Self { name, problems: Vec::new(), notes: Vec::new() }
    }
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let installation = Installation::of_checkout()?;
    let checks = examine(&installation)?;
    let is_healthy = checks.iter().all(|check| check.problems.is_empty());
    if args.json {
        let reported = checks.iter().map(|Check { name, problems, notes }| {
            json!({ "name": name, "ok": problems.is_empty(), "faults": problems, "notes": notes })
        });
        let reported: Vec<_> = reported.collect();
        print_line(json!({ "install": installation.name, "ok": is_healthy, "checks": reported }));
    } else {
        for Check { name, problems, notes } in &checks {
            let mark = if problems.is_empty() { "ok    " } else { "FAILED" };
            print_line(format_args!("{mark} {name}"));
            for line in problems.iter().chain(notes) {
                print_line(format_args!("         {line}"));
            }
        }
    }
    Ok(exit_code(is_healthy))
}

/// Runs the checks in order. A check whose failure explains those that follow is the last one.
fn examine(installation: &Installation) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let mut add = |name, problems| checks.push(Check { name, problems, notes: Vec::new() });
    let ready = local::preflight(installation);
    add("engine, compose, disk, memory and ports are as they must be", of(&ready));
    add("what local-up wrote is its owner's alone", folder(installation));
    let Ok((docker, compose)) = ready else { return Ok(checks) };
    let exec = |words: &[&str]| inside(&compose, installation, words);
    add("every service is healthy", local::unhealthy(&docker, installation)?);
    let rows = rows(exec);
    add("the database answers", of(&rows));
    let Ok(rows) = rows else { return Ok(checks) };
    add("the audit log has no break", of(&exec(&["app-api", "app-api", "verify-audit"])));
    let objects =
        local::tenant_objects(&docker, installation).and_then(|names| objects(&names, exec));
    add("orchestrator and router show what they have of tenants", of(&objects));
    let Ok(objects) = objects else { return Ok(checks) };
    add("nothing of a tenant is without its tenant", orphans(&objects, &rows));
    add("no tenant is without its objects", missing(&objects, &rows));
    // As the user who owns the orchestrator's token.
    let report = exec(&["--user=1000", "orchestrator", "orchestrator", "report"]);
    let report = report.and_then(|text| Ok(serde_json::from_str::<EngineReport>(&text)?));
    add("the orchestrator reports its tenants and its disk", of(&report));
    if let Ok(report) = report {
        checks.push(drift(&report, &rows));
        checks.push(disk(&report, &rows));
    }
    checks.push(file_watchers(&exec(&["router", "cat", FILE_WATCHERS])));
    checks.push(process_ids(&exec(&["router", "cat", PROCESS_IDS])));
    Ok(checks)
}

fn of<T>(outcome: &Result<T>) -> Vec<String> {
    outcome.as_ref().err().map(|error| format!("{error:#}")).into_iter().collect()
}

/// Returns the output of a command in a service's container: `words` are the service and the
/// command.
fn inside(compose: &Compose, installation: &Installation, words: &[&str]) -> Result<String> {
    let mut exec = compose.command(installation);
    let output = exec.args(["exec", "-T"]).args(words).output().context("cannot run compose")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", words.join(" "), stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn folder(installation: &Installation) -> Vec<String> {
    let folder = installation.folder();
    let mode = folder.metadata().map(|metadata| metadata.permissions().mode() & 0o777);
    let is_open = mode.ok().filter(|mode| *mode != 0o700);
    let problem =
        |mode| format!("{} is open to others ({mode:o}): chmod 0700 {0}", folder.display());
    is_open.map(problem).into_iter().collect()
}

/// The kernel counts file watchers per user, and all tenants run as the same two users.
const FILE_WATCHERS: &str = "/proc/sys/fs/inotify/max_user_instances";
/// Costs nothing while unused.
const MIN_FILE_WATCHERS: u64 = 8_192;

fn file_watchers(limit: &Result<String>) -> Check {
    let mut check = Check::new("the limit of file watchers is known");
    check.problems = of(limit);
    let known = limit.as_ref().ok().and_then(|text| text.trim().parse::<u64>().ok());
    check.notes.extend(known.filter(|limit| *limit < MIN_FILE_WATCHERS).map(|limit| {
        format!(
            "{limit} for all tenants together; more: sysctl -w fs.inotify.max_user_instances={MIN_FILE_WATCHERS}"
        )
    }));
    check
}

/// The machine's processes and threads have numbers below this.
const PROCESS_IDS: &str = "/proc/sys/kernel/pid_max";
/// The largest that the kernel takes on machines of 64 bits.
const MAX_PROCESS_IDS: u64 = 4_194_304;

fn process_ids(limit: &Result<String>) -> Check {
    let mut check = Check::new("the limit of process ids is known");
    check.problems = of(limit);
    let known = limit.as_ref().ok().and_then(|text| text.trim().parse::<u64>().ok());
    check.notes.extend(known.filter(|limit| *limit < MAX_PROCESS_IDS).map(|limit| {
        let pids = Limits::default().pids;
        let tenants = limit / u64::from(pids);
        format!(
            "{limit} for the whole machine, which {tenants} tenants at their limit of {pids} use up; more: sysctl -w kernel.pid_max={MAX_PROCESS_IDS}"
        )
    }));
    check
}

/// A tenant according to the database.
struct Row {
    slug: String,
    desired: String,
}

type Rows = BTreeMap<String, Row>;
/// Kinds of objects by tenant: on the engine, in the folders of the orchestrator, among the routes
/// of the router.
type Objects = BTreeMap<String, BTreeSet<&'static str>>;

fn rows(exec: impl Fn(&[&str]) -> Result<String>) -> Result<Rows> {
    let psql =
        ["postgres", "psql", "--username=cial", "--dbname=cial", "--no-align", "--tuples-only"];
    let query = ["--field-separator= ", "--command", "SELECT id, slug, desired FROM tenants"];
    let row = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        Some((words.next()?, Row { slug: words.next()?, desired: words.next()? }))
    };
    Ok(exec(&[&psql[..], &query].concat())?.lines().filter_map(row).collect())
}

/// Folders with one entry for each tenant, read as the user who owns them.
const FOLDERS: [(&str, &[&str]); 3] = [
    ("socket folder", &["--user=1000", "orchestrator", "ls", "/run/cial/sockets"]),
    ("secrets folder", &["--user=1000", "orchestrator", "ls", "/run/cial/tenant-secrets"]),
    // The socket of the database proxy lies beside the folders.
    ("database folder", &DATABASE_FOLDERS),
];
const DATABASE_FOLDERS: [&str; 10] = [
    "--user=1000",
    "orchestrator",
    "find",
    "/run/cial/tenant-databases",
    "-mindepth",
    "1",
    "-type",
    "d",
    "-printf",
    "%f\\n",
];
/// Prints the route table on the router's disk. A router that never had a route has none.
const ROUTES: [&str; 4] =
    ["router", "sh", "-c", "cat /var/lib/cial/routes.json 2>/dev/null || echo '{}'"];

fn objects(names: &[String], exec: impl Fn(&[&str]) -> Result<String>) -> Result<Objects> {
    let mut objects = Objects::new();
    let mut note = |id: &str, kind| objects.entry(id.to_owned()).or_default().insert(kind);
    for (id, kind) in names.iter().filter_map(|name| kind(name)) {
        note(id, kind);
    }
    for (kind, words) in FOLDERS {
        for id in exec(words)?.lines() {
            note(id, kind);
        }
    }
    for id in routed(&exec(&ROUTES)?)? {
        note(&id, "route");
    }
    Ok(objects)
}

/// Lists the tenants in the router's table.
fn routed(table: &str) -> Result<Vec<String>> {
    let table: Value = serde_json::from_str(table).context("the router's table")?;
    let routes = table["routes"].as_array().into_iter().flatten();
    Ok(routes.filter_map(|route| route["tenant"].as_str()).map(str::to_owned).collect())
}

/// Parses a name on the engine: the tenant, and the kind of object.
fn kind(name: &str) -> Option<(&str, &'static str)> {
    if let Some(id) = name.strip_prefix("cial-net-") {
        return Some((id, "network"));
    }
    let rest = name.strip_prefix("cial-tenant-")?;
    Some(match (rest.strip_suffix("-data"), rest.strip_suffix("-files")) {
        (Some(id), _) => (id, "data volume"),
        (None, Some(id)) => (id, "files volume"),
        (None, None) => (rest, "container"),
    })
}

/// Finds containers that differ from their specs. A rebuilt image and changed settings are no problem: they apply at the
/// next start.
fn drift(report: &EngineReport, rows: &Rows) -> Check {
    let mut check = Check::new("every container is as its tenant's settings say");
    for tenant in &report.tenants {
        let is_update = |drift: &&Drift| matches!(drift, Drift::Image | Drift::Settings);
        let (updates, faults): (Vec<&Drift>, Vec<&Drift>) =
            tenant.drift.iter().partition(is_update);
        for (parts, lines) in [(faults, &mut check.problems), (updates, &mut check.notes)] {
            let parts: Vec<_> = parts.iter().map(|drift| drift.describe()).collect();
            if !parts.is_empty() {
                let (name, parts) = (name(rows, tenant.id), parts.join("; "));
                lines.push(format!("{name}: {parts}. The next start corrects this."));
            }
        }
    }
    check
}

/// Finds tenants over their disk limit and a disk below its reserve, and notes how full all are, and what enforces the
/// limits.
fn disk(report: &EngineReport, rows: &Rows) -> Check {
    let mut check = Check::new("the disk has room, and each tenant is within its limit");
    if let Some(DiskCapacity { free_bytes, total_bytes, reserve_bytes }) = report.capacity.disk {
        let [free, total, reserve] = [free_bytes, total_bytes, reserve_bytes].map(describe_bytes);
        let line = format!("the engine's disk: {free} of {total} free, reserve {reserve}");
        if free_bytes < reserve_bytes {
            check.problems.push(format!("{line}: no tenant is created until there is room"));
        } else {
            check.notes.push(line);
        }
    } else {
        check.problems.push("the free space of the engine's disk is unknown".to_owned());
    }
    const MEASURED: &str = "disk limits are measured";
    match &report.capacity.quota {
        QuotaService::Ready => check.notes.push(
            "the file system enforces the disk limit of each tenant that says so below".to_owned(),
        ),
        QuotaService::Absent => {
            check.notes.push(format!("the service quota does not run: {MEASURED}"));
        }
        QuotaService::Unsupported(why) => check.notes.push(format!("{why}: {MEASURED}")),
        QuotaService::Failed(why) => check.problems.push(format!("{why}: {MEASURED} meanwhile")),
    }
    for DiskUse { tenant, used_bytes, limit_bytes, enforced_by } in &report.disk {
        let way = match enforced_by {
            DiskEnforcement::Filesystem => "enforced by the file system",
            DiskEnforcement::Measurement => "measured",
        };
        let (name, limit) = (name(rows, *tenant), describe_bytes(*limit_bytes));
        match used_bytes.map(|used| (used > *limit_bytes, describe_bytes(used))) {
            Some((true, used)) => check.problems.push(format!(
                "{name}: {used} used, over its limit of {limit}: raise limits.disk_bytes, then start it"
            )),
            Some((false, used)) => {
                check.notes.push(format!("{name}: {used} of {limit} used, {way}"));
            }
            None => check.notes.push(format!("{name}: not measured yet, limit {limit}")),
        }
    }
    check
}

/// The slug of a tenant, or its id if the database does not know it.
fn name(rows: &Rows, id: TenantId) -> String {
    let id = id.to_string();
    rows.get(&id).map_or(id, |row| row.slug.clone())
}

fn orphans(objects: &Objects, rows: &Rows) -> Vec<String> {
    let without = objects.iter().filter(|(id, _)| !rows.contains_key(*id));
    let line = |(id, kinds): (&String, &BTreeSet<&str>)| {
        let kinds: Vec<_> = kinds.iter().copied().collect();
        format!("{id} has no row, but: {}", kinds.join(", "))
    };
    without.map(line).collect()
}

fn missing(objects: &Objects, rows: &Rows) -> Vec<String> {
    let lacks = |(id, Row { slug, desired }): (&String, &Row)| {
        let has = |kind: &&&str| objects.get(id).is_some_and(|kinds| kinds.contains(**kind));
        let lacks: Vec<_> = needed(desired).iter().filter(|kind| !has(kind)).copied().collect();
        let line = format!("{slug} ({id}) is to be {desired}, and lacks: {}", lacks.join(", "));
        (!lacks.is_empty()).then_some(line)
    };
    rows.iter().filter_map(lacks).collect()
}

/// Returns the objects of a tenant, awake or asleep. The router keeps the route of a stopped tenant
/// to answer 503.
fn needed(desired: &str) -> &'static [&'static str] {
    const ALL: &[&str] = &[
        "route",
        "container",
        "network",
        "data volume",
        "files volume",
        "socket folder",
        "secrets folder",
    ];
    match desired {
        "running" => ALL,
        "stopped" => &["route"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

    fn rows(desired: &str) -> Rows {
        Rows::from([(ID.to_owned(), Row { slug: "acme".to_owned(), desired: desired.to_owned() })])
    }

    fn objects(kinds: &[&'static str]) -> Objects {
        Objects::from([(ID.to_owned(), kinds.iter().copied().collect())])
    }

    #[test]
    fn names_on_the_engine_tell_whose_they_are() {
        let exec = |words: &[&str]| {
            Ok(if words == ROUTES {
                format!(r#"{{"routes":[{{"tenant":"{ID}"}}]}}"#)
            } else {
                ID.to_owned()
            })
        };
        let names = [
            "cial-tenant-ID",
            "cial-tenant-ID-data",
            "cial-tenant-ID-files",
            "cial-net-ID",
            "another",
        ];
        let names = names.map(|name| name.replace("ID", ID));
        // Only a tenant whose app wants a database has that folder.
        let whole = [needed("running"), &["database folder"]].concat();
        assert_eq!(super::objects(&names, exec).unwrap(), objects(&whole));
        assert_eq!(routed("{}").unwrap(), [""; 0]);
        assert!(routed("").is_err());
    }

    #[test]
    fn a_leak_is_found_in_both_directions() {
        let whole = needed("running");
        assert!(orphans(&objects(whole), &rows("running")).is_empty());
        assert!(missing(&objects(whole), &rows("running")).is_empty());
        for kind in whole {
            let orphan = &orphans(&objects(&[*kind]), &Rows::new())[0];
            assert!(orphan.ends_with(&format!("but: {kind}")), "{orphan}");
            let without: Vec<_> = whole.iter().copied().filter(|other| other != kind).collect();
            let reported = &missing(&objects(&without), &rows("running"))[0];
            assert!(reported.ends_with(&format!("lacks: {kind}")), "{reported}");
        }
        assert!(missing(&objects(&["route"]), &rows("stopped")).is_empty());
        assert!(missing(&Objects::new(), &rows("stopped"))[0].ends_with("lacks: route"));
        assert!(missing(&Objects::new(), &rows("deleted")).is_empty());
    }

    fn report(tenants: Value, disk: Value, free_bytes: u64) -> EngineReport {
        let capacity = json!({
            "networks_used": 1, "networks_total": 8, "engine_version": "20", "api_version": "1.41",
            "disk": { "free_bytes": free_bytes, "total_bytes": 8_u64 << 30, "reserve_bytes": 1 << 30 },
        });
        let report = json!({ "capacity": capacity, "tenants": tenants, "disk": disk });
        serde_json::from_value(report).unwrap()
    }

    #[test]
    fn drift_is_a_problem_unless_the_next_start_is_its_time() {
        let tenant = |drift: Value| {
            json!([{ "id": ID, "generation": 1, "phase": "ready", "container_id": "c", "image_outdated": false,
                "drift": drift, "exits": 0 }])
        };
        let check = |names| drift(&report(tenant(names), json!([]), 2 << 30), &rows("running"));
        let none = check(json!([]));
        assert!(none.problems.is_empty() && none.notes.is_empty());
        let both = check(json!(["image", "network", "limits"]));
        let network = "acme: it is not attached to its own network, or to that network only; its limits were changed on the engine. The next start corrects this.";
        assert_eq!(both.problems, [network]);
        let image = "acme: its image was rebuilt or replaced. The next start corrects this.";
        assert_eq!(both.notes, [image]);
    }

    #[test]
    fn a_full_disk_and_a_tenant_over_its_limit_are_problems() {
        let check = |used: Value, free| {
            let used = json!([{ "tenant": ID, "used_bytes": used, "limit_bytes": 10 << 20 }]);
            disk(&report(json!([]), used, free), &rows("running"))
        };
        let Check { problems, notes, .. } = check(json!(3 << 20), 2 << 30);
        assert_eq!(problems, [""; 0]);
        let free = "the engine's disk: 2.0 GiB of 8.0 GiB free, reserve 1.0 GiB";
        let absent = "the service quota does not run: disk limits are measured";
        assert_eq!(notes, [free, absent, "acme: 3.0 MiB of 10.0 MiB used, measured"]);
        assert!(check(Value::Null, 2 << 30).notes[2].contains("not measured yet"));
        assert!(check(json!(11 << 20), 2 << 30).problems[0].contains("over its limit of 10.0 MiB"));
        assert!(check(json!(1), 1 << 29).problems[0].contains("no tenant is created"));
    }

    #[test]
    fn what_enforces_the_disk_limits_is_noted_and_a_service_that_is_down_is_a_problem() {
        let check = |quota| {
            let used = json!([{ "tenant": ID, "used_bytes": 1 << 20, "limit_bytes": 10 << 20,
                "enforced_by": "filesystem" }]);
            let mut report = report(json!([]), used, 2 << 30);
            report.capacity.quota = quota;
            disk(&report, &rows("running"))
        };
        let ready = check(QuotaService::Ready);
        assert_eq!(ready.problems, [""; 0]);
        assert!(ready.notes[1].starts_with("the file system enforces"), "{:?}", ready.notes);
        assert_eq!(ready.notes[2], "acme: 1.0 MiB of 10.0 MiB used, enforced by the file system");
        let down = check(QuotaService::Failed("the service quota does not respond".to_owned()));
        let line = "the service quota does not respond: disk limits are measured meanwhile";
        assert_eq!(down.problems, [line]);
        let other = check(QuotaService::Unsupported(
            "/volumes is on neither btrfs, XFS nor ext4".to_owned(),
        ));
        assert_eq!(other.problems, [""; 0]);
        let line = "/volumes is on neither btrfs, XFS nor ext4: disk limits are measured";
        assert_eq!(other.notes[1], line);
    }

    #[test]
    fn a_low_limit_of_process_ids_is_noted() {
        let check = |text: &str| process_ids(&Ok(text.to_owned()));
        let low = "32768 for the whole machine, which 64 tenants at their limit of 512 use up; more: sysctl -w kernel.pid_max=4194304";
        assert_eq!(check("32768\n").notes, [low]);
        assert_eq!(check("4194304\n").notes, [""; 0]);
        assert_eq!(check("32768\n").problems, [""; 0]);
        assert_eq!(process_ids(&Err(anyhow::anyhow!("no router"))).problems, ["no router"]);
    }

    #[test]
    fn a_low_limit_of_file_watchers_is_noted() {
        let check = |text: &str| file_watchers(&Ok(text.to_owned()));
        let low =
            "128 for all tenants together; more: sysctl -w fs.inotify.max_user_instances=8192";
        assert_eq!(check("128\n").notes, [low]);
        assert_eq!(check("8192\n").notes, [""; 0]);
        assert_eq!(check("128\n").problems, [""; 0]);
        assert_eq!(file_watchers(&Err(anyhow::anyhow!("no router"))).problems, ["no router"]);
    }
}
