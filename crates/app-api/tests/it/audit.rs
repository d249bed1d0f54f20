//! Every change writes one entry of the audit log in its own transaction; the log cannot be altered unnoticed.

use app_api::audit::chain::{Break, GENESIS, hex, link};
use app_api::audit::verify::verify;
use app_api::audit::{Action, Actor, Entry, Resource};
use app_api::db::{Database, audit_log};
use axum::http::Method;
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use serde_json::{Value, json};

use crate::harness::{EMAIL, FakeOrchestrator, PASSWORD, Server, TestClient, TestDatabase};

async fn entries(owner: &TestClient, query: &str) -> Vec<Value> {
    let page = owner.get(&format!("/v1/audit?{query}")).await.json();
    page["entries"].as_array().unwrap_or_else(|| panic!("{page}")).clone()
}

/// Actions and resource kinds, the oldest first.
async fn actions(owner: &TestClient) -> Vec<String> {
    let all = entries(owner, "limit=500").await;
    all.iter().rev().map(|entry| entry["action"].as_str().unwrap().to_owned()).collect()
}

async fn sign_in(server: &Server, headers: &[(&str, &str)]) -> TestClient {
    let mut client = server.visitor.new_client();
    let body = json!({ "email": EMAIL, "password": PASSWORD });
    let response = client.json(Method::POST, "/api/auth/sign-in/email", headers, body).await;
    assert_eq!(response.status, 200);
    client.store_cookie(&response);
    client
}

