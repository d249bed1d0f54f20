//! Every noun and verb of `cial` against the installation, as an owner who signs in by a code.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use e2e::Checks;
use e2e::command_line::{Printed, command, parsed, run};
use e2e::session::{EMAIL, PASSWORD, Session};
use serde_json::{Value, json};
use testkit::{Client, Installation, Response, TempDir};

const REFERENCE: &str = include_str!("../../../../docs/reference/cli.md");
const SLUG: &str = "every-acme";

/// Commands that other tests call, because they need more than an installation: an image, a package, a terminal's browser.
const ELSEWHERE: &[&str] = &[
    // apps.rs, rollouts.rs, smoke_starts.rs
    "apps release create",
    "apps rollout start",
    "apps rollout pause",
    "apps rollout resume",
    "apps rollout abort",
    "tenants set-release",
    // crates/app-api/tests/it/variables.rs, crates/cli/tests/it/requests.rs and destroying.rs
    "apps env list",
    "apps env set",
    "apps env unset",
    "apps secrets list",
    "apps secrets set",
    "apps secrets unset",
    // registries.rs
    "registries list",
    "registries set",
    "registries delete",
    // crates/app-api/tests/it/packages.rs
    "packages delete",
    // crates/app-api/tests/it/triggers.rs, crates/cli/tests/it/triggers.rs
    "triggers create",
    "triggers get",
    "triggers pause",
    "triggers resume",
    "triggers fire",
    "triggers delete",
    // backups.rs
    "backups list",
    "backups create",
    "backups restore",
    "backups delete",
    // transfers.rs
    "tenants export",
    "tenants import",
    // workflows.rs
    "workflows run",
    "workflows pause",
    "workflows resume",
    "executions get",
    "executions logs",
    "executions cancel",
];

/// The command line of one person: a configuration of its own, and the commands that it ran.
struct CommandLine {
    home: TempDir,
    ran: RefCell<BTreeSet<&'static str>>,
}

impl CommandLine {
    fn config(&self) -> PathBuf {
        self.home.path().join("config.toml")
    }

    /// Notes the command that `args` begin with.
    fn note(&self, args: &[&str]) {
        let found = commands().into_iter().filter(|name| {
            let own: Vec<_> = name.split(' ').collect();
            args.starts_with(&own)
        });
        self.ran.borrow_mut().extend(found);
    }

    fn run(&self, args: &[&str]) -> Result<Printed> {
        self.note(args);
        run(command(args)?.env("CIAL_CONFIG", self.config()).current_dir(self.home.path()))
    }

    /// Runs a command that the server must refuse, for a reason that the error holds.
    fn refused(&self, args: &[&str], reason: &str) -> Result<()> {
        let stderr = self.run(args)?.expect_code(1, args)?.stderr;
        ensure!(stderr.contains(reason), "cial {}: {stderr}", args.join(" "));
        Ok(())
    }

    /// The standard output of a command that must succeed.
    fn ok(&self, args: &[&str]) -> Result<String> {
        Ok(self.run(args)?.expect_code(0, args)?.stdout)
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        parsed(args, &self.ok(&[args, &["-o", "json"]].concat())?)
    }

    /// The id of the first item of a list for which `is_wanted` holds.
    fn find(&self, args: &[&str], is_wanted: impl Fn(&Value) -> bool) -> Result<String> {
        let list = self.json(args)?;
        let found = list.as_array().and_then(|items| items.iter().find(|item| is_wanted(item)));
        let item = found.with_context(|| format!("not in cial {}: {list}", args.join(" ")))?;
        let id = item.get("id").or_else(|| item.get("user_id")).and_then(Value::as_str);
        Ok(id.context("an item has an id")?.to_owned())
    }

    /// Signs in by a code, which `owner` confirms in the admin.
    async fn sign_in(installation: &Installation, owner: &Session) -> Result<Self> {
        let own = Self { home: TempDir::new("every-command")?, ran: RefCell::default() };
        let args =
            ["login", "--no-browser", "--server", &installation.admin_url, "--profile", "own"];
        own.note(&args);
        let mut login = command(&args)?;
        login.env("CIAL_CONFIG", own.config()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = login.stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("it has errors")?).lines();
        let shown = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("the code ")));
        let shown = shown.context("cial login shows no code")??;
        let code = shown.rsplit(' ').next().unwrap_or_default();
        let page = submit(&owner.owner, "/admin/cli-login", &format!("code={code}")).await?;
        let (_, form) =
            page.body.split_once("action=\"/admin/cli-login/").context(page.summary())?;
        let id = form.split('"').next().unwrap_or_default();
        let path = format!("/admin/cli-login/{id}");
        submit(&owner.owner, &path, "decision=confirm&scope=").await?;
        let output = child.wait_with_output()?;
        let rest: Vec<_> = lines.map_while(Result::ok).collect();
        ensure!(output.status.success(), "cial login: {}\n{}", output.status, rest.join("\n"));
        Ok(own)
    }
}

