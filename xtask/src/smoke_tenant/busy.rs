//! Who keeps the tenant awake: declared inside by each half over its own socket, told to the orchestrator, and out
//! of reach for everyone else.

use anyhow::Result;
use serde_json::{Value, json};

use super::report::Report;
use super::stage::Tenant;
use super::wire::{Answer, Way, send};

const CORE: &str = "/run/cial/core/busy.sock";
const AGENT: &str = "/run/cial/agent/busy.sock";
const ORCHESTRATOR: &str = "/run/cial/ingress/busy.sock";
/// Live declarations that `agent` may have.
const QUOTA: usize = 16;

pub(crate) async fn check(report: &mut Report, tenant: &Tenant, port: u16) -> Result<()> {
    let core = Way::Inside { tenant, user: "cial", socket: CORE };
    let agent = Way::Inside { tenant, user: "agent", socket: AGENT };
    let orchestrator = Way::Inside { tenant, user: "cial", socket: ORCHESTRATOR };
    for (way, reason) in [(core, "smoke of core"), (agent, "smoke of agent")] {
        let seen = declare(way, reason).await?;
        report.same("X6", &format!("{reason} is declared"), 201, seen.status);
    }
    let both = "smoke of core (core), smoke of agent (agent)";
    report.same("X6", "the orchestrator is told both", both, list(orchestrator).await?);
    report.same("X6", "the core sees both", both, list(core).await?);
    report.same("X6", "agent sees its own", "smoke of agent (agent)", list(agent).await?);
    let seen = declare(orchestrator, "by the router").await?;
    report.same("X6", "where the orchestrator asks, nobody declares", 405, seen.status);
    check_socket(report, tenant).await?;
    for way in [Way::Port(port), Way::Socket(tenant)] {
        check_strangers(report, way).await?;
    }
    report.same("X6", "and nothing came of it", both, list(orchestrator).await?);
    check_quota(report, agent).await
}

/// The socket that `agent` uses is the core's: it cannot be taken away, nor can another be put in its place.
async fn check_socket(report: &mut Report, tenant: &Tenant) -> Result<()> {
    let stat = ["stat", "-c", "%U:%G %a", "/run/cial/agent", AGENT];
    let seen = tenant.run("agent", &stat).await?.out.replace('\n', ", ");
    report.same("X6", "whose agent's socket is", "cial:agent 750, cial:agent 660", seen);
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
        let ran = tenant.sh("agent", &command).await?;
        let denied = ["Permission denied", "Operation not permitted", "Read-only", "busy"];
        let holds = ran.code != 0 && denied.iter().any(|word| ran.out.contains(word));
        report.holds("X6", &format!("agent cannot {command}"), "denied", ran.out, holds);
    }
    Ok(())
}

/// Through the edge there is nothing of it, whoever asks.
async fn check_strangers(report: &mut Report, way: Way<'_>) -> Result<()> {
    for (method, path) in [
        ("GET", "/.cial/api/busy"),
        ("POST", "/.cial/api/busy"),
        ("PUT", "/.cial/api/busy/0192f0c1-2345-7abc-8def-0123456789ab"),
        ("DELETE", "/.cial/api/busy/0192f0c1-2345-7abc-8def-0123456789ab"),
        ("GET", "/busy"),
        ("POST", "/busy"),
    ] {
        let seen = call(way, method, path, &wish("of a stranger")).await?;
        let code = json_of(&seen)["code"].as_str().unwrap_or_default().to_owned();
        let seen = format!("{} {code}", seen.status);
        report.same("X6", &format!("{method} {path} is nothing"), "404 not_found", seen);
    }
    Ok(())
}

async fn check_quota(report: &mut Report, agent: Way<'_>) -> Result<()> {
    for _ in 1..QUOTA {
        declare(agent, "smoke of the quota").await?;
    }
    let seen = declare(agent, "one too many").await?;
    let seen = format!("{} {}", seen.status, json_of(&seen)["code"]);
    report.same("X6", "agent has a quota", "429 \"busy_quota\"", seen);
    Ok(())
}

async fn declare(way: Way<'_>, reason: &str) -> Result<Answer> {
    call(way, "POST", "/busy", &wish(reason)).await
}

fn wish(reason: &str) -> Value {
    json!({ "reason": reason, "ttl_seconds": 900 })
}

/// What is told, as `reason (owner)`.
async fn list(way: Way<'_>) -> Result<String> {
    let seen = call(way, "GET", "/busy", &Value::Null).await?;
    let busy = json_of(&seen)["busy"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let each = busy.iter().map(|one| format!("{} ({})", text(&one["reason"]), text(&one["owner"])));
    Ok(each.collect::<Vec<_>>().join(", "))
}

async fn call(way: Way<'_>, method: &str, path: &str, body: &Value) -> Result<Answer> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    send(way, request.as_bytes()).await
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_default()
}
