//! A chat with the built-in app: the message stays in the tenant, and the control plane learns how many there were.

use anyhow::{Context as _, Result};
use e2e::session::{Session, until};
use e2e::{Checks, Parts};
use serde_json::json;
use testkit::Installation;

const MESSAGE: &str = "a sentence that nobody else may read";

#[tokio::test]
async fn a_chat_reaches_the_control_plane_as_numbers_alone() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let mut session = Session::signed_in(&installation, "talks").await?;
    let signed_in = session.sign_in_at_core().await;
    let mut core = checks.require("the owner signs in at the core's site", signed_in)?;
    let replied = core.post("/.cial/api/chat", &json!({ "message": MESSAGE })).await?;
    checks.equal("a message is answered", 200, replied.status);
    let reply = replied.json();
    checks.equal("the built-in app repeats it", format!("\"{MESSAGE}\""), &reply["reply"]);
    let conversation = reply["conversation"].as_str().context("no conversation")?.to_owned();
    let path = format!("/.cial/api/v1/conversations/{conversation}/messages");
    let kept = core.get(&path).await?;
    checks.contains("the tenant's history has the text", MESSAGE, &kept.body);

    let path = session.path("/summaries");
    let owner = &mut session.owner;
    let is_counted = |list: &testkit::Response| list.json()["total"]["messages"] == 2;
    let counted = until(async || owner.get(&path).await, is_counted).await;
    checks.require("the control plane counts both messages", counted)?;
    let postgres = Parts::of(&installation).service("postgres").await?.id;
    // All tables of the platform's database, and of every tenant's schema in it.
    let dump = ["pg_dump", "--username=cial", "--dbname=cial", "--inserts"];
    let dump = docker_command::run(&[&["exec", &postgres], &dump[..]].concat())?;
    checks.contains("the central database has the conversation", &conversation, &dump);
    checks.holds("and no text of it", "no text", "the text", !dump.contains(MESSAGE));
    checks.finish()
}
