//! The history of two tenants beside each other, over the API of the image: workspaces, peers, activity, envelopes.
//! The rows stand in the order of the acceptance list, M16 to M34.

mod files;

use anyhow::{Context as _, Result};
use e2e::Checks;
use futures_util::future::{join_all, try_join_all};
use serde_json::{Value, json};
use testkit::Response;
use testkit::engine::{Endpoint, Sandbox, TenantContainer, TenantOptions};

use super::processes::pid_of;
use super::token::{Keys, claims, header, nonce_cookie};

/// Sessions with rights exist at the site of the core half alone.
const CORE_HOST: &str = "host: core--tenant.localhost";
const UNKNOWN: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

/// A tenant, one of its admins, and two of its workspaces.
#[derive(Clone)]
struct Client {
    name: &'static str,
    tenant: TenantContainer,
    port: u16,
    cookie: String,
    parent: String,
    child: String,
}

pub(crate) async fn check(checks: &mut Checks, sandbox: &Sandbox) -> Result<()> {
    let (mut alpha, mut beta) =
        (Client::start(sandbox, "alpha").await?, Client::start(sandbox, "beta").await?);
    for client in [&mut alpha, &mut beta] {
        client.seed(checks).await?;
    }
    check_workspaces(checks, &alpha, &beta).await?;
    check_independence(checks, &alpha, &beta).await?;
    check_peers(checks, &alpha).await?;
    check_history(checks, &alpha).await?;
    check_envelopes(checks, &alpha).await?;
    check_chat(checks, &alpha).await?;
    files::check(checks, &alpha).await?;
    check_kill(checks, &mut beta).await
}

