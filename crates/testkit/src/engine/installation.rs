//! Containers, networks and volumes of one installation, found by their labels.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, Result};
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::models::ContainerSummary;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
    LogsOptionsBuilder, RemoveVolumeOptions,
};
use futures_util::TryStreamExt as _;

use crate::Installation;

/// A filter for objects with all these labels, `name` or `name=value` each.
pub fn label_filters(labels: &[&str]) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), labels.iter().map(|label| (*label).to_owned()).collect())])
}

async fn containers(docker: &Docker, labels: &[&str]) -> Result<Vec<ContainerSummary>> {
    let options =
        ListContainersOptionsBuilder::default().all(true).filters(&label_filters(labels)).build();
    docker.list_containers(Some(options)).await.context("cannot list containers")
}

fn name(container: &ContainerSummary) -> String {
    let names = container.names.as_deref().unwrap_or_default();
    names.first().map(|name| name.trim_start_matches('/').to_owned()).unwrap_or_default()
}

/// The id of the container of a compose service, which must exist.
///
/// # Errors
/// The service has no container.
pub async fn container_of_service(
    docker: &Docker,
    installation: &Installation,
    service: &str,
) -> Result<String> {
    let project = format!("com.docker.compose.project={}", installation.project());
    let service_label = format!("com.docker.compose.service={service}");
    let found = containers(docker, &[&project, &service_label]).await?;
    let id = found.into_iter().find_map(|container| container.id);
    id.with_context(|| format!("{service} has no container"))
}

/// The ids of every container of a tenant.
///
/// # Errors
/// The engine does not answer.
pub async fn containers_of_tenant(
    docker: &Docker,
    installation: &Installation,
    slug: &str,
) -> Result<Vec<String>> {
    let install = format!("cial.install={}", installation.name);
    let slug = format!("cial.slug={slug}");
    let found = containers(docker, &["cial.managed=1", &install, &slug]).await?;
    Ok(found.into_iter().filter_map(|container| container.id).collect())
}

/// The names of every container, network and volume that the orchestrator made for an installation.
///
/// # Errors
/// The engine does not answer.
pub async fn tenant_objects(docker: &Docker, installation: &Installation) -> Result<Vec<String>> {
    let install = format!("cial.install={}", installation.name);
    let mut objects = objects_with(docker, &["cial.managed=1", &install]).await?;
    // Two volumes carry the labels and are compose's.
    objects.retain(|name| !name.starts_with(&format!("cial-{}-", installation.name)));
    Ok(objects.into_iter().collect())
}

/// The names of everything of an installation, made by compose or by the orchestrator.
///
/// # Errors
/// The engine does not answer.
pub async fn everything_of(
    docker: &Docker,
    installation: &Installation,
) -> Result<BTreeSet<String>> {
    let install = format!("cial.install={}", installation.name);
    let project = format!("com.docker.compose.project={}", installation.project());
    let mut objects = objects_with(docker, &["cial.managed=1", &install]).await?;
    objects.extend(objects_with(docker, &[&project]).await?);
    Ok(objects)
}

async fn objects_with(docker: &Docker, labels: &[&str]) -> Result<BTreeSet<String>> {
    let filters = label_filters(labels);
    let mut objects: BTreeSet<_> = containers(docker, labels).await?.iter().map(name).collect();
    let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
    let networks = docker.list_networks(Some(options)).await.context("cannot list networks")?;
    objects.extend(networks.into_iter().filter_map(|network| network.name));
    let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
    let volumes = docker.list_volumes(Some(options)).await.context("cannot list volumes")?;
    objects.extend(volumes.volumes.unwrap_or_default().into_iter().map(|volume| volume.name));
    Ok(objects)
}

/// Removes compose's volumes whose names end like this, and returns how many there were.
///
/// # Errors
/// A volume is in use.
pub async fn remove_volumes(
    docker: &Docker,
    installation: &Installation,
    ending: &str,
) -> Result<usize> {
    let project = format!("com.docker.compose.project={}", installation.project());
    let options = ListVolumesOptionsBuilder::default().filters(&label_filters(&[&project])).build();
    let listed = docker.list_volumes(Some(options)).await?.volumes.unwrap_or_default();
    let wanted: Vec<_> =
        listed.into_iter().filter(|volume| volume.name.ends_with(ending)).collect();
    for volume in &wanted {
        docker.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await?;
    }
    Ok(wanted.len())
}

/// Name and whole log of every container of an installation.
///
/// # Errors
/// The engine does not answer.
pub async fn logs_of(
    docker: &Docker,
    installation: &Installation,
) -> Result<Vec<(String, String)>> {
    let install = format!("cial.install={}", installation.name);
    let project = format!("com.docker.compose.project={}", installation.project());
    let mut logs = Vec::new();
    for labels in [vec![project.as_str()], vec!["cial.managed=1", install.as_str()]] {
        for container in containers(docker, &labels).await? {
            let id = container.id.as_deref().unwrap_or_default();
            let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
            let pieces: Vec<LogOutput> = docker.logs(id, Some(options)).try_collect().await?;
            let text = pieces.iter().map(ToString::to_string).collect();
            logs.push((name(&container), text));
        }
    }
    Ok(logs)
}
