//! Variables and secrets reach the program of a tenant, and nothing that an inspection shows.

use anyhow::{Context as _, Result};
use e2e::command_line::{create_app, delete_app, fails, succeed};
use e2e::session::{Session, until};
use e2e::{AppImages, Checks, Parts};
use testkit::{Installation, TempDir};

use crate::apps::PROGRAM;

const SLUG: &str = "vault-acme";
const SECRET: &str = "a-secret-of-the-vault";

#[tokio::test]
async fn variables_and_secrets_reach_the_program_and_no_inspection() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let images = AppImages::build("variables", PROGRAM, &["one"])?;
    create_app("vault", &images.names, None)?;
    succeed(&["tenants", "create", SLUG, "--app", "vault"], None)?;
    let mut session = Session::of_owner(&installation, SLUG).await?;
    session.url_answers(200).await?;

    let folder = TempDir::new("vault")?;
    let file = folder.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n"))?;
    let file = file.to_str().context("the path of a temporary folder is text")?;
    succeed(&["tenants", "env", "set", SLUG, "GREETING=hello"], None)?;
    let unset = session.guest.get("/variable/GREETING").await?;
    checks.equal("a running program is left alone", "unset", &unset.body);
    let set = ["tenants", "secrets", "set", SLUG, "TOKEN", "--file", file, "--restart"];
    succeed(&set, None)?;
    let guest = &mut session.guest;
    let seen = until(async || guest.get("/variable/TOKEN").await, |page| page.body == SECRET);
    checks.require("the program receives the secret after a restart", seen.await)?;
    let greeting = session.guest.get("/variable/GREETING").await?;
    checks.equal("and the variable", "hello", &greeting.body);

    for container in Parts::of(&installation).tenant(SLUG).await? {
        let shown = docker_command::run(&["inspect", &container.id])?;
        let is_hidden = !shown.contains(SECRET) && !shown.contains("GREETING");
        checks.holds("an inspection shows neither", "", shown.len(), is_hidden);
    }
    let listed = succeed(&["tenants", "secrets", "list", SLUG, "--output", "json"], None)?;
    let is_name = listed.contains("TOKEN") && !listed.contains(SECRET);
    checks.holds("a list shows the name alone", "TOKEN", &listed, is_name);
    let replaced = fails(&["tenants", "env", "set", SLUG, "TOKEN=open"], None)?;
    checks.contains("no variable replaces a secret", "has a secret TOKEN", &replaced);

    succeed(&["tenants", "secrets", "unset", SLUG, "TOKEN", "--restart", "--yes"], None)?;
    let guest = &mut session.guest;
    let gone = until(async || guest.get("/variable/TOKEN").await, |page| page.body == "unset");
    checks.require("a deleted secret is gone after a restart", gone.await)?;
    delete_app("vault", &[SLUG])?;
    checks.finish()
}
