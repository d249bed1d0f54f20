//! The API of the history: access, lists, what a disk does to it, and what survives.

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::SmallDisk;

use crate::files::serve_files;
use crate::harness::{Core, TestResponse, ask_with, code, cookie, header};
use crate::tokens::{KEY, claims, hs256, nonce_cookie, with};

pub(crate) const AT_CORE: (&str, &str) = ("x-cial-site", "core");

const WORKSPACES: &str = "/v1/workspaces";
const ACTIVITY: &str = "/v1/activity";
const MAX_WAIT: Duration = Duration::from_secs(60);
const UNKNOWN: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

/// A core with a session.
struct Signed {
    core: Core,
    cookie: String,
}

impl Signed {
    async fn start() -> Self {
        Self::on(Core::start(&[("sso-key", &KEY)]), "admin").await
    }

    async fn on(core: Core, role: &str) -> Self {
        let cookie = sign_in(&core, role).await;
        Self { core, cookie }
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> TestResponse {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("cookie", self.cookie.as_str()), AT_CORE];
        ask_with(&self.core.socket(), method, path, &headers, body).await
    }

    async fn get(&self, path: &str) -> Value {
        let response = self.call(Method::GET, path, &Value::Null).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}: {}", response.body());
        serde_json::from_str(response.body()).unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let response = self.call(Method::POST, path, body).await;
        assert!(response.status().is_success(), "{path}: {}", response.body());
        serde_json::from_str(response.body()).unwrap()
    }

    async fn workspace(&self, name: &str, parent: &Value) -> Value {
        let made = self.post(WORKSPACES, &json!({ "name": name, "parent_id": parent })).await;
        made["id"].clone()
    }

    async fn append(&self, workspace: &Value, summary: &str, created_at: &str) -> i64 {
        let entry = json!({ "workspace_id": workspace, "type": "note", "summary": summary, "created_at": created_at });
        self.post(ACTIVITY, &entry).await["id"].as_i64().unwrap()
    }
}

pub(crate) async fn sign_in(core: &Core, role: &str) -> String {
    sign_in_as(core, role, None).await
}

/// The same for another person.
pub(crate) async fn sign_in_as(core: &Core, role: &str, person: Option<&str>) -> String {
    let jti = format!("history-{role}-{}", person.unwrap_or_default());
    let mut claims = with(&jti, "role", json!(role));
    claims["site"] = json!("core");
    if let Some(person) = person {
        claims["sub"] = json!(person);
    }
    let path = format!("/.cial/sso?token={}", hs256(&claims));
    cookie(&core.ask(Method::GET, &path, &[("cookie", &nonce_cookie("")), AT_CORE]).await)
}

fn texts(list: &Value, field: &str) -> Vec<String> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_call_of_the_description_demands_a_session_and_its_role() {
    let core = Core::start(&[("sso-key", &KEY)]);
    let _volume = serve_files(&core);
    let description: Value = {
        let admin = sign_in(&core, "admin").await;
        let text = core.ask(Method::GET, "/v1/openapi.json", &[("cookie", &admin), AT_CORE]).await;
        serde_json::from_str(text.body()).unwrap()
    };
    let (viewer, member) = (sign_in(&core, "viewer").await, sign_in(&core, "member").await);
    let of_tenant = cookie(&core.sign_in(&hs256(&claims("tenant"))).await);
    let mut calls = 0;
    for (path, methods) in description["paths"].as_object().unwrap() {
        let path = path.strip_prefix("/.cial/api").unwrap().replace("{id}", UNKNOWN);
        for (method, operation) in methods.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let is_write = operation["description"] == "Role: member.";
            let call = async |headers: &[(&str, &str)]| {
                let headers = [headers, &[AT_CORE]].concat();
                ask_with(&core.socket(), method.clone(), &path, &headers, "{}".to_owned()).await
            };
            assert_eq!(code(&call(&[]).await), "not_signed_in", "{method} {path}");
            for cookie in [&member, &of_tenant] {
                let headers = [("cookie", cookie.as_str())];
                let at_tenant = core.ask(method.clone(), &path, &headers).await;
                assert_eq!(code(&at_tenant), "not_signed_in", "{method} {path} by the app's code");
            }
            let status = call(&[("cookie", &viewer)]).await.status();
            assert_eq!(status == StatusCode::FORBIDDEN, is_write, "{method} {path}");
            let foreign = [("cookie", &member[..]), ("sec-fetch-site", "same-site")];
            let status = call(&foreign).await.status();
            let is_refused = method != Method::GET || path.ends_with("/files/content");
            assert_eq!(status == StatusCode::FORBIDDEN, is_refused, "{method} {path}");
            let status = call(&[("cookie", &member)]).await.status();
            assert!(
                !matches!(status.as_u16(), 401 | 403 | 405 | 500..),
                "{method} {path} {status}"
            );
            calls += 1;
        }
    }
    assert_eq!(calls, 23);
    for path in ["/v1", "/v1/", "/v1/nothing", "/v1/workspaces/", "/v1/registry"] {
        let nothing = core.ask(Method::GET, path, &[("cookie", &member), AT_CORE]).await;
        assert_eq!(code(&nothing), "not_found", "{path}");
    }
    let deleted = core.ask(Method::DELETE, WORKSPACES, &[("cookie", &member), AT_CORE]).await;
    assert_eq!(header(&deleted, "allow"), Some("GET, POST"));
}