/// The names of all commands without verbs of their own, from the reference.
fn commands() -> BTreeSet<&'static str> {
    let heading = |line: &'static str| {
        let name = line.trim_start_matches('#').trim().strip_prefix("`cial ")?;
        line.starts_with("##").then(|| name.trim_end_matches('`'))
    };
    let all: Vec<_> = REFERENCE.lines().filter_map(heading).collect();
    let has_verbs = |name: &str| all.iter().any(|other| other.starts_with(&format!("{name} ")));
    all.iter().copied().filter(|name| !has_verbs(name)).collect()
}

/// Sends a form as the browser of `client` does.
pub(crate) async fn submit(client: &Client, path: &str, form: &str) -> Result<Response> {
    let content_type = "application/x-www-form-urlencoded";
    client.clone().post_bytes(path, content_type, form.as_bytes()).await
}

#[tokio::test]
async fn every_command_works_for_an_owner_who_signed_in_by_a_code() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let mut owner = Session::of_owner(&installation, SLUG).await?;
    let signed_in = CommandLine::sign_in(&installation, &owner).await;
    let cial = checks.require("a person signs in by a code", signed_in)?;
    let whoami = cial.json(&["whoami"])?;
    checks.equal(
        "the key acts as the person",
        EMAIL,
        whoami["user"]["email"].as_str().unwrap_or("-"),
    );

    checks.require("tenants", tenants(&cial, &installation, &mut owner).await)?;
    checks.require("variables and secrets", variables(&cial))?;
    checks.require("keys", keys(&cial))?;
    checks.require("people", people(&cial, &installation).await)?;
    checks.require("sessions", sessions(&cial, &installation).await)?;
    checks.require("webhooks", webhooks(&cial))?;
    checks.require("models", models(&cial))?;
    checks.require("apps and packages", apps(&cial))?;
    checks.require("audit", audit(&cial))?;
    checks.require("what needs no tenant", local(&cial))?;
    cial.ok(&["tenants", "delete", SLUG, "--yes"])?;

    cial.ok(&["logout"])?;
    let signed_out = cial.run(&["whoami"])?;
    checks.equal("logout leaves no key", "Some(4)", format!("{:?}", signed_out.code));
    let ran = cial.ran.borrow();
    let missing: Vec<_> = commands()
        .into_iter()
        .filter(|name| !ran.contains(name) && !ELSEWHERE.contains(name))
        .collect();
    checks.equal("no command is left out", "", missing.join(", "));
    checks.finish()
}

async fn tenants(
    cial: &CommandLine,
    installation: &Installation,
    owner: &mut Session,
) -> Result<()> {
    let created = cial.json(&["tenants", "create", SLUG, "--name", "Every"])?;
    ensure!(created["state"] == "running", "{created}");
    let named = |args: &[&str]| -> Result<()> {
        let listed = cial.ok(&[args, &["-o", "name"]].concat())?;
        ensure!(listed.lines().any(|line| line == SLUG), "{args:?}: {listed}");
        Ok(())
    };
    named(&["tenants", "list", "--query", SLUG, "--state", "running"])?;
    named(&["tenants", "get", SLUG])?;
    // crates/app-api/tests/it/rollouts.rs pins a tenant that follows a release.
    for verb in ["pin", "unpin"] {
        cial.refused(&["tenants", verb, SLUG], "built-in app has no releases")?;
    }
    named(&["tenants", "migrate", "--status"])?;
    named(&["tenants", "stop", SLUG])?;
    named(&["tenants", "start", SLUG])?;
    named(&["tenants", "restart", SLUG])?;
    named(&["tenants", "wait", SLUG, "--for", "running"])?;
    let set = cial.json(&["tenants", "set", SLUG, "--name", "Each"])?;
    ensure!(set["name"] == "Each", "{set}");
    let log = cial.ok(&["tenants", "logs", SLUG, "--since", "1h"])?;
    ensure!(log.contains("all services are ready"), "{log}");
    let id = cial.ok(&["tenants", "exec", SLUG, "--", "id", "-u"])?;
    ensure!(id == "1001\n", "{id}");

    let address = cial.ok(&["tenants", "open", SLUG, "--print"])?;
    ensure!(cial.ok(&["open", SLUG, "--print"])? == address, "{address}");
    let start = address.trim_end().strip_prefix(&installation.tenant_url(SLUG));
    let begun = owner.guest.get(start.context(address.clone())?).await?;
    begun.expect_status(303)?;
    let at_admin = begun.location().strip_prefix(&installation.admin("")).map(str::to_owned);
    let through = owner.owner.get(&at_admin.context(begun.summary())?).await?;
    let back = through.location().strip_prefix(&installation.tenant_url(SLUG)).map(str::to_owned);
    let landed = owner.guest.get(&back.context(through.summary())?).await?;
    landed.expect_status(303)?;
    owner.guest_is_owner().await
}

