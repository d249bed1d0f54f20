//! `cial doctor`: named checks, each with its fix.

use protocol::text::describe_bytes;
use serde_json::{Value, json};

use super::pages;
use super::tenants::PAGE;
use crate::context::{Context, OWN_VERSION, version_warning};
use crate::error::{CliError, Exit};
use crate::http::{NOTABLE_SKEW_SECONDS, Request, describe_skew};
use crate::output::{Column, Shape};

const CHECKS: Shape = Shape {
    plural: "checks",
    name: "/check",
    columns: &[
        Column::new("CHECK", "/check"),
        Column::new("RESULT", "/result"),
        Column::new("DETAIL", "/detail"),
        Column::new("FIX", "/fix"),
    ],
};

/// The result of one check. A check that needs a failed one is skipped.
enum Outcome {
    Passed(String),
    Failed { detail: String, fix: String },
    Skipped,
}

pub(super) fn run(context: &Context<'_>) -> Result<(), CliError> {
    // One call is enough for the checks of the clock, the versions and the key.
    let (connection, whoami) = check_connection(context);
    let [key, expiry, audit, disk, databases, backups] = match whoami {
        None => [const { Outcome::Skipped }; 6],
        Some(Ok(whoami)) => {
            let [disk, databases] = check_limits(&whoami, context);
            [
                describe_key(&whoami),
                check_expiry(&whoami),
                check_audit(&whoami, context),
                disk,
                databases,
                check_backups(&whoami, context),
            ]
        }
        Some(Err(error)) => {
            let [expiry, audit, disk, databases, backups] = [const { Outcome::Skipped }; 5];
            [error.into(), expiry, audit, disk, databases, backups]
        }
    };
    let rows = [
        row("configuration", check_configuration(context)),
        row("connection", connection),
        row("clock", check_clock(context)),
        row("versions", check_versions(context)),
        row("key", key),
        row("key's expiry", expiry),
        row("audit log", audit),
        row("disk limits", disk),
        row("databases", databases),
        row("backups", backups),
    ];
    context.output.list(&CHECKS, &rows)?;
    let failed = rows.iter().filter(|row| row["result"] == "FAILED").count();
    if failed == 0 { Ok(()) } else { Err(CliError::silent(Exit::Failed)) }
}

fn row(name: &str, outcome: Outcome) -> Value {
    let (result, detail, fix) = match outcome {
        Outcome::Passed(detail) => ("PASSED", Some(detail), None),
        Outcome::Failed { detail, fix } => ("FAILED", Some(detail), Some(fix)),
        Outcome::Skipped => ("SKIPPED", None, None),
    };
    json!({ "check": name, "result": result, "detail": detail, "fix": fix })
}

impl From<CliError> for Outcome {
    fn from(error: CliError) -> Self {
        let (detail, fix) = error.into_parts();
        Self::Failed { detail, fix }
    }
}

fn check_configuration(context: &Context<'_>) -> Outcome {
    let check = || {
        let resolved = context.resolved()?;
        let server = context.server(&resolved)?;
        context.key(&resolved)?;
        Ok(format!("{} from {}", server.url, server.origin))
    };
    check().map_or_else(|error: CliError| error.into(), Outcome::Passed)
}

/// Also returns what the server says about the key, when the server is reached.
fn check_connection(context: &Context<'_>) -> (Outcome, Option<Result<Value, CliError>>) {
    let Ok(client) = context.open_client() else { return (Outcome::Skipped, None) };
    let request = Request::get("/v1/auth/whoami", "use the key");
    match client.call(&request).and_then(|response| response.json(&request, client)) {
        Err(error) if error.status().is_none() => (error.into(), None),
        // A problem in the API's form is as good as a success: the server is Cial's.
        whoami => (Outcome::Passed(format!("{} answers", client.server.url)), Some(whoami)),
    }
}

fn check_clock(context: &Context<'_>) -> Outcome {
    let skew = context.open_client().ok().and_then(|client| client.clock_skew());
    match skew {
        None => Outcome::Skipped,
        Some(skew) if skew.abs() < NOTABLE_SKEW_SECONDS => Outcome::Passed(describe_skew(skew)),
        Some(skew) => Outcome::Failed {
            detail: describe_skew(skew),
            fix: "set both clocks by a time service".to_owned(),
        },
    }
}

fn check_versions(context: &Context<'_>) -> Outcome {
    let server = context.open_client().ok().and_then(|client| client.server_version());
    let Some(server) = server else { return Outcome::Skipped };
    match version_warning(server, OWN_VERSION) {
        None => Outcome::Passed(format!("cial {OWN_VERSION}, server {server}")),
        Some(detail) => Outcome::Failed { detail, fix: "upgrade the older of both".to_owned() },
    }
}

