//! `doctor`: named checks of the machine, the engine, the installation, and of what does not belong together:
//! things on the engine without a tenant, and tenants without their things.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;
use serde_json::{Value, json};

use crate::local::{self, Compose, Installation};
use crate::world;

#[derive(clap::Args)]
pub struct Args {
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
}

struct Finding {
    name: &'static str,
    /// What is wrong; nothing if it is as it should be.
    faults: Vec<String>,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let installation = Installation::of_checkout()?;
    let findings = world::block_on(examine(&installation))?;
    let is_well = findings.iter().all(|finding| finding.faults.is_empty());
    if args.json {
        let checks: Vec<_> = findings
            .iter()
            .map(|finding| json!({ "name": finding.name, "ok": finding.faults.is_empty(), "faults": finding.faults }))
            .collect();
        world::say(json!({ "install": installation.name, "ok": is_well, "checks": checks }));
    } else {
        for finding in &findings {
            world::say(format_args!(
                "{} {}",
                if finding.faults.is_empty() { "ok    " } else { "FAILED" },
                finding.name
            ));
            for fault in &finding.faults {
                world::say(format_args!("         {fault}"));
            }
        }
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All that is wrong with an installation.
pub(crate) async fn faults(installation: &Installation) -> Result<Vec<String>> {
    Ok(examine(installation).await?.into_iter().flat_map(|finding| finding.faults).collect())
}

async fn examine(installation: &Installation) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut tell = |name, faults| findings.push(Finding { name, faults });
    let ready = local::machine(installation).await;
    tell("engine, compose, disk, memory and ports are as they must be", of(&ready));
    tell("what local-up wrote is its owner's alone", folder(installation));
    let Ok((docker, compose)) = ready else { return Ok(findings) };
    tell("every service is healthy", local::unhealthy(&docker, installation).await?);
    let rows = rows(&compose, installation);
    tell("the database answers", of(&rows));
    let Ok(rows) = rows else { return Ok(findings) };
    let things = things(&docker, &compose, installation).await;
    tell("orchestrator and router show what they have of tenants", of(&things));
    let Ok(things) = things else { return Ok(findings) };
    tell("nothing of a tenant is without its tenant", strays(&things, &rows));
    tell("no tenant is without its things", gaps(&things, &rows));
    Ok(findings)
}

fn of<T>(outcome: &Result<T>) -> Vec<String> {
    outcome.as_ref().err().map(|error| format!("{error:#}")).into_iter().collect()
}

fn folder(installation: &Installation) -> Vec<String> {
    let folder = installation.folder();
    let Ok(metadata) = folder.metadata() else { return Vec::new() };
    let mode = metadata.permissions().mode() & 0o777;
    let fault = format!("{} is open to others ({mode:o}): chmod 0700 {0}", folder.display());
    if mode == 0o700 { Vec::new() } else { vec![fault] }
}

/// A tenant as the database has it.
#[derive(Clone, Debug)]
struct Row {
    slug: String,
    desired: String,
}

type Rows = BTreeMap<String, Row>;
/// What of a tenant there is: on the engine, in the folders of the orchestrator, among the routes of the router.
type Things = BTreeMap<String, BTreeSet<&'static str>>;

fn rows(compose: &Compose, installation: &Installation) -> Result<Rows> {
    let query = "SELECT id, slug, desired FROM tenants";
    let psql = [
        "psql",
        "--username=cial",
        "--dbname=cial",
        "--no-align",
        "--tuples-only",
        "--field-separator= ",
    ];
    let text = inside(
        compose,
        installation,
        &[&["postgres"], psql.as_slice(), &["--command", query]].concat(),
    )?;
    let row = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        Some((words.next()?, Row { slug: words.next()?, desired: words.next()? }))
    };
    Ok(text.lines().filter_map(row).collect())
}

/// What a command says in a service's container: the service, and the words of the command.
fn inside(compose: &Compose, installation: &Installation, words: &[&str]) -> Result<String> {
    let mut exec = compose.command(installation);
    let output = exec.args(["exec", "-T"]).args(words).output().context("cannot run compose")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", words.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn things(docker: &Docker, compose: &Compose, installation: &Installation) -> Result<Things> {
    let mut things = Things::new();
    for name in local::tenant_things(docker, installation).await? {
        if let Some((id, kind)) = kind(&name) {
            things.entry(id.to_owned()).or_default().insert(kind);
        }
    }
    let mut note = |kind, ids: Vec<String>| {
        for id in ids {
            things.entry(id).or_default().insert(kind);
        }
    };
    for (kind, words) in FOLDERS {
        let text = inside(compose, installation, words)?;
        note(kind, text.lines().map(str::to_owned).collect());
    }
    // A router that never had a route has no such file.
    let routes = "cat /var/lib/cial/routes.json 2>/dev/null || echo '{}'";
    let routes = inside(compose, installation, &["router", "sh", "-c", routes])?;
    note("route", routed(&routes)?);
    Ok(things)
}

