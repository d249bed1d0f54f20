//! Translates the engine's inspections and lists into our own small record.

use std::collections::{BTreeSet, HashMap, HashSet};

use bollard::Docker as Client;
use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum, EndpointSettings, MountPoint,
};
use bollard::query_parameters::ListContainersOptionsBuilder;
use futures_util::StreamExt as _;
use futures_util::stream;
use protocol::id::labels;
use protocol::orchestrator::{Drift, Upstream};
use protocol::{TenantId, Timestamp, inside};

use super::container::{generation_of, labels_of};
use super::engine::{INSPECT_TIMEOUT, optional, with_timeout};
use super::{DockerDriver, template};
use crate::driver::{ContainerStatus, DriverError, ExitStatus, RunState};
use crate::tenant_dirs::DirRoots;

impl DockerDriver {
    pub(super) async fn list_all(&self) -> Result<Vec<ContainerStatus>, DriverError> {
        let client = self.engine.client().await?;
        let dirs = self.engine_side_dirs().await?;
        let ours = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&self.template.filters(None))
            .build();
        let containers = with_timeout(INSPECT_TIMEOUT, client.list_containers(Some(ours))).await?;
        let tags: HashSet<String> = containers.iter().filter_map(image_tag).collect();
        let images = resolve_images(&client, tags).await?;
        Ok(containers.into_iter().filter_map(|c| self.summary_status(dirs, c, &images)).collect())
    }

    fn summary_status(
        &self,
        dirs: &DirRoots,
        container: ContainerSummary,
        images: &HashMap<String, String>,
    ) -> Option<ContainerStatus> {
        let tagged_image = image_tag(&container).and_then(|tag| images.get(&tag));
        let labels = container.labels?;
        let id: TenantId = labels.get(labels::TENANT)?.parse().ok()?;
        // A container with the tenant's label under another name is not the tenant.
        let name = format!("/{}", id.container());
        if !container.names.unwrap_or_default().contains(&name) {
            return None;
        }
        let run = summary_run(container.state?, container.status.as_deref().unwrap_or_default());
        let port = container.ports.unwrap_or_default().iter().find_map(|p| {
            (p.private_port == inside::INGRESS_PORT).then_some(p.public_port).flatten()
        });
        let networks = container.network_settings.and_then(|settings| settings.networks);
        let drift = self.drift_of(
            dirs,
            id,
            &Observed {
                image_outdated: tagged_image
                    .is_some_and(|id| Some(id) != container.image_id.as_ref()),
                labels: &labels,
                networks: networks.as_ref(),
                mounts: container.mounts.as_deref().unwrap_or_default(),
            },
        );
        Some(self.complete_status(ContainerStatus {
            id,
            generation: generation_of(&labels),
            container: container.id?,
            run,
            ready: false,
            started_at: None,
            port,
            upstream: None,
            limits: None,
            drift,
        }))
    }

    /// Inspects a container. `tagged_image` is the id of the image that the container's tag names
    /// now, if known.
    pub(super) async fn inspected_status(
        &self,
        id: TenantId,
        container: &ContainerInspectResponse,
        tagged_image: Option<&str>,
    ) -> Result<ContainerStatus, DriverError> {
        let dirs = self.engine_side_dirs().await?;
        let state = container.state.clone().unwrap_or_default();
        let started_at = state.started_at.as_deref().and_then(parse_time);
        let settings = container.network_settings.as_ref();
        let ports = settings.and_then(|s| s.ports.as_ref());
        let bindings = ports.and_then(|p| p.get(&format!("{}/tcp", inside::INGRESS_PORT)));
        let binding = bindings.and_then(|b| b.as_ref()).and_then(|b| b.first());
        let port = binding.and_then(|b| b.host_port.as_ref()).and_then(|p| p.parse().ok());
        let drift = self.drift_of(
            dirs,
            id,
            &Observed {
                image_outdated: tagged_image.is_some_and(|i| Some(i) != container.image.as_deref()),
                labels: labels_of(container),
                networks: settings.and_then(|s| s.networks.as_ref()),
                mounts: container.mounts.as_deref().unwrap_or_default(),
            },
        );
        Ok(self.complete_status(ContainerStatus {
            id,
            generation: generation_of(labels_of(container)),
            container: container.id.clone().unwrap_or_default(),
            run: inspected_run(&state),
            ready: false,
            started_at,
            port,
            upstream: None,
            limits: container.host_config.as_ref().map(template::applied_limits),
            drift,
        }))
    }

    fn drift_of(&self, dirs: &DirRoots, id: TenantId, observed: &Observed<'_>) -> BTreeSet<Drift> {
        let paths = dirs.of(id);
        let checks = [
            (Drift::Image, !observed.image_outdated),
            (Drift::Settings, self.template_matches(observed.labels)),
            (Drift::Network, template::networks_match(id, observed.networks)),
            (Drift::Mounts, template::mounts_match(id, &paths, observed.mounts)),
            (Drift::Labels, template::labels_match(observed.labels)),
        ];
        checks.into_iter().filter(|(_, matches)| !matches).map(|(drift, _)| drift).collect()
    }

    /// Adds the orchestrator's own knowledge of a running container: its readiness and its address.
    fn complete_status(&self, mut status: ContainerStatus) -> ContainerStatus {
        let id = status.id;
        if !status.run.is_alive() {
            status.port = None;
            return status;
        }
        if let Err(error) = self.probes.expect(id, &status.container) {
            // The directory is gone: nobody can reach the tenant, so it counts as not ready.
            tracing::warn!(tenant = %id, %error, "ingress directory cannot be watched");
        }
        status.ready = self.probes.is_ready(id, &status.container);
        let socket = self.tenant_dirs.ingress_socket(id).display().to_string();
        status.upstream = Some(Upstream::Unix(socket));
        status
    }
}

/// The facts about a container's surroundings that both an inspection and a list show.
struct Observed<'a> {
    image_outdated: bool,
    labels: &'a HashMap<String, String>,
    networks: Option<&'a HashMap<String, EndpointSettings>>,
    mounts: &'a [MountPoint],
}

fn image_tag(container: &ContainerSummary) -> Option<String> {
    container.labels.as_ref()?.get(template::IMAGE_LABEL).cloned()
}

/// Resolves the id that each tag names now. Few tags serve all tenants.
async fn resolve_images(
    client: &Client,
    tags: HashSet<String>,
) -> Result<HashMap<String, String>, DriverError> {
    let inspections = stream::iter(tags).map(|tag| async move {
        let image = optional(INSPECT_TIMEOUT, client.inspect_image(&tag)).await?;
        Ok::<_, DriverError>((tag, image.and_then(|i| i.id)))
    });
    let results: Vec<_> = inspections.buffer_unordered(8).collect().await;
    let mut images = HashMap::new();
    for result in results {
        let (tag, id) = result?;
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
            at: state.finished_at.as_deref().and_then(parse_time),
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

/// Parses the status text of a list: `Exited (137) 3 minutes ago`.
fn exit_code(status: &str) -> i64 {
    let inner = status.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    inner.and_then(|(code, _)| code.parse().ok()).unwrap_or_default()
}

/// The engine writes year 1 for "never".
fn parse_time(text: &str) -> Option<Timestamp> {
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
        assert_eq!(parse_time("0001-01-01T00:00:00Z"), None);
        assert!(parse_time("2026-11-22T04:00:00.123456789Z").is_some());
    }
}
