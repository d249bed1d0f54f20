//! The death of one service ends the container, and the engine restarts it; a stop drains, and the
//! container stays stopped.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bollard::query_parameters::{EventsOptionsBuilder, StopContainerOptionsBuilder};
use e2e::Checks;
use futures_util::StreamExt as _;
use testkit::engine::{Sandbox, TenantContainer};

use super::processes;
use super::websocket::{close_code, echo, open_websocket};

/// A step that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The time from just before the kill of a service to the end of the container, both by the clock
/// of the engine's machine.
const DEATH_TIMEOUT: Duration = Duration::from_secs(1);
/// The time from the call to stop a tenant to the call's return.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) async fn check_deaths(
    checks: &mut Checks,
    sandbox: &Sandbox,
    tenant: &TenantContainer,
) -> Result<()> {
    for (user, args) in [
        ("cial", "edge"),
        ("cial", "core back"),
        ("cial", "core front"),
        ("agent", "platform front"),
        ("agent", "platform back"),
    ] {
        check_death(checks, sandbox, tenant, user, args)
            .await
            .with_context(|| format!("killing {args}"))?;
    }
    Ok(())
}

async fn check_death(
    checks: &mut Checks,
    sandbox: &Sandbox,
    tenant: &TenantContainer,
    user: &str,
    args: &str,
) -> Result<()> {
    let mut death = kill(sandbox, tenant, user, args).await?;
    if death.took > DEATH_TIMEOUT {
        // A busy machine may delay one end; only a missing bound delays the next end, too.
        let next = kill(sandbox, tenant, user, args).await?;
        death = Death { was_port_taken: death.was_port_taken || next.was_port_taken, ..next };
    }
    let Death { code, took, was_port_taken } = death;
    checks.holds(
        &format!("the death of {args} ends the container with a failure"),
        "not 0",
        &code,
        code != "0",
    );
    let what = format!("nobody got the public port when {args} died");
    checks.equal(&what, false, was_port_taken);
    let what = format!("… within 1 s ({args})");
    checks.holds(&what, "≤ 1 s", format_args!("{took:?}"), took <= DEATH_TIMEOUT);
    let port = tenant.healthy_port().await?;
    checks.holds(&format!("and the tenant is back after {args}"), "healthy", port, true);
    Ok(())
}

/// The end of a container after the kill of one service.
struct Death {
    /// The exit code of the container.
    code: String,
    took: Duration,
    was_port_taken: bool,
}

/// Kills a service, and waits until the engine has restarted the container.
async fn kill(
    sandbox: &Sandbox,
    tenant: &TenantContainer,
    user: &str,
    args: &str,
) -> Result<Death> {
    tenant.healthy_port().await?;
    let restarts = async || tenant.inspect().await.ok()?.restart_count;
    let before = restarts().await.unwrap_or_default();
    let pid = processes::pid_of(tenant, args).await?;
    // The engine keeps its events, so the stream may be opened after the death.
    let since = tenant.exec("root", &["date", "+%s.%N"]).await?.text;
    let raced = tenant.exec_shell(user, &race(&pid)).await?;
    let filters = [("container", vec![tenant.id.clone()]), ("event", vec!["die".to_owned()])];
    let filters = filters.into_iter().collect();
    let options = EventsOptionsBuilder::default().since(&since).filters(&filters).build();
    let mut deaths = std::pin::pin!(sandbox.docker.events(Some(options)));
    let death = tokio::time::timeout(TIMEOUT, deaths.next()).await;
    let death = death.context("the container did not end")?.context("no more events")??;
    let ended = death.time_nano.context("an event without its time")?;
    let attributes = death.actor.and_then(|actor| actor.attributes).unwrap_or_default();
    let code = attributes.get("exitCode").cloned().unwrap_or_default();
    let (killed, was_port_taken) = read_race(&raced.text)?;
    let took = Duration::from_nanos(u64::try_from(ended - killed).unwrap_or(u64::MAX));
    tenant
        .wait_for("a restart", async || restarts().await.filter(|now| *now > before))
        .await
        .context("the engine did not start it again")?;
    Ok(Death { code, took, was_port_taken })
}

/// A script that prints the time, kills a process, then tries to take the public port for as long as the container
/// lives.
fn race(pid: &str) -> String {
    format!(
        r#"date +%s%N; exec perl -e 'use Socket; $| = 1; alarm 60; kill 9, {pid}; for (;;) {{
            socket(my $s, AF_INET, SOCK_STREAM, 0); setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1);
            if (bind($s, pack_sockaddr_in(8080, INADDR_ANY)) && listen($s, 1)) {{ print "bound"; sleep 1 }} }}'"#
    )
}

/// Parses the start of a race in nanoseconds, and whether it took the port. A race without output never ran.
fn read_race(out: &str) -> Result<(i64, bool)> {
    let (began, rest) = out.split_once('\n').unwrap_or((out, ""));
    let began = began.parse().with_context(|| format!("no race was run: {out:?}"))?;
    Ok((began, rest.contains("bound")))
}

/// Ends the tenant.
pub(crate) async fn check_drain(
    checks: &mut Checks,
    sandbox: &Sandbox,
    tenant: &TenantContainer,
) -> Result<()> {
    let port = tenant.healthy_port().await?;
    let mut sockets = Vec::new();
    for path in ["/ws", "/.cial/ws", "/.cial/api/ws"] {
        let mut socket = open_websocket(port, path, None).await?;
        echo(&mut socket, "before").await?;
        sockets.push((path, socket));
    }
    let closing: Vec<_> = sockets
        .into_iter()
        .map(|(path, socket)| (path, tokio::spawn(close_code(socket))))
        .collect();
    let options = StopContainerOptionsBuilder::default().t(15).build();
    let since = testkit::clock::now();
    sandbox.docker.stop_container(&tenant.id, Some(options)).await?;
    let took = since.elapsed();
    for (path, code) in closing {
        let code = code.await??;
        checks.equal(
            &format!("{path} receives the close code of a tenant that ends"),
            "Some(1001)",
            format_args!("{code:?}"),
        );
    }
    let state = tenant.inspect().await?.state.unwrap_or_default();
    let code = state.exit_code.unwrap_or(-1);
    checks.equal("a stop is no failure", 0, code);
    checks.equal("and final", false, state.running.unwrap_or_default());
    checks.holds("a stop has its bound", "≤ 10 s", format_args!("{took:?}"), took <= DRAIN_TIMEOUT);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_race_counts_only_when_it_ran() {
        assert_eq!(read_race("1800000000000000000").unwrap(), (1_800_000_000_000_000_000, false));
        assert!(read_race("1800000000000000000\nbound").unwrap().1);
        assert!(read_race("").is_err());
        assert!(read_race("OCI runtime exec failed").is_err());
    }
}
