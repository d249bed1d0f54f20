//! Making, starting and stopping one tenant's container; adopting what an earlier try has left.

use std::collections::HashMap;
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
use super::{DockerDriver, disk_error, template};
use crate::driver::{ContainerStatus, DriverError, DriverErrorCode, RunState, STOP_TIMEOUT};

const MAX_PORT_ATTEMPTS: u32 = 3;
/// For one that is not frozen to answer.
const UNPAUSE_PROBE_TIMEOUT: Duration = Duration::from_millis(200);
const MAX_UNPAUSE_ATTEMPTS: u32 = 5;

/// What is to be done with a container that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContainerAction {
    Reuse,
    Recreate,
}

/// What decides a container's fate.
#[derive(Clone, Copy, Debug)]
struct Facts<'a> {
    alive: bool,
    /// The engine is taking it away already.
    leaving: bool,
    generation: i64,
    wanted_generation: i64,
    image: &'a str,
    /// What the wanted tag names now; `None` when it names nothing.
    wanted_image: Option<&'a str>,
    /// The id of the network it was last started in; empty before its first start.
    pinned_network: &'a str,
    network: Option<&'a str>,
    /// It and its network were made with the flags of this installation as it is now.
    template_matches: bool,
}

fn choose_action(facts: Facts<'_>) -> ContainerAction {
    if facts.leaving || facts.generation != facts.wanted_generation {
        return ContainerAction::Recreate;
    }
    if facts.alive {
        return ContainerAction::Reuse;
    }
    let image_moved = facts.wanted_image.is_some_and(|id| id != facts.image);
    let network_moved =
        !facts.pinned_network.is_empty() && facts.network != Some(facts.pinned_network);
    if image_moved || network_moved || !facts.template_matches {
        ContainerAction::Recreate
    } else {
        ContainerAction::Reuse
    }
}

