//! What one tenant may use of the machine: as told to the engine, and as it works.

use anyhow::{Context as _, Result};

use super::report::Report;
use super::stage::Tenant;
use super::wire::{Way, get};

pub(crate) async fn check(report: &mut Report, tenant: &Tenant, port: u16) -> Result<()> {
    let host = tenant.inspect().await?.host_config.context("no host configuration")?;
    let number = |value: Option<i64>| value.unwrap_or_default();
    report.same("O18", "two CPUs", 2_000_000_000, number(host.nano_cpus));
    report.same("O19", "four GiB", 4_i64 << 30, number(host.memory));
    report.same("O19", "no swap beyond that", 4_i64 << 30, number(host.memory_swap));
    report.same("O20", "512 processes", 512, number(host.pids_limit));
    let list = |names: Option<Vec<String>>| names.unwrap_or_default().join(" ");
    report.same("O6", "all capabilities dropped", "ALL", list(host.cap_drop));
    report.same("O6", "four given back to PID 1", "SETUID SETGID SETPCAP KILL", bare(host.cap_add));
    report.same("O6", "the root is read-only", true, host.readonly_rootfs.unwrap_or_default());
    report.same("O6", "not privileged", false, host.privileged.unwrap_or_default());
    let restart = host.restart_policy.unwrap_or_default();
    let restart = format!("{:?} {}", restart.name, restart.maximum_retry_count.unwrap_or_default());
    report.holds(
        "C8",
        "restarted with a bound",
        "on-failure, 10",
        &restart,
        restart.contains("FAILURE") && restart.ends_with("10"),
    );
    check_kernel(report, tenant).await?;
    check_fork_bomb(report, tenant, port).await
}

/// Engines before 28 repeat the names as given, later ones with `CAP_`.
fn bare(names: Option<Vec<String>>) -> String {
    let names = names.unwrap_or_default();
    names.iter().map(|n| n.trim_start_matches("CAP_")).collect::<Vec<_>>().join(" ")
}

/// The same numbers where the kernel keeps them (cgroup 2, or what 1 called it).
async fn check_kernel(report: &mut Report, tenant: &Tenant) -> Result<()> {
    for (row, what, files, expected) in [
        ("O18", "CPU in force", "cpu.max cpu/cpu.cfs_quota_us", "200000"),
        ("O19", "memory in force", "memory.max memory/memory.limit_in_bytes", "4294967296"),
        ("O20", "processes in force", "pids.max pids/pids.max", "512"),
    ] {
        let script =
            format!("cd /sys/fs/cgroup; cat {files} 2>/dev/null | head -n 1 | cut -d ' ' -f 1");
        report.same(row, what, expected, tenant.sh("agent", &script).await?.out);
    }
    Ok(())
}

async fn check_fork_bomb(report: &mut Report, tenant: &Tenant, port: u16) -> Result<()> {
    let bomb = r#"my @all; for (1..2000) { my $p = fork; last if !defined $p;
        if (!$p) { sleep 60; exit } push @all, $p }
        print scalar @all; kill 9, @all; waitpid $_, 0 for @all;"#;
    let ran = tenant.perl("agent", bomb).await?;
    let forks: u32 = ran.out.parse().unwrap_or_default();
    let bounded = (400..512).contains(&forks);
    report.holds("O20", "a fork bomb ends at the bound", "under 512 forks", ran.out, bounded);
    let answer = get(Way::Port(port), "/.cial/api/healthz", &[]).await?;
    report.same("O20", "and the tenant answers after it", 200, answer.status);
    Ok(())
}