#[tokio::test]
async fn the_server_makes_the_id_of_a_workspace() {
    let core = Signed::start().await;
    let made = core.post(WORKSPACES, &json!({ "name": " alpha-parent ", "id": UNKNOWN })).await;
    assert_ne!(made["id"], UNKNOWN);
    assert_eq!(made["name"], "alpha-parent");
    core.workspace("alpha-child", &made["id"]).await;
    assert_eq!(texts(&core.get(WORKSPACES).await, "name"), ["alpha-child", "alpha-parent"]);
    for (body, field) in [
        (json!({ "name": "" }), "name"),
        (json!({ "name": "x".repeat(101) }), "name"),
        (json!({ "name": "a\u{202e}b" }), "name"),
        (json!({ "name": "x", "parent_id": UNKNOWN }), "parent_id"),
    ] {
        let refused = core.call(Method::POST, WORKSPACES, &body).await;
        assert_eq!(code(&refused), "invalid_fields", "{body}");
        let problem: Value = serde_json::from_str(refused.body()).unwrap();
        assert_eq!(problem["errors"][0]["field"], field);
    }
    for body in
        [json!([]), json!({ "name": "x", "more": 1 }), json!({ "name": "x", "parent_id": "no" })]
    {
        let refused = core.call(Method::POST, WORKSPACES, &body).await;
        assert_eq!(code(&refused), "invalid_json", "{body}");
    }
}

#[tokio::test]
async fn every_reason_to_see_no_peers_has_its_own_words() {
    let core = Signed::start().await;
    let parent = core.workspace("parent", &Value::Null).await;
    let child = core.workspace("child", &parent).await;
    let peers = |id: &Value| format!("/v1/registry/{}/peers", id.as_str().unwrap());
    let unregistered = core.call(Method::GET, &peers(&child), &Value::Null).await;
    assert_eq!(
        (unregistered.status(), &*code(&unregistered)),
        (StatusCode::NOT_FOUND, "not_registered")
    );
    let heartbeat =
        core.call(Method::POST, "/v1/registry/heartbeat", &json!({ "workspace_id": child })).await;
    assert_eq!(code(&heartbeat), "not_registered");

    core.post("/v1/registry/register", &json!({ "workspace_id": child, "role": "reads papers" }))
        .await;
    let empty = core.get(&peers(&child)).await;
    assert_eq!(empty["items"], json!([]));

    let anonymous = core.core.get(&peers(&child)).await;
    let viewer = sign_in(&core.core, "viewer").await;
    let forbidden =
        core.core.ask(Method::POST, "/v1/registry/register", &[("cookie", &viewer), AT_CORE]).await;
    let diagnostics = [
        (unregistered.body().as_str(), "404"),
        (anonymous.body(), "401"),
        (forbidden.body(), "403"),
        (empty["diagnostic"].as_str().unwrap(), "200"),
    ];
    for (text, status) in diagnostics {
        assert!(text.contains(&format!("{status}: ")), "{text}");
        assert!(!text.contains("may be isolated"), "{text}");
        assert_eq!(text.contains("Register it first"), status == "404", "{text}");
    }

    let sibling = core.workspace("sibling", &parent).await;
    for id in [&parent, &sibling] {
        core.post("/v1/registry/register", &json!({ "workspace_id": id })).await;
    }
    let all = core.get(&peers(&child)).await;
    assert_eq!(texts(&all, "relation"), ["parent", "sibling"]);
    assert_eq!(texts(&core.get(&peers(&parent)).await, "relation"), ["child", "child"]);
    let beat =
        core.call(Method::POST, "/v1/registry/heartbeat", &json!({ "workspace_id": child })).await;
    assert_eq!(beat.status(), StatusCode::NO_CONTENT);
    let unknown =
        core.call(Method::POST, "/v1/registry/register", &json!({ "workspace_id": UNKNOWN })).await;
    assert_eq!(code(&unknown), "invalid_fields");
}

