//! Creates, starts and stops one tenant's container, and adopts the remains of an earlier attempt.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bollard::Docker as Client;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, ContainerUpdateBody};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
    WaitContainerOptionsBuilder,
};
use futures_util::StreamExt as _;
use protocol::TenantId;
use protocol::id::labels;
use protocol::spec::Spec;

use super::engine::{
    ACTION_TIMEOUT, INSPECT_TIMEOUT, driver_error, optional, status, with_timeout,
};
use super::network::Network;
use super::wrap::TenantImage;
use super::{DockerDriver, disk_error, start_error, template};
use crate::driver::Driver as _;
use crate::driver::{
    AppliedLimits, ContainerStatus, DriverError, DriverErrorCode, RunState, STOP_TIMEOUT,
};
use crate::quota::VolumeUse;

const MAX_PORT_ATTEMPTS: u32 = 3;
/// How long a tenant may take to respond after an unpause before the engine receives the unpause
/// call again.
const UNPAUSE_PROBE_TIMEOUT: Duration = Duration::from_millis(200);
const MAX_UNPAUSE_ATTEMPTS: u32 = 5;

/// The treatment of an existing container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContainerAction {
    Reuse,
    Recreate,
}

/// The facts that decide whether a container is reused.
#[derive(Clone, Copy, Debug)]
struct ContainerFacts {
    is_alive: bool,
    /// The engine is already removing the container.
    is_leaving: bool,
    generation_matches: bool,
    /// The container differs from its template, its image tag or its surroundings.
    has_drifted: bool,
    network: NetworkFacts,
}

/// The tenant's network, as seen from its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NetworkFacts {
    /// The container never started, and the engine resolves its network by name at its first start.
    NotJoinedYet,
    /// The network that the container joined at its last start.
    Joined,
    /// The network that the container joined is gone, or another network has its name now.
    Replaced,
    /// The network exists, but was created with other settings of the installation.
    Outdated,
}

fn choose_action(facts: ContainerFacts) -> ContainerAction {
    if facts.is_leaving || !facts.generation_matches {
        return ContainerAction::Recreate;
    }
    if facts.is_alive {
        // An unrequested start would interrupt the tenant's visitors.
        return ContainerAction::Reuse;
    }
    let network_fits = match facts.network {
        NetworkFacts::NotJoinedYet | NetworkFacts::Joined => true,
        NetworkFacts::Replaced | NetworkFacts::Outdated => false,
    };
    if facts.has_drifted || !network_fits {
        ContainerAction::Recreate
    } else {
        ContainerAction::Reuse
    }
}

fn network_facts(joined_network: &str, found: Option<&Network>) -> NetworkFacts {
    match found {
        Some(network) if !network.fits => NetworkFacts::Outdated,
        _ if joined_network.is_empty() => NetworkFacts::NotJoinedYet,
        Some(network) if network.id == joined_network => NetworkFacts::Joined,
        Some(_) | None => NetworkFacts::Replaced,
    }
}

impl DockerDriver {
    pub(super) async fn ensure_container(
        &self,
        spec: &Spec,
    ) -> Result<ContainerStatus, DriverError> {
        let client = self.engine.client().await?;
        let image = self.tenant_image(&client, spec).await?;
        // The second attempt runs only if another process created the container after our
        // inspection.
        for _ in 0..2 {
            if let Some(status) = self.try_ensure_container(&client, spec, &image).await? {
                drop(image);
                if spec.app.is_some() && status.run == RunState::Created {
                    // The container may have replaced the last one of another release.
                    self.remove_unused_images(&client, None).await;
                }
                return Ok(status);
            }
        }
        let detail = format!("The name {} is taken, yet nothing has it.", spec.id.container());
        Err(DriverError::new(DriverErrorCode::NameTaken, detail))
    }

