//! Seven processes, two users, no privileges to spare.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use e2e::Checks;
use testkit::engine::TenantContainer;

/// Arguments and user of every process that belongs in a tenant.
const EXPECTED: [(&str, &str); 7] = [
    ("/usr/local/bin/supervisor files /home/agent/files", "1001"),
    ("core back", "1000"),
    ("core front", "1000"),
    ("edge", "1000"),
    ("platform back", "1001"),
    ("platform front", "1001"),
    ("supervisor", "0"),
];
/// CAP_KILL.
const KILL: &str = "0000000000000020";
const NOTHING: &str = "0000000000000000";

/// One process, from `/proc`.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: String,
    pub(crate) args: String,
    status: BTreeMap<String, String>,
}

impl Process {
    fn field(&self, name: &str) -> &str {
        self.status.get(name).map_or("", String::as_str)
    }
}

/// Every process except the listing process itself.
pub(crate) async fn list(tenant: &TenantContainer) -> Result<Vec<Process>> {
    let script = r#"for p in /proc/[0-9]*; do
        pid=${p#/proc/}; [ "$pid" = $$ ] && continue
        args=$(tr '\0' ' ' < "$p/cmdline" 2>/dev/null) || continue
        echo "== $pid $args"; cat "$p/status" 2>/dev/null
    done"#;
    // As root without capabilities: anyone may read /proc/*/status and cmdline.
    let told = tenant.exec_shell("root", script).await?.text;
    let mut processes: Vec<Process> = Vec::new();
    for line in told.lines() {
        if let Some(rest) = line.strip_prefix("== ") {
            let (pid, args) = rest.split_once(' ').unwrap_or((rest, ""));
            let (pid, args) = (pid.to_owned(), args.trim().to_owned());
            processes.push(Process { pid, args, status: BTreeMap::new() });
        } else if let (Some(process), Some((name, value))) =
            (processes.last_mut(), line.split_once(':'))
        {
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            process.status.insert(name.to_owned(), value);
        }
    }
    // Helpers of the listing shell have no arguments left, or a parent outside of the container.
    processes.retain(|process| {
        !process.args.is_empty() && process.field("PPid") != "0" || process.pid == "1"
    });
    Ok(processes)
}

/// The number of the process with these arguments.
pub(crate) async fn pid_of(tenant: &TenantContainer, args: &str) -> Result<String> {
    let processes = list(tenant).await?;
    let found = processes.into_iter().find(|process| process.args == args);
    Ok(found.with_context(|| format!("no process {args:?}"))?.pid)
}

pub(crate) async fn check(checks: &mut Checks, tenant: &TenantContainer) -> Result<()> {
    let processes = list(tenant).await?;
    let mut args: Vec<_> = processes.iter().map(|p| p.args.as_str()).collect();
    args.sort_unstable();
    let expected: Vec<_> = EXPECTED.iter().map(|(args, _)| *args).collect();
    checks.equal(
        "PID 1, the five services and the file server",
        expected.join(", "),
        args.join(", "),
    );
    for (args, user) in EXPECTED {
        let Some(process) = processes.iter().find(|process| process.args == args) else {
            continue;
        };
        let ids = [user; 4].join(" ");
        checks.equal(&format!("user of {args}"), &ids, process.field("Uid"));
        checks.equal(&format!("group of {args}"), &ids, process.field("Gid"));
    }
    for process in &processes {
        check_privileges(checks, process);
    }
    Ok(())
}

fn check_privileges(checks: &mut Checks, process: &Process) {
    let args = &process.args;
    let is_first = process.pid == "1";
    if !is_first {
        let is_root = process.field("Uid").split(' ').any(|id| id == "0");
        let groups = process.field("Groups");
        checks.equal(&format!("{args} is not root"), false, is_root);
        checks.equal(&format!("{args} has no other groups"), "", groups);
    }
    let kept = if is_first { KILL } else { NOTHING };
    let expected = [NOTHING, kept, kept, NOTHING, NOTHING].join(" ");
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|name| process.field(name));
    checks.equal(&format!("capabilities of {args}"), expected, sets.join(" "));
    checks.equal(&format!("{args} can gain none"), "1", process.field("NoNewPrivs"));
    checks.equal(&format!("{args} is filtered"), "2", process.field("Seccomp"));
}
