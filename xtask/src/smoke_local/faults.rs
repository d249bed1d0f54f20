//! What happens to an installation: parts of it killed, stopped or removed, also in the middle of their work.
//! It mends itself, nothing is lost, and a tenant that nobody touched answers all the while.

use std::cell::Cell;
use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ContainerSummary;
use bollard::query_parameters::{
    KillContainerOptions, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions, StopContainerOptionsBuilder,
};
use futures_util::future::try_join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::journey::{self, Cast, INTERVAL, PATIENCE, check, expect};
use super::{changed, isolation};
use crate::http::{Answer, Visitor};
use crate::local::{self, Installation};
use crate::world;

/// Those that the engine starts by itself.
const SERVICES: [&str; 4] = ["router", "orchestrator", "app-api", "postgres"];
/// A tenant that nothing is done to.
const BYSTANDER: &str = "bystander";

/// How far a create has come when a service is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The request is under way.
    Asked,
    /// The owner has the answer.
    Accepted,
    /// The engine has the container.
    Made,
    /// The container runs.
    Started,
}

const KILLED: [(&str, Moment); 7] = [
    ("app-api", Moment::Asked),
    ("app-api", Moment::Accepted),
    ("app-api", Moment::Made),
    ("app-api", Moment::Started),
    ("orchestrator", Moment::Accepted),
    ("orchestrator", Moment::Made),
    ("orchestrator", Moment::Started),
];

/// Sees to it that the bystander answers, and counts how often it did.
struct Witness<'a> {
    visitor: Visitor,
    answers: &'a Cell<u64>,
}

impl Witness<'_> {
    /// Never returns, unless the bystander once did not answer.
    async fn watch(&mut self) -> Result<()> {
        loop {
            expect(&self.visitor.get("/").await?, 200).context("the bystander")?;
            self.answers.set(self.answers.get() + 1);
        }
    }
}

/// What the work has at hand.
pub(super) struct Scene<'a> {
    pub(super) docker: Docker,
    pub(super) cast: Cast<'a>,
    answers: &'a Cell<u64>,
}

pub(crate) async fn go(installation: &mut Installation) -> Result<()> {
    let (docker, compose) = local::tools().await?;
    let here = installation.clone();
    let mut cast = Cast::of(&here);
    journey::arrive(&mut cast).await?;
    let address = journey::open(&mut cast).await?;
    journey::sign_in(&mut cast, &address).await?;
    let answers = Cell::new(0);
    let host = format!("{BYSTANDER}.{}", here.domain);
    let visitor = Visitor::new(&host, here.router_port);
    let mut witness = Witness { visitor, answers: &answers };
    let mut scene = Scene { docker, cast, answers: &answers };
    check("a bystander runs", scene.bring_up(BYSTANDER).await)?;

    let apart = isolation::holds(&scene.docker, &here, journey::SLUG, BYSTANDER).await;
    check("a tenant reaches neither another one nor the control plane", apart)?;

    tokio::select! {
        gone = witness.watch() => gone.context("a tenant that nobody touched")?,
        outcome = scene.disturb() => outcome?,
    }
    world::say(format_args!(
        "ok     the bystander answered {} times, always with 200",
        answers.get()
    ));
    check("a router that is killed serves from its disk alone", scene.router_alone().await)?;
    check("everything killed at once comes back by itself, nothing twice", scene.reboot().await)?;
    let broken = changed::broken(&mut scene).await;
    check("a broken image is told to the owner, a good one runs again", broken)?;
    let rebuilt = changed::rebuilt(&mut scene).await;
    check("a rebuilt image is run from the next start on, with the data", rebuilt)?;

    let (docker, mut cast) = (scene.docker, scene.cast);
    local::down::down(&docker, &compose, &here, false).await?;
    local::up::up(installation).await?;
    check("down and up again, a tenant comes back with its data", returns(&mut cast).await)?;
    local::down::down(&docker, &compose, &here, false).await?;
    check(
        "a database without its secrets is refused by name",
        orphaned(&docker, installation).await,
    )
}

