//! What of one installation is on the engine: found by its labels, and nothing else is ever touched.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptionsBuilder,
    StopContainerOptionsBuilder,
};
use futures_util::StreamExt as _;
use futures_util::future::join_all;

use super::installation::Installation;

const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
/// PID 1 of a tenant drains for ten seconds.
pub const GRACE_SECONDS: i32 = 12;
/// For all that an engine has kept of a log.
const PATIENCE: Duration = Duration::from_secs(30);

/// Label filters: compose's containers of this installation.
pub(super) fn of_project(installation: &Installation) -> Vec<String> {
    of(&installation.project())
}

fn of(project: &String) -> Vec<String> {
    vec![format!("{PROJECT}={project}")]
}

/// The compose projects that serve this installation: its own, and whatever project has an orchestrator on its sockets
/// or has made its volumes. In order of their names.
pub async fn projects(docker: &Docker, installation: &Installation) -> Result<BTreeSet<String>> {
    let mut filters = by(vec!["cial.managed=1".to_owned(), format!("{SERVICE}=orchestrator")]);
    filters.insert("volume".to_owned(), vec![sockets(installation)]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let serving = docker.list_containers(Some(options)).await.context("cannot list containers")?;
    let serving = serving.into_iter().filter_map(|container| container.labels);
    let options =
        ListVolumesOptionsBuilder::default().filters(&by(of_tenants(installation))).build();
    let made = docker.list_volumes(Some(options)).await.context("cannot list volumes")?;
    let made = made.volumes.unwrap_or_default().into_iter().map(|volume| volume.labels);
    let found = serving.chain(made).filter_map(|mut labels| labels.remove(PROJECT));
    Ok(found.chain([installation.project()]).collect())
}

fn sockets(installation: &Installation) -> String {
    format!("cial-{}-sockets", installation.name)
}

/// Label filters: what the orchestrator made for this installation. Both labels, or it is not ours.
pub(super) fn of_tenants(installation: &Installation) -> Vec<String> {
    vec!["cial.managed=1".to_owned(), format!("cial.install={}", installation.name)]
}

/// Containers with all these labels, running or not, in order of their names.
pub(super) async fn containers(
    docker: &Docker,
    labels: Vec<String>,
) -> Result<Vec<ContainerSummary>> {
    let options = ListContainersOptionsBuilder::default().all(true).filters(&by(labels)).build();
    let found = docker.list_containers(Some(options)).await;
    let mut found = found.context("cannot list containers")?;
    found.sort_by_key(name);
    Ok(found)
}

pub(super) fn name(container: &ContainerSummary) -> String {
    let names = container.names.as_deref().unwrap_or_default();
    names.first().map(|name| name.trim_start_matches('/').to_owned()).unwrap_or_default()
}

pub(super) fn label<'a>(container: &'a ContainerSummary, label: &str) -> &'a str {
    container.labels.as_ref().and_then(|labels| labels.get(label)).map_or("", String::as_str)
}

pub(super) fn service(container: &ContainerSummary) -> &str {
    label(container, SERVICE)
}

/// The end of what a container said.
pub(super) async fn last_lines(docker: &Docker, id: &str, count: usize) -> String {
    said(docker, id, &count.to_string()).await
}

/// What a container said: so many lines of the end, or `all`.
pub(super) async fn said(docker: &Docker, id: &str, tail: &str) -> String {
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(tail).build();
    let chunks = docker.logs(id, Some(options)).collect::<Vec<_>>();
    let chunks = tokio::time::timeout(PATIENCE, chunks).await.unwrap_or_default();
    chunks.into_iter().flatten().map(|chunk| chunk.to_string()).collect()
}

/// The container of a service of this installation, which must be there.
pub async fn of_service(
    docker: &Docker,
    installation: &Installation,
    service: &str,
) -> Result<String> {
    let found = containers(docker, of_project(installation)).await?;
    let found = found.into_iter().find(|container| self::service(container) == service);
    found.and_then(|container| container.id).with_context(|| format!("{service} has no container"))
}

/// Every container of a tenant of this installation.
pub async fn of_tenant(
    docker: &Docker,
    installation: &Installation,
    slug: &str,
) -> Result<Vec<String>> {
    let mut labels = of_tenants(installation);
    labels.push(format!("cial.slug={slug}"));
    Ok(containers(docker, labels).await?.into_iter().filter_map(|container| container.id).collect())
}

/// Removes the volumes of compose's with names that end like this, and tells how many there were.
pub async fn remove_volumes(
    docker: &Docker,
    installation: &Installation,
    ending: &str,
) -> Result<usize> {
    let mut found = volumes(docker, of_project(installation)).await?;
    found.retain(|volume| volume.ends_with(ending));
    for volume in &found {
        remove_volume(docker, volume).await?;
    }
    Ok(found.len())
}

/// What was removed, and what could not be: one must not keep the other.
#[derive(Default)]
pub(super) struct Swept {
    pub(super) removed: Vec<String>,
    stays: Vec<anyhow::Error>,
}

