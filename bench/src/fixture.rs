//! The installation under measurement: its owner, its tenants, and its engine.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bollard::Docker;
use bollard::query_parameters::ListContainersOptionsBuilder;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use testkit::engine::label_filters;
use testkit::{Client, Installation, wait_for};

use super::request::{self, TimedResponse};
use crate::now;

const TIMEOUT: Duration = Duration::from_secs(600);
/// Longer than an engine's call continues after its effect, and shorter than any tenant stays
/// awake.
const STATUS_DELAY: Duration = Duration::from_millis(200);
/// How often a condition without an event is checked.
const INTERVAL: Duration = Duration::from_millis(5);
/// The number of tenants that are created concurrently.
const AT_ONCE: usize = 4;

pub(super) struct Fixture<'a> {
    pub(super) docker: Docker,
    pub(super) installation: &'a Installation,
    owner: Client,
}

/// A tenant that responds.
#[derive(Clone, Debug)]
pub(super) struct Tenant {
    pub(super) slug: String,
    pub(super) container: String,
    host: String,
    port: u16,
}

/// Seconds without use until a tenant freezes or sleeps; 0 means never.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdlePolicy {
    pub(super) freeze_after: u32,
    pub(super) sleep_after: u32,
}

impl IdlePolicy {
    pub(super) const NEVER: Self = Self { freeze_after: 0, sleep_after: 0 };
}

/// The status of a container on the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContainerStatus {
    Running,
    Paused,
    Exited,
}

impl ContainerStatus {
    const fn text(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Exited => "exited",
        }
    }
}

impl<'a> Fixture<'a> {
    /// Opens an installation that is ready and has no owner yet.
    pub(super) async fn open(installation: &'a Installation) -> Result<Self> {
        let docker = testkit::engine::connect().await?;
        let mut owner = Client::new("localhost", installation.admin_port);
        let body = json!({ "email": "bench@example.com", "password": "a long enough pass phrase", "name": "Bench" });
        let signed_up = owner.post("/api/auth/sign-up/email", &body).await?;
        ensure!(signed_up.status == 201, "cannot sign up: {}", signed_up.summary());
        Ok(Self { docker, installation, owner })
    }

    pub(super) const fn owner(&self) -> &Client {
        &self.owner
    }

    /// Creates tenants `{name}-0` and so on, some concurrently; each has this policy and responds.
    pub(super) async fn tenants(
        &self,
        name: &str,
        count: usize,
        policy: IdlePolicy,
    ) -> Result<Vec<Tenant>> {
        let made = futures_util::stream::iter(0..count)
            .map(async |number| self.tenant(&format!("{name}-{number}"), policy).await);
        made.buffered(AT_ONCE).try_collect().await
    }

    pub(super) async fn tenant(&self, slug: &str, policy: IdlePolicy) -> Result<Tenant> {
        self.created(&json!({ "slug": slug, "name": slug }), slug, policy).await
    }

    /// Like [`Self::tenant`], of an app.
    pub(super) async fn tenant_of(
        &self,
        slug: &str,
        app: &str,
        policy: IdlePolicy,
    ) -> Result<Tenant> {
        self.created(&json!({ "slug": slug, "name": slug, "app": app }), slug, policy).await
    }

    async fn created(&self, body: &Value, slug: &str, policy: IdlePolicy) -> Result<Tenant> {
        let mut owner = self.owner.clone();
        let created = owner.post("/api/admin/tenants", body).await?;
        ensure!(created.status == 201, "cannot create {slug}: {}", created.summary());
        let host = format!("{slug}.{}", self.installation.domain);
        let port = self.installation.router_port;
        until(slug, async || Ok(request::request(port, &host).await?.status == 200)).await?;
        self.policy(slug, policy).await?;
        // The owner sees the container a moment after a visitor reaches the tenant.
        let path = format!("/api/admin/tenants/{slug}");
        let container = wait_for("its container", TIMEOUT, async || {
            Ok(owner.get(&path).await?.json()["container_id"].as_str().map(str::to_owned))
        });
        let container = container.await.with_context(|| slug.to_owned())?;
        Ok(Tenant { slug: slug.to_owned(), container, host, port })
    }

    pub(super) async fn policy(&self, slug: &str, policy: IdlePolicy) -> Result<()> {
        let IdlePolicy { freeze_after, sleep_after } = policy;
        let policy =
            json!({ "freeze_after_seconds": freeze_after, "sleep_after_seconds": sleep_after });
        let path = format!("/api/admin/tenants/{slug}");
        let changed = self.owner.clone().patch(&path, &json!({ "policy": policy })).await?;
        ensure!(changed.status == 200, "cannot change {slug}: {}", changed.summary());
        Ok(())
    }

    pub(super) async fn policies(&self, tenants: &[Tenant], policy: IdlePolicy) -> Result<()> {
        let changes = tenants.iter().map(|tenant| self.policy(&tenant.slug, policy));
        futures_util::stream::iter(changes).buffered(AT_ONCE).try_collect().await
    }

    /// Waits until the engine shows this status for all tenants. The first check waits a moment,
    /// because the engine may still show the old status of a tenant that was just thawed.
    pub(super) async fn all(&self, tenants: &[Tenant], status: ContainerStatus) -> Result<()> {
        tokio::time::sleep(STATUS_DELAY).await;
        let label = format!("cial.install={}", self.installation.name);
        let mut filters = label_filters(&[&label, "cial.tenant"]);
        filters.insert("status".to_owned(), vec![status.text().to_owned()]);
        until(status.text(), async || {
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
    pub(super) async fn request(&self) -> Result<TimedResponse> {
        request::request(self.port, &self.host).await.with_context(|| self.slug.clone())
    }

    pub(super) async fn request_until_served(&self) -> Result<TimedResponse> {
        request::request_until_served(self.port, &self.host)
            .await
            .with_context(|| self.slug.clone())
    }
}

/// Waits for a condition, for as long as a slow machine may need.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let start = now();
    while !holds().await? {
        if start.elapsed() > TIMEOUT {
            bail!("never: {what}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}