/// The program of variables.rs receives them; the built-in app has none.
fn variables(cial: &CommandLine) -> Result<()> {
    let reason = "built-in app reads no variables";
    cial.refused(&["tenants", "env", "set", SLUG, "MODE=quiet"], reason)?;
    std::fs::write(cial.home.path().join("value"), "a-secret-of-every-acme")?;
    cial.refused(&["tenants", "secrets", "set", SLUG, "TOKEN", "--file", "value"], reason)?;
    for kind in ["env", "secrets"] {
        let listed = cial.ok(&["tenants", kind, "list", SLUG])?;
        ensure!(listed.is_empty(), "{listed}");
        let unset = ["tenants", kind, "unset", SLUG, "MODE", "--yes"];
        cial.refused(&unset, "code resource_not_found")?;
    }
    Ok(())
}

fn keys(cial: &CommandLine) -> Result<()> {
    let create = ["keys", "create", "ci", "--role", "read", "--tenant", SLUG];
    let created = cial.json(&create)?;
    ensure!(created["key"].is_string() && created["tenant"] == SLUG, "{created}");
    let id = cial.find(&["keys", "list", "--tenant", SLUG], |key| key["id"] == created["id"])?;
    cial.ok(&["keys", "revoke", &id, "--tenant", SLUG, "--yes"])?;
    let listed = cial.json(&["keys", "list", "--tenant", SLUG])?;
    ensure!(listed[0]["revoked"] == true, "{listed}");
    cial.find(&["keys", "list", "--mine"], |key| key["person"] == EMAIL)?;
    Ok(())
}

/// Somebody is invited, joins, gets other roles, and leaves.
async fn people(cial: &CommandLine, installation: &Installation) -> Result<()> {
    let invite = ["invitations", "create", "wanda@example.com", "--role", "viewer"];
    cial.ok(&[&invite[..], &["--tenant", SLUG]].concat())?;
    let open = ["invitations", "list", "--tenant", SLUG];
    let id = cial.find(&open, |own| own["email"] == "wanda@example.com")?;
    cial.ok(&["invitations", "revoke", &id, "--tenant", SLUG, "--yes"])?;
    let left = cial.json(&open)?;
    ensure!(left == json!([]), "{left}");

    let link = cial.ok(&[&invite[..], &["--tenant", SLUG, "-q"]].concat())?;
    let path = link.trim_end().strip_prefix(&installation.admin("")).context(link.clone())?;
    let anonymous = Client::new("localhost", installation.admin_port);
    let joined = submit(&anonymous, path, "name=Wanda&password=correct+horse+battery").await?;
    joined.expect_status(303)?;
    let is_wanda = |person: &Value| person["email"] == "wanda@example.com";
    let id = cial.find(&["members", "list", "--tenant", SLUG], is_wanda)?;
    cial.ok(&["members", "set", &id, "--role", "admin", "--tenant", SLUG])?;
    let members = cial.json(&["members", "list", "--tenant", SLUG])?;
    ensure!(members[0]["role"] == "admin", "{members}");
    cial.ok(&["users", "set", &id, "--role", "viewer", "--name", "Wanda W"])?;
    let shown = cial.json(&["users", "get", &id])?;
    ensure!(shown["name"] == "Wanda W", "{shown}");
    cial.find(&["users", "list"], |user| is_wanda(user) && user["role"] == "viewer")?;
    let reset = ["users", "reset-second-factor", &id, "--yes"];
    cial.refused(&reset, "code second_factor_conflict")?;
    cial.ok(&["members", "remove", &id, "--tenant", SLUG, "--yes"])?;
    cial.ok(&["users", "delete", &id, "--yes"])?;
    // Without a mail server nothing waits.
    let mails = cial.json(&["mails", "list"])?;
    ensure!(mails == json!([]), "{mails}");
    let users = cial.ok(&["users", "list"])?;
    ensure!(!users.contains("wanda"), "{users}");
    Ok(())
}

