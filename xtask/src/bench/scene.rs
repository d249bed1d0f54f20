//! An installation of a bench: its owner, its tenants, and its engine.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bollard::Docker;
use bollard::query_parameters::ListContainersOptionsBuilder;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::json;

use super::visit::{self, Seen};
use crate::http::Visitor;
use crate::local::{self, Installation};
use crate::world;

const PATIENCE: Duration = Duration::from_secs(600);
/// Longer than an engine's call outlasts what it does; shorter than any tenant stays awake.
const SHOWN_AFTER: Duration = Duration::from_millis(200);
/// How often what no event tells is looked at.
const INTERVAL: Duration = Duration::from_millis(5);
/// So many tenants are made at a time.
const AT_ONCE: usize = 4;

pub(super) struct Scene<'a> {
    pub(super) docker: Docker,
    pub(super) installation: &'a Installation,
    owner: Visitor,
}

/// A tenant that answers.
#[derive(Clone, Debug)]
pub(super) struct Tenant {
    pub(super) slug: String,
    pub(super) container: String,
    host: String,
    port: u16,
}

/// Seconds without use; 0 is never.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sleepy {
    pub(super) freeze_after: u32,
    pub(super) sleep_after: u32,
}

impl Sleepy {
    pub(super) const NEVER: Self = Self { freeze_after: 0, sleep_after: 0 };
}

/// What the engine shows of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Running,
    Paused,
    Exited,
}

impl Shown {
    const fn text(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Exited => "exited",
        }
    }
}

impl<'a> Scene<'a> {
    /// In an installation that has no owner yet, and is ready.
    pub(super) async fn open(installation: &'a Installation) -> Result<Self> {
        let (docker, _) = local::tools().await?;
        let mut owner = Visitor::new("localhost", installation.admin_port);
        let body = json!({ "email": "bench@example.com", "password": "a long enough pass phrase", "name": "Bench" });
        let signed_up = owner.post("/api/auth/sign-up/email", &body).await?;
        ensure!(signed_up.status == 201, "cannot sign up: {}", signed_up.brief());
        Ok(Self { docker, installation, owner })
    }

    pub(super) const fn owner(&self) -> &Visitor {
        &self.owner
    }

    /// Tenants `{name}-0` and so on, some at a time, each with its policy, each answering.
    pub(super) async fn tenants(
        &self,
        name: &str,
        count: usize,
        sleepy: Sleepy,
    ) -> Result<Vec<Tenant>> {
        let made = futures_util::stream::iter(0..count)
            .map(async |number| self.tenant(&format!("{name}-{number}"), sleepy).await);
        made.buffered(AT_ONCE).try_collect().await
    }

    pub(super) async fn tenant(&self, slug: &str, sleepy: Sleepy) -> Result<Tenant> {
        let mut owner = self.owner.clone();
        let body = json!({ "slug": slug, "name": slug });
        let created = owner.post("/api/admin/tenants", &body).await?;
        ensure!(created.status == 201, "cannot create {slug}: {}", created.brief());
        let host = format!("{slug}.{}", self.installation.domain);
        let port = self.installation.router_port;
        until(slug, async || Ok(visit::visit(port, &host).await?.status == 200)).await?;
        self.policy(slug, sleepy).await?;
        let seen = owner.get(&format!("/api/admin/tenants/{slug}")).await?;
        let container = seen.json()["container_id"].as_str().map(str::to_owned);
        let container = container.with_context(|| format!("no container in {}", seen.brief()))?;
        Ok(Tenant { slug: slug.to_owned(), container, host, port })
    }

    pub(super) async fn policy(&self, slug: &str, sleepy: Sleepy) -> Result<()> {
        let Sleepy { freeze_after, sleep_after } = sleepy;
        let policy =
            json!({ "freeze_after_seconds": freeze_after, "sleep_after_seconds": sleep_after });
        let path = format!("/api/admin/tenants/{slug}");
        let changed = self.owner.clone().patch(&path, &json!({ "policy": policy })).await?;
        ensure!(changed.status == 200, "cannot change {slug}: {}", changed.brief());
        Ok(())
    }

    pub(super) async fn policies(&self, tenants: &[Tenant], sleepy: Sleepy) -> Result<()> {
        let changes = tenants.iter().map(|tenant| self.policy(&tenant.slug, sleepy));
        futures_util::stream::iter(changes).buffered(AT_ONCE).try_collect().await
    }

    /// The container of one of the installation's own services.
    pub(super) async fn service(&self, service: &str) -> Result<String> {
        let labels = vec![
            format!("com.docker.compose.project={}", self.installation.project()),
            format!("com.docker.compose.service={service}"),
        ];
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptionsBuilder::default().filters(&filters).build();
        let listed = self.docker.list_containers(Some(options)).await?;
        let found = listed.into_iter().find_map(|container| container.id);
        found.with_context(|| format!("{service} has no container"))
    }

    /// Waits until the engine shows them all so. Not at once: one that was just thawed and served is shown as it was.
    pub(super) async fn all(&self, tenants: &[Tenant], shown: Shown) -> Result<()> {
        tokio::time::sleep(SHOWN_AFTER).await;
        let label = format!("cial.install={}", self.installation.name);
        let filters = HashMap::from([
            ("label".to_owned(), vec![label, "cial.tenant".to_owned()]),
            ("status".to_owned(), vec![shown.text().to_owned()]),
        ]);
        until(shown.text(), async || {
            let options =
                ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
            let listed = self.docker.list_containers(Some(options)).await?;
            let are: Vec<_> = listed.into_iter().filter_map(|container| container.id).collect();
            Ok(tenants.iter().all(|tenant| are.contains(&tenant.container)))
        })
        .await
    }
}

impl Tenant {
    pub(super) async fn visit(&self) -> Result<Seen> {
        visit::visit(self.port, &self.host).await.with_context(|| self.slug.clone())
    }

    pub(super) async fn visit_until_served(&self) -> Result<Seen> {
        visit::visit_until_served(self.port, &self.host).await.with_context(|| self.slug.clone())
    }
}

/// Looks again and again, for as long as a slow machine may need.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let start = world::now();
    while !holds().await? {
        if start.elapsed() > PATIENCE {
            bail!("never: {what}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}
