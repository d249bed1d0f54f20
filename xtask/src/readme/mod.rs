//! The commands of the documents, run literally in a copy of the checkout, as a person would who has just
//! cloned it: with an installation, a `.env` and ports of its own, so that nobody else's is touched.

mod checkout;
mod hands;

use anyhow::{Context as _, Result, ensure};

use crate::http::Visitor;
use crate::local::{self, Installation};
use crate::smoke_local::{journey, passing};
use crate::{test, world};
use checkout::Checkout;
use hands::Hands;

/// All that is run here. `tidy` holds the documents to it, and the step itself to the whole of it.
pub(crate) const COMMANDS: &[&str] = &[
    "cargo xtask local-up",
    "cargo xtask local-up --build-only",
    "cargo xtask local-down",
    "cargo xtask local-down --purge --yes",
    "cargo xtask local-status",
    "cargo xtask local-logs router --follow",
    "cargo xtask images",
    "cargo xtask bench --help",
    "cargo xtask test --help",
    "curl -H 'Host: acme.localhost:8080' http://localhost:8080/",
    "docker ps --filter label=cial.install=local",
    "docker compose exec app-api app-api reset-password owner@example.com",
    "docker-compose up",
    "scripts/down",
    "scripts/down --purge --yes",
    "make up",
    "make down",
    "make logs",
    "make build",
    "make tenant-build",
];

const INTERRUPTED: &str = "the last run ended in step";

pub(crate) fn run() -> Result<()> {
    let plugins = test::compose_plugins()?;
    let mut installation = Installation::passing("readme")?;
    world::block_on(passing::with(&mut installation, async |installation| {
        let checkout = Checkout::make(installation)?;
        let mut hands = Hands::new(checkout.folder(), installation, plugins.as_deref());
        follow(&mut hands, installation).await?;
        hands.have_done(COMMANDS)
    }))
}

async fn follow(hands: &mut Hands<'_>, installation: &Installation) -> Result<()> {
    // Ctrl-C while images are looked at, and again while services start.
    hands.interrupt("cargo xtask local-up", "2/5")?;
    hands.interrupt("cargo xtask local-up", "4/5")?;
    let told = hands.run("cargo xtask local-up")?;
    told.says(&format!("{INTERRUPTED} \"Starting services"))?;
    told.says(&installation.admin_page())?;
    hands.run("cargo xtask local-up")?.lacks(INTERRUPTED)?;
    hands.run("cargo xtask local-status")?.says("app-api        is healthy")?;

    journey::arrive_at(installation).await?;
    hands.run("curl -H 'Host: acme.localhost:8080' http://localhost:8080/")?.says("Tenant acme")?;
    hands.run("docker ps --filter label=cial.install=local")?.says("cial-tenant-")?;
    hands.watch("cargo xtask local-logs router --follow")?;
    reset(hands, installation).await?;

    hands.run("make down")?.says("its data is kept")?;
    hands.refuse("cargo xtask local-status")?.says("cargo xtask local-up")?;
    for command in ["make build", "make tenant-build", "cargo xtask images", "make up"] {
        hands.run(command)?;
    }
    answers(installation).await.context("a tenant, after down and up")?;
    hands.watch("make logs")?;
    hands.run("scripts/down")?.says("its data is kept")?;
    is_down(installation).await.context("scripts/down")?;
    hands.run("cargo xtask local-down")?;
    purge(hands, installation, "cargo xtask local-down --purge --yes").await?;

    hands.run("cargo xtask local-up --build-only")?;
    hands.until("docker-compose up", "cargo xtask local-status")?;
    purge(hands, installation, "scripts/down --purge --yes").await?;
    for command in ["cargo xtask bench --help", "cargo xtask test --help"] {
        hands.run(command)?.says("Usage:")?;
    }
    Ok(())
}

/// The way back in leads to a page, and no log holds it.
async fn reset(hands: &mut Hands<'_>, installation: &Installation) -> Result<()> {
    let command = "docker compose exec app-api app-api reset-password owner@example.com";
    let told = hands.run(command)?;
    let link = told.word_with(&installation.admin_url)?;
    let path = link.strip_prefix(&installation.admin_url).unwrap_or_default();
    let mut owner = Visitor::new("localhost", installation.admin_port);
    let page = owner.get(path).await?;
    ensure!(page.status == 200, "expected a page at {path}, saw {}", page.brief());
    let (_, token) = link.rsplit_once(['=', '/']).context("the link has no token")?;
    let (docker, compose) = local::tools().await?;
    local::examine_logs(&docker, &compose, installation, &[token.to_owned()]).await?;
    Ok(())
}

/// The tenant that was there before is there again.
async fn answers(installation: &Installation) -> Result<()> {
    let host = format!("acme.{}", installation.domain);
    let mut guest = Visitor::new(&host, installation.router_port);
    journey::until(async || guest.get("/").await, |page| page.status == 200).await?;
    let mut owner = Visitor::new("localhost", installation.admin_port);
    let body = serde_json::json!({ "email": journey::EMAIL, "password": journey::PASSWORD });
    let answer = owner.post("/api/auth/sign-in/email", &body).await?;
    ensure!(answer.status == 200, "expected a sign-in, saw {}", answer.brief());
    let listed = owner.get("/api/admin/tenants").await?;
    let count = listed.json()["tenants"].as_array().map(Vec::len);
    ensure!(count == Some(1), "expected one tenant, saw {}", listed.brief());
    Ok(())
}

/// All that is left are volumes.
async fn is_down(installation: &Installation) -> Result<()> {
    let (docker, _) = local::tools().await?;
    let left = local::left(&docker, installation).await?;
    let projects = local::projects(&docker, installation).await?;
    let volumes = local::all_volumes(&docker, installation, &projects).await?;
    let more: Vec<_> = left.into_iter().filter(|thing| !volumes.contains(thing)).collect();
    ensure!(more.is_empty() && !volumes.is_empty(), "expected volumes alone, saw also {more:?}");
    Ok(())
}

async fn purge(
    hands: &mut Hands<'_>,
    installation: &Installation,
    command: &'static str,
) -> Result<()> {
    hands.run(command)?.says("nothing is left")?;
    let (docker, _) = local::tools().await?;
    let left = local::left(&docker, installation).await?;
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    world::say("ok     nothing with its label is left on the engine");
    Ok(())
}