impl Swept {
    pub(super) fn note(&mut self, thing: String, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.removed.push(thing),
            Err(error) => self.stays.push(error.context(format!("{thing} stays"))),
        }
    }

    /// What was removed, if nothing stays; otherwise all that does.
    pub(super) fn finish(self) -> Result<Vec<String>> {
        let stays: Vec<_> = self.stays.iter().map(|error| format!("{error:#}")).collect();
        ensure!(stays.is_empty(), "{}", stays.join("\n"));
        Ok(self.removed)
    }
}

/// Stops and removes every container and network of this installation that compose does not know, and the
/// volume of sockets, which holds nothing that outlives a start.
pub(super) async fn sweep(
    docker: &Docker,
    installation: &Installation,
    swept: &mut Swept,
) -> Result<()> {
    let found = containers(docker, of_tenants(installation)).await?;
    let removals = found.iter().map(|container| remove_container(docker, container));
    for (container, outcome) in found.iter().zip(join_all(removals).await) {
        swept.note(format!("container {}", name(container)), outcome);
    }
    for network in networks(docker, of_tenants(installation)).await? {
        let outcome = docker.remove_network(&network).await.map_err(Into::into);
        swept.note(format!("network {network}"), outcome);
    }
    let mut found = volumes(docker, of_tenants(installation)).await?;
    found.retain(|volume| *volume == sockets(installation));
    remove_all(docker, found, swept).await;
    Ok(())
}

/// Every container, network and volume that the orchestrator made for this installation.
pub async fn tenant_things(docker: &Docker, installation: &Installation) -> Result<Vec<String>> {
    let labels = || of_tenants(installation);
    let ours = |volume: &String| !volume.starts_with(&format!("cial-{}-", installation.name));
    let mut things: Vec<_> = containers(docker, labels()).await?.iter().map(name).collect();
    things.extend(networks(docker, labels()).await?);
    things.extend(volumes(docker, labels()).await?.into_iter().filter(ours));
    Ok(things)
}

/// Whatever of this installation is on the engine, made by compose or by the orchestrator.
pub async fn left(docker: &Docker, installation: &Installation) -> Result<Vec<String>> {
    let mut things = Vec::new();
    let projects = projects(docker, installation).await?;
    for labels in projects.iter().map(of).chain([of_tenants(installation)]) {
        things.extend(containers(docker, labels.clone()).await?.iter().map(name));
        things.extend(networks(docker, labels.clone()).await?);
        things.extend(volumes(docker, labels).await?);
    }
    things.sort();
    things.dedup();
    Ok(things)
}

async fn networks(docker: &Docker, labels: Vec<String>) -> Result<Vec<String>> {
    let options = ListNetworksOptionsBuilder::default().filters(&by(labels)).build();
    let found = docker.list_networks(Some(options)).await.context("cannot list networks")?;
    Ok(found.into_iter().filter_map(|network| network.name).collect())
}

/// Every volume of this installation, made for it by these projects or by the orchestrator.
pub async fn all_volumes(
    docker: &Docker,
    installation: &Installation,
    projects: &BTreeSet<String>,
) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::from_iter(volumes(docker, of_tenants(installation)).await?);
    for project in projects {
        found.extend(volumes(docker, of(project)).await?);
    }
    Ok(found)
}

/// Removes volumes: databases, secrets, tenants' data. There is no way back.
pub(super) async fn remove_all(
    docker: &Docker,
    volumes: impl IntoIterator<Item = String>,
    swept: &mut Swept,
) {
    for volume in volumes {
        let outcome = remove_volume(docker, &volume).await;
        swept.note(format!("volume {volume}"), outcome);
    }
}

pub(super) async fn volumes(docker: &Docker, labels: Vec<String>) -> Result<Vec<String>> {
    let options = ListVolumesOptionsBuilder::default().filters(&by(labels)).build();
    let found = docker.list_volumes(Some(options)).await.context("cannot list volumes")?;
    Ok(found.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect())
}

async fn remove_volume(docker: &Docker, volume: &str) -> Result<()> {
    let options = RemoveVolumeOptionsBuilder::default().build();
    Ok(docker.remove_volume(volume, Some(options)).await?)
}

async fn remove_container(docker: &Docker, container: &ContainerSummary) -> Result<()> {
    let id = container.id.as_deref().unwrap_or_default();
    // A paused container cannot hear the signal; one that is not running answers 304 or 409.
    let _ = docker.unpause_container(id).await;
    let _ = docker
        .stop_container(id, Some(StopContainerOptionsBuilder::default().t(GRACE_SECONDS).build()))
        .await;
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    Ok(docker.remove_container(id, Some(options)).await?)
}

fn by(labels: Vec<String>) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), labels)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_told_in_full_and_keeps_nothing_else() {
        let mut swept = Swept::default();
        swept.note("container a".to_owned(), Err(anyhow::anyhow!("is stuck")));
        swept.note("container b".to_owned(), Ok(()));
        swept.note("network c".to_owned(), Err(anyhow::anyhow!("is in use")));
        assert_eq!(swept.removed, ["container b"]);
        let told = swept.finish().err().unwrap().to_string();
        assert_eq!(told, "container a stays: is stuck\nnetwork c stays: is in use");
    }
}
