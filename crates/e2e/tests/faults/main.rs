//! Parts of an installation are killed, stopped or removed, also in the middle of their work. The
//! installation recovers by itself, nothing is lost, and an untouched tenant responds all the
//! while.
//!
//! `cargo xtask smoke-local --faults` brings the installation up, runs these tests one after the
//! other, and removes it.

mod engine;
mod images;

use std::cell::Cell;

use anyhow::{Context as _, Result, ensure};
use bollard::query_parameters::{KillContainerOptions, RemoveContainerOptionsBuilder};
use docker_command::{Container, InstallationObjects};
use e2e::parts::sigkill;
use e2e::session::{Session, TIMEOUT};
use e2e::{Checks, xtask};
use engine::Fixture;
use futures_util::future::try_join_all;
use serde_json::json;
use testkit::{Client, Installation, eventually};

/// The services that the engine starts by itself.
const SERVICES: [&str; 4] = ["router", "orchestrator", "app-api", "postgres"];
/// A tenant that no step touches.
const BYSTANDER: &str = "bystander";
/// A tenant with a signed-in visitor.
const SLUG: &str = "acme";

/// How far a create has come when a service is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Requested,
    Accepted,
    ContainerCreated,
    ContainerStarted,
}

/// Runs `work` while a visitor of the bystander expects 200 for every request.
async fn beside_bystander(
    name: &str,
    work: impl AsyncFnOnce(&mut Fixture, &Cell<u64>) -> Result<()>,
) -> Result<()> {
    let installation = Installation::from_env()?;
    Session::with_tenant(&installation, BYSTANDER).await?;
    let mut fixture = Fixture::open(&installation).await?;
    let (answers, mut checks) = (Cell::new(0), Checks::new());
    let host = installation.tenant_host(BYSTANDER);
    let mut visitor = Client::new(&host, installation.router_port);
    let watch = async {
        loop {
            visitor.get("/").await?.expect_status(200).context("the bystander")?;
            answers.set(answers.get() + 1);
        }
    };
    let outcome: Result<()> = tokio::select! {
        failed = watch => failed,
        outcome = work(&mut fixture, &answers) => outcome,
    };
    checks.require(name, outcome)?;
    let answered = answers.get();
    checks.holds("the bystander answered all the while", "≥ 1 × 200", answered, answered > 0);
    checks.finish()
}

/// Waits until the bystander has responded this many more times.
async fn bystander_answers(answers: &Cell<u64>, times: u64) -> Result<()> {
    let wanted = answers.get() + times;
    eventually("the bystander answers", TIMEOUT, async || Ok(answers.get() >= wanted)).await
}

async fn killed_during_create(service: &str, moment: Moment, slug: &str) -> Result<()> {
    let name = format!("{service} killed, {moment:?}: one container, running");
    beside_bystander(&name, async |fixture, answers| {
        let before = fixture.parts.service(service).await?;
        let body = json!({ "slug": slug, "name": slug });
        let mut owner = fixture.session.owner.clone();
        if let Moment::Requested = moment {
            let (_, killed) =
                tokio::join!(owner.post("/api/admin/tenants", &body), async { sigkill(&before) });
            killed?;
        } else {
            owner.post("/api/admin/tenants", &body).await?.expect_status(201)?;
            reaches(fixture, moment, slug).await?;
            sigkill(&before)?;
        }
        fixture.parts.has_restarted(service, &before).await?;
        // A request that was cut off may or may not have made its row: the caller finds out by a
        // second request.
        if let Moment::Requested = moment {
            eventually("an answer to a second request", TIMEOUT, async || {
                let again = owner.post("/api/admin/tenants", &body).await;
                Ok(again.is_ok_and(|again| matches!(again.status, 201 | 409)))
            })
            .await?;
        }
        fixture.has_one_of_each(slug).await?;
        bystander_answers(answers, 1).await
    })
    .await
}

async fn reaches(fixture: &Fixture, moment: Moment, slug: &str) -> Result<()> {
    eventually("the create", TIMEOUT, async || {
        let found = fixture.parts.tenant(slug).await?;
        let Some(container) = found.first() else { return Ok(matches!(moment, Moment::Accepted)) };
        Ok(!matches!(moment, Moment::ContainerStarted) || container.state()["Running"] == true)
    })
    .await
}

