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

use super::engine::{ACT, LOOK, found, refusal, status, within};
use super::{Docker, flags, on_disk};
use crate::driver::{Code, Refusal, Run, STOP_PATIENCE, Seen};

const PORTS_TRIED: u32 = 3;
/// For one that is not frozen to answer.
const HEARD: Duration = Duration::from_millis(200);
const THAWS_TRIED: u32 = 5;

/// What is to be done with a container that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    Anew,
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
    flags_fit: bool,
}

fn fate(facts: Facts<'_>) -> Fate {
    if facts.leaving || facts.generation != facts.wanted_generation {
        return Fate::Anew;
    }
    if facts.alive {
        return Fate::Keep;
    }
    let image_moved = facts.wanted_image.is_some_and(|id| id != facts.image);
    let network_moved =
        !facts.pinned_network.is_empty() && facts.network != Some(facts.pinned_network);
    if image_moved || network_moved || !facts.flags_fit { Fate::Anew } else { Fate::Keep }
}

impl Docker {
    pub(super) async fn ensure_container(&self, spec: &Spec) -> Result<Seen, Refusal> {
        let client = self.engine.client().await?;
        // A second turn only if somebody else made the container between our look and our try.
        for _ in 0..2 {
            if let Some(seen) = self.ensure_once(&client, spec).await? {
                return Ok(seen);
            }
        }
        let detail = format!("The name {} is taken, yet nothing has it.", spec.id.container());
        Err(Refusal::new(Code::NameTaken, detail))
    }

    async fn ensure_once(&self, client: &Client, spec: &Spec) -> Result<Option<Seen>, Refusal> {
        let name = spec.id.container();
        let Some(container) = found(LOOK, client.inspect_container(&name, None)).await? else {
            return self.make(client, spec).await;
        };
        let (image, network) = tokio::try_join!(
            found(LOOK, client.inspect_image(self.house.image(spec))),
            self.find_network(client, spec.id),
        )?;
        let image = image.and_then(|i| i.id);
        self.claim("container", &name, labels_of(&container), spec.id)?;
        let seen = self.seen(spec.id, &container, image.as_deref());
        let pinned = pinned_network(&container, spec.id);
        let facts = Facts {
            alive: seen.run.is_alive(),
            leaving: is_leaving(&container),
            generation: seen.generation,
            wanted_generation: spec.generation,
            image: container.image.as_deref().unwrap_or_default(),
            wanted_image: image.as_deref(),
            pinned_network: pinned,
            network: network.as_ref().map(|network| network.id.as_str()),
            flags_fit: !seen.flags_outdated && network.as_ref().is_none_or(|network| network.fits),
        };
        match fate(facts) {
            Fate::Anew => {
                if seen.run.is_alive() {
                    self.stop_container(spec.id).await?;
                }
                self.remove_container(client, &seen.container).await?;
                self.make(client, spec).await
            }
            Fate::Keep => {
                if network.is_none() {
                    self.make_network(client, spec.id).await?;
                }
                self.make_volumes(client, spec.id).await?;
                let host = container.host_config.unwrap_or_default();
                if !flags::limits_fit(&host, spec.limits) {
                    self.apply_limits(client, &name, flags::limits(spec.limits)).await?;
                }
                Ok(Some(seen))
            }
        }
    }

    /// The network beside the rest: it is what takes longest. `None` when the name is taken by now.
    async fn make(&self, client: &Client, spec: &Spec) -> Result<Option<Seen>, Refusal> {
        let network = self.make_network(client, spec.id);
        let container = async {
            self.make_volumes(client, spec.id).await?;
            self.make_container(client, spec).await
        };
        // Not `try_join`: what was begun is brought to its end, so that a retry meets it whole.
        let (network, container) = tokio::join!(network, container);
        network?;
        let created = |container| Seen {
            id: spec.id,
            generation: spec.generation,
            container,
            run: Run::Created,
            ready: false,
            started_at: None,
            port: None,
            upstream: None,
            image_outdated: false,
            flags_outdated: false,
        };
        Ok(container?.map(created))
    }

    async fn make_volumes(&self, client: &Client, id: TenantId) -> Result<(), Refusal> {
        let one = async |name: String| {
            let labels = self.house.labels(id);
            let made = client.create_volume(self.house.volume(&name, labels));
            let volume = within(ACT, made).await?;
            self.claim("volume", &name, &volume.labels, id)
        };
        tokio::try_join!(one(id.data_volume()), one(id.files_volume()))?;
        Ok(())
    }