impl Scene<'_> {
    /// All that a bystander must not notice.
    async fn disturb(&mut self) -> Result<()> {
        for (number, (service, moment)) in KILLED.into_iter().enumerate() {
            let title = format!("{service} killed, {moment:?}: one container, running");
            check(&title, self.kill_within(service, moment, &format!("k{number}")).await)?;
        }
        check(
            "Postgres stopped and started: it is told, and over by itself",
            self.without_postgres().await,
        )?;
        check(
            "orchestrator stopped and started: a create waits for it",
            self.without_orchestrator().await,
        )?;
        check("a tenant whose PID 1 is killed comes back with its data", self.kill_tenant().await)?;
        check("a tenant removed by hand comes back with its data", self.remove_tenant().await)
    }

    async fn kill_within(&mut self, service: &str, moment: Moment, slug: &str) -> Result<()> {
        let before = self.restarts(service).await?;
        let body = json!({ "slug": slug, "name": slug });
        if let Moment::Asked = moment {
            let pid = self.pid(service).await?;
            let (_, killed) =
                tokio::join!(self.cast.owner.post("/api/admin/tenants", &body), async {
                    sigkill(pid)
                });
            killed?;
        } else {
            expect(&self.cast.owner.post("/api/admin/tenants", &body).await?, 201)?;
            self.reaches(moment, slug).await?;
            sigkill(self.pid(service).await?)?;
        }
        patiently(async || Ok((self.restarts(service).await? > before).then_some(()))).await?;
        // Whether a request that was cut off had made its row is for the one who asks again to find out.
        if let Moment::Asked = moment {
            let asked = async || {
                let again = self.cast.owner.post("/api/admin/tenants", &body).await;
                Ok(again.ok().filter(|again| matches!(again.status, 201 | 409)))
            };
            patiently(asked).await?;
        }
        self.is_one(slug).await?;
        self.bystander_answers(1).await
    }

    async fn reaches(&self, moment: Moment, slug: &str) -> Result<()> {
        patiently(async || {
            let found = local::of_tenant(&self.docker, self.cast.installation, slug).await?;
            let Some(id) = found.first() else {
                return Ok(matches!(moment, Moment::Asked | Moment::Accepted).then_some(()));
            };
            let is_there = !matches!(moment, Moment::Started) || self.runs(id).await?;
            Ok(is_there.then_some(()))
        })
        .await
    }

    /// One container, network and set of volumes; running for its owner, and answering.
    async fn is_one(&mut self, slug: &str) -> Result<()> {
        let path = format!("/api/admin/tenants/{slug}");
        let tenant = patiently(async || {
            let answer = self.cast.owner.get(&path).await.ok();
            Ok(answer.map(|answer| answer.json()).filter(|tenant| tenant["state"] == "running"))
        })
        .await
        .with_context(|| format!("{slug} never runs"))?;
        self.answers(slug).await?;
        let id = tenant["id"].as_str().context("a tenant has an id")?;
        let things = local::tenant_things(&self.docker, self.cast.installation).await?;
        let its: Vec<_> = things.iter().filter(|thing| thing.contains(id)).collect();
        ensure!(its.len() == 4, "expected a container, a network and two volumes, saw {its:?}");
        let containers = local::of_tenant(&self.docker, self.cast.installation, slug).await?;
        ensure!(containers.len() == 1, "expected one container, saw {containers:?}");
        Ok(())
    }

    pub(super) async fn answers(&self, slug: &str) -> Result<()> {
        let installation = self.cast.installation;
        let host = format!("{slug}.{}", installation.domain);
        let mut visitor = Visitor::new(&host, installation.router_port);
        patiently(async || Ok(visitor.get("/").await.ok().filter(|page| page.status == 200)))
            .await?;
        Ok(())
    }

    async fn bring_up(&mut self, slug: &str) -> Result<()> {
        let body = json!({ "slug": slug, "name": slug });
        expect(&self.cast.owner.post("/api/admin/tenants", &body).await?, 201)?;
        self.is_one(slug).await
    }

    async fn without_postgres(&mut self) -> Result<()> {
        self.stop("postgres").await?;
        let mut stranger = Visitor::new("localhost", self.cast.installation.admin_port);
        let mut ready = async |status: u16| {
            patiently(async || {
                Ok(stranger.get("/readyz").await.ok().filter(|told| told.status == status))
            })
            .await
        };
        ready(503).await?;
        self.bystander_answers(20).await?;
        self.start("postgres").await?;
        ready(200).await?;
        self.bring_up("after-postgres").await
    }

    async fn without_orchestrator(&mut self) -> Result<()> {
        self.stop("orchestrator").await?;
        let body = json!({ "slug": "patient", "name": "patient" });
        expect(&self.cast.owner.post("/api/admin/tenants", &body).await?, 201)?;
        self.bystander_answers(20).await?;
        self.start("orchestrator").await?;
        self.is_one("patient").await
    }

    async fn kill_tenant(&mut self) -> Result<()> {
        let id = self.tenant().await?;
        let before = self.docker.inspect_container(&id, None).await?.restart_count;
        let state = self.state(&id).await?;
        sigkill(state.pid.context("a running container has a process")?)?;
        patiently(async || {
            let now = self.docker.inspect_container(&id, None).await?.restart_count;
            Ok((now > before).then_some(()))
        })
        .await?;
        self.answers(journey::SLUG).await?;
        journey::sees_owner(&mut self.cast).await
    }

    async fn remove_tenant(&mut self) -> Result<()> {
        let before = self.tenant().await?;
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        self.docker.remove_container(&before, Some(options)).await?;
        self.is_one(journey::SLUG).await?;
        ensure!(self.tenant().await? != before, "the container that was removed is still there");
        journey::sees_owner(&mut self.cast).await
    }

    async fn router_alone(&mut self) -> Result<()> {
        for service in ["app-api", "orchestrator", "postgres"] {
            self.stop(service).await?;
        }
        let before = self.restarts("router").await?;
        sigkill(self.pid("router").await?)?;
        patiently(async || Ok((self.restarts("router").await? > before).then_some(()))).await?;
        self.answers(BYSTANDER).await?;
        for service in ["postgres", "orchestrator", "app-api"] {
            self.start(service).await?;
        }
        self.is_one(BYSTANDER).await
    }

    /// As a machine that loses its power, and starts again: the engine starts the services by itself, in no order, and
    /// no one-shot; the tenants are the services' work.
    async fn reboot(&mut self) -> Result<()> {
        let project = self.cast.installation.project();
        let ours = [
            format!("com.docker.compose.project={project}"),
            format!("cial.install={}", self.cast.installation.name),
        ];
        let mut running = Vec::new();
        for label in ours {
            let filters = HashMap::from([("label".to_owned(), vec![label])]);
            let options = ListContainersOptionsBuilder::default().filters(&filters).build();
            running.extend(self.docker.list_containers(Some(options)).await?);
        }
        let slug =
            |container: &ContainerSummary| container.labels.as_ref()?.get("cial.slug").cloned();
        let tenants: Vec<_> = running.iter().filter_map(slug).collect();
        ensure!(tenants.len() > 2, "expected tenants that run, saw {tenants:?}");
        let ids = running.iter().filter_map(|container| container.id.as_deref());
        let kills = ids.map(|id| self.docker.kill_container(id, None::<KillContainerOptions>));
        try_join_all(kills).await?;
        try_join_all(SERVICES.map(|service| self.start(service))).await?;
        for slug in tenants {
            self.is_one(&slug).await.with_context(|| slug.clone())?;
        }
        journey::sees_owner(&mut self.cast).await
    }

    /// The one container of the first tenant.
    async fn tenant(&self) -> Result<String> {
        let found = local::of_tenant(&self.docker, self.cast.installation, journey::SLUG).await?;
        found.into_iter().next().context("the tenant has no container")
    }

    /// Waits until the bystander has answered so often again.
    async fn bystander_answers(&self, times: u64) -> Result<()> {
        let wanted = self.answers.get() + times;
        patiently(async || Ok((self.answers.get() >= wanted).then_some(()))).await
    }

    async fn stop(&self, service: &str) -> Result<()> {
        let id = local::of_service(&self.docker, self.cast.installation, service).await?;
        let options = StopContainerOptionsBuilder::default().t(local::GRACE_SECONDS).build();
        Ok(self.docker.stop_container(&id, Some(options)).await?)
    }

    async fn start(&self, service: &str) -> Result<()> {
        let id = local::of_service(&self.docker, self.cast.installation, service).await?;
        Ok(self.docker.start_container(&id, None::<StartContainerOptions>).await?)
    }

    async fn restarts(&self, service: &str) -> Result<i64> {
        let id = local::of_service(&self.docker, self.cast.installation, service).await?;
        Ok(self.docker.inspect_container(&id, None).await?.restart_count.unwrap_or_default())
    }

    async fn pid(&self, service: &str) -> Result<i64> {
        let id = local::of_service(&self.docker, self.cast.installation, service).await?;
        let pid = self.state(&id).await?.pid.filter(|pid| *pid > 0);
        pid.with_context(|| format!("{service} has no process"))
    }

    /// The engine lists a container a moment before it can be inspected.
    async fn runs(&self, id: &str) -> Result<bool> {
        match self.docker.inspect_container(id, None).await {
            Ok(seen) => Ok(seen.state.is_some_and(|state| state.running == Some(true))),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn state(&self, id: &str) -> Result<bollard::models::ContainerState> {
        Ok(self.docker.inspect_container(id, None).await?.state.unwrap_or_default())
    }
}

/// By the kernel and not by the engine, which would take it for the wish of a person and restart nothing.
fn sigkill(pid: i64) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?);
    kill(pid, Signal::SIGKILL)
        .with_context(|| format!("cannot kill {pid}: be root, on the engine's own machine"))
}

async fn returns(cast: &mut Cast<'_>) -> Result<()> {
    let page =
        async || Ok(cast.guest.get("/").await.ok().filter(|page: &Answer| page.status == 200));
    patiently(page).await?;
    journey::sees_owner(cast).await
}

/// The state of a fresh clone that finds the volume of an earlier installation of its name.
async fn orphaned(docker: &Docker, installation: &mut Installation) -> Result<()> {
    let removed = local::remove_volumes(docker, installation, "-secrets").await?;
    ensure!(removed >= 4, "expected the secrets of four services, saw {removed}");
    let Err(refused) = local::up::up(installation).await else { bail!("it was not refused") };
    let told = format!("{refused:#}");
    for part in
        ["secrets that belong to it are gone", "bring back", "cargo xtask local-down --purge"]
    {
        ensure!(told.contains(part), "expected {part:?}, saw {told}");
    }
    Ok(())
}

/// Looks until something is there; a failure to look at all ends it.
pub(super) async fn patiently<T>(mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = world::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        ensure!(world::now() < deadline, "still not after {} s", PATIENCE.as_secs());
        tokio::time::sleep(INTERVAL).await;
    }
}