#[tokio::test]
async fn app_api_killed_while_a_create_is_requested_makes_one_container() -> Result<()> {
    killed_during_create("app-api", Moment::Requested, "killed-0").await
}

#[tokio::test]
async fn app_api_killed_after_a_create_is_accepted_makes_one_container() -> Result<()> {
    killed_during_create("app-api", Moment::Accepted, "killed-1").await
}

#[tokio::test]
async fn app_api_killed_after_the_container_is_created_makes_one_container() -> Result<()> {
    killed_during_create("app-api", Moment::ContainerCreated, "killed-2").await
}

#[tokio::test]
async fn app_api_killed_after_the_container_is_started_makes_one_container() -> Result<()> {
    killed_during_create("app-api", Moment::ContainerStarted, "killed-3").await
}

#[tokio::test]
async fn orchestrator_killed_after_a_create_is_accepted_makes_one_container() -> Result<()> {
    killed_during_create("orchestrator", Moment::Accepted, "killed-4").await
}

#[tokio::test]
async fn orchestrator_killed_after_the_container_is_created_makes_one_container() -> Result<()> {
    killed_during_create("orchestrator", Moment::ContainerCreated, "killed-5").await
}

#[tokio::test]
async fn orchestrator_killed_after_the_container_is_started_makes_one_container() -> Result<()> {
    killed_during_create("orchestrator", Moment::ContainerStarted, "killed-6").await
}

#[tokio::test]
async fn an_outage_of_postgres_is_reported_and_ends_by_itself() -> Result<()> {
    let name = "Postgres stopped and started: reported, and over by itself";
    beside_bystander(name, async |fixture, answers| {
        fixture.stop("postgres").await?;
        let mut anonymous = fixture.session.anonymous();
        let mut is_ready = async |status: u16| {
            eventually("/readyz", TIMEOUT, async || {
                Ok(anonymous.get("/readyz").await.is_ok_and(|ready| ready.status == status))
            })
            .await
        };
        is_ready(503).await?;
        bystander_answers(answers, 20).await?;
        fixture.start("postgres").await?;
        is_ready(200).await?;
        Session::of_owner(&fixture.session.installation, "after-postgres").await?.create().await?;
        fixture.has_one_of_each("after-postgres").await
    })
    .await
}

#[tokio::test]
async fn a_create_waits_for_an_absent_orchestrator() -> Result<()> {
    let name = "orchestrator stopped and started: a create waits for it";
    beside_bystander(name, async |fixture, answers| {
        fixture.stop("orchestrator").await?;
        Session::of_owner(&fixture.session.installation, "patient").await?.create().await?;
        bystander_answers(answers, 20).await?;
        fixture.start("orchestrator").await?;
        fixture.has_one_of_each("patient").await
    })
    .await
}

#[tokio::test]
async fn a_tenant_whose_pid_1_is_killed_returns_with_its_data() -> Result<()> {
    beside_bystander("a tenant whose PID 1 is killed returns with its data", async |fixture, _| {
        let before = fixture.tenant().await?;
        sigkill(&before)?;
        eventually("a restart", TIMEOUT, async || {
            Ok(fixture.tenant().await?.restart_count() > before.restart_count())
        })
        .await?;
        fixture.url_answers(SLUG).await?;
        fixture.session.guest_is_owner().await
    })
    .await
}

#[tokio::test]
async fn a_tenant_removed_by_hand_returns_with_its_data() -> Result<()> {
    beside_bystander("a tenant removed by hand returns with its data", async |fixture, _| {
        let before = fixture.tenant().await?;
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        fixture.docker.remove_container(&before.id, Some(options)).await?;
        fixture.has_one_of_each(SLUG).await?;
        ensure!(fixture.tenant().await?.id != before.id, "the removed container is still there");
        fixture.session.guest_is_owner().await
    })
    .await
}

#[tokio::test]
async fn a_killed_router_serves_from_its_disk_alone() -> Result<()> {
    alone("a killed router serves from its disk alone", async |fixture| {
        Session::with_tenant(&fixture.session.installation, BYSTANDER).await?;
        for service in ["app-api", "orchestrator", "postgres"] {
            fixture.stop(service).await?;
        }
        fixture.parts.kill_service("router").await?;
        fixture.url_answers(BYSTANDER).await?;
        for service in ["postgres", "orchestrator", "app-api"] {
            fixture.start(service).await?;
        }
        fixture.has_one_of_each(BYSTANDER).await
    })
    .await
}

