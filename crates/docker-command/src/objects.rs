//! The objects of an installation on the engine, found by their labels. Objects without its labels are not its own.
//!
//! The labels are literals: people and their scripts rely on them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use crate::{Container, containers, list};

const MANAGED: &str = "cial.managed=1";
const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";

/// The objects that compose and the orchestrator made for the installation of this name.
#[derive(Clone, Debug)]
pub struct InstallationObjects {
    install: String,
    project: String,
}

impl InstallationObjects {
    pub fn of(name: &str) -> Self {
        Self { install: name.to_owned(), project: format!("cial-{name}") }
    }

    /// Labels of compose's objects.
    fn of_project(&self) -> Vec<String> {
        vec![format!("{PROJECT}={}", self.project)]
    }

    /// Labels of the orchestrator's objects, and of those that compose made for it; with one more label.
    fn managed(&self, more: Option<String>) -> Vec<String> {
        [MANAGED.to_owned(), format!("cial.install={}", self.install)]
            .into_iter()
            .chain(more)
            .collect()
    }

    /// The containers of compose's services, running or not.
    ///
    /// # Errors
    /// The engine does not answer; so for all that follow.
    pub fn services(&self) -> Result<Vec<Container>> {
        containers(&self.of_project())
    }

    /// The container of a service, which must exist.
    pub fn service(&self, name: &str) -> Result<Container> {
        let found = self.services()?.into_iter().find(|container| container.service() == name);
        found.with_context(|| format!("{name} has no container"))
    }

    /// Whether a container is one of [`Self::services`].
    pub fn has_service(&self, container: &Container) -> bool {
        container.label(PROJECT) == self.project
    }

    /// The containers of all tenants, running or not.
    pub fn tenants(&self) -> Result<Vec<Container>> {
        containers(&self.managed(Some("cial.tenant".to_owned())))
    }

    /// The containers of one tenant: one, or none.
    pub fn tenant(&self, slug: &str) -> Result<Vec<Container>> {
        containers(&self.managed(Some(format!("cial.slug={slug}"))))
    }

    /// The names of every container, network and volume that the orchestrator made for a tenant.
    pub fn of_tenants(&self) -> Result<BTreeSet<String>> {
        named(&self.managed(Some("cial.tenant".to_owned())))
    }

    /// The names of everything that compose or the orchestrator made.
    pub fn everything(&self) -> Result<BTreeSet<String>> {
        let mut found = list("image", "{{.Repository}}:{{.Tag}}", &self.managed(None), &[])?;
        found.extend(self.pulled_images()?.into_keys());
        for labels in self.makers()? {
            found.extend(named(&labels)?);
        }
        Ok(found)
    }

    /// The images that the orchestrator pulled, which can have no label of ours: the name that it gave to each, with the id.
    pub fn pulled_images(&self) -> Result<BTreeMap<String, String>> {
        let listed = list("image", "{{.Repository}}:{{.Tag}} {{.ID}}", &[], &["--no-trunc"])?;
        let prefix = format!("cial-pulled-{}/", self.install);
        let pulled = listed.iter().filter_map(|line| line.split_once(' '));
        let pulled = pulled.filter(|(name, _)| name.starts_with(&prefix));
        Ok(pulled.map(|(name, id)| (name.to_owned(), id.to_owned())).collect())
    }

    /// The names of every volume that compose or the orchestrator made.
    pub fn volumes(&self) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for labels in self.makers()? {
            found.extend(list("volume", "{{.Name}}", &labels, &[])?);
        }
        Ok(found)
    }

    /// Labels of everything: those of the orchestrator, and those of its compose projects. These are its own, and every
    /// project that has an orchestrator on its sockets or made its volumes.
    fn makers(&self) -> Result<Vec<Vec<String>>> {
        let field = format!("{{{{.Label {PROJECT:?}}}}}");
        let orchestrators = [MANAGED.to_owned(), format!("{SERVICE}=orchestrator")];
        let on_sockets = format!("--filter=volume=cial-{}-sockets", self.install);
        let mut projects = list("container", &field, &orchestrators, &["--all", &on_sockets])?;
        projects.extend(list("volume", &field, &self.managed(None), &[])?);
        projects.insert(self.project.clone());
        let projects = projects.iter().map(|project| vec![format!("{PROJECT}={project}")]);
        Ok(projects.chain([self.managed(None)]).collect())
    }
}

impl Container {
    /// The name of the service in compose.yml.
    pub fn service(&self) -> &str {
        self.label(SERVICE)
    }

    /// The slug of the tenant.
    pub fn slug(&self) -> &str {
        self.label("cial.slug")
    }
}

/// The names of containers, networks and volumes.
fn named(labels: &[String]) -> Result<BTreeSet<String>> {
    let mut found = list("container", "{{.Names}}", labels, &["--all"])?;
    for kind in ["network", "volume"] {
        found.extend(list(kind, "{{.Name}}", labels, &[])?);
    }
    Ok(found)
}
