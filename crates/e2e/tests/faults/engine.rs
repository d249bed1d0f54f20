//! The parts of the installation, on the engine.

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ContainerState;
use bollard::query_parameters::{StartContainerOptions, StopContainerOptionsBuilder};
use e2e::session::{Session, TIMEOUT};
use testkit::engine::{
    STOP_GRACE_SECONDS, container_of_service, containers_of_tenant, tenant_objects,
};
use testkit::{Client, Installation, eventually, wait_for};

pub(crate) struct Fixture {
    pub(crate) docker: Docker,
    pub(crate) session: Session,
}

impl Fixture {
    /// With a tenant whose guest is signed in.
    pub(crate) async fn open(installation: &Installation) -> Result<Self> {
        let docker = testkit::engine::connect().await?;
        let session = Session::signed_in(installation, crate::SLUG).await?;
        Ok(Self { docker, session })
    }

    async fn service(&self, service: &str) -> Result<String> {
        container_of_service(&self.docker, &self.session.installation, service).await
    }

    pub(crate) async fn containers_of(&self, slug: &str) -> Result<Vec<String>> {
        containers_of_tenant(&self.docker, &self.session.installation, slug).await
    }

    /// The one container of the signed-in tenant.
    pub(crate) async fn tenant(&self) -> Result<String> {
        let found = self.containers_of(crate::SLUG).await?;
        found.into_iter().next().context("the tenant has no container")
    }

    /// One container, one network and one set of volumes; running for its owner, and answering.
    pub(crate) async fn has_one_of_each(&self, slug: &str) -> Result<()> {
        let installation = &self.session.installation;
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
        let objects = tenant_objects(&self.docker, installation).await?;
        let own: Vec<_> = objects.iter().filter(|object| object.contains(id)).collect();
        ensure!(own.len() == 4, "expected a container, a network and two volumes, got {own:?}");
        let containers = self.containers_of(slug).await?;
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
        Ok(self.docker.stop_container(&self.service(service).await?, Some(options)).await?)
    }

    pub(crate) async fn start(&self, service: &str) -> Result<()> {
        let id = self.service(service).await?;
        Ok(self.docker.start_container(&id, None::<StartContainerOptions>).await?)
    }

    pub(crate) async fn restarts(&self, service: &str) -> Result<i64> {
        self.restarts_of(&self.service(service).await?).await
    }

    pub(crate) async fn restarts_of(&self, id: &str) -> Result<i64> {
        Ok(self.docker.inspect_container(id, None).await?.restart_count.unwrap_or_default())
    }

    pub(crate) async fn pid(&self, service: &str) -> Result<i64> {
        let pid = self.pid_of(&self.service(service).await?).await;
        pid.with_context(|| service.to_owned())
    }

    /// The pid of a container's PID 1 on the engine's machine.
    pub(crate) async fn pid_of(&self, id: &str) -> Result<i64> {
        let pid = self.state(id).await?.pid.filter(|pid| *pid > 0);
        pid.context("the container has no process")
    }

    /// The engine lists a container a moment before it can be inspected.
    pub(crate) async fn is_running(&self, id: &str) -> Result<bool> {
        match self.docker.inspect_container(id, None).await {
            Ok(found) => Ok(found.state.is_some_and(|state| state.running == Some(true))),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn state(&self, id: &str) -> Result<ContainerState> {
        Ok(self.docker.inspect_container(id, None).await?.state.unwrap_or_default())
    }
}