#[tokio::test]
async fn a_page_shows_both_directions_newest_first_and_strictly_older() {
    let core = Signed::start().await;
    let (alpha, beta) =
        (core.workspace("alpha", &Value::Null).await, core.workspace("beta", &Value::Null).await);
    let append = async |kind: &str, source: &Value, target: &Value, summary: &str, at: &str| {
        let entry = json!({ "workspace_id": alpha, "type": kind, "source_id": source, "target_id": target, "summary": summary, "created_at": at });
        core.post(ACTIVITY, &entry).await;
    };
    for (summary, at) in [
        ("oldest", "2026-01-01T08:00:00Z"),
        ("newest", "2026-01-01T11:00:00Z"),
        ("middle", "2026-01-01T10:00:00Z"),
    ] {
        append("a2a_receive", &beta, &alpha, summary, at).await;
    }
    append("a2a_send", &alpha, &beta, "sent", "2026-01-01T12:00:00Z").await;
    append("note", &beta, &beta, "to itself", "2026-01-01T07:00:00Z").await;
    append("note", &alpha, &alpha, "not of beta", "2026-01-01T09:00:00Z").await;
    let beta = beta.as_str().unwrap();
    let list =
        async |query: &str| texts(&core.get(&format!("{ACTIVITY}?{query}")).await, "summary");
    let both = ["sent", "newest", "middle", "oldest", "to itself"];
    assert_eq!(list(&format!("peer_id={beta}")).await, both);
    assert_eq!(list(&format!("peer_id={beta}&type=a2a_receive")).await, both[1..4]);
    assert_eq!(list(&format!("peer_id={beta}&limit=2")).await, both[..2]);
    assert_eq!(
        list(&format!("peer_id={beta}&before_ts=2026-01-01T11:00:00%2B00:00")).await,
        both[2..]
    );
    assert_eq!(list("type=note").await, ["not of beta", "to itself"]);
    let alpha = alpha.as_str().unwrap();
    assert_eq!(list(&format!("workspace_id={alpha}")).await.len(), 6);
    assert_eq!(list(&format!("workspace_id={beta}")).await.len(), 0);
    assert_eq!(list("limit=0").await, ["sent"]);
    for (query, detail) in [
        ("peer_id=not-a-uuid", "peer_id must be a UUID"),
        ("peer_id=%27%20OR%201%3D1%20--", "peer_id must be a UUID"),
        ("before_ts=garbage", "before_ts must be an RFC3339 timestamp (e.g. 2026-05-01T00:00:00Z)"),
        (
            "peer=x",
            "there is no such parameter here; known: peer_id, workspace_id, type, limit, before_ts, cursor",
        ),
    ] {
        let refused = core.call(Method::GET, &format!("{ACTIVITY}?{query}"), &Value::Null).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{query}");
        let problem: Value = serde_json::from_str(refused.body()).unwrap();
        assert_eq!(problem["detail"], detail);
    }
}

