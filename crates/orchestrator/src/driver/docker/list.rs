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
use super::engine::{LOOK, found, within};
use super::{Docker, flags};
use crate::driver::{Ended, Refusal, Run, Seen};

impl Docker {
    pub(super) async fn list_all(&self) -> Result<Vec<Seen>, Refusal> {
        let client = self.engine.client().await?;
        let ours = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&self.house.filters(None))
            .build();
        let containers = within(LOOK, client.list_containers(Some(ours))).await?;
        let tags: HashSet<String> = containers.iter().filter_map(image_tag).collect();
        let images = images(&client, tags).await?;
        Ok(containers.into_iter().filter_map(|c| self.listed(c, &images)).collect())
    }

    fn listed(
        &self,
        container: ContainerSummary,
        images: &HashMap<String, String>,
    ) -> Option<Seen> {
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
            flags_outdated: !self.flags_fit(&labels),
        }))
    }

    /// `image`: what the tag of its image names now, where that is known.
    pub(super) fn seen(
        &self,
        id: TenantId,
        container: &ContainerInspectResponse,
        image: Option<&str>,
    ) -> Seen {
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
            flags_outdated: !self.flags_fit(labels_of(container)),
        })
    }

    fn record(&self, facts: Facts) -> Seen {
        let Facts { id, generation, container, run, started_at, port, outdated, flags_outdated } =
            facts;
        let alive = run.is_alive();
        if alive && let Err(error) = self.doors.expect(id, &container) {
            // It runs without its directory: nobody can reach it, which its state then shows.
            tracing::warn!(%id, %error, "no ingress directory to watch");
        }
        let socket = self.rooms.socket(id).display().to_string();
        Seen {
            id,
            generation,
            ready: alive && self.doors.is_ready(id, &container),
            container,
            run,
            started_at,
            port: port.filter(|_| alive),
            upstream: alive.then_some(Upstream::Unix(socket)),
            image_outdated: outdated,
            flags_outdated,
        }
    }
}

struct Facts {
    id: TenantId,
    generation: i64,
    container: String,
    run: Run,
    started_at: Option<Timestamp>,
    port: Option<u16>,
    outdated: bool,
    flags_outdated: bool,
}

fn image_tag(container: &ContainerSummary) -> Option<String> {
    container.labels.as_ref()?.get(flags::IMAGE_LABEL).cloned()
}

/// The id that each tag names now. Few tags serve all tenants.
async fn images(
    client: &Client,
    tags: HashSet<String>,
) -> Result<HashMap<String, String>, Refusal> {
    let asked = stream::iter(tags).map(|tag| async move {
        let image = found(LOOK, client.inspect_image(&tag)).await?;
        Ok::<_, Refusal>((tag, image.and_then(|i| i.id)))
    });
    let answers: Vec<_> = asked.buffer_unordered(8).collect().await;
    let mut images = HashMap::new();
    for answer in answers {
        let (tag, id) = answer?;
        images.extend(id.map(|id| (tag, id)));
    }
    Ok(images)
}

fn inspected_run(state: &ContainerState) -> Run {
    use ContainerStateStatusEnum as S;
    match state.status {
        Some(S::CREATED) => Run::Created,
        Some(S::RUNNING | S::STOPPING) => Run::Running,
        Some(S::PAUSED) => Run::Paused,
        Some(S::RESTARTING) => Run::Restarting,
        Some(S::EXITED | S::DEAD | S::REMOVING | S::EMPTY) | None => Run::Ended(Ended {
            code: state.exit_code.unwrap_or_default(),
            out_of_memory: state.oom_killed.unwrap_or_default(),
            at: state.finished_at.as_deref().and_then(moment),
        }),
    }
}

fn summary_run(state: ContainerSummaryStateEnum, status: &str) -> Run {
    use ContainerSummaryStateEnum as S;
    match state {
        S::CREATED => Run::Created,
        S::RUNNING | S::STOPPING => Run::Running,
        S::PAUSED => Run::Paused,
        S::RESTARTING => Run::Restarting,
        S::EXITED | S::DEAD | S::REMOVING | S::EMPTY => {
            Run::Ended(Ended { code: exit_code(status), out_of_memory: false, at: None })
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