    async fn make_container(
        &self,
        client: &Client,
        spec: &Spec,
    ) -> Result<Option<String>, Refusal> {
        let (ingress, secrets) = self.rooms_of(spec.id).await?;
        // The engine wants the sources of binds to exist already now.
        self.rooms.make(spec.id).map_err(|e| on_disk(&e))?;
        let named = CreateContainerOptionsBuilder::default().name(&spec.id.container()).build();
        let body = self.house.container(spec, &ingress, &secrets);
        let made = tokio::time::timeout(ACT, client.create_container(Some(named), body)).await;
        match made {
            Ok(Ok(made)) => Ok(Some(made.id)),
            Ok(Err(error)) if status(&error) == Some(409) => Ok(None),
            Ok(Err(error)) => Err(refusal(&error)),
            Err(_) => Err(refusal(&Error::RequestTimeoutError)),
        }
    }

    async fn apply_limits(
        &self,
        client: &Client,
        name: &str,
        limits: ContainerUpdateBody,
    ) -> Result<(), Refusal> {
        within(ACT, client.update_container(name, limits)).await
    }

    pub(super) async fn start_container(&self, id: TenantId) -> Result<Seen, Refusal> {
        let client = self.engine.client().await?;
        let (name, before) = self.inspected(&client, id).await?;
        match before.run {
            Run::Running | Run::Restarting => return Ok(before),
            Run::Paused => {
                self.unpause(&client, &name, id).await?;
                return self.seen_now(&client, id).await;
            }
            Run::Created | Run::Ended(_) => {}
        }
        self.rooms.make(id).map_err(|e| on_disk(&e))?;
        self.doors.expect_anew(id, &before.container).map_err(|e| on_disk(&e))?;
        if let Err(refusal) = self.start_somehow(&client, &name).await {
            self.doors.close(id);
            if refusal.detail.contains("marked for removal") {
                // By somebody's hand, just now: when that is done, there is none.
                self.remove_container(&client, &before.container).await?;
                return Err(Refusal::no_such_tenant(id));
            }
            return Err(refusal);
        }
        let after = within(LOOK, client.inspect_container(&name, None)).await?;
        Ok(self.seen(id, &after, None))
    }

    /// A free port may be taken by another process between the engine's choice and its bind.
    async fn start_somehow(&self, client: &Client, name: &str) -> Result<(), Refusal> {
        let mut tries = PORTS_TRIED;
        loop {
            tries -= 1;
            match within(ACT, client.start_container(name, None)).await {
                Err(refusal) if refusal.code == Code::PortConflict && tries > 0 => {}
                done => return done,
            }
        }
    }

    pub(super) async fn stop_container(&self, id: TenantId) -> Result<Seen, Refusal> {
        let client = self.engine.client().await?;
        let (name, before) = self.inspected(&client, id).await?;
        if !before.run.is_alive() {
            return Ok(before);
        }
        if before.run == Run::Paused {
            // The engine would wait in vain and then kill it.
            self.unpause(&client, &name, id).await?;
        }
        let seconds = i32::try_from(STOP_PATIENCE.as_secs()).unwrap_or(i32::MAX);
        let patience = StopContainerOptionsBuilder::default().t(seconds).build();
        within(ACT, client.stop_container(&name, Some(patience))).await?;
        self.seen_now(&client, id).await
    }

    pub(super) async fn freeze_container(&self, id: TenantId) -> Result<Seen, Refusal> {
        let client = self.engine.client().await?;
        let (name, before) = self.inspected(&client, id).await?;
        if before.run == Run::Paused {
            return Ok(before);
        }
        match within(ACT, client.pause_container(&name)).await {
            Err(refusal) if !refusal.detail.contains("already paused") => return Err(refusal),
            Ok(()) | Err(_) => {}
        }
        let mut seen = self.seen_now(&client, id).await?;
        // The engine's own record may be behind.
        if seen.run == Run::Running {
            seen.run = Run::Paused;
        }
        Ok(seen)
    }

    pub(super) async fn thaw_container(&self, id: TenantId) -> Result<(), Refusal> {
        let client = self.engine.client().await?;
        // One that runs or is paused was seen before, with our labels: its id is that of nobody else.
        if let Some(container) = self.doors.container(id) {
            match self.unpause(&client, &container, id).await {
                // Made anew past us: look for it by its name.
                Err(refusal) if refusal.detail.contains("No such container") => {}
                done => return done,
            }
        }
        let (name, before) = self.inspected(&client, id).await?;
        if before.run == Run::Paused {
            self.unpause(&client, &name, id).await?;
        }
        Ok(())
    }