fn describe_key(whoami: &Value) -> Outcome {
    let scope = whoami["tenant"].as_str().map(|tenant| format!("tenant {tenant}"));
    let scope = scope.unwrap_or_else(|| "the whole installation".to_owned());
    Outcome::Passed(format!("role {} for {scope}", whoami["role"].as_str().unwrap_or("-")))
}

/// Lets the server check the hash chain. A key that may not read the audit log skips the check.
fn check_audit(whoami: &Value, context: &Context<'_>) -> Outcome {
    if !whoami["tenant"].is_null() {
        return Outcome::Skipped;
    }
    let chain = match context.call(&Request::get("/v1/audit/chain", "check the audit log")) {
        Ok(chain) => chain,
        Err(error) if matches!(error.status(), Some(403 | 404)) => return Outcome::Skipped,
        Err(error) => return error.into(),
    };
    match chain["fault"].as_str() {
        None => Outcome::Passed(format!("{} entries without a break", chain["entries"])),
        Some(fault) => Outcome::Failed {
            detail: fault.to_owned(),
            fix: "compare with an export that you kept: cial audit export".to_owned(),
        },
    }
}

/// Says which tenants the file system holds to their limits, and which databases are full. The key of one tenant skips this:
/// `cial tenants get` says it.
fn check_limits(whoami: &Value, context: &Context<'_>) -> [Outcome; 2] {
    if !whoami["tenant"].is_null() {
        return [const { Outcome::Skipped }; 2];
    }
    let request = Request::get("/v1/tenants", "list tenants").query("limit", Some(PAGE));
    match pages::collect(context, &request, "tenants", "next_cursor", usize::MAX) {
        Ok(tenants) => {
            [Outcome::Passed(describe_disk_limits(&tenants)), describe_databases(&tenants)]
        }
        Err(error) if error.status() == Some(403) => [const { Outcome::Skipped }; 2],
        Err(error) => [error.into(), Outcome::Skipped],
    }
}

/// Names the tenants whose database is closed, or fills more than four fifths of its limit.
fn describe_databases(tenants: &[Value]) -> Outcome {
    const MAX_NAMES: usize = 10;
    let bytes = |tenant: &Value, pointer: &str| tenant.pointer(pointer).and_then(Value::as_u64);
    let problem = |tenant: &Value| {
        let used = bytes(tenant, "/database/used_bytes").unwrap_or_default();
        let limit = bytes(tenant, "/limits/database_bytes").unwrap_or(u64::MAX);
        let sizes = format!("{} of {}", describe_bytes(used), describe_bytes(limit));
        let slug = tenant["slug"].as_str().unwrap_or("-");
        if tenant["database"]["closed_because"].is_string() {
            Some(format!("{slug} is closed: {sizes}"))
        } else {
            (used > limit / 5 * 4).then(|| format!("{slug} is almost full: {sizes}"))
        }
    };
    let problems: Vec<_> = tenants.iter().filter_map(problem).collect();
    if problems.is_empty() {
        let used: u64 = tenants.iter().filter_map(|t| bytes(t, "/database/used_bytes")).sum();
        return Outcome::Passed(format!("{} in all", describe_bytes(used)));
    }
    let more = problems.len().saturating_sub(MAX_NAMES);
    let more = (more > 0).then(|| format!("{more} more"));
    let detail: Vec<_> = problems.into_iter().take(MAX_NAMES).chain(more).collect();
    let fix = "raise limits.database_bytes, or have rows deleted and tables vacuumed".to_owned();
    Outcome::Failed { detail: detail.join("; "), fix }
}

fn describe_disk_limits(tenants: &[Value]) -> String {
    const MAX_NAMES: usize = 10;
    let describe = |way: Option<&str>, what: &str| {
        let of_way = tenants.iter().filter(|tenant| tenant["disk"]["enforced_by"].as_str() == way);
        let names: Vec<_> = of_way.filter_map(|tenant| tenant["slug"].as_str()).collect();
        let (count, shown) = (names.len(), names.iter().take(MAX_NAMES).copied());
        let more = (count > MAX_NAMES).then(|| format!("{} more", count - MAX_NAMES));
        let shown: Vec<_> = shown.map(str::to_owned).chain(more).collect();
        (count > 0).then(|| format!("{count} {what} ({})", shown.join(", ")))
    };
    let parts = [
        describe(Some("filesystem"), "enforced by the file system"),
        describe(Some("measurement"), "measured"),
        // The orchestrator does not respond, or has not seen the tenant yet.
        describe(None, "unknown"),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "no tenant has one".to_owned() } else { parts.join("; ") }
}