impl Client {
    async fn start(sandbox: &Sandbox, name: &'static str) -> Result<Self> {
        let keys = Keys::random()?;
        let sso_key = Some(keys.sso().to_vec());
        let options = TenantOptions { name, sso_key, ..TenantOptions::default() };
        let (tenant, port) = sandbox.healthy(&options).await?;
        let now = testkit::clock::unix_time().as_secs();
        let mut claims = claims(name, &format!("history-{name}"), now);
        claims["site"] = json!("core");
        let sign_on = format!("/.cial/sso?token={}", keys.sign(&header(), &claims));
        let headers = [CORE_HOST, &nonce_cookie()];
        let signed_in = Endpoint::Port(port).call("GET", &sign_on, &headers, "").await?;
        let cookie = signed_in.header("set-cookie").context("no session")?;
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        Ok(Self { name, tenant, port, cookie, parent: String::new(), child: String::new() })
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> Result<Response> {
        let (path, cookie) = (format!("/.cial/api/v1{path}"), format!("cookie: {}", self.cookie));
        let headers = [CORE_HOST, &cookie];
        let called = Endpoint::Port(self.port).call(method, &path, &headers, body).await;
        called.context(self.name)
    }

    async fn get(&self, path: &str) -> Result<Response> {
        self.call("GET", path, "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Response> {
        self.call("POST", path, &body.to_string()).await
    }

    /// Makes a parent and a child with ids of their own wish, which the server ignores.
    async fn seed(&mut self, checks: &mut Checks) -> Result<()> {
        let mut parent = Value::Null;
        for part in ["parent", "child"] {
            let name = format!("{}-{part}", self.name);
            let body = json!({ "id": UNKNOWN, "name": name, "parent_id": parent });
            let made = self.post("/workspaces", &body).await?;
            checks.equal(&format!("M34 {name} is made"), 201, made.status);
            let id = made.json()["id"].as_str().unwrap_or_default().to_owned();
            checks.holds(&format!("M34 {name} has the server's id"), "another", &id, id != UNKNOWN);
            parent = json!(id);
            if part == "parent" { self.parent = id } else { self.child = id }
        }
        Ok(())
    }

    async fn append(&self, entry: Value) -> Result<Response> {
        let mut whole = json!({ "workspace_id": self.parent, "type": "note" });
        for (field, value) in entry.as_object().into_iter().flatten() {
            whole[field] = value.clone();
        }
        self.post("/activity", &whole).await
    }

    /// The summaries of a list, with commas between them.
    async fn summaries(&self, query: &str) -> Result<String> {
        Ok(joined(&self.get(&format!("/activity?{query}")).await?.json(), "summary"))
    }
}

fn joined(list: &Value, field: &str) -> String {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
    items.filter_map(|item| item[field].as_str()).collect::<Vec<_>>().join(", ")
}

async fn check_chat(checks: &mut Checks, alpha: &Client) -> Result<()> {
    let replied = alpha.post("/chat", &json!({ "message": "Hello!" })).await?;
    checks.equal("O15 the built-in app repeats a message", "Hello!", text(&replied, "reply"));
    let conversation = text(&replied, "conversation");
    let messages = alpha.get(&format!("/conversations/{conversation}/messages")).await?;
    let authors = joined(&messages.json(), "author");
    checks.equal("O15 both messages are in the history", "app, user", authors);
    Ok(())
}

fn text(response: &Response, field: &str) -> String {
    response.json()[field].as_str().unwrap_or(&response.body).to_owned()
}

async fn check_workspaces(checks: &mut Checks, alpha: &Client, beta: &Client) -> Result<()> {
    for client in [alpha, beta] {
        let (name, list) = (client.name, client.get("/workspaces").await?.json());
        let expected = format!("{name}-child, {name}-parent");
        checks.equal(&format!("M16 {name} lists exactly its own"), expected, joined(&list, "name"));
    }
    let foreign = beta.get("/workspaces").await?.body;
    let holds = ![&alpha.parent, &alpha.child].iter().any(|id| foreign.contains(*id));
    checks.holds("M17 beta's list has no id of alpha's", "none", &foreign, holds);
    let crossed = Client { cookie: beta.cookie.clone(), ..alpha.clone() };
    let refused = crossed.get("/workspaces").await?;
    checks.equal("a session of beta is none at alpha", 401, refused.status);
    Ok(())
}

async fn check_independence(checks: &mut Checks, alpha: &Client, beta: &Client) -> Result<()> {
    for (client, count) in [(alpha, 3), (beta, 5)] {
        for number in 0..count {
            client.append(json!({ "summary": format!("{} row {number}", client.name) })).await?;
        }
    }
    // Both at once: what they share, if anything, would show here.
    let race = |client: &'static str, number: usize| json!({ "summary": format!("{client} race {number}") });
    let alphas = (0..10).map(|number| alpha.append(race("alpha", number)));
    let betas = (0..10).map(|number| beta.append(race("beta", number)));
    let (alphas, betas) = futures_util::join!(try_join_all(alphas), try_join_all(betas));
    let all_made = alphas?.iter().chain(&betas?).all(|made| made.status == 201);
    checks.equal("M23 every row of the race is made", true, all_made);
    for (client, other, count) in [(alpha, "beta", 13), (beta, "alpha", 15)] {
        let (name, list) = (client.name, client.get("/activity").await?);
        let rows = list.json()["items"].as_array().map_or(0, Vec::len);
        checks.equal(&format!("M21, M23 {name} has exactly its rows"), count, rows);
        let is_own = !list.body.contains(&format!("{other} "));
        checks.holds(&format!("M21, M23 {name} has none of {other}'s"), "none", &list.body, is_own);
        let search = format!("cat /var/lib/cial/history.db* | grep -a -c '{other}[ -]'");
        let found = client.tenant.exec_shell("cial", &search).await?.text;
        checks.equal(&format!("M22 nor has {name}'s file"), "0", found.trim());
        let read = client.tenant.exec_shell("agent", "cat /var/lib/cial/history.db").await?;
        checks.contains(&format!("{name}'s app cannot read the file"), "denied", &read.text);
    }
    Ok(())
}

async fn check_peers(checks: &mut Checks, alpha: &Client) -> Result<()> {
    let peers = |id: &str| format!("/registry/{id}/peers");
    let unknown = alpha.get(&peers(UNKNOWN)).await?;
    alpha.post("/registry/register", &json!({ "workspace_id": alpha.child })).await?;
    let empty = alpha.get(&peers(&alpha.child)).await?;
    let anonymous = Client { cookie: String::new(), ..alpha.clone() };
    let anonymous = anonymous.get(&peers(&alpha.child)).await?;
    checks.equal(
        "M24 statuses",
        "404 200 401",
        format_args!("{} {} {}", unknown.status, empty.status, anonymous.status),
    );
    checks.contains("M24 an unregistered one is told 404", "404", &unknown.body);
    checks.contains("M24 and to register", "register", &unknown.body);
    checks.contains("M24 an empty list says why", "no peer yet", &empty.body);
    checks.contains("M24 nobody is told to sign in", "sign in", &anonymous.body);
    let bodies = [&unknown.body, &empty.body, &anonymous.body];
    let guessed = bodies.iter().any(|body| body.contains("may be isolated"));
    checks.equal("M24 nobody is told of isolation", false, guessed);
    alpha
        .post("/registry/register", &json!({ "workspace_id": alpha.parent, "role": "leads" }))
        .await?;
    let found = alpha.get(&peers(&alpha.child)).await?.json();
    checks.equal("M24 a registered parent is a peer", "parent", joined(&found, "relation"));
    Ok(())
}

async fn check_history(checks: &mut Checks, alpha: &Client) -> Result<()> {
    let peer = &alpha.child;
    for (summary, at) in [("oldest", "01"), ("middle", "03"), ("newest", "04")] {
        let entry = json!({
            "type": "a2a_receive", "source_id": peer, "target_id": alpha.parent, "method": "message/send",
            "summary": format!("{summary} from beta"), "created_at": format!("2026-05-01T{at}:00:00Z"),
        });
        checks.equal(&format!("{summary} is stored"), 201, alpha.append(entry).await?.status);
    }
    let received = format!("type=a2a_receive&peer_id={peer}");
    let all = "newest from beta, middle from beta, oldest from beta";
    checks.equal("M25 newest first", all, alpha.summaries(&format!("{received}&limit=10")).await?);
    let two = "newest from beta, middle from beta";
    checks.equal("M26 the limit", two, alpha.summaries(&format!("{received}&limit=2")).await?);
    let older = format!("{received}&limit=10&before_ts=2026-05-01T04%3A00%3A00.000%2B00%3A00");
    let two = "middle from beta, oldest from beta";
    checks.equal("M27 strictly older", two, alpha.summaries(&older).await?);
    let entry = json!({ "type": "a2a_send", "source_id": alpha.parent, "target_id": peer, "summary": "sent to beta" });
    alpha.append(entry).await?;
    let both = alpha.summaries(&format!("peer_id={peer}&limit=10")).await?;
    checks.equal("M28 source or target", format!("sent to beta, {all}"), both);
    check_equal_times(checks, alpha).await?;
    for (row, query, message) in [
        ("M29", "peer_id=not-a-uuid", "peer_id must be a UUID"),
        ("M30", "before_ts=garbage", "RFC3339"),
        ("M31", "peer_id=%27%20OR%201%3D1%20--", "peer_id must be a UUID"),
    ] {
        let refused = alpha.get(&format!("/activity?type=a2a_receive&{query}")).await?;
        checks.equal(&format!("{row} {query} is refused"), 400, refused.status);
        checks.contains(&format!("{row} and says why"), message, &refused.body);
    }
    Ok(())
}

/// Pages of entries of one time neither skip nor repeat one.
async fn check_equal_times(checks: &mut Checks, alpha: &Client) -> Result<()> {
    for number in 0..7 {
        let entry = json!({ "type": "tie", "summary": number.to_string(), "created_at": "2026-05-02T00:00:00Z" });
        alpha.append(entry).await?;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    for _ in 0..4 {
        let page = alpha.get(&format!("/activity?type=tie&limit=2{cursor}")).await?.json();
        seen.push(joined(&page, "summary"));
        cursor = format!("&cursor={}", page["next"].as_str().unwrap_or("none"));
    }
    checks.equal("M27 pages of equal times", "6, 5, 4, 3, 2, 1, 0", seen.join(", "));
    checks.equal("M27 and the last says so", "&cursor=none", cursor);
    Ok(())
}

async fn check_envelopes(checks: &mut Checks, alpha: &Client) -> Result<()> {
    let envelope = async |peer_id: &str| {
        let message = json!({ "content": "hi", "peer_id": peer_id, "kind": "peer_agent", "method": "message/send" });
        let made = alpha.post("/channel/envelope", &message).await?;
        anyhow::Ok(made.json()["meta"].clone())
    };
    let known = envelope(&alpha.parent).await?;
    checks.equal(
        "M32 a UUID is kept",
        &alpha.parent,
        known["peer_id"].as_str().unwrap_or_default(),
    );
    checks.equal("M32 with the name", json!("alpha-parent"), &known["peer_name"]);
    checks.equal("M32 and the role", json!("leads"), &known["peer_role"]);
    let url = format!("/.cial/api/v1/registry/{}", alpha.parent);
    checks.equal("M32 and the address", json!(url), &known["agent_card_url"]);
    for bad in ["../../foo", "aaa\" onclick=\"alert(1)"] {
        let meta = envelope(bad).await?;
        checks.equal(&format!("M32 {bad} becomes empty"), json!(""), &meta["peer_id"]);
        for fact in ["agent_card_url", "peer_name", "peer_role"] {
            checks.equal(&format!("M32 {bad} has no {fact}"), Value::Null, &meta[fact]);
        }
    }
    Ok(())
}

/// Kills the core while many write. What was acknowledged is there afterwards.
async fn check_kill(checks: &mut Checks, beta: &mut Client) -> Result<()> {
    let pid = pid_of(&beta.tenant, "core back").await?;
    let restarts = async || beta.tenant.inspect().await.ok()?.restart_count;
    let before = restarts().await.unwrap_or_default();
    let writes = (0..200).map(|number| {
        let beta = &*beta;
        async move {
            let summary = format!("write {number}");
            let made = beta.append(json!({ "type": "kill", "summary": summary })).await;
            made.is_ok_and(|made| made.status == 201).then_some(summary)
        }
    });
    let kill = format!("kill -9 {pid}");
    let (acknowledged, killed) = futures_util::join!(join_all(writes), async {
        // After the first of them is there.
        beta.tenant
            .wait_for("a write", async || {
                let first = beta.summaries("type=kill&limit=1").await.ok()?;
                (!first.is_empty()).then_some(())
            })
            .await?;
        beta.tenant.exec_shell("cial", &kill).await
    });
    killed?;
    let is_restarted = async || restarts().await.filter(|now| *now > before);
    beta.tenant.wait_for("a restart", is_restarted).await?;
    beta.port = beta.tenant.healthy_port().await?;
    let acknowledged: Vec<_> = acknowledged.into_iter().flatten().collect();
    let stored = beta.summaries("type=kill&limit=500").await?;
    let stored: Vec<_> = stored.split(", ").collect();
    let lost: Vec<_> =
        acknowledged.iter().filter(|write| !stored.contains(&write.as_str())).collect();
    checks.holds(
        "kill -9 lost no acknowledged write",
        "none",
        format_args!("{lost:?}"),
        lost.is_empty(),
    );
    checks.holds("kill -9 came after the first write", "≥ 1", stored.len(), !stored.is_empty());
    Ok(())
}