impl DockerDriver {
    pub(super) async fn ensure_container(
        &self,
        spec: &Spec,
    ) -> Result<ContainerStatus, DriverError> {
        let client = self.engine.client().await?;
        // A second turn only if somebody else made the container between our look and our try.
        for _ in 0..2 {
            if let Some(status) = self.try_ensure_container(&client, spec).await? {
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
    ) -> Result<Option<ContainerStatus>, DriverError> {
        let name = spec.id.container();
        let Some(container) =
            optional(INSPECT_TIMEOUT, client.inspect_container(&name, None)).await?
        else {
            return self.create_all(client, spec).await;
        };
        let (image, network) = tokio::try_join!(
            optional(INSPECT_TIMEOUT, client.inspect_image(self.template.image(spec))),
            self.find_network(client, spec.id),
        )?;
        let image = image.and_then(|i| i.id);
        self.claim("container", &name, labels_of(&container), spec.id)?;
        let status = self.status_of(spec.id, &container, image.as_deref());
        let pinned = pinned_network(&container, spec.id);
        let facts = Facts {
            alive: status.run.is_alive(),
            leaving: is_leaving(&container),
            generation: status.generation,
            wanted_generation: spec.generation,
            image: container.image.as_deref().unwrap_or_default(),
            wanted_image: image.as_deref(),
            pinned_network: pinned,
            network: network.as_ref().map(|network| network.id.as_str()),
            template_matches: !status.template_outdated
                && network.as_ref().is_none_or(|network| network.fits),
        };
        match choose_action(facts) {
            ContainerAction::Recreate => {
                if status.run.is_alive() {
                    self.stop_container(spec.id).await?;
                }
                self.remove_container(client, &status.container).await?;
                self.create_all(client, spec).await
            }
            ContainerAction::Reuse => {
                if network.is_none() {
                    self.make_network(client, spec.id).await?;
                }
                self.make_volumes(client, spec.id).await?;
                let host = container.host_config.unwrap_or_default();
                if !template::limits_fit(&host, spec.limits) {
                    self.apply_limits(client, &name, template::limits(spec.limits)).await?;
                }
                Ok(Some(status))
            }
        }
    }

    /// The network beside the rest: it is what takes longest. `None` when the name is taken by now.
    async fn create_all(
        &self,
        client: &Client,
        spec: &Spec,
    ) -> Result<Option<ContainerStatus>, DriverError> {
        let network = self.make_network(client, spec.id);
        let container = async {
            self.make_volumes(client, spec.id).await?;
            self.make_container(client, spec).await
        };
        // Not `try_join`: what was begun is brought to its end, so that a retry meets it whole.
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
            image_outdated: false,
            template_outdated: false,
        };
        Ok(container?.map(created))
    }

    async fn make_volumes(&self, client: &Client, id: TenantId) -> Result<(), DriverError> {
        let one = async |name: String| {
            let labels = self.template.labels(id);
            let made = client.create_volume(self.template.volume(&name, labels));
            let volume = with_timeout(ACTION_TIMEOUT, made).await?;
            self.claim("volume", &name, &volume.labels, id)
        };
        tokio::try_join!(one(id.data_volume()), one(id.files_volume()))?;
        Ok(())
    }

    async fn make_container(
        &self,
        client: &Client,
        spec: &Spec,
    ) -> Result<Option<String>, DriverError> {
        let (ingress, secrets) = self.dirs_of(spec.id).await?;
        // The engine wants the sources of binds to exist already now.
        self.tenant_dirs.create(spec.id).map_err(|e| disk_error(&e))?;
        let named = CreateContainerOptionsBuilder::default().name(&spec.id.container()).build();
        let body = self.template.container(spec, &ingress, &secrets);
        let made =
            tokio::time::timeout(ACTION_TIMEOUT, client.create_container(Some(named), body)).await;
        match made {
            Ok(Ok(made)) => Ok(Some(made.id)),
            Ok(Err(error)) if status(&error) == Some(409) => Ok(None),
            Ok(Err(error)) => Err(driver_error(&error)),
            Err(_) => Err(driver_error(&Error::RequestTimeoutError)),
        }
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
        id: TenantId,
    ) -> Result<ContainerStatus, DriverError> {
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
        self.tenant_dirs.create(id).map_err(|e| disk_error(&e))?;
        self.probes.expect_anew(id, &before.container).map_err(|e| disk_error(&e))?;
        if let Err(error) = self.start_with_free_port(&client, &name).await {
            self.probes.close(id);
            if error.detail.contains("marked for removal") {
                // By somebody's hand, just now: when that is done, there is none.
                self.remove_container(&client, &before.container).await?;
                return Err(DriverError::no_such_tenant(id));
            }
            return Err(error);
        }
        let after = with_timeout(INSPECT_TIMEOUT, client.inspect_container(&name, None)).await?;
        Ok(self.status_of(id, &after, None))
    }

    /// A free port may be taken by another process between the engine's choice and its bind.
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
            // The engine would wait in vain and then kill it.
            self.unpause(&client, &name, id).await?;
        }
        let seconds = i32::try_from(STOP_TIMEOUT.as_secs()).unwrap_or(i32::MAX);
        let patience = StopContainerOptionsBuilder::default().t(seconds).build();
        with_timeout(ACTION_TIMEOUT, client.stop_container(&name, Some(patience))).await?;
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
        let mut status = self.inspect_status(&client, id).await?;
        // The engine's own record may be behind.
        if status.run == RunState::Running {
            status.run = RunState::Paused;
        }
        Ok(status)
    }

    pub(super) async fn thaw_container(&self, id: TenantId) -> Result<(), DriverError> {
        let client = self.engine.client().await?;
        // One that runs or is paused was status before, with our labels: its id is that of nobody else.
        if let Some(container) = self.probes.container(id) {
            match self.unpause(&client, &container, id).await {
                // Made anew past us: look for it by its name.
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

    /// An engine hears late of what it did: right after a pause it may say of the container that it "is not paused", right
    /// after an unpause that it is. What does not answer is therefore asked for again; in the end the engine is believed.
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

    /// The tenant's container, which must exist and be ours.
    async fn inspect_owned(
        &self,
        client: &Client,
        id: TenantId,
    ) -> Result<(String, ContainerStatus), DriverError> {
        let name = id.container();
        let container = optional(INSPECT_TIMEOUT, client.inspect_container(&name, None)).await?;
        let container = container.ok_or_else(|| DriverError::no_such_tenant(id))?;
        self.claim("container", &name, labels_of(&container), id)?;
        Ok((name, self.status_of(id, &container, None)))
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
        Ok(Some(self.status_of(id, &container, image.as_deref())))
    }

    /// Force, and with the anonymous volumes that an image may have asked for.
    pub(super) async fn remove_container(
        &self,
        client: &Client,
        container: &str,
    ) -> Result<(), DriverError> {
        let whole = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match optional(ACTION_TIMEOUT, client.remove_container(container, Some(whole))).await {
            // Somebody else is at it: wait for the end of that.
            Err(error) if error.detail.contains("is already in progress") => {
                let removed = WaitContainerOptionsBuilder::default().condition("removed").build();
                let mut ends = client.wait_container(container, Some(removed));
                let end = async {
                    match ends.next().await.transpose() {
                        // How it ended is told as an error; that it ended is all that matters here.
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

fn pinned_network(container: &ContainerInspectResponse, id: TenantId) -> &str {
    let networks = container.network_settings.as_ref().and_then(|s| s.networks.as_ref());
    let endpoint = networks.and_then(|n| n.get(&id.network()));
    endpoint.and_then(|e| e.network_id.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_a_container_that_is_met() {
        let rests = Facts {
            alive: false,
            leaving: false,
            generation: 3,
            wanted_generation: 3,
            image: "sha256:a",
            wanted_image: Some("sha256:a"),
            pinned_network: "n1",
            network: Some("n1"),
            template_matches: true,
        };
        let runs = Facts { alive: true, ..rests };
        let table = [
            ("it fits", rests, ContainerAction::Reuse),
            ("being removed", Facts { leaving: true, ..rests }, ContainerAction::Recreate),
            (
                "another generation",
                Facts { wanted_generation: 4, ..rests },
                ContainerAction::Recreate,
            ),
            (
                "an older one runs",
                Facts { wanted_generation: 4, ..runs },
                ContainerAction::Recreate,
            ),
            (
                "rebuilt, rests",
                Facts { wanted_image: Some("sha256:b"), ..rests },
                ContainerAction::Recreate,
            ),
            (
                "rebuilt, runs",
                Facts { wanted_image: Some("sha256:b"), ..runs },
                ContainerAction::Reuse,
            ),
            (
                "its tag names nothing",
                Facts { wanted_image: None, ..rests },
                ContainerAction::Reuse,
            ),
            (
                "network made anew",
                Facts { network: Some("n2"), ..rests },
                ContainerAction::Recreate,
            ),
            ("network gone", Facts { network: None, ..rests }, ContainerAction::Recreate),
            (
                "other flags, rests",
                Facts { template_matches: false, ..rests },
                ContainerAction::Recreate,
            ),
            (
                "other flags, runs",
                Facts { template_matches: false, ..runs },
                ContainerAction::Reuse,
            ),
            (
                "never started",
                Facts { pinned_network: "", network: None, ..rests },
                ContainerAction::Reuse,
            ),
        ];
        for (what, facts, expected) in table {
            assert_eq!(choose_action(facts), expected, "{what}");
        }
    }
}