    async fn try_ensure_container(
        &self,
        client: &Client,
        spec: &Spec,
        image: &TenantImage<'_>,
    ) -> Result<Option<ContainerStatus>, DriverError> {
        let name = spec.id.container();
        let Some(container) =
            optional(INSPECT_TIMEOUT, client.inspect_container(&name, None)).await?
        else {
            self.refuse_new_below_reserve(client, spec.id).await?;
            return self.create_all(client, spec, image).await;
        };
        let (image_now, network) = tokio::try_join!(
            optional(INSPECT_TIMEOUT, client.inspect_image(&image.tag)),
            self.find_network(client, spec.id),
        )?;
        let image_now = image_now.and_then(|i| i.id);
        self.claim("container", &name, labels_of(&container), spec.id)?;
        let status = self.inspected_status(spec.id, &container, image_now.as_deref()).await?;
        let facts = ContainerFacts {
            is_alive: status.run.is_alive(),
            is_leaving: is_leaving(&container),
            generation_matches: status.generation == spec.generation,
            has_drifted: !status.drift.is_empty(),
            network: network_facts(joined_network(&container, spec.id), network.as_ref()),
        };
        match choose_action(facts) {
            ContainerAction::Recreate => {
                // A refusal must not end what runs.
                self.check_start(spec)?;
                if status.run.is_alive() {
                    self.stop_container(spec.id).await?;
                }
                self.remove_container(client, &status.container).await?;
                self.create_all(client, spec, image).await
            }
            ContainerAction::Reuse => {
                if network.is_none() {
                    self.create_network(client, spec.id).await?;
                }
                self.create_volumes(client, spec.id).await?;
                let volume_use =
                    if status.run.is_alive() { VolumeUse::Mounted } else { VolumeUse::Unmounted };
                self.quotas.set(spec.id, spec.limits.disk_bytes, volume_use).await;
                let wanted = AppliedLimits::from(spec.limits);
                if status.limits != Some(wanted) {
                    self.apply_limits(client, &name, template::limits(spec.limits)).await?;
                }
                Ok(Some(ContainerStatus { limits: Some(wanted), ..status }))
            }
        }
    }

    /// Creates the network concurrently with the rest, because the network takes longest. Returns
    /// `None` when the name is already taken.
    async fn create_all(
        &self,
        client: &Client,
        spec: &Spec,
        image: &TenantImage<'_>,
    ) -> Result<Option<ContainerStatus>, DriverError> {
        let network = self.create_network(client, spec.id);
        let container = async {
            self.create_volumes(client, spec.id).await?;
            // Before the engine fills them from the image, for the container that it creates.
            self.quotas.set(spec.id, spec.limits.disk_bytes, VolumeUse::New).await;
            self.create_container_for(client, spec, image).await
        };
        // `try_join` would abandon the other call; both calls finish, so that a retry finds
        // complete objects.
        let (network, container) = tokio::join!(network, container);
        network?;
        let created = |container| ContainerStatus {
            id: spec.id,
            generation: spec.generation,
            container,
            run: RunState::Created,
            ready: false,
            started_at: None,
            port: None,
            upstream: None,
            limits: Some(AppliedLimits::from(spec.limits)),
            drift: BTreeSet::new(),
        };
        Ok(container?.map(created))
    }

    pub(super) async fn create_volumes(
        &self,
        client: &Client,
        id: TenantId,
    ) -> Result<(), DriverError> {
        let one = async |name: String| {
            let labels = self.template.labels(id);
            let made = client.create_volume(self.template.volume(&name, labels));
            let volume = with_timeout(ACTION_TIMEOUT, made).await?;
            self.claim("volume", &name, &volume.labels, id)
        };
        tokio::try_join!(one(id.data_volume()), one(id.files_volume()))?;
        Ok(())
    }

    async fn create_container_for(
        &self,
        client: &Client,
        spec: &Spec,
        image: &TenantImage<'_>,
    ) -> Result<Option<String>, DriverError> {
        let paths = self.engine_side_dirs().await?.of(spec.id);
        // The engine requires that the sources of binds exist at this point.
        self.create_dirs(spec).await?;
        let named = CreateContainerOptionsBuilder::default().name(&spec.id.container()).build();
        let body = self.template.container(spec, &paths, image);
        let made =
            tokio::time::timeout(ACTION_TIMEOUT, client.create_container(Some(named), body)).await;
        match made {
            Ok(Ok(made)) => Ok(Some(made.id)),
            Ok(Err(error)) if status(&error) == Some(409) => Ok(None),
            Ok(Err(error)) => Err(driver_error(&error)),
            Err(_) => Err(driver_error(&Error::RequestTimeoutError)),
        }
    }

