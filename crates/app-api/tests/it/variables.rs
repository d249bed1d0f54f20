//! Variables and secrets of a tenant's program.

use app_api::tenant::Tenant;
use axum::http::Method;
use protocol::State;
use protocol::variables::Variables;
use serde_json::{Value, json};
use service::{Secret, keys, sealed};
use testkit::eventually;

use crate::harness::schema::Schemas;
use crate::harness::{FakeOrchestrator, MASTER, Server, TEST_TIMEOUT, TestClient, TestResponse};

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
    assert_eq!(server.row("acme").await.spec().sealed_env, None);
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
