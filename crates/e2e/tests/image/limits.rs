//! Limits of one tenant: as configured on the engine, and as the kernel enforces them.

use anyhow::{Context as _, Result};
use e2e::Checks;
use testkit::engine::{Endpoint, TenantContainer};

pub(crate) async fn check(checks: &mut Checks, tenant: &TenantContainer, port: u16) -> Result<()> {
    let host = tenant.inspect().await?.host_config.context("no host configuration")?;
    let number = |value: Option<i64>| value.unwrap_or_default();
    checks.equal("two CPUs", 2_000_000_000, number(host.nano_cpus));
    checks.equal("four GiB", 4_i64 << 30, number(host.memory));
    checks.equal("no swap beyond that", 4_i64 << 30, number(host.memory_swap));
    checks.equal("512 processes", 512, number(host.pids_limit));
    let list = |names: Option<Vec<String>>| names.unwrap_or_default().join(" ");
    checks.equal("all capabilities dropped", "ALL", list(host.cap_drop));
    checks.equal("four given back to PID 1", "SETUID SETGID SETPCAP KILL", bare(host.cap_add));
    checks.equal("the root is read-only", true, host.readonly_rootfs.unwrap_or_default());
    checks.equal("not privileged", false, host.privileged.unwrap_or_default());
    let restart = host.restart_policy.unwrap_or_default();
    let restart = format!("{:?} {}", restart.name, restart.maximum_retry_count.unwrap_or_default());
    checks.holds(
        "restarted with a bound",
        "on-failure, 10",
        &restart,
        restart.contains("FAILURE") && restart.ends_with("10"),
    );
    check_kernel(checks, tenant).await?;
    check_fork_bomb(checks, tenant, port).await
}

/// Engines before 28 repeat the names as given, later ones with `CAP_`.
fn bare(names: Option<Vec<String>>) -> String {
    let names = names.unwrap_or_default();
    names.iter().map(|n| n.trim_start_matches("CAP_")).collect::<Vec<_>>().join(" ")
}

/// The same limits in the kernel's files (cgroup 2, or the names of cgroup 1).
async fn check_kernel(checks: &mut Checks, tenant: &TenantContainer) -> Result<()> {
    for (what, files, expected) in [
        ("CPU in force", "cpu.max cpu/cpu.cfs_quota_us", "200000"),
        ("memory in force", "memory.max memory/memory.limit_in_bytes", "4294967296"),
        ("processes in force", "pids.max pids/pids.max", "512"),
    ] {
        let script =
            format!("cd /sys/fs/cgroup; cat {files} 2>/dev/null | head -n 1 | cut -d ' ' -f 1");
        checks.equal(what, expected, tenant.exec_shell("agent", &script).await?.text);
    }
    Ok(())
}

async fn check_fork_bomb(checks: &mut Checks, tenant: &TenantContainer, port: u16) -> Result<()> {
    let bomb = r#"my @all; for (1..2000) { my $p = fork; last if !defined $p;
        if (!$p) { sleep 60; exit } push @all, $p }
        print scalar @all; kill 9, @all; waitpid $_, 0 for @all;"#;
    let ran = tenant.exec_perl("agent", bomb).await?;
    let forks: u32 = ran.text.parse().unwrap_or_default();
    let bounded = (400..512).contains(&forks);
    checks.holds("a fork bomb ends at the bound", "under 512 forks", ran.text, bounded);
    let response = Endpoint::Port(port).get("/.cial/api/healthz", &[]).await?;
    checks.equal("and the tenant answers after it", 200, response.status);
    Ok(())
}

/// Calls whose objects the kernel counts per user over all containers: what one tenant took, every other one would lack.
const REFUSED: &str = r#"require "syscall.ph";
    for (["msgget", &SYS_msgget, 0, 01600], ["mq_open", &SYS_mq_open, "cial", 0101, 0600, 0],
         ["add_key", &SYS_add_key, "user", "cial", "x", 1, -3], ["keyctl", &SYS_keyctl, 0, -3, 1]) {
        my ($name, $number, @arguments) = @$_;
        print "$name " if syscall($number, @arguments) >= 0 or !$!{EPERM};
    }"#;
/// Forks to the bound, makes room for a few commands, and holds the rest until it is released.
const HOG: &str = r#"my @all; while (1) { my $p = fork; last if !defined $p;
        if (!$p) { sleep 300; exit } push @all, $p }
    my @room = splice @all, 0, 20; kill 9, @room; waitpid $_, 0 for @room;
    open my $held, ">", "/tmp/held"; close $held;
    for (1..600) { last if -e "/tmp/release"; select undef, undef, undef, 0.2 }
    print scalar @all; kill 9, @all; waitpid $_, 0 for @all;"#;
const TRY: &str = r#"my @all; for (1..200) { my $p = fork; last if !defined $p;
        if (!$p) { sleep 300; exit } push @all, $p }
    print scalar @all; kill 9, @all; waitpid $_, 0 for @all;"#;

/// One tenant takes all that it gets, then another one with the same users tries.
pub(crate) async fn check_neighbors(
    checks: &mut Checks,
    hog: &TenantContainer,
    neighbor: &TenantContainer,
) -> Result<()> {
    checks.equal("no queue and no key", "", hog.exec_perl("agent", REFUSED).await?.text);
    let neighbors = async {
        let held = async || {
            let looked = hog.exec_shell("agent", "test -e /tmp/held").await.ok()?;
            (looked.exit_code == 0).then_some(())
        };
        hog.wait_for("the first tenant holds its processes", held).await?;
        let got = neighbor.exec_perl("agent", TRY).await;
        hog.exec_shell("agent", "touch /tmp/release").await?;
        got
    };
    let (held, got) = tokio::join!(hog.exec_perl("agent", HOG), neighbors);
    let held: u32 = held?.text.parse().unwrap_or_default();
    checks.holds("the first tenant held all it got", "over 400", held, held > 400);
    checks.equal("and another one got all it asked for", "200", got?.text);
    Ok(())
}
