//! The parts of the installation, on the engine.

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;
use bollard::query_parameters::{StartContainerOptions, StopContainerOptionsBuilder};
use docker_command::Container;
use e2e::Parts;
use e2e::session::{Session, TIMEOUT};
use testkit::engine::STOP_GRACE_SECONDS;
use testkit::{Client, Installation, eventually, wait_for};

pub(crate) struct Fixture {
    pub(crate) docker: Docker,
    pub(crate) parts: Parts,
    pub(crate) session: Session,
}

impl Fixture {
    /// With a tenant whose guest is signed in.
    pub(crate) async fn open(installation: &Installation) -> Result<Self> {
        let docker = testkit::engine::connect().await?;
        let session = Session::signed_in(installation, crate::SLUG).await?;
        Ok(Self { docker, parts: Parts::of(installation), session })
    }

    /// The one container of the signed-in tenant.
    pub(crate) async fn tenant(&self) -> Result<Container> {
        self.parts.tenant(crate::SLUG).await?.pop().context("the tenant has no container")
    }

    /// One container, one network and one set of volumes; running for its owner, and answering.
    pub(crate) async fn has_one_of_each(&self, slug: &str) -> Result<()> {
        let mut owner = self.session.owner.clone();
        let path = format!("/api/admin/tenants/{slug}");
        let tenant = wait_for("a running tenant", TIMEOUT, async || {
            let response = owner.get(&path).await.ok();
            Ok(response.map(|found| found.json()).filter(|tenant| tenant["state"] == "running"))
        })
        .await
        .with_context(|| format!("{slug} never runs"))?;
        self.url_answers(slug).await?;
        let id = tenant["id"].as_str().context("a tenant has an id")?;
        let mut own = self.parts.of_tenants().await?;
        own.retain(|object| object.contains(id));
        ensure!(own.len() == 4, "expected a container, a network and two volumes, got {own:?}");
        let containers = self.parts.tenant(slug).await?;
        ensure!(containers.len() == 1, "expected one container, got {containers:?}");
        Ok(())
    }

    pub(crate) async fn url_answers(&self, slug: &str) -> Result<()> {
        let installation = &self.session.installation;
        let mut visitor = Client::new(&installation.tenant_host(slug), installation.router_port);
        eventually("the tenant's URL", TIMEOUT, async || {
            Ok(visitor.get("/").await.is_ok_and(|page| page.status == 200))
        })
        .await
    }

    pub(crate) async fn stop(&self, service: &str) -> Result<()> {
        let options = StopContainerOptionsBuilder::default().t(STOP_GRACE_SECONDS).build();
        let id = self.parts.service(service).await?.id;
        Ok(self.docker.stop_container(&id, Some(options)).await?)
    }

    pub(crate) async fn start(&self, service: &str) -> Result<()> {
        let id = self.parts.service(service).await?.id;
        Ok(self.docker.start_container(&id, None::<StartContainerOptions>).await?)
    }
}
