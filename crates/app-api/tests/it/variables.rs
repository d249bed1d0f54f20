//! Variables and secrets of a tenant's program.

use app_api::tenant::Tenant;
use axum::http::Method;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use protocol::State;
use protocol::orchestrator::Phase;
use protocol::variables::Variables;
use serde_json::{Value, json};
use service::{Secret, keys, sealed};
use testkit::eventually;

use crate::harness::orchestrator::received;
use crate::harness::schema::Schemas;
use crate::harness::{
    EMAIL, FakeOrchestrator, MASTER, Server, TEST_TIMEOUT, TestClient, TestResponse, observed,
};

async fn with_tenant() -> (Server, TestClient) {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    owner.post("/v1/apps", json!({ "slug": "notes", "name": "Notes" })).await;
    owner.post("/v1/apps/notes/releases", json!({ "image": "notes:1" })).await;
    let new = json!({ "slug": "acme", "name": "Acme", "app": "notes" });
    assert_eq!(owner.post("/v1/tenants", new).await.status, 201);
    server.until_state("acme", State::Running).await;
    (server, owner)
}

async fn put(owner: &TestClient, path: &str, value: &str) -> TestResponse {
    let path = format!("/v1/tenants/acme/{path}");
    owner.json(Method::PUT, &path, &[], json!({ "value": value })).await
}

async fn delete(owner: &TestClient, path: &str) -> TestResponse {
    owner.send(Method::DELETE, &format!("/v1/tenants/acme/{path}"), &[], "").await
}