    /// Creates the directories of a container that does not run.
    async fn create_dirs(&self, spec: &Spec) -> Result<(), DriverError> {
        let id = spec.id;
        let had_database = self.database_proxy.serves(id);
        self.tenant_dirs.create(spec).map_err(|error| start_error(spec, &error))?;
        if had_database || self.database_proxy.serves(id) {
            self.database_proxy.follow_directory(id).await;
        }
        Ok(())
    }

    async fn apply_limits(
        &self,
        client: &Client,
        name: &str,
        limits: ContainerUpdateBody,
    ) -> Result<(), DriverError> {
        with_timeout(ACTION_TIMEOUT, client.update_container(name, limits)).await
    }

    pub(super) async fn start_container(
        &self,
        spec: &Spec,
    ) -> Result<ContainerStatus, DriverError> {
        let id = spec.id;
        let client = self.engine.client().await?;
        let (name, before) = self.inspect_owned(&client, id).await?;
        match before.run {
            RunState::Running | RunState::Restarting => return Ok(before),
            RunState::Paused => {
                self.unpause(&client, &name, id).await?;
                return self.inspect_status(&client, id).await;
            }
            RunState::Created | RunState::Exited(_) => {}
        }
        self.create_dirs(spec).await?;
        self.probes.expect_start(id, &before.container).map_err(|e| disk_error(&e))?;
        if let Err(error) = self.start_with_free_port(&client, &name).await {
            self.probes.close(id);
            if error.detail.contains("marked for removal") {
                // Somebody is removing the container by hand; after that removal, none is left.
                self.remove_container(&client, &before.container).await?;
                return Err(DriverError::no_such_tenant(id));
            }
            return Err(error);
        }
        let after = with_timeout(INSPECT_TIMEOUT, client.inspect_container(&name, None)).await?;
        self.inspected_status(id, &after, None).await
    }

    /// Starts the container. Another process may take a free port between the engine's choice and
    /// its bind.
    async fn start_with_free_port(&self, client: &Client, name: &str) -> Result<(), DriverError> {
        let mut tries = MAX_PORT_ATTEMPTS;
        loop {
            tries -= 1;
            match with_timeout(ACTION_TIMEOUT, client.start_container(name, None)).await {
                Err(error) if error.code == DriverErrorCode::PortConflict && tries > 0 => {}
                done => return done,
            }
        }
    }

    pub(super) async fn stop_container(
        &self,
        id: TenantId,
    ) -> Result<ContainerStatus, DriverError> {
        let client = self.engine.client().await?;
        let (name, before) = self.inspect_owned(&client, id).await?;
        if !before.run.is_alive() {
            return Ok(before);
        }
        if before.run == RunState::Paused {
            // A paused container ignores the signal, so the engine would wait in vain and then kill
            // it.
            self.unpause(&client, &name, id).await?;
        }
        let seconds = i32::try_from(STOP_TIMEOUT.as_secs()).unwrap_or(i32::MAX);
        let stop_options = StopContainerOptionsBuilder::default().t(seconds).build();
        with_timeout(ACTION_TIMEOUT, client.stop_container(&name, Some(stop_options))).await?;
        self.database_proxy.end_connections(id).await;
        self.inspect_status(&client, id).await
    }