async fn sessions(cial: &CommandLine, installation: &Installation) -> Result<()> {
    let sign_in = async || -> Result<(Client, String)> {
        let mut client = Client::new("localhost", installation.admin_port);
        let account = json!({ "email": EMAIL, "password": PASSWORD });
        client.post("/api/auth/sign-in/email", &account).await?.expect_status(200)?;
        let shown = client.get("/api/auth/session").await?.json();
        let id = shown["session"]["id"].as_str().context("a session has an id")?.to_owned();
        Ok((client, id))
    };
    let (mut first, first_id) = sign_in().await?;
    let (mut second, second_id) = sign_in().await?;
    for id in [&first_id, &second_id] {
        cial.find(&["sessions", "list"], |session| session["id"] == **id)?;
    }
    cial.ok(&["sessions", "revoke", &first_id, "--yes"])?;
    first.get("/api/auth/session").await?.expect_status(401)?;
    second.get("/api/auth/session").await?.expect_status(200)?;
    cial.ok(&["sessions", "revoke", "--all", "--yes"])?;
    second.get("/api/auth/session").await?.expect_status(401)?;
    // The first key belongs to nobody, so it has no sessions.
    let refused = e2e::command_line::cial(&["sessions", "list"], None)?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("cial login"), "{}", refused.stderr);
    Ok(())
}

fn webhooks(cial: &CommandLine) -> Result<()> {
    // A reserved name (RFC 6761), which no resolver knows.
    let created = cial.json(&["webhooks", "create", "https://hooks.invalid/cial"])?;
    ensure!(created["secret"].is_string(), "{created}");
    let id = cial.find(&["webhooks", "list"], |webhook| webhook["id"] == created["id"])?;
    cial.ok(&["tenants", "set", SLUG, "--name", "Notified"])?;
    let delivery = cial
        .find(&["webhooks", "deliveries", &id], |delivery| delivery["event"] == "tenant.change")?;
    cial.ok(&["webhooks", "replay", &delivery, "--webhook", &id])?;
    cial.ok(&["webhooks", "delete", &id, "--yes"])?;
    let left = cial.json(&["webhooks", "list"])?;
    ensure!(!left.to_string().contains(&id), "{left}");
    Ok(())
}

fn models(cial: &CommandLine) -> Result<()> {
    // A reserved name (RFC 6761), which no resolver knows.
    let set = ["models", "set", "--url", "https://model.invalid/v1", "--model", "every-model"];
    ensure!(cial.json(&set)?["has_key"] == false);
    let changed = cial.json(&["models", "set", "--tokens-per-day", "1000"])?;
    ensure!(changed["tokens_per_day"] == 1000, "{changed}");
    ensure!(cial.json(&["models", "show"])? == changed);
    ensure!(cial.json(&["models", "usage", SLUG])? == json!([]));
    cial.ok(&["models", "unset", "--yes"])?;
    cial.refused(&["models", "show"], "No model is set")
}

fn apps(cial: &CommandLine) -> Result<()> {
    cial.ok(&["apps", "create", "every-app"])?;
    let listed = cial.ok(&["apps", "list", "-q"])?;
    ensure!(listed.lines().any(|line| line == "every-app"), "{listed}");
    cial.ok(&["apps", "get", "every-app"])?;
    for args in [["apps", "release", "list"], ["apps", "rollout", "list"]] {
        let list = cial.json(&[&args[..], &["every-app"]].concat())?;
        ensure!(list == json!([]), "{list}");
    }
    let status = cial.run(&["apps", "rollout", "status", "every-app"])?;
    ensure!(status.stderr.contains("has no rollout"), "{}", status.stderr);
    cial.ok(&["apps", "delete", "every-app", "--yes"])?;
    let packages = cial.json(&["packages", "list", "--tenant", SLUG])?;
    ensure!(packages == json!([]), "{packages}");
    for args in [["workflows", "list"], ["executions", "list"], ["triggers", "list"]] {
        let list = cial.json(&[&args[..], &["--tenant", SLUG]].concat())?;
        ensure!(list == json!([]), "{list}");
    }
    std::fs::write(cial.home.path().join("bad.cial"), "no archive")?;
    let upload = ["packages", "upload", "bad.cial", "--tenant", SLUG];
    cial.refused(&upload, "code package_corrupt")?;
    package_keys(cial)
}