#[tokio::test]
async fn a_hundred_writers_at_once_lose_nothing() {
    let core = Signed::start().await;
    let workspace = core.workspace("busy", &Value::Null).await;
    let time = "2026-01-01T00:00:00Z";
    let writers = (0..100).map(|number| {
        let (core, workspace) = (&core, &workspace);
        async move { core.append(workspace, &format!("entry {number}"), time).await }
    });
    let mut ids = futures_util::future::join_all(writers).await;
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 100);
    assert_eq!(core.get(ACTIVITY).await["items"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_restart() {
    let core = Signed::start().await;
    let workspace = core.workspace("lasting", &Value::Null).await;
    core.append(&workspace, "kept", "2026-01-01T00:00:00Z").await;
    let core = Signed { core: core.core.restarted().await, cookie: core.cookie };
    // The thread of the core before ends with its queue, and holds the file until then.
    let list = testkit::wait_for("the history opens", MAX_WAIT, async || {
        let list = core.call(Method::GET, ACTIVITY, &Value::Null).await;
        Ok((list.status() == StatusCode::OK).then_some(list))
    });
    assert_eq!(
        texts(&serde_json::from_str(list.await.unwrap().body()).unwrap(), "summary"),
        ["kept"]
    );
}

#[tokio::test]
async fn on_a_full_disk_writes_are_refused_and_reads_go_on() {
    let disk = SmallDisk::mount("history", 8 << 20).unwrap();
    let core = Signed::on(Core::start_on(disk.path(), &[("sso-key", &KEY)]), "admin").await;
    let workspace = core.workspace("full", &Value::Null).await;
    core.append(&workspace, "before", "2026-01-01T00:00:00Z").await;
    disk.fill().unwrap();
    let entry = json!({ "workspace_id": workspace, "type": "note", "summary": "x".repeat(4_000) });
    // The log beside the file may have room for a few.
    let refused = testkit::wait_for("the disk is full", MAX_WAIT, async || {
        let response = core.call(Method::POST, ACTIVITY, &entry).await;
        Ok((response.status() != StatusCode::CREATED).then_some(response))
    });
    let refused = refused.await.unwrap();
    assert_eq!(
        (refused.status(), &*code(&refused)),
        (StatusCode::INSUFFICIENT_STORAGE, "disk_full")
    );
    let summaries = texts(&core.get(ACTIVITY).await, "summary");
    assert_eq!(summaries.last().unwrap(), "before");
    disk.make_space().unwrap();
    core.append(&workspace, "after", "2026-01-02T00:00:00Z").await;
    let again = texts(&core.get(ACTIVITY).await, "summary");
    assert_eq!(again.len(), summaries.len() + 1);
}

#[tokio::test]
async fn the_envelope_of_a_message_holds_nothing_of_a_malformed_sender() {
    let core = Signed::start().await;
    let peer = core.workspace("researcher", &Value::Null).await;
    core.post("/v1/registry/register", &json!({ "workspace_id": peer, "role": "reads papers" }))
        .await;
    let envelope = async |peer_id: &Value| {
        let message = json!({ "content": "hi", "peer_id": peer_id, "kind": "peer_agent", "method": "message/send" });
        core.post("/v1/channel/envelope", &message).await["meta"].clone()
    };
    let url = format!("/.cial/api/v1/registry/{}", peer.as_str().unwrap());
    let expected = json!({
        "peer_id": peer, "kind": "peer_agent", "method": "message/send", "agent_card_url": url,
        "peer_name": "researcher", "peer_role": "reads papers",
    });
    assert_eq!(envelope(&peer).await, expected);
    assert_eq!(core.get(url.strip_prefix("/.cial/api").unwrap()).await["workspace_id"], peer);
    for bad in ["../../foo", "aaa\" onclick=\"alert(1)"] {
        let expected = json!({ "peer_id": "", "kind": "peer_agent", "method": "message/send" });
        assert_eq!(envelope(&json!(bad)).await, expected, "{bad}");
    }
}
