//! The model of the installation replies in a tenant's chat: through the images, with a key that stays with the control plane.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::command_line::succeed;
use e2e::session::Session;
use e2e::{AppImages, Checks, Parts};
use serde_json::json;
use testkit::model::{ModelServer, reply};
use testkit::{Installation, TempDir};

const PROGRAM: &str = include_str!("shell.rs");
const MANIFEST: &str = "chat = \"model\"\nport = 3000\n";
const SLUG: &str = "model-acme";
const KEY: &str = "sk-of-the-operator-4711";
const MESSAGE: &str = "a question that only the model may read";

fn docker(arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new("docker").args(arguments).output().context("docker")?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "docker {}: {error}", arguments.join(" "));
    // Logs go to both.
    Ok([output.stdout, output.stderr].concat())
}

fn docker_text(arguments: &[&str]) -> Result<String> {
    Ok(String::from_utf8_lossy(&docker(arguments)?).trim().to_owned())
}

/// The machine's own address on the network over which app-api reaches the outside.
fn host_address(installation: &Installation) -> Result<std::net::IpAddr> {
    let network = format!("{}_control", installation.project());
    let format = "{{(index .IPAM.Config 0).Gateway}}";
    docker_text(&["network", "inspect", &network, "--format", format])?.parse().context(network)
}

fn holds_key(bytes: &[u8]) -> bool {
    bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes())
}

/// The places that show the key, among the configurations and logs of all containers and the files of the tenant.
fn key_is_shown_by(installation: &Installation, tenant: &str) -> Result<Vec<String>> {
    let project = format!("label=com.docker.compose.project={}", installation.project());
    let services = docker_text(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &project])?;
    let mut found = Vec::new();
    for container in services.lines().chain([tenant]) {
        for what in ["inspect", "logs"] {
            if holds_key(&docker(&[what, container])?) {
                found.push(format!("{what} {container}"));
            }
        }
    }
    let archives: [&[&str]; 4] = [
        &["export", tenant],
        &["cp", &format!("{tenant}:/run/cial/secrets"), "-"],
        &["cp", &format!("{tenant}:/run/cial/models"), "-"],
        &["cp", &format!("{tenant}:/var/lib/cial"), "-"],
    ];
    for arguments in archives {
        if holds_key(&docker(arguments)?) {
            found.push(arguments.join(" "));
        }
    }
    Ok(found)
}

fn create(installation: &Installation, checks: &mut Checks) -> Result<AppImages> {
    let base = docker_text(&[
        "ps",
        "--filter",
        &format!("label=com.docker.compose.project={}", installation.project()),
        "--filter",
        "label=com.docker.compose.service=postgres",
        "--format",
        "{{.Image}}",
    ])?;
    // The image of Postgres has a shell.
    let images = AppImages::build_on(&base, "talker", PROGRAM, &["one"])?;
    let folder = TempDir::new("models")?;
    let manifest = folder.path().join("cial.toml");
    fs::write(&manifest, MANIFEST)?;
    let manifest = manifest.display().to_string();
    checks.require("an app is created", succeed(&["apps", "create", "talker"], None))?;
    let image = images.names[0].as_str();
    let release =
        ["apps", "release", "create", "talker", "--image", image, "--manifest", &manifest];
    checks.require("a release whose chat is the model's is created", succeed(&release, None))?;
    let create = ["tenants", "create", SLUG, "--app", "talker"];
    checks.require("a tenant is created", succeed(&create, None))?;
    Ok(images)
}

#[tokio::test]
async fn the_model_replies_in_the_chat_and_its_key_is_nowhere_but_in_the_control_plane()
-> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let respond = |message: &str| reply(&format!("You asked: {message}"), 30, 12);
    let endpoint = ModelServer::start(host_address(&installation)?, respond)?;
    let _images = create(&installation, &mut checks)?;
    let mut session = Session::of_owner(&installation, SLUG).await?;
    let signed_in = session.sign_in_at_core().await;
    let mut core = checks.require("the owner signs in at the core's site", signed_in)?;
    let path = "/.cial/api/chat";
    let without = core.post(path, &json!({ "message": MESSAGE })).await?;
    checks.equal("without a model, the chat says so", "\"model_unset\"", &without.json()["code"]);

    let folder = TempDir::new("model-key")?;
    let key = folder.path().join("key");
    fs::write(&key, KEY)?;
    let key = key.display().to_string();
    let url = endpoint.url();
    let set = ["models", "set", "--url", &url, "--model", "small", "--key-file", &key];
    let printed = checks.require("the operator sets a model", succeed(&set, None))?;
    checks.holds("which prints no key", "no key", &printed, !printed.contains(KEY));
    let replied = core.post(path, &json!({ "message": MESSAGE })).await?;
    checks.equal("a message is answered", 200, replied.status);
    let first = replied.json();
    checks.equal("by the model", format!("\"You asked: {MESSAGE}\""), &first["reply"]);
    let again = json!({ "message": "And then?", "conversation": first["conversation"] });
    core.post(path, &again).await?.expect_status(200)?;
    let requests = endpoint.requests();
    checks.equal("the endpoint was called twice", 2, requests.len());
    let last = requests.last().cloned().unwrap_or_default();
    checks.contains("with the operator's key", &format!("Bearer {KEY}"), &last);
    checks.contains("and the conversation so far", &format!("You asked: {MESSAGE}"), &last);
    checks.holds("and no name", "no name", &last, !last.contains("owner@example.com"));
    let usage = session.owner.get(&session.path("/model-usage")).await?.json();
    checks.equal("the tokens are counted", 84, &usage["tokens_today"]);

    let denied = session
        .guest
        .post("/", &json!("ls /run/cial/models 2>&1; ls /run/cial/secrets 2>&1"))
        .await?;
    let denials: BTreeSet<_> =
        denied.body.lines().filter(|l| l.contains("Permission denied")).collect();
    checks.equal("the app's program reaches neither socket nor token", 2, denials.len());
    let row = session.owner.get(&session.path("")).await?.json();
    let tenant = row["container_id"].as_str().context("no container")?.to_owned();
    let shown = key_is_shown_by(&installation, &tenant)?;
    checks.equal("no container, log or file shows the key", "[]", format!("{shown:?}"));
    let postgres = Parts::of(&installation).service("postgres").await?.id;
    let dump =
        docker(&["exec", &postgres, "pg_dump", "--username=cial", "--dbname=cial", "--inserts"])?;
    checks.holds("nor does the database", "no key", "the key", !holds_key(&dump));
    let dump = String::from_utf8_lossy(&dump).into_owned();
    checks.holds("nor has it the question", "no text", "the text", !dump.contains(MESSAGE));

    let unset = succeed(&["models", "unset", "--yes"], None);
    checks.require("the model is unset", unset)?;
    let deleted = succeed(&["tenants", "delete", SLUG, "--yes"], None);
    checks.require("the tenant is deleted", deleted)?;
    checks.require("the app is deleted", succeed(&["apps", "delete", "talker", "--yes"], None))?;
    checks.finish()
}
