//! The engine's answers as our own small record: from an inspection and from a list.

use std::collections::{HashMap, HashSet};

use bollard::Docker as Client;
use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum,
};
use bollard::query_parameters::ListContainersOptionsBuilder;
use futures_util::StreamExt as _;
use futures_util::stream;
use protocol::id::labels;
use protocol::orchestrator::Upstream;
use protocol::{TenantId, Timestamp, inside};

use super::container::{generation_of, labels_of};
use super::engine::{INSPECT_TIMEOUT, optional, with_timeout};
use super::{DockerDriver, template};
use crate::driver::{ContainerStatus, DriverError, ExitStatus, RunState};

impl DockerDriver {
    pub(super) async fn list_all(&self) -> Result<Vec<ContainerStatus>, DriverError> {
        let client = self.engine.client().await?;
        let ours = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&self.template.filters(None))
            .build();
        let containers = with_timeout(INSPECT_TIMEOUT, client.list_containers(Some(ours))).await?;
        let tags: HashSet<String> = containers.iter().filter_map(image_tag).collect();
        let images = images(&client, tags).await?;
        Ok(containers.into_iter().filter_map(|c| self.listed(c, &images)).collect())
    }

    fn listed(
        &self,
        container: ContainerSummary,
        images: &HashMap<String, String>,
    ) -> Option<ContainerStatus> {
        let wanted = image_tag(&container).and_then(|tag| images.get(&tag));
        let labels = container.labels?;
        let id: TenantId = labels.get(labels::TENANT)?.parse().ok()?;
        // Only the one of the right name is the tenant.
        let name = format!("/{}", id.container());
        if !container.names.unwrap_or_default().contains(&name) {
            return None;
        }
        let run = summary_run(container.state?, container.status.as_deref().unwrap_or_default());
        let port = container.ports.unwrap_or_default().iter().find_map(|p| {
            (p.private_port == inside::INGRESS_PORT).then_some(p.public_port).flatten()
        });
        let outdated = wanted.is_some_and(|id| Some(id) != container.image_id.as_ref());
        Some(self.record(Facts {
            id,
            generation: generation_of(&labels),
            container: container.id?,
            run,
            started_at: None,
            port,
            outdated,
            template_outdated: !self.template_matches(&labels),
        }))
    }

    /// `image`: what the tag of its image names now, where that is known.
    pub(super) fn status_of(
        &self,
        id: TenantId,
        container: &ContainerInspectResponse,
        image: Option<&str>,
    ) -> ContainerStatus {
        let state = container.state.clone().unwrap_or_default();
        let started_at = state.started_at.as_deref().and_then(moment);
        let ports = container.network_settings.as_ref().and_then(|s| s.ports.as_ref());
        let bindings = ports.and_then(|p| p.get(&format!("{}/tcp", inside::INGRESS_PORT)));
        let binding = bindings.and_then(|b| b.as_ref()).and_then(|b| b.first());
        let port = binding.and_then(|b| b.host_port.as_ref()).and_then(|p| p.parse().ok());
        self.record(Facts {
            id,
            generation: generation_of(labels_of(container)),
            container: container.id.clone().unwrap_or_default(),
            run: inspected_run(&state),
            started_at,
            port,
            outdated: image.is_some_and(|i| Some(i) != container.image.as_deref()),
            template_outdated: !self.template_matches(labels_of(container)),
        })
    }

    fn record(&self, facts: Facts) -> ContainerStatus {
        let Facts { id, generation, container, run, started_at, port, outdated, template_outdated } =
            facts;
        let alive = run.is_alive();
        if alive && let Err(error) = self.probes.expect(id, &container) {
            // It runs without its directory: nobody can reach it, which its state then shows.
            tracing::warn!(%id, %error, "no ingress directory to watch");
        }
        let socket = self.tenant_dirs.ingress_socket(id).display().to_string();
        ContainerStatus {
            id,
            generation,
            ready: alive && self.probes.is_ready(id, &container),
            container,
            run,
            started_at,
            port: port.filter(|_| alive),
            upstream: alive.then_some(Upstream::Unix(socket)),
            image_outdated: outdated,
            template_outdated,
        }
    }
}

struct Facts {
    id: TenantId,
    generation: i64,
    container: String,
    run: RunState,
    started_at: Option<Timestamp>,
    port: Option<u16>,
    outdated: bool,
    template_outdated: bool,
}

fn image_tag(container: &ContainerSummary) -> Option<String> {
    container.labels.as_ref()?.get(template::IMAGE_LABEL).cloned()
}

/// The id that each tag names now. Few tags serve all tenants.
async fn images(
    client: &Client,
    tags: HashSet<String>,
) -> Result<HashMap<String, String>, DriverError> {
    let asked = stream::iter(tags).map(|tag| async move {
        let image = optional(INSPECT_TIMEOUT, client.inspect_image(&tag)).await?;
        Ok::<_, DriverError>((tag, image.and_then(|i| i.id)))
    });
    let answers: Vec<_> = asked.buffer_unordered(8).collect().await;
    let mut images = HashMap::new();
    for answer in answers {
        let (tag, id) = answer?;
        images.extend(id.map(|id| (tag, id)));
    }
    Ok(images)
}

fn inspected_run(state: &ContainerState) -> RunState {
    use ContainerStateStatusEnum as S;
    match state.status {
        Some(S::CREATED) => RunState::Created,
        Some(S::RUNNING | S::STOPPING) => RunState::Running,
        Some(S::PAUSED) => RunState::Paused,
        Some(S::RESTARTING) => RunState::Restarting,
        Some(S::EXITED | S::DEAD | S::REMOVING | S::EMPTY) | None => RunState::Exited(ExitStatus {
            code: state.exit_code.unwrap_or_default(),
            out_of_memory: state.oom_killed.unwrap_or_default(),
            at: state.finished_at.as_deref().and_then(moment),
        }),
    }
}

fn summary_run(state: ContainerSummaryStateEnum, status: &str) -> RunState {
    use ContainerSummaryStateEnum as S;
    match state {
        S::CREATED => RunState::Created,
        S::RUNNING | S::STOPPING => RunState::Running,
        S::PAUSED => RunState::Paused,
        S::RESTARTING => RunState::Restarting,
        S::EXITED | S::DEAD | S::REMOVING | S::EMPTY => {
            RunState::Exited(ExitStatus { code: exit_code(status), out_of_memory: false, at: None })
        }
    }
}

/// From the words of a list: `Exited (137) 3 minutes ago`.
fn exit_code(status: &str) -> i64 {
    let inner = status.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    inner.and_then(|(code, _)| code.parse().ok()).unwrap_or_default()
}

/// The engine writes year 1 for "never".
fn moment(text: &str) -> Option<Timestamp> {
    let at = chrono::DateTime::parse_from_rfc3339(text).ok()?.to_utc();
    (at.timestamp() > 0).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_read_from_a_list() {
        assert_eq!(exit_code("Exited (137) 3 minutes ago"), 137);
        assert_eq!(exit_code("Exited (0) Less than a second ago"), 0);
        assert_eq!(exit_code("Dead"), 0);
    }

    #[test]
    fn never_is_no_moment() {
        assert_eq!(moment("0001-01-01T00:00:00Z"), None);
        assert!(moment("2026-11-22T04:00:00.123456789Z").is_some());
    }
}
