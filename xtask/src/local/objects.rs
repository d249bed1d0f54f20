//! Containers, networks and volumes of one installation, found by their labels. Other objects are
//! never touched.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};
use docker_command::{Container, Docker};
use protocol::id::labels;

use super::installation::Installation;

const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";

/// Label filters of compose's objects of this installation.
pub(super) fn of_project(installation: &Installation) -> Vec<String> {
    vec![format!("{PROJECT}={}", installation.project())]
}

/// Label filters of the orchestrator's objects of this installation. An object without both labels
/// is not ours.
pub(super) fn of_tenants(installation: &Installation) -> Vec<String> {
    vec![format!("{}=1", labels::MANAGED), format!("{}={}", labels::INSTALL, installation.name)]
}

pub(super) fn service(container: &Container) -> &str {
    container.label(SERVICE)
}

pub(super) fn slug(container: &Container) -> &str {
    container.label(labels::SLUG)
}

pub(super) fn is_of_project(container: &Container, installation: &Installation) -> bool {
    container.label(PROJECT) == installation.project()
}

/// Label filters of everything of this installation: that of the orchestrator, and that of its compose projects. These
/// are its own, and every project that has an orchestrator on its sockets or made its volumes.
fn makers(docker: &Docker, installation: &Installation) -> Result<Vec<Vec<String>>> {
    let field = format!("{{{{.Label {PROJECT:?}}}}}");
    let orchestrators = [format!("{}=1", labels::MANAGED), format!("{SERVICE}=orchestrator")];
    let on_sockets = format!("--filter=volume=cial-{}-sockets", installation.name);
    let mut projects = docker.list("container", &field, &orchestrators, &["--all", &on_sockets])?;
    projects.extend(docker.list("volume", &field, &of_tenants(installation), &[])?);
    projects.insert(installation.project());
    let projects = projects.iter().map(|project| vec![format!("{PROJECT}={project}")]);
    Ok(projects.chain([of_tenants(installation)]).collect())
}

/// Lists every container, network and volume that the orchestrator made for this installation.
pub(crate) fn tenant_objects(docker: &Docker, installation: &Installation) -> Result<Vec<String>> {
    let labels = of_tenants(installation);
    let is_tenants = |volume: &String| !volume.starts_with(&format!("cial-{}-", installation.name));
    let containers = docker.containers(&labels)?.into_iter().map(|container| container.name);
    let mut objects: Vec<_> = containers.collect();
    objects.extend(docker.networks(&labels)?);
    objects.extend(docker.volumes(&labels)?.into_iter().filter(is_tenants));
    Ok(objects)
}

/// Lists everything of this installation that compose or the orchestrator made.
pub(super) fn everything(docker: &Docker, installation: &Installation) -> Result<BTreeSet<String>> {
    let mut objects = BTreeSet::new();
    for labels in makers(docker, installation)? {
        objects.extend(docker.containers(&labels)?.into_iter().map(|container| container.name));
        objects.extend(docker.networks(&labels)?);
        objects.extend(docker.volumes(&labels)?);
    }
    let wrapped = of_tenants(installation);
    objects.extend(docker.list("image", "{{.Repository}}:{{.Tag}}", &wrapped, &[])?);
    Ok(objects)
}

/// Lists every volume of this installation that compose or the orchestrator made.
pub(super) fn all_volumes(
    docker: &Docker,
    installation: &Installation,
) -> Result<BTreeSet<String>> {
    let mut volumes = BTreeSet::new();
    for labels in makers(docker, installation)? {
        volumes.extend(docker.volumes(&labels)?);
    }
    Ok(volumes)
}

/// Finds the container of a service, which must exist.
pub(super) fn of_service(
    docker: &Docker,
    installation: &Installation,
    name: &str,
) -> Result<Container> {
    let found = docker.containers(&of_project(installation))?;
    let found = found.into_iter().find(|container| service(container) == name);
    found.ok_or_else(|| anyhow!("{name} has no container"))
}
