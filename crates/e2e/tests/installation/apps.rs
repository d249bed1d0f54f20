//! A tenant runs a program that knows nothing of the platform, by the commands that docs/apps.md shows.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use e2e::command_line::{create_app, delete_app, json, succeed};
use e2e::session::{PASSWORD, Session, until};
use e2e::{AppImages, Checks};
use serde_json::{Value, json};
use testkit::clock::now;
use testkit::{Client, Installation};

use crate::every_command::submit;

pub(crate) const PROGRAM: &str = include_str!("notes.rs");

#[tokio::test]
async fn a_tenant_runs_the_program_of_an_image_and_moves_between_releases() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let images = AppImages::build("notes", PROGRAM, &["one", "two"])?;
    let created = create_app("notes", &images.names, None);
    checks.require("an app is created with releases", created)?;
    let create = ["tenants", "create", "notes-acme", "--app", "notes"];
    checks.require("a tenant with the app is created", succeed(&create, None))?;
    let mut session = Session::of_owner(&installation, "notes-acme").await?;
    let page = session.url_answers(200).await?;
    let newest = "notes two as 1001 for nobody, visit 1";
    checks.equal("its program answers as the agent", newest, &page.body);

    let address = session.open().await?;
    session.guest.get(&address).await?.expect_status(303)?;
    let page = session.guest.get("/").await?;
    let known = "notes two as 1001 for owner@example.com, visit 2";
    checks.equal("its program knows who visits it", known, &page.body);

    let assertion = session.guest.get("/header/x-cial-assertion").await?.body;
    let header = assertion.split('.').next().unwrap_or_default();
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header)?;
    let header: Value = serde_json::from_slice(&header).context(assertion)?;
    let keys = session.guest.get("/.cial/api/jwks.json").await?.json();
    checks.equal("its program receives an assertion", "\"ES256\"", &header["alg"]);
    checks.equal("signed with the tenant's published key", &header["kid"], &keys["keys"][0]["kid"]);

    let learned = a_changed_role_reaches_the_program(&installation, &mut checks).await;
    checks.require("a member's role is that of the database", learned)?;

    succeed(&["tenants", "set-release", "notes-acme", "v1"], None)?;
    let moved = session.shows("notes one").await?;
    let earlier = "notes one as 1001 for owner@example.com, visit 3";
    checks.equal("an earlier release finds the files", earlier, &moved.body);

    session.set_policy(0, 1).await?;
    checks.require("it falls asleep", session.becomes("sleeping").await)?;
    let page = session.url_answers(200).await?;
    checks.contains("a visit wakes it", "notes one as 1001", &page.body);

    checks.require("tenant and app are deleted", delete_app("notes", &["notes-acme"]))?;
    checks.finish()
}

/// A session at the tenant has one role: it ends with the role, and the next sign-in, which asks for nothing, has the new one.
async fn a_changed_role_reaches_the_program(
    installation: &Installation,
    checks: &mut Checks,
) -> Result<()> {
    const EMAIL: &str = "rita@example.com";
    let tenant = ["--tenant", "notes-acme"];
    let invite = [&["invitations", "create", EMAIL, "--role", "viewer", "-q"], &tenant[..]];
    let link = succeed(&invite.concat(), None)?;
    let path = link.trim_end().strip_prefix(&installation.admin("")).context(link.clone())?;
    let mut rita = Client::new("localhost", installation.admin_port);
    let form = format!("name=Rita&password={}", PASSWORD.replace(' ', "+"));
    submit(&rita, path, &form).await?.expect_status(303)?;
    let account = json!({ "email": EMAIL, "password": PASSWORD });
    rita.post("/api/auth/sign-in/email", &account).await?.expect_status(200)?;

    let guest = Client::new(&installation.tenant_host("notes-acme"), installation.router_port);
    let (installation, slug) = (installation.clone(), "notes-acme".to_owned());
    let mut session = Session { installation, owner: rita, guest, slug };
    let role = async |session: &mut Session| session.guest.get("/header/x-cial-role").await;
    let sign_in = async |session: &mut Session| {
        let address = session.open().await?;
        session.guest.get(&address).await?.expect_status(303)?;
        anyhow::Ok(role(session).await?.body)
    };
    checks.equal("the program learns a viewer's role", "viewer", sign_in(&mut session).await?);

    let members = json(&[&["members", "list"], &tenant[..]].concat())?;
    let members = members.as_array().context("members are a list")?;
    let own = members.iter().find(|member| member["email"] == EMAIL).context("she is a member")?;
    let id = own["user_id"].as_str().context("a member has an id")?;
    let begin = now();
    succeed(&[&["members", "set", id, "--role", "admin"], &tenant[..]].concat(), None)?;
    until(async || role(&mut session).await, |page| page.body == "none").await?;
    let ended =
        format!("the session with the former role ends: {} ms", begin.elapsed().as_millis());
    checks.require(&ended, Ok(()))?;
    checks.equal("the next sign-in has the new role", "admin", sign_in(&mut session).await?);
    succeed(&["users", "delete", id, "--yes"], None)?;
    let left = until(async || role(&mut session).await, |page| page.body == "none").await;
    checks.require("the session ends with the account", left)?;
    Ok(())
}
