//! `doctor`: named checks of the machine, the engine and the installation. They also find objects
//! on the engine without a tenant, and tenants without their objects.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use docker_command::Compose;
use protocol::orchestrator::Check;
use protocol::spec::Limits;
use serde_json::{Value, json};

use crate::environment::{exit_code, print_line};
use crate::local::{self, Installation};

#[derive(clap::Args)]
pub struct Args {
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
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
    let mut add = |name: &str, problems| checks.push(check(name, problems, Vec::new()));
    let ready = local::preflight(installation);
    add("engine, compose, disk, memory and ports are as they must be", of(&ready));
    add("what local-up wrote is its owner's alone", folder(installation));
    let Ok((_, compose)) = ready else { return Ok(checks) };
    let exec = |args: &[&str]| inside(&compose, installation, args);
    add("every service is healthy", local::unhealthy(installation)?);
    let rows = rows(exec);
    add("the database answers", of(&rows));
    let Ok(rows) = rows else { return Ok(checks) };
    add("the audit log has no break", of(&exec(&["app-api", "app-api", "verify-audit"])));
    let objects = installation.objects().of_tenants().and_then(|names| objects(&names, exec));
    add("orchestrator and router show what they have of tenants", of(&objects));
    let Ok(objects) = objects else { return Ok(checks) };
    add("nothing of a tenant is without its tenant", orphans(&objects, &rows));
    let pulled = installation.objects().pulled_images();
    let leaks = pulled.and_then(|pulled| Ok(without_release(&pulled, &released_images(exec)?)));
    add("no pulled image is without a release", leaks.unwrap_or_else(|e| vec![format!("{e:#}")]));
    add("no tenant is without its objects", missing(&objects, &rows));
    // As the user who owns the orchestrator's token.
    let report = exec(&["--user=1000", "orchestrator", "orchestrator", "report"]);
    let report = report.and_then(|text| named(&text, &rows));
    add("the orchestrator reports its tenants and its disk", of(&report));
    checks.extend(report.unwrap_or_default());
    checks.push(file_watchers(&exec(&["router", "cat", FILE_WATCHERS])));
    checks.push(process_ids(&exec(&["router", "cat", PROCESS_IDS])));
    Ok(checks)
}

fn check(name: &str, problems: Vec<String>, notes: Vec<String>) -> Check {
    Check { name: name.to_owned(), problems, notes }
}

fn of<T>(outcome: &Result<T>) -> Vec<String> {
    outcome.as_ref().err().map(|error| format!("{error:#}")).into_iter().collect()
}

