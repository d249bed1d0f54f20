//! The commands of the documents, run literally in a copy of the checkout, like a person who has
//! just cloned it: with an installation, an `.env` and ports of its own.
//!
//! `cargo xtask test readme` names a free installation, runs this test, and removes all that is
//! left.

mod checkout;
mod terminal;
mod tutorial;

use anyhow::{Context as _, Result, ensure};
use docker_command::InstallationObjects;
use e2e::leaks;
use e2e::session::Session;
use terminal::{Terminal, print_line};
use testkit::installation::variable;
use testkit::{Client, Installation, TempDir};

/// Every command that this test runs, a line each. `cargo xtask tidy` holds the documents to the same list.
const COMMANDS: &str = include_str!("commands.txt");
const INTERRUPTED: &str = "the last run ended in step";

#[tokio::test]
async fn the_commands_of_the_documents_work_in_a_fresh_clone() -> Result<()> {
    let installation = Installation::from_env()?;
    let (folder, plugins) = (TempDir::new("clone")?, variable("CIAL_E2E_PLUGINS"));
    checkout::copy_to(folder.path(), &installation)?;
    let plugins = plugins.as_deref().map(std::path::Path::new);
    let mut terminal = Terminal::new(folder.path(), &installation, plugins);
    follow(&mut terminal, &installation).await?;
    terminal.has_run(COMMANDS)
}

async fn follow(terminal: &mut Terminal<'_>, installation: &Installation) -> Result<()> {
    // Ctrl-C arrives while xtask checks the images, and again while services start.
    terminal.interrupt("cargo xtask local-up", "2/7")?;
    terminal.interrupt("cargo xtask local-up", "5/7")?;
    let output = terminal.run("cargo xtask local-up")?;
    output.contains(&format!("{INTERRUPTED} \"Starting services"))?;
    output.contains(&installation.admin("/admin"))?;
    terminal.run("cargo xtask local-up")?.lacks(INTERRUPTED)?;
    tutorial::follow(terminal, installation)?;
    terminal.run("cargo xtask local-status")?.contains("app-api        is healthy")?;

    Session::with_tenant(installation, "acme").await?;
    terminal
        .run("curl -H 'Host: acme.localhost:8080' http://localhost:8080/")?
        .contains("Tenant acme")?;
    terminal.run("docker ps --filter label=cial.install=local")?.contains("cial-tenant-")?;
    terminal.run("docker compose exec router router upgrade")?;
    let key = "docker compose exec app-api cat /var/lib/cial/bootstrap-key";
    terminal.run(key)?.word_with("cial_")?;
    terminal.watch("cargo xtask local-logs router --follow")?;
    reset(terminal, installation).await?;
    rotate(terminal)?;

    terminal.run("make down")?.contains("its data is kept")?;
    terminal.refuse("cargo xtask local-status")?.contains("cargo xtask local-up")?;
    for command in ["make build", "make tenant-build", "cargo xtask images", "make up"] {
        terminal.run(command)?;
    }
    answers(installation).await.context("a tenant, after down and up")?;
    terminal.watch("make logs")?;
    terminal.run("scripts/down")?.contains("its data is kept")?;
    is_down(installation).context("scripts/down")?;
    terminal.run("cargo xtask local-down")?;
    purge(terminal, installation, "cargo xtask local-down --purge --yes")?;

    terminal.run("cargo xtask local-up --build-only")?;
    terminal.until("docker-compose up", "cargo xtask local-status")?;
    purge(terminal, installation, "scripts/down --purge --yes")?;
    for command in ["cargo xtask bench --help", "cargo xtask test --help"] {
        terminal.run(command)?.contains("Usage:")?;
    }
    Ok(())
}

/// The recovery link leads to a page, and no log holds the link.
async fn reset(terminal: &mut Terminal<'_>, installation: &Installation) -> Result<()> {
    let command = "docker compose exec app-api app-api reset-password owner@example.com";
    let output = terminal.run(command)?;
    let link = output.word_with(&installation.admin_url)?;
    let path = link.strip_prefix(&installation.admin_url).unwrap_or_default();
    let mut owner = Client::new("localhost", installation.admin_port);
    let page = owner.get(path).await?;
    ensure!(page.status == 200, "expected a page at {path}, got {}", page.summary());
    let (_, token) = link.rsplit_once(['=', '/']).context("the link has no token")?;
    leaks::search_logs(installation, &[token.to_owned()]).await.map(drop)
}

/// The second key replaces the first one, and nothing needs that.
fn rotate(terminal: &mut Terminal<'_>) -> Result<()> {
    for _ in 0..2 {
        let output = terminal.run("docker compose run --rm -T rotate-secrets start")?;
        output.contains("encrypted with the new key")?;
    }
    let output = terminal.run("docker compose run --rm -T rotate-secrets status")?;
    output.contains("opens: ")?;
    output.lacks("sealed with")?;
    terminal.run("docker compose run --rm -T rotate-secrets finish")?.contains("removed ")?;
    Ok(())
}

/// The earlier tenant is there again.
async fn answers(installation: &Installation) -> Result<()> {
    let mut session = Session::of_owner(installation, "acme").await?;
    session.url_answers(200).await?;
    let listed = session.owner.get("/api/admin/tenants").await?;
    let count = listed.json()["tenants"].as_array().map(Vec::len);
    ensure!(count == Some(1), "expected one tenant, got {}", listed.summary());
    Ok(())
}

/// Only volumes are left.
fn is_down(installation: &Installation) -> Result<()> {
    let objects = InstallationObjects::of(&installation.name);
    let (left, volumes) = (objects.everything()?, objects.volumes()?);
    ensure!(left == volumes && !left.is_empty(), "expected volumes alone, got {left:?}");
    Ok(())
}

fn purge(
    terminal: &mut Terminal<'_>,
    installation: &Installation,
    command: &'static str,
) -> Result<()> {
    terminal.run(command)?.contains("nothing is left")?;
    let left = InstallationObjects::of(&installation.name).everything()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    print_line("ok     nothing with its label is left on the engine");
    Ok(())
}