    /// An engine hears late of what it did: right after a pause it may say of the container that it "is not paused", right
    /// after an unpause that it is. What does not answer is therefore asked for again; in the end the engine is believed.
    async fn unpause(&self, client: &Client, name: &str, id: TenantId) -> Result<(), Refusal> {
        for _ in 0..THAWS_TRIED {
            match within(ACT, client.unpause_container(name)).await {
                Err(refusal) if runs_already(&refusal.detail) => {}
                done => return done,
            }
            if tokio::time::timeout(HEARD, self.doors.answers(id)).await.is_ok() {
                break;
            }
        }
        Ok(())
    }

    /// The tenant's container, which must exist and be ours.
    async fn inspected(&self, client: &Client, id: TenantId) -> Result<(String, Seen), Refusal> {
        let name = id.container();
        let container = found(LOOK, client.inspect_container(&name, None)).await?;
        let container = container.ok_or_else(|| Refusal::no_such_tenant(id))?;
        self.claim("container", &name, labels_of(&container), id)?;
        Ok((name, self.seen(id, &container, None)))
    }

    async fn seen_now(&self, client: &Client, id: TenantId) -> Result<Seen, Refusal> {
        self.inspected(client, id).await.map(|(_, seen)| seen)
    }

    pub(super) async fn look_at(&self, id: TenantId) -> Result<Option<Seen>, Refusal> {
        let client = self.engine.client().await?;
        let name = id.container();
        let Some(container) = found(LOOK, client.inspect_container(&name, None)).await? else {
            return Ok(None);
        };
        if !self.house.owns_for(labels_of(&container), id) {
            return Ok(None);
        }
        let image = match labels_of(&container).get(flags::IMAGE_LABEL) {
            Some(tag) => found(LOOK, client.inspect_image(tag)).await?.and_then(|i| i.id),
            None => None,
        };
        Ok(Some(self.seen(id, &container, image.as_deref())))
    }

    /// Force, and with the anonymous volumes that an image may have asked for.
    pub(super) async fn remove_container(
        &self,
        client: &Client,
        container: &str,
    ) -> Result<(), Refusal> {
        let whole = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match found(ACT, client.remove_container(container, Some(whole))).await {
            // Somebody else is at it: wait for the end of that.
            Err(refusal) if refusal.detail.contains("is already in progress") => {
                let removed = WaitContainerOptionsBuilder::default().condition("removed").build();
                let mut ends = client.wait_container(container, Some(removed));
                let end = async {
                    match ends.next().await.transpose() {
                        // How it ended is told as an error; that it ended is all that matters here.
                        Ok(_) | Err(Error::DockerContainerWaitError { .. }) => Ok(()),
                        Err(error) => Err(error),
                    }
                };
                found(ACT, end).await.map(|_| ())
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
            flags_fit: true,
        };
        let runs = Facts { alive: true, ..rests };
        let table = [
            ("it fits", rests, Fate::Keep),
            ("being removed", Facts { leaving: true, ..rests }, Fate::Anew),
            ("another generation", Facts { wanted_generation: 4, ..rests }, Fate::Anew),
            ("an older one runs", Facts { wanted_generation: 4, ..runs }, Fate::Anew),
            ("rebuilt, rests", Facts { wanted_image: Some("sha256:b"), ..rests }, Fate::Anew),
            ("rebuilt, runs", Facts { wanted_image: Some("sha256:b"), ..runs }, Fate::Keep),
            ("its tag names nothing", Facts { wanted_image: None, ..rests }, Fate::Keep),
            ("network made anew", Facts { network: Some("n2"), ..rests }, Fate::Anew),
            ("network gone", Facts { network: None, ..rests }, Fate::Anew),
            ("other flags, rests", Facts { flags_fit: false, ..rests }, Fate::Anew),
            ("other flags, runs", Facts { flags_fit: false, ..runs }, Fate::Keep),
            ("never started", Facts { pinned_network: "", network: None, ..rests }, Fate::Keep),
        ];
        for (what, facts, expected) in table {
            assert_eq!(fate(facts), expected, "{what}");
        }
    }
}
