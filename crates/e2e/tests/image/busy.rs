//! Busy declarations: each half declares inside over its own socket, the orchestrator reads them,
//! and no other process can reach them.

use anyhow::Result;
use e2e::Checks;
use serde_json::{Value, json};
use testkit::Response;
use testkit::engine::{Endpoint, TenantContainer};

const CORE: &str = "/run/cial/core/busy.sock";
const AGENT: &str = "/run/cial/agent/busy.sock";
const ORCHESTRATOR: &str = "/run/cial/ingress/busy.sock";
/// Live declarations that `agent` may have.
const QUOTA: usize = 16;

pub(crate) async fn check(checks: &mut Checks, tenant: &TenantContainer, port: u16) -> Result<()> {
    let core = Endpoint::Inside { tenant, user: "cial", socket: CORE };
    let agent = Endpoint::Inside { tenant, user: "agent", socket: AGENT };
    let orchestrator = Endpoint::Inside { tenant, user: "cial", socket: ORCHESTRATOR };
    for (endpoint, reason) in [(core, "smoke of core"), (agent, "smoke of agent")] {
        let seen = declare(endpoint, reason).await?;
        checks.equal(&format!("{reason} is declared"), 201, seen.status);
    }
    let both = "smoke of core (core), smoke of agent (agent)";
    checks.equal("the orchestrator reads both", both, list(orchestrator).await?);
    checks.equal("the core sees both", both, list(core).await?);
    checks.equal("agent sees its own", "smoke of agent (agent)", list(agent).await?);
    let seen = declare(orchestrator, "by the router").await?;
    checks.equal("nobody declares over the orchestrator's socket", 405, seen.status);
    check_socket(checks, tenant).await?;
    for endpoint in [Endpoint::Port(port), Endpoint::Ingress(tenant)] {
        check_edge(checks, endpoint).await?;
    }
    checks.equal("and nothing came of it", both, list(orchestrator).await?);
    check_quota(checks, agent).await
}

/// The socket that `agent` uses belongs to the core: `agent` can neither remove nor replace it.
async fn check_socket(checks: &mut Checks, tenant: &TenantContainer) -> Result<()> {
    let stat = ["stat", "-c", "%U:%G %a", "/run/cial/agent", AGENT];
    let seen = tenant.exec("agent", &stat).await?.text.replace('\n', ", ");
    checks.equal("owner of agent's socket", "cial:agent 750, cial:agent 660", seen);
    for command in [
        format!("rm {AGENT}"),
        format!("mv {AGENT} /run/cial/agent/other"),
        format!("ln -sf /tmp/mine {AGENT}"),
        format!("chmod 0777 {AGENT}"),
        "touch /run/cial/agent/x".to_owned(),
        "mv /run/cial/agent /run/cial/gone".to_owned(),
        format!("ls {CORE}"),
        format!("ls {ORCHESTRATOR}"),
    ] {
        let ran = tenant.exec_shell("agent", &command).await?;
        let denied = ["Permission denied", "Operation not permitted", "Read-only", "busy"];
        let holds = ran.exit_code != 0 && denied.iter().any(|word| ran.text.contains(word));
        checks.holds(&format!("agent cannot {command}"), "denied", ran.text, holds);
    }
    Ok(())
}

/// No declaration can be read or made through the edge.
async fn check_edge(checks: &mut Checks, endpoint: Endpoint<'_>) -> Result<()> {
    for (method, path) in [
        ("GET", "/.cial/api/busy"),
        ("POST", "/.cial/api/busy"),
        ("PUT", "/.cial/api/busy/0192f0c1-2345-7abc-8def-0123456789ab"),
        ("DELETE", "/.cial/api/busy/0192f0c1-2345-7abc-8def-0123456789ab"),
        ("GET", "/busy"),
        ("POST", "/busy"),
    ] {
        let seen = call(endpoint, method, path, &declaration("of another process")).await?;
        let code = seen.json()["code"].as_str().unwrap_or_default().to_owned();
        let seen = format!("{} {code}", seen.status);
        checks.equal(&format!("{method} {path} is nothing"), "404 not_found", seen);
    }
    Ok(())
}

async fn check_quota(checks: &mut Checks, agent: Endpoint<'_>) -> Result<()> {
    for _ in 1..QUOTA {
        declare(agent, "smoke of the quota").await?;
    }
    let seen = declare(agent, "one too many").await?;
    let seen = format!("{} {}", seen.status, seen.json()["code"]);
    checks.equal("agent has a quota", "429 \"busy_quota\"", seen);
    Ok(())
}

async fn declare(endpoint: Endpoint<'_>, reason: &str) -> Result<Response> {
    call(endpoint, "POST", "/busy", &declaration(reason)).await
}

fn declaration(reason: &str) -> Value {
    json!({ "reason": reason, "ttl_seconds": 900 })
}

/// The declarations that a socket lists, as `reason (owner)`.
async fn list(endpoint: Endpoint<'_>) -> Result<String> {
    let seen = call(endpoint, "GET", "/busy", &Value::Null).await?;
    let busy = seen.json()["busy"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let each = busy.iter().map(|one| format!("{} ({})", text(&one["reason"]), text(&one["owner"])));
    Ok(each.collect::<Vec<_>>().join(", "))
}

async fn call(endpoint: Endpoint<'_>, method: &str, path: &str, body: &Value) -> Result<Response> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    endpoint.call(method, path, &["host: localhost"], &body).await
}