/// Folders with one for each tenant in them, read by the user whose they are.
const FOLDERS: [(&str, &[&str]); 2] = [
    ("socket folder", &["--user=1000", "orchestrator", "ls", "/run/cial/sockets"]),
    ("secrets folder", &["--user=1000", "orchestrator", "ls", "/run/cial/tenant-secrets"]),
];

/// The tenants of the table that a router keeps on its disk.
fn routed(table: &str) -> Result<Vec<String>> {
    let table: Value = serde_json::from_str(table).context("the router's table")?;
    let routes = table["routes"].as_array().cloned().unwrap_or_default();
    Ok(routes.iter().filter_map(|route| route["tenant"].as_str()).map(str::to_owned).collect())
}

/// From a name on the engine to the tenant and what of it that is.
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

fn strays(things: &Things, rows: &Rows) -> Vec<String> {
    let without = things.iter().filter(|(id, _)| !rows.contains_key(*id));
    let words = |kinds: &BTreeSet<&str>| kinds.iter().copied().collect::<Vec<_>>().join(", ");
    without.map(|(id, kinds)| format!("{id} has no row, but: {}", words(kinds))).collect()
}

fn gaps(things: &Things, rows: &Rows) -> Vec<String> {
    let mut gaps = Vec::new();
    for (id, row) in rows {
        let nothing = BTreeSet::new();
        let has = things.get(id).unwrap_or(&nothing);
        let missing: Vec<_> =
            needed(&row.desired).iter().filter(|kind| !has.contains(*kind)).copied().collect();
        if !missing.is_empty() {
            let Row { slug, desired } = row;
            gaps.push(format!(
                "{slug} ({id}) is to be {desired}, and lacks: {}",
                missing.join(", ")
            ));
        }
    }
    gaps
}

/// What a tenant has, whether awake or asleep. One that its owner stopped is still known to the router, which says so.
fn needed(desired: &str) -> &'static [&'static str] {
    match desired {
        "running" => &[
            "route",
            "container",
            "network",
            "data volume",
            "files volume",
            "socket folder",
            "secrets folder",
        ],
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

    fn things(kinds: &[&'static str]) -> Things {
        Things::from([(ID.to_owned(), kinds.iter().copied().collect())])
    }

    #[test]
    fn names_on_the_engine_tell_whose_they_are() {
        let cases = [
            (format!("cial-tenant-{ID}"), "container"),
            (format!("cial-tenant-{ID}-data"), "data volume"),
            (format!("cial-tenant-{ID}-files"), "files volume"),
            (format!("cial-net-{ID}"), "network"),
        ];
        for (name, expected) in cases {
            assert_eq!(kind(&name), Some((ID, expected)));
        }
        assert_eq!(kind("somebody-elses"), None);
    }

    #[test]
    fn a_leak_is_found_in_both_directions() {
        let whole = needed("running");
        assert!(strays(&things(whole), &rows("running")).is_empty());
        for kind in whole {
            let without: Vec<_> = whole.iter().copied().filter(|other| other != kind).collect();
            assert!(strays(&things(&[*kind]), &Rows::new())[0].ends_with(&format!("but: {kind}")));
            let told = gaps(&things(&without), &rows("running"));
            assert!(told[0].ends_with(&format!("lacks: {kind}")), "{told:?}");
        }
        assert!(gaps(&things(whole), &rows("running")).is_empty());
        assert!(gaps(&things(&["route"]), &rows("stopped")).is_empty());
        assert!(gaps(&Things::new(), &rows("stopped"))[0].ends_with("lacks: route"));
        assert!(gaps(&Things::new(), &rows("deleted")).is_empty());
    }

    #[test]
    fn the_routers_table_tells_whose_routes_it_has() {
        let table = format!(r#"{{"revision":4,"routes":[{{"tenant":"{ID}","slug":"acme"}}]}}"#);
        assert_eq!(routed(&table).unwrap(), [ID]);
        assert_eq!(routed("{}").unwrap(), [""; 0]);
        assert!(routed("").is_err());
    }
}