async fn refused(database: &TestDatabase, statement: &str) -> String {
    let done = diesel::sql_query(statement).execute(&mut database.conn().await).await;
    done.expect_err(statement).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_and_sessions_write_who_did_what_from_where() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let second = sign_in(&server, &[("x-request-id", "abc"), ("user-agent", "curl/8")]).await;
    second.send(Method::POST, "/api/auth/sign-out", &[], "").await;
    sign_in(&server, &[]).await;
    owner.send(Method::DELETE, "/v1/sessions", &[], "").await;
    server.reset_password("another good one").await;
    let body = json!({ "email": EMAIL, "password": "another good one" });
    let mut owner = server.visitor.new_client();
    owner.store_cookie(&owner.post("/api/auth/sign-in/email", body).await);
    assert_eq!(
        actions(&owner).await,
        [
            "user.sign_up",
            "session.begin",
            "session.begin",
            "session.end",
            "session.begin",
            "session.revoke_others",
            "user.password_reset_link",
            "user.password_reset",
            "session.begin",
        ]
    );
    let begun = entries(&owner, "action=session.begin").await;
    let by_curl = begun.iter().find(|entry| entry["request_id"] == "abc").unwrap();
    assert_eq!(by_curl["actor"], EMAIL);
    assert_eq!(by_curl["actor_kind"], "user");
    assert_eq!(by_curl["role"], "owner");
    assert_eq!(by_curl["address"], "127.0.0.1");
    assert_eq!(by_curl["after"]["device"], "curl");
    assert_eq!(by_curl["resource"], format!("session:{}", by_curl["session_id"].as_str().unwrap()));
    let by_command = &entries(&owner, "action=user.password_reset_link").await[0];
    assert_eq!(by_command["actor_kind"], "command");
    assert_eq!(by_command["resource"], format!("user:{EMAIL}"));
    let text = owner.get("/v1/audit?limit=500").await.text();
    for secret in [PASSWORD, "another good one", "argon2", owner.cookie.as_deref().unwrap()] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_changes_when_the_entry_cannot_be_written() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let sessions = server.database.count("sessions").await;
    server.database.sql("ALTER TABLE audit_log ADD CHECK (id <= 2)").await;
    let body = json!({ "email": EMAIL, "password": PASSWORD });
    let signed_in = server.visitor.post("/api/auth/sign-in/email", body).await;
    assert_eq!(signed_in.problem(), "500 internal");
    assert_eq!(
        owner.send(Method::POST, "/api/auth/sign-out", &[], "").await.problem(),
        "500 internal"
    );
    assert_eq!(server.database.count("sessions").await, sessions);
    assert_eq!(owner.get("/api/auth/session").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_refuses_every_change_and_its_privileges_are_revoked() {
    let (server, _owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    for statement in
        ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"]
    {
        let error = refused(&server.database, statement).await;
        assert!(error.contains("append-only"), "{error}");
    }
    let granted = "information_schema.role_table_grants WHERE table_name = 'audit_log' \
        AND privilege_type IN ('UPDATE', 'DELETE', 'TRUNCATE')";
    assert_eq!(server.database.count(granted).await, 0);
    let kept = "information_schema.role_table_grants WHERE table_name = 'audit_log' \
        AND privilege_type = 'INSERT' AND grantee = current_user";
    assert_eq!(server.database.count(kept).await, 1);
}

/// A new action needs a test that names it.
#[test]
fn no_action_lacks_a_test() {
    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    let files = std::fs::read_dir(FOLDER).unwrap().map(|file| file.unwrap().path());
    let texts =
        files.filter(|path| path.is_file()).map(|path| std::fs::read_to_string(path).unwrap());
    let text = texts.collect::<String>();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_named = |action: &str| {
        text.split(action).collect::<Vec<_>>().windows(2).any(|around| {
            let (before, after) = (around[0].chars().next_back(), around[1].chars().next());
            before.is_none_or(|c| !is_part(c) && c != '.') && after.is_none_or(|c| !is_part(c))
        })
    };
    let missing: Vec<_> = Action::ALL.iter().filter(|action| !is_named(action.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn entry(number: usize) -> Entry {
    let resource = Resource::new("tenant", format!("t{number}"));
    Entry::new(Actor::command("test"), Action::TenantCreate, resource).after(json!({ "n": number }))
}

/// A log of entries without a server.
async fn written(count: usize) -> TestDatabase {
    let postgres = TestDatabase::new().await;
    let database = Database::new(&postgres.url, None).unwrap();
    database.migrate().await.unwrap();
    let writers = (0..count).map(|number| {
        let database = database.clone();
        tokio::spawn(async move {
            let mut conn = database.conn().await.unwrap();
            let now = "2027-01-15T08:00:00.123456Z".parse().unwrap();
            let appended =
                conn.transaction(async |conn| audit_log::append(conn, &entry(number), now).await);
            appended.await.unwrap()
        })
    });
    let mut ids: Vec<_> =
        futures_util::future::join_all(writers).await.into_iter().map(Result::unwrap).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=count as i64).collect::<Vec<_>>());
    postgres
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_leave_a_chain_without_gaps() {
    let postgres = written(12).await;
    let mut conn = postgres.conn().await;
    // A change that is rolled back leaves no gap either.
    let rolled_back = conn.transaction(async |conn| {
        audit_log::append(conn, &entry(99), "2027-01-15T08:00:00Z".parse().unwrap()).await?;
        Err::<(), _>(diesel::result::Error::RollbackTransaction)
    });
    assert!(rolled_back.await.is_err());
    let verified = verify(&mut conn).await.unwrap().unwrap();
    assert_eq!(verified.entries, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_finds_what_a_superuser_did() {
    for (statement, found) in [
        ("UPDATE audit_log SET actor = 'somebody' WHERE id = 3", Break::Changed(3)),
        ("UPDATE audit_log SET after = '{\"n\": 1000}' WHERE id = 2", Break::Changed(2)),
        ("UPDATE audit_log SET at = at + interval '1 microsecond' WHERE id = 4", Break::Changed(4)),
        ("DELETE FROM audit_log WHERE id = 2", Break::Missing(2)),
        ("DELETE FROM audit_log WHERE id = 5", Break::Truncated { last: 4, head: 5 }),
    ] {
        let postgres = written(5).await;
        postgres.sql("ALTER TABLE audit_log DISABLE TRIGGER ALL").await;
        assert_eq!(postgres.sql(statement).await, 1);
        assert_eq!(verify(&mut postgres.conn().await).await.unwrap(), Err(found), "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_filtered_and_paged() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    for _ in 0..5 {
        server.advance_clock(std::time::Duration::from_secs(60));
        sign_in(&server, &[]).await;
    }
    let first = owner.get("/v1/audit?action=session.begin&limit=4").await.json();
    assert_eq!(first["entries"].as_array().unwrap().len(), 4);
    let next = first["next"].as_str().unwrap();
    let rest =
        owner.get(&format!("/v1/audit?action=session.begin&limit=4&cursor={next}")).await.json();
    assert_eq!(rest["entries"].as_array().unwrap().len(), 2);
    assert_eq!(rest["next"], Value::Null);
    for (query, count) in [
        ("", 7),
        ("actor=ada@example.com", 7),
        ("actor=eve@example.com", 0),
        ("resource=user", 1),
        ("resource=user:ada@example.com", 1),
        ("resource=user:eve@example.com", 0),
        ("since=2027-01-15T08:02:00Z", 4),
        ("until=2027-01-15T08:02:00Z", 3),
        ("action=session.begin&since=2027-01-15T08:00:00Z&until=2027-01-15T08:01:00Z", 1),
    ] {
        assert_eq!(entries(&owner, query).await.len(), count, "{query}");
    }
    let id = entries(&owner, "limit=1").await[0]["actor_id"].as_str().unwrap().to_owned();
    assert_eq!(entries(&owner, &format!("actor={id}")).await.len(), 7);
    for bad in ["limit=0", "since=x", "cursor=x", "colour=blue", "format=csv", "actor=%00"] {
        let response = owner.get(&format!("/v1/audit?{bad}")).await;
        assert_eq!(response.problem(), "400 invalid_query", "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_complete_and_can_be_verified_without_the_database() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    sign_in(&server, &[("user-agent", "a,\"b\"")]).await;
    let json = owner.get("/v1/audit/export?format=json").await;
    assert_eq!(json.header("content-type"), "application/json");
    let all = json.json().as_array().unwrap().clone();
    assert_eq!(all.len(), 3);
    let mut previous = GENESIS;
    for mut entry in all {
        let hash = entry.as_object_mut().unwrap().shift_remove("hash").unwrap();
        previous = link(&previous, &entry);
        assert_eq!(hash, hex(&previous));
    }
    let csv = owner.get("/v1/audit/export?format=csv&action=session.begin").await;
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
    let text = csv.text();
    let lines: Vec<_> = text.split("\r\n").collect();
    assert_eq!(lines.len(), 4, "head, two entries, the end: {text}");
    assert!(
        lines[0].starts_with("id,at,actor,")
            && lines[1].starts_with(r#""2","2027-01-15T08:00:00.000000Z","ada@"#),
        "{text}"
    );
    assert!(
        lines[2]
            .contains(r#","","{""device"":""Unknown device"",""method"":""password"",""address"":""127.0.0.1""}","127."#),
        "{text}"
    );
    for bad in ["format=xml", "limit=1", "cursor=1", "since=x"] {
        let response = owner.get(&format!("/v1/audit/export?{bad}")).await;
        assert_eq!(response.problem(), "400 invalid_query", "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_changes_and_filters_by_links_and_a_form() {
    let (_server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let page = owner.visit("/admin/audit").await.text();
    for part in ["user.sign_up", "session.begin", EMAIL, "127.0.0.1", "/v1/audit/export?format=csv"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = owner.visit("/admin/audit?action=user.sign_up").await.text();
    assert!(
        page.contains("value=\"user.sign_up\"") && !page.contains("<code>session.begin"),
        "{page}"
    );
    assert!(page.contains("export?format=csv&#38;action=user.sign_up"), "{page}");
    assert_eq!(owner.visit("/admin/audit?since=x").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_write_who_did_what_with_the_changed_fields() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    owner.post("/v1/tenants", json!({ "slug": "acme", "name": "Acme" })).await;
    let taken = owner.post("/v1/tenants", json!({ "slug": "acme", "name": "Acme" })).await;
    assert_eq!(taken.problem(), "409 slug_taken");
    server.until_state("acme", protocol::State::Running).await;
    owner.json(Method::PATCH, "/v1/tenants/acme", &[], json!({ "name": "Acme Ltd" })).await;
    let nonce = "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";
    owner.get(&format!("/admin/tenants/acme/sign-in?nonce={nonce}")).await;
    let key = server.admin_key().await;
    let client = server.visitor.with_key(&key);
    for verb in ["stop", "start", "restart"] {
        let path = format!("/v1/tenants/acme/{verb}");
        client.send(Method::POST, &path, &[], "").await;
    }
    owner.send(Method::DELETE, "/v1/tenants/acme", &[], "").await;
    let written = entries(&owner, "resource=tenant:acme").await;
    // The reconciler makes the database meanwhile, at a time of its own.
    let of_callers = written.iter().rev().filter(|entry| entry["actor"] != "reconcile");
    let shown: Vec<_> = of_callers
        .map(|entry| {
            let part = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            let side = |name: &str| entry[name].to_string();
            [part("action"), part("actor"), part("role"), side("before"), side("after")].join(" ")
        })
        .map(|line| match line.split_once("{\"id\":") {
            Some((head, _)) => format!("{head}…"),
            None => line,
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    tenant.create ada@example.com owner null …
    tenant.change ada@example.com owner {"name":"Acme"} {"name":"Acme Ltd"}
    tenant.open ada@example.com owner null null
    tenant.stop test is_admin {"desired":"running"} {"desired":"stopped"}
    tenant.start test is_admin {"desired":"stopped"} {"desired":"running"}
    tenant.restart test is_admin {} {}
    tenant.delete ada@example.com owner {"desired":"running"} {"desired":"deleted"}
    "#);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_is_checked_on_request() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    owner.post("/v1/tenants", crate::harness::acme()).await;
    let whole = owner.get("/v1/audit/chain").await.json();
    assert_eq!((&whole["entries"], &whole["fault"]), (&json!(3), &json!(null)), "{whole}");
    assert_eq!(whole["hash"].as_str().unwrap().len(), 64);
    server.database.sql("ALTER TABLE audit_log DISABLE TRIGGER ALL").await;
    server.database.sql("UPDATE audit_log SET actor = 'somebody' WHERE id = 2").await;
    let broken = owner.get("/v1/audit/chain").await.json();
    assert_eq!(broken["entries"], json!(null));
    assert_eq!(broken["fault"], "entry 2 was changed, or an entry before it");
}

/// Changes of people, keys and webhooks name their actor and the values before.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_people_keys_and_webhooks_are_in_the_log() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let grace = server.sign_in_as("grace", "viewer", &[]).await;
    let grace = grace.get("/v1/users/me").await.json()["id"].as_str().unwrap().to_owned();
    let json = |method, path: String, body| {
        let owner = &owner;
        async move { owner.json(method, &path, &[], body).await }
    };
    let delete = |path: String| {
        let owner = &owner;
        async move {
            let deleted = owner.send(Method::DELETE, &path, &[], "").await;
            assert!(deleted.status.is_success(), "{path}: {}", deleted.text());
        }
    };
    let id = |made: crate::harness::TestResponse| made.json()["id"].as_str().unwrap().to_owned();

    json(Method::PATCH, format!("/v1/users/{grace}"), json!({ "role": "admin" })).await;
    let member = format!("/v1/tenants/acme/members/{grace}");
    json(Method::PUT, member.clone(), json!({ "role": "viewer" })).await;
    delete(member).await;
    let invited = json!({ "email": "mia@example.com", "role": "viewer" });
    for list in ["/v1/invitations", "/v1/tenants/acme/invitations"] {
        assert_eq!(owner.post(list, invited.clone()).await.status, 201);
        let open = owner.get(list).await.json();
        delete(format!("{list}/{}", open["invitations"][0]["id"].as_str().unwrap())).await;
    }
    let key = json!({ "name": "ci", "role": "read" });
    delete(format!("/v1/tenants/acme/keys/{}", id(owner.post("/v1/tenants/acme/keys", key).await)))
        .await;
    let hook = json!({ "url": "https://example.com/hook" });
    delete(format!("/v1/webhooks/{}", id(owner.post("/v1/webhooks", hook).await))).await;
    delete(format!("/v1/users/{grace}")).await;

    for (action, resource, before, after) in [
        (
            "user.role",
            "user:grace@example.com",
            json!({ "role": "viewer" }),
            json!({ "role": "admin" }),
        ),
        ("user.delete", "user:grace@example.com", Value::Null, Value::Null),
        ("membership.set", "", Value::Null, Value::Null),
        ("membership.remove", "", Value::Null, Value::Null),
        ("invitation.create", "", Value::Null, Value::Null),
        ("invitation.revoke", "", Value::Null, Value::Null),
        ("key.revoke", "", Value::Null, Value::Null),
        ("webhook.delete", "", Value::Null, Value::Null),
    ] {
        let found = entries(&owner, &format!("action={action}")).await;
        let expected = if action.starts_with("invitation.") { 2 } else { 1 };
        assert_eq!(found.len(), expected, "{action}");
        let entry = &found[0];
        assert_eq!((&entry["actor"], &entry["role"]), (&json!(EMAIL), &json!("owner")), "{entry}");
        assert!(entry["resource"].as_str().unwrap().contains(resource), "{entry}");
        for (name, expected) in [("before", before), ("after", after)] {
            assert!(expected.is_null() || entry[name] == expected, "{action} {name}: {entry}");
        }
    }
}
