//! Containers, networks and volumes of one installation, found by their labels. Other objects are
//! never touched.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, ensure};
use protocol::id::labels;

use super::installation::Installation;
use crate::docker::{Container, Docker};

const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";

fn labelled(name: &str, value: &str) -> String {
    format!("{name}={value}")
}

/// Label filters of compose's objects of this installation.
pub(super) fn of_project(installation: &Installation) -> Vec<String> {
    vec![labelled(PROJECT, &installation.project())]
}

/// Label filters of the orchestrator's objects of this installation. An object without both labels
/// is not ours.
pub(super) fn of_tenants(installation: &Installation) -> Vec<String> {
    vec![labelled(labels::MANAGED, "1"), labelled(labels::INSTALL, &installation.name)]
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

/// The compose projects that serve this installation, in order of their names. The list holds its
/// own project, and every project that has an orchestrator on its sockets or made its volumes.
pub(super) fn projects(docker: &Docker, installation: &Installation) -> Result<BTreeSet<String>> {
    let field = format!("{{{{.Label {PROJECT:?}}}}}");
    let orchestrators = [labelled(labels::MANAGED, "1"), labelled(SERVICE, "orchestrator")];
    let on_sockets = format!("--filter=volume={}", sockets(installation));
    let mut projects = docker.list("container", &field, &orchestrators, &["--all", &on_sockets])?;
    projects.extend(docker.list("volume", &field, &of_tenants(installation), &[])?);
    projects.insert(installation.project());
    Ok(projects)
}

fn sockets(installation: &Installation) -> String {
    format!("cial-{}-sockets", installation.name)
}

/// Names of removed objects and errors of the others: a failed removal must not prevent the next
/// ones.
#[derive(Default)]
pub(super) struct Removal {
    pub(super) removed: Vec<String>,
    errors: Vec<anyhow::Error>,
}

impl Removal {
    pub(super) fn record(&mut self, object: String, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.removed.push(object),
            Err(error) => self.errors.push(error.context(format!("{object} stays"))),
        }
    }

    /// Returns the names of the removed objects, or every error.
    pub(super) fn finish(self) -> Result<Vec<String>> {
        let errors: Vec<_> = self.errors.iter().map(|error| format!("{error:#}")).collect();
        ensure!(errors.is_empty(), "{}", errors.join("\n"));
        Ok(self.removed)
    }
}

/// Stops and removes every container and network of the orchestrator, and the volume of sockets.
/// The volume holds nothing that outlives a start.
pub(super) fn remove_tenants(
    docker: &Docker,
    installation: &Installation,
    removal: &mut Removal,
) -> Result<()> {
    let containers = docker.containers(&of_tenants(installation))?;
    docker.stop(&containers.iter().map(|container| container.id.as_str()).collect::<Vec<_>>());
    for container in &containers {
        let outcome = docker.run(&["rm", "--force", &container.id]).map(drop);
        removal.record(format!("container {}", container.name), outcome);
    }
    for network in docker.networks(&of_tenants(installation))? {
        let outcome = docker.run(&["network", "rm", &network]).map(drop);
        removal.record(format!("network {network}"), outcome);
    }
    let mut volumes = docker.volumes(&of_tenants(installation))?;
    volumes.retain(|volume| *volume == sockets(installation));
    remove_volumes(docker, volumes, removal);
    Ok(())
}

/// Lists every container, network and volume that the orchestrator made for this installation.
pub fn tenant_objects(docker: &Docker, installation: &Installation) -> Result<Vec<String>> {
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
    let projects = projects(docker, installation)?;
    let projects = projects.iter().map(|project| vec![labelled(PROJECT, project)]);
    for labels in projects.chain([of_tenants(installation)]) {
        objects.extend(docker.containers(&labels)?.into_iter().map(|container| container.name));
        objects.extend(docker.networks(&labels)?);
        objects.extend(docker.volumes(&labels)?);
    }
    Ok(objects)
}

/// Lists every volume of this installation that these projects or the orchestrator made.
pub(super) fn all_volumes(
    docker: &Docker,
    installation: &Installation,
    projects: &BTreeSet<String>,
) -> Result<BTreeSet<String>> {
    let mut volumes = docker.volumes(&of_tenants(installation))?;
    for project in projects {
        volumes.extend(docker.volumes(&[labelled(PROJECT, project)])?);
    }
    Ok(volumes)
}

/// Removes volumes permanently: databases, secrets, tenants' data.
pub(super) fn remove_volumes(
    docker: &Docker,
    volumes: impl IntoIterator<Item = String>,
    removal: &mut Removal,
) {
    for volume in volumes {
        let outcome = docker.run(&["volume", "rm", &volume]).map(drop);
        removal.record(format!("volume {volume}"), outcome);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_that_stays_is_named_and_keeps_no_other() {
        let mut removal = Removal::default();
        removal.record("container a".to_owned(), Err(anyhow!("is stuck")));
        removal.record("container b".to_owned(), Ok(()));
        removal.record("network c".to_owned(), Err(anyhow!("is in use")));
        assert_eq!(removal.removed, ["container b"]);
        let message = removal.finish().err().unwrap().to_string();
        assert_eq!(message, "container a stays: is stuck\nnetwork c stays: is in use");
    }
}
