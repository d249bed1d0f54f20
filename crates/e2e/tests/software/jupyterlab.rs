//! JupyterLab for two clients, each signed in as their own person.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use e2e::command_line::succeed;
use e2e::session::{PASSWORD, Session, until};
use e2e::{Browser, Checks};
use serde_json::{Value, json};
use testkit::Installation;

use crate::example::{Example, sign_in};

/// Longer than the wait between two looks of the example at its kernels.
const IDLE_SECONDS: u32 = 10;
/// Three times that: without its declaration the tenant would sleep in the middle of the cell.
const LONG_CELL: &str = "import time; time.sleep(30); open('finished.txt', 'w').write('yes')";

/// Calls the API of Jupyter as its own pages do.
const CALL: &str = r"
    const [method, path, body, done] = arguments;
    const token = document.cookie.match(/_xsrf=([^;]+)/)?.[1] ?? '';
    const headers = { 'X-XSRFToken': token };
    fetch(path, { method, headers, body: body && JSON.stringify(body) })
        .then(async (answer) => ({ status: answer.status, text: await answer.text() }))
        .then(({ status, text }) => done({ status, body: text.startsWith('{') ? JSON.parse(text) : text }))
        .catch((error) => done({ status: 0, body: String(error) }));
";

/// Starts a kernel, sends it a cell over its WebSocket, and waits for its first output or only until it runs.
const RUN_CELL: &str = r"
    const [kernel, code, waits, done] = arguments;
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    const socket = new WebSocket(`${scheme}://${location.host}/api/kernels/${kernel}/channels`);
    const header = { msg_id: '1', username: '', session: '1', msg_type: 'execute_request', version: '5.3', date: '' };
    const content = { code, silent: false, store_history: false, user_expressions: {}, allow_stdin: false, stop_on_error: true };
    const request = { channel: 'shell', header, parent_header: {}, metadata: {}, content };
    socket.onopen = () => socket.send(JSON.stringify(request));
    socket.onerror = () => done('no WebSocket');
    socket.onmessage = (event) => {
        const message = JSON.parse(event.data);
        if (message.msg_type === 'stream') done(message.content.text);
        if (!waits && message.msg_type === 'execute_input') done('running');
    };
";

/// The page of JupyterLab in which scripts run.
struct Lab<'a>(&'a Browser);