fn opened(row: &Tenant) -> Variables {
    let key = keys::env_key(&Secret::new(MASTER.to_owned()), row.tenant_id());
    let plain = sealed::open(&key, row.spec().sealed_env.as_deref().unwrap()).unwrap();
    serde_json::from_slice(&plain).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_written_encrypted_and_never_read_again() {
    let (server, owner) = with_tenant().await;
    assert_eq!(put(&owner, "env/GREETING", "hello").await.status, 204);
    assert_eq!(put(&owner, "secrets/TOKEN", "hunter2-hunter2").await.status, 204);
    let env = owner.get("/v1/tenants/acme/env").await.json();
    assert_eq!(env, json!({ "env": [{ "name": "GREETING", "value": "hello" }] }));
    let secrets = owner.get("/v1/tenants/acme/secrets").await.json();
    assert_eq!(secrets, json!({ "secrets": [{ "name": "TOKEN" }] }));
    let described = Schemas::served(&server.visitor).await;
    assert_eq!(described.violations("EnvList", &env), [""; 0]);
    assert_eq!(described.violations("SecretList", &secrets), [""; 0]);

    let row = server.row("acme").await;
    assert_eq!(opened(&row)["TOKEN"].value, "hunter2-hunter2");
    assert_eq!(row.generation, 1, "a running tenant is left alone until its next start");
    let spec = eventually("the spec", TEST_TIMEOUT, async || {
        let specs = server.orchestrator.specs.lock().unwrap();
        Ok(specs.last().is_some_and(|apply| apply.spec.sealed_env == row.spec().sealed_env))
    });
    spec.await.unwrap();
    let everything = [
        format!("{row:?}"),
        owner.get("/v1/audit").await.text(),
        owner.get("/v1/tenants/acme").await.text(),
        owner.visit("/admin/tenants/acme").await.text(),
    ];
    for text in everything {
        assert!(!text.contains("hunter2"), "{text}");
    }
    let audited = owner.get("/v1/audit?action=tenant.secret").await.json();
    assert_eq!(audited["entries"][0]["after"], json!({ "name": "TOKEN" }));
    assert_eq!(audited["entries"][0]["before"], Value::Null);

    let page = owner.visit("/admin/tenants/acme/variables").await.text();
    assert!(
        page.contains("TOKEN") && page.contains("hello") && !page.contains("hunter2"),
        "{page}"
    );
    let form = [("name", "PORT"), ("value", "hunter2"), ("kind", "secret")];
    let refused = owner.submit("/admin/tenants/acme/variables", &form).await;
    assert_eq!(refused.status, 422);
    assert!(!refused.text().contains("hunter2"), "{}", refused.text());
    let form = [("name", "OTHER"), ("value", "hunter2"), ("kind", "secret")];
    assert_eq!(owner.submit("/admin/tenants/acme/variables", &form).await.status, 303);
    let gone = owner.submit("/admin/tenants/acme/variables/OTHER/delete", &[]).await;
    assert_eq!(gone.status, 303);

    // The calls of one kind do not see the other, and do not replace it.
    let replaced = put(&owner, "env/TOKEN", "hello").await;
    assert_eq!(replaced.problem(), "409 variable_taken");
    assert!(replaced.text().contains("The tenant has a secret TOKEN."), "{}", replaced.text());
    assert_eq!(put(&owner, "secrets/GREETING", "hello").await.problem(), "409 variable_taken");
    assert_eq!(opened(&server.row("acme").await)["TOKEN"].value, "hunter2-hunter2");
    assert_eq!(delete(&owner, "env/TOKEN").await.problem(), "404 resource_not_found");
    assert_eq!(delete(&owner, "secrets/TOKEN").await.status, 204);
    assert_eq!(delete(&owner, "env/GREETING").await.status, 204);
    let entry = |before, after| (EMAIL.to_owned(), "tenant:acme".to_owned(), before, after);
    let named = || json!({ "name": "GREETING" });
    let expected = [entry(Value::Null, named()), entry(named(), Value::Null)];
    assert_eq!(server.audited("tenant.env").await, expected);
    assert_eq!(server.row("acme").await.spec().sealed_env, None);
}

async fn put_of_app(owner: &TestClient, path: &str, value: &str) -> TestResponse {
    let path = format!("/v1/apps/notes/{path}");
    owner.json(Method::PUT, &path, &[], json!({ "value": value })).await
}

/// The values that the tenant's program received at its last start or change.
async fn until_received(server: &Server, slug: &str, expected: &[(&str, &str)]) {
    let id = server.row(slug).await.tenant_id();
    let seen = eventually("the variables", TEST_TIMEOUT, async || {
        let specs = server.orchestrator.specs.lock().unwrap();
        let last = specs.iter().rev().find(|apply| apply.spec.id == id);
        let all = last.map(|apply| received(&apply.spec)).unwrap_or_default();
        let all: Vec<_> = all.iter().map(|(name, v)| (name.as_str(), v.value.as_str())).collect();
        Ok(all == expected)
    });
    seen.await.unwrap_or_else(|error| panic!("{slug}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apps_variables_reach_all_its_tenants_and_a_tenants_own_win() {
    let (server, owner) = with_tenant().await;
    let globex = json!({ "slug": "globex", "name": "Globex", "app": "notes" });
    owner.post("/v1/tenants", globex).await;
    owner.post("/v1/apps", json!({ "slug": "other", "name": "Other" })).await;
    owner.post("/v1/apps/other/releases", json!({ "image": "other:1" })).await;
    let initech = json!({ "slug": "initech", "name": "Initech", "app": "other" });
    owner.post("/v1/tenants", initech).await;
    for slug in ["globex", "initech"] {
        server.until_state(slug, State::Running).await;
    }
    let asleep = observed(server.row("globex").await.tenant_id(), Phase::Sleeping);
    server.orchestrator.publish(asleep);
    server.until_state("globex", State::Sleeping).await;

    assert_eq!(put(&owner, "secrets/TOKEN", "hunter2-own").await.status, 204);
    assert_eq!(put_of_app(&owner, "secrets/TOKEN", "hunter2-app").await.status, 204);
    assert_eq!(put_of_app(&owner, "env/GREETING", "hello").await.status, 204);
    until_received(&server, "acme", &[("GREETING", "hello"), ("TOKEN", "hunter2-own")]).await;
    until_received(&server, "globex", &[("GREETING", "hello"), ("TOKEN", "hunter2-app")]).await;
    until_received(&server, "initech", &[]).await;
    let row = server.row("acme").await;
    assert_eq!(row.generation, 1, "a running tenant is left alone until its next start");
    assert_eq!(server.row("globex").await.state, State::Sleeping, "nothing wakes it");
    assert!(!server.row("globex").await.has_untried_variables(), "they are not its own");

    // A tenant that begins to follow the app, or moves to another release, has them too.
    owner.post("/v1/apps/notes/releases", json!({ "image": "notes:2" })).await;
    let hooli = json!({ "slug": "hooli", "name": "Hooli", "app": "notes", "release": "v1" });
    owner.post("/v1/tenants", hooli).await;
    until_received(&server, "hooli", &[("GREETING", "hello"), ("TOKEN", "hunter2-app")]).await;
    let v2 = json!({ "release": "v2" });
    owner.json(Method::PUT, "/v1/tenants/acme/release", &[], v2).await;
    until_received(&server, "acme", &[("GREETING", "hello"), ("TOKEN", "hunter2-own")]).await;
    assert_eq!(server.row("acme").await.generation, 2);

    let env = owner.get("/v1/apps/notes/env").await.json();
    assert_eq!(env, json!({ "env": [{ "name": "GREETING", "value": "hello" }] }));
    let secrets = owner.get("/v1/apps/notes/secrets").await.json();
    assert_eq!(secrets, json!({ "secrets": [{ "name": "TOKEN" }] }));
    let everything = [
        format!("{row:?}"),
        owner.get("/v1/audit").await.text(),
        owner.get("/v1/apps/notes").await.text(),
        owner.get("/v1/apps/notes/releases").await.text(),
        owner.visit("/admin/apps/notes").await.text(),
        owner.visit("/admin/apps/notes/variables").await.text(),
    ];
    for text in everything {
        assert!(!text.contains("hunter2"), "{text}");
    }
    for (action, name) in [("app.secret", "TOKEN"), ("app.env", "GREETING")] {
        let audited = owner.get(&format!("/v1/audit?action={action}")).await.json();
        let entry = &audited["entries"][0];
        assert_eq!(entry["after"], json!({ "name": name }), "{action}");
        assert_eq!((&entry["before"], &entry["resource"]), (&Value::Null, &json!("app:notes")));
    }

    assert_eq!(put_of_app(&owner, "env/TOKEN", "x").await.problem(), "409 variable_taken");
    let gone = |path: &'static str| owner.send(Method::DELETE, path, &[], "");
    let unknown = gone("/v1/apps/notes/secrets/GREETING").await;
    assert_eq!(unknown.problem(), "404 resource_not_found");
    assert_eq!(gone("/v1/apps/notes/secrets/TOKEN").await.status, 204);
    assert_eq!(gone("/v1/apps/notes/env/GREETING").await.status, 204);
    until_received(&server, "acme", &[("TOKEN", "hunter2-own")]).await;
    until_received(&server, "hooli", &[]).await;
    assert_eq!(server.database.count("apps WHERE sealed_env IS NOT NULL").await, 0);
    assert_eq!(server.row("hooli").await.spec().app_env, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apps_variables_are_set_on_its_page_and_faults_are_refused() {
    let (server, owner) = with_tenant().await;
    const PAGE: &str = "/admin/apps/notes/variables";
    let form = |name, kind| [("name", name), ("value", "hunter2"), ("kind", kind)];
    assert_eq!(owner.submit(PAGE, &form("TOKEN", "secret")).await.status, 303);
    assert_eq!(owner.submit(PAGE, &form("OTHER", "env")).await.status, 303);
    let page = owner.visit(PAGE).await.text();
    assert!(page.contains("TOKEN") && page.contains("OTHER"), "{page}");
    assert_eq!(page.matches("hunter2").count(), 1, "the variable alone shows its value: {page}");
    let refused = owner.submit(PAGE, &form("PORT", "secret")).await;
    assert_eq!(refused.status, 422);
    assert!(!refused.text().contains("value=\"hunter2"), "{}", refused.text());
    for name in ["TOKEN", "OTHER"] {
        assert_eq!(owner.submit(&format!("{PAGE}/{name}/delete"), &[]).await.status, 303);
    }
    assert_eq!(owner.submit(&format!("{PAGE}/TOKEN/delete"), &[]).await.status, 404);
    assert_eq!(server.row("acme").await.spec().app_env, None);
    let half = "x".repeat(9 << 10);
    assert_eq!(put_of_app(&owner, "env/A", &half).await.status, 204);
    let full = put_of_app(&owner, "env/B", &half).await;
    assert!(full.text().contains("of the app together may have 16 KiB"), "{}", full.text());
    let unknown = owner.json(Method::PUT, "/v1/apps/x/env/A", &[], json!({ "value": "1" })).await;
    assert_eq!(unknown.problem(), "404 resource_not_found");
    server.database.sql("UPDATE apps SET sealed_env = 'AAAA'").await;
    assert_eq!(owner.get("/v1/apps/notes/env").await.status, 500, "of another installation");
}

const REQUIRES: &str = "secrets = { required = ['TOKEN', 'MAIL_KEY'], optional = ['SENTRY'] }";

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_starts_once_its_required_secrets_have_values() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    owner.post("/v1/apps", json!({ "slug": "notes", "name": "Notes" })).await;
    let release = json!({ "image": "notes:1", "manifest": REQUIRES });
    let made = owner.post("/v1/apps/notes/releases", release).await.json();
    assert_eq!(made["missing_secrets"], json!(["TOKEN", "MAIL_KEY"]), "{made}");
    let new = json!({ "slug": "acme", "name": "Acme", "app": "notes" });
    owner.post("/v1/tenants", new).await;
    server.until_state("acme", State::Error).await;
    let reason = server.row("acme").await.state_reason.unwrap_or_default();
    assert!(reason.contains("TOKEN, MAIL_KEY") && reason.contains("(secret_missing)"), "{reason}");

    assert_eq!(put_of_app(&owner, "secrets/MAIL_KEY", "x").await.status, 204);
    let named = eventually("the other name", TEST_TIMEOUT, async || {
        let reason = server.row("acme").await.state_reason.unwrap_or_default();
        Ok(reason.contains("requires TOKEN."))
    });
    named.await.unwrap();
    // A variable that everybody may read is a value, too.
    assert_eq!(put(&owner, "env/TOKEN", "x").await.status, 204);
    server.until_state("acme", State::Running).await;
    let row = server.row("acme").await;
    assert_eq!(row.state_reason, None, "no other request was needed");
    assert!(!row.has_untried_variables(), "this start was with them");
    let listed = owner.get("/v1/apps/notes/releases").await.json();
    assert_eq!(listed["releases"][0]["missing_secrets"], json!(["TOKEN"]), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_tried_with_the_apps_secrets_or_says_which_are_missing() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    owner.post("/v1/apps", json!({ "slug": "notes", "name": "Notes" })).await;
    let create = async |manifest: &str, smoke_start: bool| {
        let release =
            json!({ "image": "notes:1", "manifest": manifest, "smoke_start": smoke_start });
        let made = owner.post("/v1/apps/notes/releases", release).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let prepared = server.orchestrator.prepared.lock().unwrap().pop().unwrap();
        (made.json(), prepared)
    };
    let (made, prepared) = create(REQUIRES, true).await;
    assert!(prepared.smoke_start.is_none() && prepared.app_env.is_none());
    let why = made["untried_because"].as_str().unwrap().to_owned();
    assert!(why.contains("TOKEN, MAIL_KEY"), "{why}");
    assert!(why.contains("cial apps secrets set notes TOKEN"), "{why}");
    let declared = json!({ "required": ["TOKEN", "MAIL_KEY"], "optional": ["SENTRY"] });
    assert_eq!(made["secrets"], declared);
    let described = Schemas::served(&server.visitor).await;
    assert_eq!(described.violations("SecretNames", &made["secrets"]), [""; 0]);

    let (made, _) = create(REQUIRES, false).await;
    assert_eq!(made.get("untried_because"), None, "the caller waived it");
    let (made, _) = create("database = true", true).await;
    assert!(made["untried_because"].as_str().unwrap().contains("database"), "{made}");

    for name in ["TOKEN", "MAIL_KEY"] {
        assert_eq!(put_of_app(&owner, &format!("secrets/{name}"), "x").await.status, 204);
    }
    let (made, prepared) = create(REQUIRES, true).await;
    assert_eq!((made.get("untried_because"), &made["missing_secrets"]), (None, &json!([])));
    assert!(prepared.smoke_start.is_some_and(|env| env.is_empty()), "no secret is in plain text");
    assert!(prepared.app_env.is_some());
}

async fn execute(conn: &mut AsyncPgConnection, text: &str) {
    diesel::sql_query(text).execute(conn).await.unwrap();
}

/// A tenant is created while a change of the app's variables is under way: it waits, and has the change.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_begins_to_follow_an_app_has_its_latest_variables() {
    let (server, owner) = with_tenant().await;
    assert_eq!(put_of_app(&owner, "env/A", "x").await.status, 204);
    let mut changing = server.database.conn().await;
    execute(&mut changing, "BEGIN").await;
    execute(&mut changing, "UPDATE apps SET sealed_env = NULL").await;
    let new = json!({ "slug": "globex", "name": "Globex", "app": "notes" });
    let (created, ()) = tokio::join!(owner.post("/v1/tenants", new), async {
        server.database.until_blocked().await;
        execute(&mut changing, "COMMIT").await;
    });
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(server.row("globex").await.spec().app_env, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_variables_are_refused_by_field_and_rule() {
    let (server, owner) = with_tenant().await;
    for (name, value, field) in [
        ("PORT", "1", "name"),
        ("CIAL_X", "1", "name"),
        ("1A", "1", "name"),
        ("A-B", "1", "name"),
        ("A", "a\0b", "value"),
        ("A", &"x".repeat((16 << 10) + 1), "value"),
    ] {
        let refused = put(&owner, &format!("env/{name}"), value).await;
        assert_eq!(refused.problem(), "422 invalid_fields", "{name}");
        assert_eq!(refused.json()["errors"][0]["field"], field, "{name}");
    }
    let half = "x".repeat(16 << 10);
    assert_eq!(put(&owner, "env/A", &half).await.status, 204);
    let full = put(&owner, "env/B", &half).await;
    assert!(full.text().contains("32 KiB"), "{}", full.text());
    let hello = json!({ "slug": "globex", "name": "Globex" });
    owner.post("/v1/tenants", hello).await;
    let path = "/v1/tenants/globex/env/A";
    let built_in = owner.json(Method::PUT, path, &[], json!({ "value": "1" })).await;
    assert!(built_in.text().contains("built_in_app"), "{}", built_in.text());
    server.database.sql("UPDATE tenants SET app = jsonb_set(app, '{sealed_env}', '\"AAAA\"') WHERE slug = 'acme'").await;
    assert_eq!(owner.get("/v1/tenants/acme/env").await.status, 500, "of another installation");
}