/// Simulates a machine that loses its power and starts again: the engine starts the services by
/// itself, in no order, and no one-shot; the services start the tenants.
#[tokio::test]
async fn everything_killed_at_once_returns_by_itself() -> Result<()> {
    alone("everything killed at once returns by itself, nothing twice", async |fixture| {
        let installation = fixture.session.installation.clone();
        for slug in [BYSTANDER, "third"] {
            Session::with_tenant(&installation, slug).await?;
        }
        let mut running = fixture.parts.containers().await?;
        running.retain(|container| container.state()["Running"] == true);
        let slugs = running.iter().map(Container::slug).filter(|slug| !slug.is_empty());
        let slugs: Vec<_> = slugs.map(str::to_owned).collect();
        ensure!(slugs.len() > 2, "expected tenants that run, got {slugs:?}");
        let kill = async |container: &Container| {
            fixture.docker.kill_container(&container.id, None::<KillContainerOptions>).await
        };
        try_join_all(running.iter().map(kill)).await?;
        try_join_all(SERVICES.map(|service| fixture.start(service))).await?;
        for slug in slugs {
            fixture.has_one_of_each(&slug).await.with_context(|| slug.clone())?;
        }
        fixture.session.guest_is_owner().await
    })
    .await
}

#[tokio::test]
async fn a_broken_image_is_reported_to_the_owner_and_a_good_one_runs_again() -> Result<()> {
    let name = "a broken image is reported to the owner, a good one runs again";
    alone(name, images::broken).await
}

#[tokio::test]
async fn a_rebuilt_image_runs_from_the_next_start_with_the_data() -> Result<()> {
    alone("a rebuilt image runs from the next start on, with the data", images::rebuilt).await
}

#[tokio::test]
async fn an_installation_that_goes_down_and_up_keeps_its_tenants() -> Result<()> {
    alone("down and up again, a tenant returns with its data", async |fixture| {
        xtask::succeed(&["local-down"], &[])?;
        xtask::succeed(&["local-up"], &[])?;
        fixture.url_answers(SLUG).await?;
        fixture.session.guest_is_owner().await
    })
    .await
}

/// The state of a fresh clone that finds the volume of an earlier installation of its name.
#[tokio::test]
async fn a_database_without_its_secrets_is_refused_by_name() -> Result<()> {
    alone("a database without its secrets is refused by name", async |fixture| {
        let mut orphan = fixture.session.installation.clone();
        orphan.name = format!("{}-orphan", orphan.name);
        let admin_url = format!("http://localhost:{}", orphan.admin_port);
        let variables =
            [("CIAL_INSTALL", orphan.name.as_str()), ("CIAL_ADMIN_URL", admin_url.as_str())];
        // The orphan takes over the ports of the installation under test.
        xtask::succeed(&["local-down"], &[])?;
        let outcome = async {
            xtask::succeed(&["local-up"], &variables)?;
            xtask::succeed(&["local-down"], &variables)?;
            let mut secrets = InstallationObjects::of(&orphan.name).volumes()?;
            secrets.retain(|volume| volume.ends_with("-secrets"));
            ensure!(secrets.len() >= 4, "expected the secrets of four services, got {secrets:?}");
            let remove = ["volume", "rm"].into_iter().chain(secrets.iter().map(String::as_str));
            docker_command::run(&remove.collect::<Vec<_>>())?;
            let text = xtask::refuse(&["local-up"], &variables)?;
            for part in [
                "secrets that belong to it are gone",
                "bring back",
                "cargo xtask local-down --purge",
            ] {
                ensure!(text.contains(part), "expected {part:?}, got {text}");
            }
            Ok(())
        };
        let outcome = outcome.await;
        xtask::succeed(&["local-down", "--purge", "--yes"], &variables)?;
        xtask::succeed(&["local-up"], &[])?;
        outcome
    })
    .await
}

/// One named step without a bystander.
async fn alone(name: &str, work: impl AsyncFnOnce(&mut Fixture) -> Result<()>) -> Result<()> {
    let mut checks = Checks::new();
    let mut fixture = Fixture::open(&Installation::from_env()?).await?;
    checks.require(name, work(&mut fixture).await)?;
    checks.finish()
}