impl Lab<'_> {
    async fn call(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        self.0.script(CALL, vec![method.into(), path.into(), body]).await
    }

    async fn run(&self, code: &str, waits_for_output: bool) -> Result<String> {
        let kernel = self.call("POST", "/api/kernels", Value::Null).await?;
        let id = kernel["body"]["id"].clone();
        let output =
            self.0.script(RUN_CELL, vec![id, code.into(), waits_for_output.into()]).await?;
        output.as_str().map(str::to_owned).with_context(|| format!("no output: {output}"))
    }

    async fn file(&self, name: &str) -> Result<Value> {
        let answer = self.call("GET", &format!("/api/contents/{name}"), Value::Null).await?;
        Ok(answer["body"]["content"].clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jupyterlab_serves_two_clients_through_releases_and_sleep() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let mut session = Session::of_owner(&installation, "lab-acme").await?;
    let mut example = Example::copy("jupyterlab", "jupyterlab")?;
    checks.require("a release is created", example.release())?;
    for slug in ["lab-acme", "lab-globex"] {
        checks.require(&format!("{slug} runs"), example.tenant(slug))?;
    }
    let refused = session.guest.get("/api/contents").await?;
    checks.equal("a visitor without a session reads nothing", 403, refused.status);

    let browser = Browser::start("jupyterlab").await?;
    sign_in(&browser, &session, "/lab").await?;
    checks.require("the owner lands in JupyterLab", browser.shows("Launcher").await)?;
    browser.screenshot("1-lab").await?;
    let lab = Lab(&browser);
    let me = lab.call("GET", "/api/me", Value::Null).await?;
    checks.equal("as herself", "\"Olivia Owner\"", &me["body"]["identity"]["name"]);
    checks.equal("a cell runs", "42\n", lab.run("print(6 * 7)", true).await?);
    let content = "'x'.repeat(49_999_000)";
    let upload = CALL.replace(
        "JSON.stringify(body)",
        &format!("JSON.stringify({{ ...body, content: {content} }})"),
    );
    let body = json!({ "type": "file", "format": "text" });
    let args = vec!["PUT".into(), "/api/contents/large.txt".into(), body];
    let uploaded = browser.script(&upload, args).await?;
    checks.equal(
        "a file just below the router's limit of a body is uploaded",
        49_999_000,
        &uploaded["body"]["size"],
    );
    let kept = json!({ "type": "file", "format": "text", "content": "kept" });
    let saved = lab.call("PUT", "/api/contents/notes.txt", kept).await?;
    checks.equal("a file is saved", 201, &saved["status"]);

    let invite = ["invitations", "create", "gina@globex.example", "--role", "member"];
    let invite = [&invite[..], &["--tenant", "lab-globex", "-o", "name"]].concat();
    let link = succeed(&invite, None)?;
    let other = Browser::start("jupyterlab-gina").await?;
    other.open(link.trim()).await?;
    other.fill("Your name", "Gina Globex").await?;
    other.fill("Password", PASSWORD).await?;
    other.press("Create the account and accept").await?;
    let globex = installation.tenant_url("lab-globex");
    other.open(&format!("{globex}/.cial/sign-in?to=/lab")).await?;
    checks.require("a client's own person lands there", other.shows("Launcher").await)?;
    let me = Lab(&other).call("GET", "/api/me", Value::Null).await?;
    checks.equal("as herself, too", "\"Gina Globex\"", &me["body"]["identity"]["name"]);
    let missing = Lab(&other).call("GET", "/api/contents/notes.txt", Value::Null).await?;
    checks.equal("and sees no file of the other client", 404, &missing["status"]);
    other.open(&format!("{}/.cial/sign-in?to=/lab", installation.tenant_url("lab-acme"))).await?;
    other.open(&installation.tenant_url("lab-acme")).await?;
    let me = Lab(&other).call("GET", "/api/me", Value::Null).await?;
    checks.equal("at the other client's address she is nobody", 403, &me["status"]);

    let mut recipe =
        std::fs::OpenOptions::new().append(true).open(example.folder().join("Dockerfile"))?;
    writeln!(recipe, "ENV JUPYTERLAB_RELEASE=2")?;
    example.release()?;
    succeed(&["tenants", "set-release", "lab-acme", "v2"], None)?;
    browser.open(&format!("{}/lab", installation.tenant_url("lab-acme"))).await?;
    checks.require("the next release starts", browser.shows("Launcher").await)?;
    checks.equal("with the files", "\"kept\"", lab.file("notes.txt").await?);
    let release = lab.run("import os; print(os.environ['JUPYTERLAB_RELEASE'])", true).await?;
    checks.equal("and is the next one", "2\n", release);

    checks.equal("a long cell runs", "running", lab.run(LONG_CELL, false).await?);
    session.set_policy(0, IDLE_SECONDS).await?;
    browser.open("about:blank").await?;
    let (path, owner) = (session.path(""), &mut session.owner);
    let declared = |tenant: &testkit::Response| tenant.body.contains("a notebook cell runs");
    let awake = until(async || owner.get(&path).await, declared).await;
    checks.require("it keeps its tenant awake", awake)?;
    checks.require("which sleeps afterwards", session.becomes("sleeping").await)?;
    browser.open(&format!("{}/lab", installation.tenant_url("lab-acme"))).await?;
    checks.require("a visit wakes it", browser.shows("Launcher").await)?;
    checks.equal("the cell had ended", "\"yes\"", lab.file("finished.txt").await?);
    succeed(&["tenants", "set-release", "lab-acme", "v1"], None)?;
    browser.open(&format!("{}/lab", installation.tenant_url("lab-acme"))).await?;
    checks.require("the earlier release starts again", browser.shows("Launcher").await)?;
    checks.equal("with the files, too", "\"kept\"", lab.file("notes.txt").await?);
    let deleted = example.delete(&["lab-acme", "lab-globex"]);
    checks.require("tenants and app are deleted", deleted)?;
    checks.finish()
}
