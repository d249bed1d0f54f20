//! Whether every service is up and healthy, and if one cannot be, which and why.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use bollard::Docker;
use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as Status, HealthStatusEnum as Health,
};

use super::engine;
use super::installation::{Installation, SERVICES};
use crate::fault::Fault;
use crate::world;

const PATIENCE: Duration = Duration::from_secs(120);
const INTERVAL: Duration = Duration::from_millis(200);
/// A service that the engine had to restart this often does not come up by itself.
const RESTARTS: i64 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Healthy,
    /// Not yet; in words.
    Waiting(String),
    /// It will not by itself; in words.
    Broken(String),
}

/// Waits until every service is healthy. One that cannot be ends the wait with the end of its log.
pub(super) async fn wait(docker: &Docker, installation: &Installation) -> Result<()> {
    let deadline = world::now() + PATIENCE;
    loop {
        let verdicts = look(docker, installation).await?;
        if verdicts.values().all(|verdict| *verdict == Verdict::Healthy) {
            return Ok(());
        }
        let broken = verdicts.iter().find(|(_, verdict)| matches!(verdict, Verdict::Broken(_)));
        if let Some((service, Verdict::Broken(why))) = broken {
            return Err(explain(docker, installation, service, why).await.into());
        }
        let waiting = verdicts.iter().find(|(_, verdict)| **verdict != Verdict::Healthy);
        if let Some((service, Verdict::Waiting(why))) = waiting
            && world::now() > deadline
        {
            let why = format!("{why} after {} s", PATIENCE.as_secs());
            return Err(explain(docker, installation, service, &why).await.into());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Each service that is not healthy, in words.
pub async fn unhealthy(docker: &Docker, installation: &Installation) -> Result<Vec<String>> {
    let verdicts = look(docker, installation).await?;
    let words = |(service, verdict): (&str, Verdict)| match verdict {
        Verdict::Healthy => None,
        Verdict::Waiting(why) | Verdict::Broken(why) => Some(format!("{service} {why}")),
    };
    Ok(verdicts.into_iter().filter_map(words).collect())
}

/// The verdict on each service that must run.
pub(super) async fn look(
    docker: &Docker,
    installation: &Installation,
) -> Result<BTreeMap<&'static str, Verdict>> {
    let found = engine::containers(docker, engine::of_project(installation)).await?;
    let mut verdicts = BTreeMap::new();
    for service in SERVICES {
        let container = found.iter().find(|container| engine::service(container) == service);
        let id = container.and_then(|container| container.id.as_deref());
        let verdict = match id {
            None => Verdict::Waiting("has no container".to_owned()),
            Some(id) => match docker.inspect_container(id, None).await {
                Ok(seen) => judge(&seen),
                Err(_) => Verdict::Waiting("was just replaced".to_owned()),
            },
        };
        verdicts.insert(service, verdict);
    }
    Ok(verdicts)
}

fn judge(seen: &ContainerInspectResponse) -> Verdict {
    let state = seen.state.clone().unwrap_or_default();
    let health = state.health.and_then(|health| health.status).unwrap_or(Health::NONE);
    let code = state.exit_code.unwrap_or_default();
    if seen.restart_count.unwrap_or_default() >= RESTARTS && health != Health::HEALTHY {
        return Verdict::Broken(format!("keeps ending, last with exit code {code}"));
    }
    match (state.status.unwrap_or(Status::EMPTY), health) {
        (Status::RUNNING, Health::HEALTHY) => Verdict::Healthy,
        (Status::RUNNING, health) => Verdict::Waiting(format!("is {health}")),
        (Status::EXITED | Status::DEAD, _) => {
            Verdict::Broken(format!("ended with exit code {code}"))
        }
        (other, _) => Verdict::Waiting(format!("is {other}")),
    }
}

async fn explain(docker: &Docker, installation: &Installation, service: &str, why: &str) -> Fault {
    let said = said_by(docker, installation, service).await;
    let fix = format!(
        "act on its last lines above, then run local-up again; all of them: cargo xtask local-logs {service}"
    );
    Fault::new(format!("{service} {why}\n{said}"), fix)
}

async fn said_by(docker: &Docker, installation: &Installation, service: &str) -> String {
    let found =
        engine::containers(docker, engine::of_project(installation)).await.unwrap_or_default();
    let container = found.into_iter().find(|container| engine::service(container) == service);
    match container.and_then(|container| container.id) {
        Some(id) => engine::last_lines(docker, &id, 12).await,
        None => String::new(),
    }
}

/// What every container that ended badly or is unhealthy said last: for when compose itself gave up.
pub(super) async fn post_mortem(docker: &Docker, installation: &Installation) -> String {
    let found =
        engine::containers(docker, engine::of_project(installation)).await.unwrap_or_default();
    let mut report = String::new();
    for container in &found {
        let id = container.id.as_deref().unwrap_or_default();
        let Ok(seen) = docker.inspect_container(id, None).await else { continue };
        let code = seen.state.as_ref().and_then(|state| state.exit_code).unwrap_or_default();
        let is_fine = judge(&seen) == Verdict::Healthy
            || (code == 0 && !matches!(judge(&seen), Verdict::Waiting(_)));
        if !is_fine {
            let said = engine::last_lines(docker, id, 12).await;
            report.push_str(&format!("{}:\n{said}", engine::service(container)));
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerState, Health as HealthState};

    use super::*;

    fn seen(status: Status, health: Health, code: i64, restarts: i64) -> ContainerInspectResponse {
        let health = HealthState { status: Some(health), ..HealthState::default() };
        let state = ContainerState {
            status: Some(status),
            exit_code: Some(code),
            health: Some(health),
            ..ContainerState::default()
        };
        ContainerInspectResponse {
            state: Some(state),
            restart_count: Some(restarts),
            ..ContainerInspectResponse::default()
        }
    }

    #[test]
    fn only_a_running_healthy_container_is_healthy() {
        let cases = [
            (seen(Status::RUNNING, Health::HEALTHY, 0, 0), "Healthy"),
            (seen(Status::RUNNING, Health::HEALTHY, 0, 9), "Healthy"),
            (seen(Status::RUNNING, Health::STARTING, 0, 0), r#"Waiting("is starting")"#),
            (seen(Status::RUNNING, Health::UNHEALTHY, 0, 0), r#"Waiting("is unhealthy")"#),
            (seen(Status::RESTARTING, Health::NONE, 64, 1), r#"Waiting("is restarting")"#),
            (
                seen(Status::RESTARTING, Health::NONE, 64, 4),
                r#"Broken("keeps ending, last with exit code 64")"#,
            ),
            (seen(Status::EXITED, Health::NONE, 1, 0), r#"Broken("ended with exit code 1")"#),
        ];
        for (container, expected) in cases {
            assert_eq!(format!("{:?}", judge(&container)), expected);
        }
    }
}