    pub(super) async fn freeze_container(
        &self,
        id: TenantId,
    ) -> Result<ContainerStatus, DriverError> {
        let client = self.engine.client().await?;
        let (name, before) = self.inspect_owned(&client, id).await?;
        if before.run == RunState::Paused {
            return Ok(before);
        }
        match with_timeout(ACTION_TIMEOUT, client.pause_container(&name)).await {
            Err(error) if !error.detail.contains("already paused") => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // After the pause: nothing that still runs could connect again.
        self.database_proxy.end_connections(id).await;
        let mut status = self.inspect_status(&client, id).await?;
        // The engine's own record may be stale.
        if status.run == RunState::Running {
            status.run = RunState::Paused;
        }
        Ok(status)
    }

    pub(super) async fn thaw_container(&self, id: TenantId) -> Result<(), DriverError> {
        let client = self.engine.client().await?;
        // A running or paused container was seen before with our labels, so its id belongs to no
        // other container.
        if let Some(container) = self.probes.container(id) {
            match self.unpause(&client, &container, id).await {
                // The container was created again without us, so look it up by name.
                Err(error) if error.detail.contains("No such container") => {}
                done => return done,
            }
        }
        let (name, before) = self.inspect_owned(&client, id).await?;
        if before.run == RunState::Paused {
            self.unpause(&client, &name, id).await?;
        }
        Ok(())
    }

    /// The engine's record may lag behind its own calls. Right after a pause, the engine may report
    /// that the container "is not paused", and right after an unpause that it is. A tenant that
    /// does not respond is therefore unpaused again; after the last attempt, the engine's report
    /// counts.
    async fn unpause(&self, client: &Client, name: &str, id: TenantId) -> Result<(), DriverError> {
        for _ in 0..MAX_UNPAUSE_ATTEMPTS {
            match with_timeout(ACTION_TIMEOUT, client.unpause_container(name)).await {
                Err(error) if runs_already(&error.detail) => {}
                done => return done,
            }
            if tokio::time::timeout(UNPAUSE_PROBE_TIMEOUT, self.probes.wait_until_responsive(id))
                .await
                .is_ok()
            {
                break;
            }
        }
        Ok(())
    }

    /// Inspects the tenant's container, which must exist and be ours.
    async fn inspect_owned(
        &self,
        client: &Client,
        id: TenantId,
    ) -> Result<(String, ContainerStatus), DriverError> {
        let name = id.container();
        let container = optional(INSPECT_TIMEOUT, client.inspect_container(&name, None)).await?;
        let container = container.ok_or_else(|| DriverError::no_such_tenant(id))?;
        self.claim("container", &name, labels_of(&container), id)?;
        Ok((name, self.inspected_status(id, &container, None).await?))
    }

    async fn inspect_status(
        &self,
        client: &Client,
        id: TenantId,
    ) -> Result<ContainerStatus, DriverError> {
        self.inspect_owned(client, id).await.map(|(_, status)| status)
    }

    pub(super) async fn inspect_tenant(
        &self,
        id: TenantId,
    ) -> Result<Option<ContainerStatus>, DriverError> {
        let client = self.engine.client().await?;
        let name = id.container();
        let Some(container) =
            optional(INSPECT_TIMEOUT, client.inspect_container(&name, None)).await?
        else {
            return Ok(None);
        };
        if !self.template.owns_for(labels_of(&container), id) {
            return Ok(None);
        }
        let image = match labels_of(&container).get(template::IMAGE_LABEL) {
            Some(tag) => {
                optional(INSPECT_TIMEOUT, client.inspect_image(tag)).await?.and_then(|i| i.id)
            }
            None => None,
        };
        self.inspected_status(id, &container, image.as_deref()).await.map(Some)
    }

    /// Removes the container by force, with the anonymous volumes that its image may declare.
    pub(super) async fn remove_container(
        &self,
        client: &Client,
        container: &str,
    ) -> Result<(), DriverError> {
        let whole = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match optional(ACTION_TIMEOUT, client.remove_container(container, Some(whole))).await {
            // Another removal is in progress; wait for its end.
            Err(error) if error.detail.contains("is already in progress") => {
                let removed = WaitContainerOptionsBuilder::default().condition("removed").build();
                let mut ends = client.wait_container(container, Some(removed));
                let end = async {
                    match ends.next().await.transpose() {
                        // The exit code arrives as an error; only the end matters here.
                        Ok(_) | Err(Error::DockerContainerWaitError { .. }) => Ok(()),
                        Err(error) => Err(error),
                    }
                };
                optional(ACTION_TIMEOUT, end).await.map(|_| ())
            }
            done => done.map(|_| ()),
        }
    }
}

fn runs_already(refusal: &str) -> bool {
    refusal.contains("is not paused") || refusal.contains("cannot resume a running")
}

fn is_leaving(container: &ContainerInspectResponse) -> bool {
    use ContainerStateStatusEnum::{DEAD, REMOVING};
    let status = container.state.as_ref().and_then(|s| s.status);
    matches!(status, Some(REMOVING | DEAD))
}

pub(super) fn labels_of(container: &ContainerInspectResponse) -> &HashMap<String, String> {
    static NONE: std::sync::LazyLock<HashMap<String, String>> =
        std::sync::LazyLock::new(HashMap::new);
    container.config.as_ref().and_then(|c| c.labels.as_ref()).unwrap_or(&NONE)
}

pub(super) fn generation_of(found: &HashMap<String, String>) -> i64 {
    found.get(labels::GENERATION).and_then(|text| text.parse().ok()).unwrap_or(-1)
}

/// The id of the network that the container joined at its last start; empty before its first start.
fn joined_network(container: &ContainerInspectResponse, id: TenantId) -> &str {
    let networks = container.network_settings.as_ref().and_then(|s| s.networks.as_ref());
    let endpoint = networks.and_then(|n| n.get(&id.network()));
    endpoint.and_then(|e| e.network_id.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_container_is_reused_only_where_it_fits() {
        let stopped = ContainerFacts {
            is_alive: false,
            is_leaving: false,
            generation_matches: true,
            has_drifted: false,
            network: NetworkFacts::Joined,
        };
        let running = ContainerFacts { is_alive: true, ..stopped };
        let older = ContainerFacts { generation_matches: false, ..stopped };
        let drifted = ContainerFacts { has_drifted: true, ..stopped };
        let network = |network| ContainerFacts { network, ..stopped };
        let table = [
            ("it fits", stopped, ContainerAction::Reuse),
            (
                "being removed",
                ContainerFacts { is_leaving: true, ..stopped },
                ContainerAction::Recreate,
            ),
            ("another generation", older, ContainerAction::Recreate),
            (
                "an older one runs",
                ContainerFacts { is_alive: true, ..older },
                ContainerAction::Recreate,
            ),
            ("drifted, stopped", drifted, ContainerAction::Recreate),
            (
                "drifted, running",
                ContainerFacts { has_drifted: true, ..running },
                ContainerAction::Reuse,
            ),
            ("never started", network(NetworkFacts::NotJoinedYet), ContainerAction::Reuse),
            ("network replaced", network(NetworkFacts::Replaced), ContainerAction::Recreate),
            ("network outdated", network(NetworkFacts::Outdated), ContainerAction::Recreate),
            (
                "network replaced, running",
                ContainerFacts { is_alive: true, ..network(NetworkFacts::Replaced) },
                ContainerAction::Reuse,
            ),
        ];
        for (what, facts, expected) in table {
            assert_eq!(choose_action(facts), expected, "{what}");
        }
    }

    #[test]
    fn a_network_that_was_never_joined_is_not_one_that_was_lost() {
        let network = |id: &str, fits| Network { id: id.to_owned(), fits };
        let table = [
            ("", None, NetworkFacts::NotJoinedYet),
            ("", Some(network("n1", true)), NetworkFacts::NotJoinedYet),
            ("", Some(network("n1", false)), NetworkFacts::Outdated),
            ("n1", Some(network("n1", true)), NetworkFacts::Joined),
            ("n1", Some(network("n1", false)), NetworkFacts::Outdated),
            ("n1", Some(network("n2", true)), NetworkFacts::Replaced),
            ("n1", None, NetworkFacts::Replaced),
        ];
        for (joined, found, expected) in table {
            assert_eq!(network_facts(joined, found.as_ref()), expected, "{joined:?} {expected:?}");
        }
    }
}