/// Names the backups that wait for too long, failed, lack something or are lost. The key of one tenant skips this.
fn check_backups(whoami: &Value, context: &Context<'_>) -> Outcome {
    if !whoami["tenant"].is_null() {
        return Outcome::Skipped;
    }
    match context.call(&Request::get("/v1/backups/status", "check the backups")) {
        Ok(status) => describe_backups(&status),
        // A server of an earlier release has no backups.
        Err(error) if matches!(error.status(), Some(403 | 404)) => Outcome::Skipped,
        Err(error) => error.into(),
    }
}

fn describe_backups(status: &Value) -> Outcome {
    const MAX_NAMES: usize = 10;
    let empty = Vec::new();
    let problems = status["problems"].as_array().unwrap_or(&empty);
    if problems.is_empty() {
        let next = status["next_due_at"].as_str().unwrap_or("never");
        let is_enabled = status["enabled"] == true;
        let detail =
            if is_enabled { format!("the next are due at {next}") } else { "off".to_owned() };
        return Outcome::Passed(detail);
    }
    let named = problems.iter().take(MAX_NAMES).map(|backup| {
        let what = match (backup["failure"].as_str(), backup["state"].as_str()) {
            (Some(failure), _) => failure.to_owned(),
            (None, Some("missing")) => "the store has lost it".to_owned(),
            (None, _) => "the tenant has not rested".to_owned(),
        };
        let slug = backup["tenant"].as_str().unwrap_or("-");
        format!("{slug}, due at {}: {what}", backup["due_at"].as_str().unwrap_or("-"))
    });
    let more = problems.len().saturating_sub(MAX_NAMES);
    let more = (more > 0).then(|| format!("{more} more"));
    let detail: Vec<_> = named.chain(more).collect();
    let fix = "cial backups list; a tenant that never rests can be stopped for a while".to_owned();
    Outcome::Failed { detail: detail.join("; "), fix }
}

fn check_expiry(whoami: &Value) -> Outcome {
    const NOTICE_DAYS: i64 = 3;
    let Some(expires_at) = whoami["key"]["expires_at"].as_str() else {
        return Outcome::Passed("does not expire".to_owned());
    };
    let Ok(at) = expires_at.parse::<protocol::Timestamp>() else { return Outcome::Skipped };
    let detail = format!("expires at {expires_at}");
    if (at - crate::clock::now()).num_days() >= NOTICE_DAYS {
        return Outcome::Passed(detail);
    }
    Outcome::Failed { detail, fix: "create a new key and run: cial login --token-stdin".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_that_are_closed_or_almost_full_are_named() {
        let tenant = |slug: &str, used: u64, closed: Option<&str>| {
            let database = json!({ "used_bytes": used, "closed_because": closed });
            json!({ "slug": slug, "database": database, "limits": { "database_bytes": 1000 << 20 } })
        };
        // A server of an earlier release says neither.
        let of_earlier = json!({ "slug": "old", "database": {}, "limits": {} });
        let describe = |tenants: &[Value]| match describe_databases(tenants) {
            Outcome::Passed(detail) => detail,
            Outcome::Failed { detail, .. } => format!("FAILED {detail}"),
            Outcome::Skipped => "SKIPPED".to_owned(),
        };
        assert_eq!(describe(&[of_earlier, tenant("a", 800 << 20, None)]), "800.0 MiB in all");
        let crowd = [
            tenant("a", 1 << 20, None),
            tenant("b", 801 << 20, None),
            tenant("c", 1200 << 20, Some("full")),
        ];
        let expected =
            "FAILED b is almost full: 801.0 MiB of 1000.0 MiB; c is closed: 1.1 GiB of 1000.0 MiB";
        assert_eq!(describe(&crowd), expected);
    }

    #[test]
    fn disk_limits_are_counted_and_named_by_what_enforces_them() {
        let tenant = |slug: &str, way: Option<&str>| {
            let disk = way.map(|way| json!({ "used_bytes": null, "enforced_by": way }));
            json!({ "slug": slug, "disk": disk })
        };
        let (filesystem, measurement) = (Some("filesystem"), Some("measurement"));
        let crowd: Vec<_> = (0..12).map(|n| tenant(&format!("t{n}"), measurement)).collect();
        for (tenants, expected) in [
            (vec![], "no tenant has one"),
            (
                vec![tenant("a", filesystem), tenant("b", measurement), tenant("c", filesystem)],
                "2 enforced by the file system (a, c); 1 measured (b)",
            ),
            (vec![tenant("a", None)], "1 unknown (a)"),
            (crowd, "12 measured (t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, 2 more)"),
        ] {
            assert_eq!(describe_disk_limits(&tenants), expected);
        }
    }
}