/// The pair of RFC 8410, section 10.3.
const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

/// A file that a trusted key signed is refused for what it is, and without the trust for its signature.
fn package_keys(cial: &CommandLine) -> Result<()> {
    std::fs::write(cial.home.path().join("key.pem"), PRIVATE_KEY)?;
    std::fs::write(cial.home.path().join("public.pem"), PUBLIC_KEY)?;
    let signed = cial.ok(&["packages", "sign", "bad.cial", "--key", "key.pem"])?;
    ensure!(signed == "bad.cial.sig\n", "{signed}");
    let upload =
        ["packages", "upload", "bad.cial", "--signature", "bad.cial.sig", "--tenant", SLUG];
    cial.refused(&upload, "code package_key_unknown")?;
    cial.ok(&["packages", "keys", "add", "every-key", "--file", "public.pem"])?;
    let listed = cial.ok(&["packages", "keys", "list", "-q"])?;
    ensure!(listed.lines().any(|line| line == "every-key"), "{listed}");
    cial.refused(&upload, "code package_corrupt")?;
    std::fs::write(cial.home.path().join("bad.cial"), "another file")?;
    cial.refused(&upload, "code package_signature_invalid")?;
    cial.ok(&["packages", "keys", "delete", "every-key", "--yes"])?;
    let left = cial.ok(&["packages", "keys", "list", "-q"])?;
    ensure!(!left.contains("every-key"), "{left}");
    Ok(())
}

fn audit(cial: &CommandLine) -> Result<()> {
    let resource = format!("tenant:{SLUG}");
    let filter = ["--action", "tenant.create", "--resource", &resource, "--since", "1h"];
    let listed = cial.json(&[&["audit", "list"][..], &filter].concat())?;
    ensure!(listed[0]["actor"] == EMAIL && listed[1].is_null(), "{listed}");
    let exported =
        |format: &str| cial.ok(&[&["audit", "export", "--format", format][..], &filter].concat());
    let (csv, json) = (exported("csv")?, exported("json")?);
    ensure!(csv.lines().count() == 2 && csv.contains(EMAIL), "{csv}");
    ensure!(serde_json::from_str::<Value>(&json).is_ok() && json.contains(EMAIL), "{json}");
    Ok(())
}

fn local(cial: &CommandLine) -> Result<()> {
    let doctor = cial.run(&["doctor"])?;
    ensure!(doctor.code == Some(0), "{}", doctor.stdout);
    let tenants = cial.ok(&["api", "GET", "/v1/tenants?limit=1"])?;
    ensure!(tenants.starts_with("{\"tenants\":"), "{tenants}");
    let version = cial.json(&["version"])?;
    ensure!(version["cial"] == version["server"] && version["fits"] == true, "{version}");
    cial.ok(&["profile", "set", "other", "--server", "http://127.0.0.1:1"])?;
    cial.ok(&["profile", "use", "other"])?;
    let listed = cial.ok(&["profile", "list", "-q"])?;
    ensure!(listed == "other\nown\n", "{listed}");
    let shown = cial.ok(&["profile", "show"])?;
    ensure!(shown.contains("127.0.0.1:1"), "{shown}");
    cial.ok(&["profile", "use", "own"])?;
    let settings = cial.ok(&["config", "show", "--origin"])?;
    ensure!(settings.contains("own"), "{settings}");
    for shell in ["bash", "zsh", "fish"] {
        ensure!(cial.ok(&["completion", shell])?.contains("cial"), "{shell}");
    }
    cial.ok(&["man", "--dir", "man"])?;
    cial.ok(&["init"])?;
    cial.ok(&["manifest", "check"])?;
    let schema = cial.ok(&["manifest", "schema"])?;
    ensure!(serde_json::from_str::<Value>(&schema).is_ok(), "{schema}");
    Ok(())
}
