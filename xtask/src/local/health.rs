//! Checks whether every service is up and healthy, and explains why a service cannot be.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use docker_command::{ActionableError, Container};

use super::installation::Installation;
use crate::environment::now;

const TIMEOUT: Duration = Duration::from_secs(120);
const INTERVAL: Duration = Duration::from_millis(300);
/// A service that the engine restarted this often does not come up by itself.
const MAX_RESTARTS: i64 = 4;
/// Lines of a log that explain a failure.
const LOG_LINES: usize = 12;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServiceHealth {
    Healthy,
    /// Not healthy yet, with a description.
    Waiting(String),
    /// The service does not get healthy by itself, with a description.
    Broken(String),
}

type Services = BTreeMap<&'static str, ServiceHealth>;

/// Waits until every service is healthy. A broken service ends the wait with the end of its log.
pub(super) fn wait(installation: &Installation) -> Result<()> {
    let deadline = now() + TIMEOUT;
    loop {
        let (services, is_late) = (services(installation)?, now() > deadline);
        for (service, health) in &services {
            let why = match health {
                ServiceHealth::Broken(why) => why.clone(),
                ServiceHealth::Waiting(why) if is_late => {
                    format!("{why} after {} s", TIMEOUT.as_secs())
                }
                ServiceHealth::Waiting(_) | ServiceHealth::Healthy => continue,
            };
            return Err(explain(installation, service, &why).into());
        }
        if services.values().all(|health| *health == ServiceHealth::Healthy) {
            return Ok(());
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Describes each service that is not healthy.
pub(crate) fn unhealthy(installation: &Installation) -> Result<Vec<String>> {
    let services = services(installation)?.into_iter();
    let unhealthy = services.filter(|(_, health)| *health != ServiceHealth::Healthy);
    Ok(unhealthy.map(|(service, health)| format!("{service} {}", health.describe())).collect())
}

impl ServiceHealth {
    pub(super) fn describe(&self) -> &str {
        match self {
            Self::Healthy => "is healthy",
            Self::Waiting(why) | Self::Broken(why) => why,
        }
    }
}

/// Returns the health of each service that must run.
pub(super) fn services(installation: &Installation) -> Result<Services> {
    let found = installation.objects().services()?;
    let health = |service| {
        let container = found.iter().find(|container| container.service() == service);
        container.map_or(ServiceHealth::Waiting("has no container".to_owned()), health_of)
    };
    Ok(installation.services().map(|service| (service, health(service))).collect())
}

fn health_of(container: &Container) -> ServiceHealth {
    let state = container.state();
    let health = state["Health"]["Status"].as_str().unwrap_or("none");
    let code = state["ExitCode"].as_i64().unwrap_or_default();
    if container.restart_count() >= MAX_RESTARTS && health != "healthy" {
        return ServiceHealth::Broken(format!("keeps ending, last with exit code {code}"));
    }
    match (container.status(), health) {
        ("running", "healthy") => ServiceHealth::Healthy,
        ("running", health) => ServiceHealth::Waiting(format!("is {health}")),
        ("exited" | "dead", _) => ServiceHealth::Broken(format!("ended with exit code {code}")),
        (other, _) => ServiceHealth::Waiting(format!("is {other}")),
    }
}

fn explain(installation: &Installation, service: &str, why: &str) -> ActionableError {
    let container = installation.objects().service(service);
    let log = container.map(|found| found.last_lines(LOG_LINES)).unwrap_or_default();
    let fix = format!(
        "act on its last lines above, then run local-up again; all of them: cargo xtask local-logs {service}"
    );
    ActionableError::new(format!("{service} {why}\n{log}"), fix)
}

/// Returns the last lines of every container that failed or is unhealthy, for cases where compose
/// itself gave up.
pub(super) fn failed_logs(installation: &Installation) -> String {
    let found = installation.objects().services().unwrap_or_default();
    let is_fine = |container: &&Container| match health_of(container) {
        ServiceHealth::Healthy => true,
        ServiceHealth::Broken(_) => container.state()["ExitCode"] == 0,
        ServiceHealth::Waiting(_) => false,
    };
    let failed = found.iter().filter(|container| !is_fine(container));
    failed.map(|found| format!("{}:\n{}", found.service(), found.last_lines(LOG_LINES))).collect()
}

#[test]
fn only_a_running_healthy_container_is_healthy() {
    let cases = [
        ("running", "healthy", 0, 0, "Healthy"),
        ("running", "healthy", 0, 9, "Healthy"),
        ("running", "starting", 0, 0, r#"Waiting("is starting")"#),
        ("running", "unhealthy", 0, 0, r#"Waiting("is unhealthy")"#),
        ("restarting", "none", 64, 1, r#"Waiting("is restarting")"#),
        ("restarting", "none", 64, 4, r#"Broken("keeps ending, last with exit code 64")"#),
        ("exited", "none", 1, 0, r#"Broken("ended with exit code 1")"#),
    ];
    for (status, health, exit_code, restart_count, expected) in cases {
        let container = Container::read(&serde_json::json!({
            "State": { "Status": status, "ExitCode": exit_code, "Health": { "Status": health } },
            "RestartCount": restart_count,
        }));
        assert_eq!(format!("{:?}", health_of(&container)), expected);
    }
}