/// Returns the output of a command in a service's container: `args` are the service and the
/// command.
fn inside(compose: &Compose, installation: &Installation, args: &[&str]) -> Result<String> {
    let mut exec = local::compose::command(compose, installation);
    let output = exec.args(["exec", "-T"]).args(args).output().context("cannot run compose")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", args.join(" "), stderr.trim());
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
/// The machine's processes and threads have numbers below this.
const PROCESS_IDS: &str = "/proc/sys/kernel/pid_max";

/// Notes a limit of the kernel below what costs nothing while unused.
fn file_watchers(limit: &Result<String>) -> Check {
    const ENOUGH: u64 = 8_192;
    kernel_limit("the limit of file watchers is known", limit, ENOUGH, |limit| {
        format!(
            "{limit} for all tenants together; more: sysctl -w fs.inotify.max_user_instances={ENOUGH}"
        )
    })
}

fn process_ids(limit: &Result<String>) -> Check {
    /// The largest that the kernel takes on machines of 64 bits.
    const MOST: u64 = 4_194_304;
    let pids = Limits::default().pids;
    kernel_limit("the limit of process ids is known", limit, MOST, |limit| {
        let tenants = limit / u64::from(pids);
        format!(
            "{limit} for the whole machine, which {tenants} tenants at their limit of {pids} use up; more: sysctl -w kernel.pid_max={MOST}"
        )
    })
}

fn kernel_limit(
    name: &str,
    limit: &Result<String>,
    enough: u64,
    advice: impl Fn(u64) -> String,
) -> Check {
    let known = limit.as_ref().ok().and_then(|text| text.trim().parse().ok());
    let low = known.filter(|limit| *limit < enough);
    check(name, of(limit), low.map(advice).into_iter().collect())
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

const PSQL: [&str; 6] =
    ["postgres", "psql", "--username=cial", "--dbname=cial", "--no-align", "--tuples-only"];

/// The ids of the images that releases have.
fn released_images(exec: impl Fn(&[&str]) -> Result<String>) -> Result<BTreeSet<String>> {
    let query = ["--command", "SELECT image_id FROM releases"];
    Ok(exec(&[&PSQL[..], &query].concat())?.lines().map(str::to_owned).collect())
}

/// Finds pulled images that app-api should have had removed, within a minute.
fn without_release(pulled: &BTreeMap<String, String>, released: &BTreeSet<String>) -> Vec<String> {
    let unneeded = pulled.iter().filter(|(_, id)| !released.contains(*id));
    unneeded.map(|(name, id)| format!("{name} ({id}) was pulled, and no release has it")).collect()
}

fn rows(exec: impl Fn(&[&str]) -> Result<String>) -> Result<Rows> {
    let query = ["--field-separator= ", "--command", "SELECT id, slug, desired FROM tenants"];
    let row = |line: &str| {
        let mut fields = line.split(' ').map(str::to_owned);
        Some((fields.next()?, Row { slug: fields.next()?, desired: fields.next()? }))
    };
    Ok(exec(&[&PSQL[..], &query].concat())?.lines().filter_map(row).collect())
}

/// Folders with one entry for each tenant.
const FOLDERS: [(&str, &str); 3] = [
    ("socket folder", "/run/cial/sockets"),
    ("secrets folder", "/run/cial/tenant-secrets"),
    ("database folder", "/run/cial/tenant-databases"),
];
/// Prints the route table on the router's disk. A router that never had a route has none.
const ROUTES: [&str; 4] =
    ["router", "sh", "-c", "cat /var/lib/cial/routes.json 2>/dev/null || echo '{}'"];

fn objects(names: &BTreeSet<String>, exec: impl Fn(&[&str]) -> Result<String>) -> Result<Objects> {
    let mut objects = Objects::new();
    let mut note = |id: &str, kind| objects.entry(id.to_owned()).or_default().insert(kind);
    for (id, kind) in names.iter().filter_map(|name| kind(name)) {
        note(id, kind);
    }
    for (kind, folder) in FOLDERS {
        // As the user who owns them. The socket of the database proxy lies beside the folders.
        let listed = exec(&["--user=1000", "orchestrator", "ls", folder])?;
        for id in listed.lines().filter(|name| !name.ends_with(".sock")) {
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
    const KINDS: [(&str, &str, &str); 4] = [
        ("cial-net-", "", "network"),
        ("cial-tenant-", "-data", "data volume"),
        ("cial-tenant-", "-files", "files volume"),
        ("cial-tenant-", "", "container"),
    ];
    let read = |(start, end, kind)| Some((name.strip_prefix(start)?.strip_suffix(end)?, kind));
    KINDS.into_iter().find_map(read)
}

/// Reads the checks of the orchestrator, and names tenants by their slugs where the database knows them.
fn named(report: &str, rows: &Rows) -> Result<Vec<Check>> {
    let with_slug = |text: String, (id, row): (&String, &Row)| text.replace(id, &row.slug);
    Ok(serde_json::from_str(&rows.iter().fold(report.to_owned(), with_slug))?)
}

fn orphans(objects: &Objects, rows: &Rows) -> Vec<String> {
    let without = objects.iter().filter(|(id, _)| !rows.contains_key(*id));
    let joined = |kinds: &BTreeSet<&str>| kinds.iter().copied().collect::<Vec<_>>().join(", ");
    without.map(|(id, kinds)| format!("{id} has no row, but: {}", joined(kinds))).collect()
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
        let exec = |args: &[&str]| {
            Ok(match args == ROUTES {
                true => format!(r#"{{"routes":[{{"tenant":"{ID}"}}]}}"#),
                false => format!("{ID}\nproxy.sock"),
            })
        };
        let names = "cial-tenant-ID cial-tenant-ID-data cial-tenant-ID-files cial-net-ID another";
        let names = names.replace("ID", ID).split(' ').map(str::to_owned).collect();
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

    #[test]
    fn an_image_that_was_pulled_and_that_no_release_has_is_a_leak() {
        let pulled = ["a", "b"].map(|id| (format!("cial-pulled-x/0/r.io/{id}:1"), id.to_owned()));
        let exec = |args: &[&str]| Ok(if args.contains(&"psql") { "a\n" } else { "" }.to_owned());
        let released = released_images(exec).unwrap();
        let leak = "cial-pulled-x/0/r.io/b:1 (b) was pulled, and no release has it";
        assert_eq!(without_release(&pulled.into(), &released), [leak]);
    }

    #[test]
    fn the_orchestrators_report_names_tenants_by_their_slugs() {
        let report = json!([{ "name": "a", "problems": [format!("{ID}: full")], "notes": ["b"] }]);
        let expected = check("a", vec!["acme: full".to_owned()], vec!["b".to_owned()]);
        assert_eq!(named(&report.to_string(), &rows("running")).unwrap(), [expected]);
        assert!(named("", &Rows::new()).is_err());
    }

    #[test]
    fn a_low_limit_of_the_kernel_is_noted() {
        let processes = "32768 for the whole machine, which 64 tenants at their limit of 512 use up; more: sysctl -w kernel.pid_max=4194304";
        let watchers =
            "128 for all tenants together; more: sysctl -w fs.inotify.max_user_instances=8192";
        let checks = [
            (process_ids as fn(&_) -> _, "32768\n", processes, "4194304\n"),
            (file_watchers, "128\n", watchers, "8192\n"),
        ];
        for (check, low, note, enough) in checks {
            let [low, enough] = [low, enough].map(|text| check(&Ok(text.to_owned())));
            assert_eq!((low.notes, low.problems), (vec![note.to_owned()], vec![]));
            assert_eq!(enough.notes, [""; 0]);
            assert_eq!(check(&Err(anyhow::anyhow!("no router"))).problems, ["no router"]);
        }
    }
}
