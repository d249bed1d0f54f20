//! Packages: each in the schema of its tenant, and nowhere else.

use axum::http::Method;
use protocol::api_keys::Role;
use serde_json::{Value, json};

use crate::harness::work::{archive, upload};
use crate::harness::{FakeOrchestrator, Server, Setup, TestClient, TestResponse, acme};

pub(crate) const DESCRIPTION: &str = r#"
name = "acme-etl"
version = "1.2.0"
[[workflow]]
name = "nightly"
[[workflow.task]]
name = "fetch"
command = ["bin/fetch"]
"#;

pub(crate) async fn call(
    client: &TestClient,
    method: Method,
    path: &str,
    key: &str,
) -> TestResponse {
    client.with_key(key).send(method, path, &[], "").await
}

/// A server with the tenants acme and globex, which have databases, and a key of each.
pub(crate) async fn two_tenants(
    orchestrator: FakeOrchestrator,
) -> (Server, TestClient, [String; 2]) {
    two_tenants_of(Setup::new(orchestrator).await).await
}

/// The same on a server of this setup.
pub(crate) async fn two_tenants_of(setup: Setup) -> (Server, TestClient, [String; 2]) {
    let server = setup.start().await;
    let owner = server.sign_up().await;
    owner.post("/v1/tenants", acme()).await;
    owner.post("/v1/tenants", json!({ "slug": "globex", "name": "Globex" })).await;
    for slug in ["acme", "globex"] {
        server.until(slug, |tenant| tenant.is_some_and(|t| t.database.is_some())).await;
    }
    let keys = [
        server.key_of(Some("acme"), Role::Write).await,
        server.key_of(Some("globex"), Role::Write).await,
    ];
    (server, owner, keys)
}

async fn names(server: &Server, slug: &str, key: &str) -> Vec<Value> {
    let path = format!("/v1/tenants/{slug}/packages");
    let list = call(&server.visitor, Method::GET, &path, key).await;
    assert_eq!(list.status, 200, "{}", list.text());
    let items = list.json()["items"].as_array().unwrap().clone();
    assert_eq!(list.json()["total"], items.len());
    items.into_iter().map(|item| item["name"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_lies_in_the_schema_of_its_tenant_alone() {
    let (server, owner, [acme_key, globex_key]) = two_tenants(FakeOrchestrator::obedient()).await;
    let archive = archive(DESCRIPTION, "acme-etl-1.2.0");
    let uploaded = upload(&server.visitor, &acme_key, "acme", &archive).await;
    assert_eq!(uploaded.status, 201, "{}", uploaded.text());
    assert_eq!(uploaded.json()["tenant_id"], json!(server.row("acme").await.id));
    assert_eq!(uploaded.json()["workflows"], json!(["nightly"]));
    assert_eq!(uploaded.header("location"), "/v1/tenants/acme/packages/acme-etl/1.2.0");
    assert_eq!(names(&server, "acme", &acme_key).await, ["acme-etl"]);
    assert_eq!(names(&server, "globex", &globex_key).await, [] as [Value; 0]);
    for (table, count) in [
        ("t_acme.cial_packages", 1),
        ("t_acme.cial_package_pieces", 1),
        ("t_globex.cial_packages", 0),
    ] {
        assert_eq!(server.database.count(table).await, count, "{table}");
    }
    let elsewhere =
        "pg_class WHERE relname LIKE 'cial\\_%' AND relnamespace = 'public'::regnamespace";
    assert_eq!(server.database.count(elsewhere).await, 0);
    let stored = format!(
        "t_acme.cial_package_pieces WHERE encode(sha256(bytes), 'hex') = '{}'",
        owner.get("/v1/tenants/acme/packages").await.json()["items"][0]["sha256"].as_str().unwrap()
    );
    assert_eq!(server.database.count(&stored).await, 1);

    let again = upload(&server.visitor, &acme_key, "acme", &archive).await;
    assert_eq!(again.problem(), "409 package_exists");
    let same_elsewhere = upload(&server.visitor, &globex_key, "globex", &archive).await;
    assert_eq!(same_elsewhere.status, 201);
    let path = "/v1/tenants/acme/packages/acme-etl/1.2.0";
    assert_eq!(call(&server.visitor, Method::DELETE, path, &acme_key).await.status, 204);
    let gone = call(&server.visitor, Method::DELETE, path, &acme_key).await;
    assert_eq!(gone.problem(), "404 resource_not_found");
    assert_eq!(names(&server, "acme", &acme_key).await, [] as [Value; 0]);
    assert_eq!(server.database.count("t_acme.cial_package_pieces").await, 0);
    assert_eq!(names(&server, "globex", &globex_key).await, ["acme-etl"]);
    for (action, count) in [("package.upload", 2), ("package.delete", 1)] {
        let entries = format!("audit_log WHERE action = '{action}'");
        assert_eq!(server.database.count(&entries).await, count, "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_uploads_to_its_own_tenant_only() {
    let (server, _owner, [acme_key, _]) = two_tenants(FakeOrchestrator::obedient()).await;
    let archive = archive(DESCRIPTION, "acme-etl-1.2.0");
    let other = upload(&server.visitor, &acme_key, "globex", &archive).await;
    assert_eq!(other.problem(), "403 forbidden");
    let unknown = upload(&server.visitor, &acme_key, "unknown", &archive).await;
    assert_eq!(other.json()["detail"], unknown.json()["detail"]);
    let read_key = server.key_of(Some("acme"), Role::Read).await;
    let read = upload(&server.visitor, &read_key, "acme", &archive).await;
    assert_eq!(read.problem(), "403 insufficient_role");
    assert_eq!(names(&server, "acme", &read_key).await, [] as [Value; 0]);
    for schema in ["t_acme", "t_globex"] {
        assert_eq!(server.database.count(&format!("{schema}.cial_packages")).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_archive_writes_nothing() {
    let (server, _owner, [key, _]) = two_tenants(FakeOrchestrator::obedient()).await;
    let whole = archive(DESCRIPTION, "acme-etl-1.2.0");
    let without_workflow = "name = \"acme-etl\"\nversion = \"1.2.0\"\n";
    let table: [(Vec<u8>, &str); 6] = [
        (Vec::new(), "400 package_corrupt"),
        (b"no archive".to_vec(), "400 package_corrupt"),
        (whole[..whole.len() / 2].to_vec(), "400 package_corrupt"),
        (whole[..whole.len() - 1].to_vec(), "400 package_corrupt"),
        (archive(DESCRIPTION, "other"), "400 package_invalid"),
        (archive(without_workflow, "acme-etl-1.2.0"), "400 package_invalid"),
    ];
    for (archive, expected) in table {
        let refused = upload(&server.visitor, &key, "acme", &archive).await;
        assert_eq!(refused.problem(), expected);
    }
    let archive = archive(without_workflow, "acme-etl-1.2.0");
    let invalid = upload(&server.visitor, &key, "acme", &archive).await;
    assert_eq!(invalid.json()["errors"][0]["field"], "workflow");
    let no_form = call(&server.visitor, Method::POST, "/v1/tenants/acme/packages", &key).await;
    assert_eq!(no_form.problem(), "415 unsupported_media_type");
    for table in ["cial_packages", "cial_package_pieces", "cial_workflows"] {
        assert_eq!(server.database.count(&format!("t_acme.{table}")).await, 0, "{table}");
    }
    assert_eq!(server.database.count("audit_log WHERE action = 'package.upload'").await, 0);
}

/// The tenant owns its role and its tables, and can do with both what it wants: to itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_changes_its_role_reaches_nothing_and_shuts_nobody_out() {
    let (server, _owner, [acme_key, globex_key]) = two_tenants(FakeOrchestrator::obedient()).await;
    let archive = archive(DESCRIPTION, "acme-etl-1.2.0");
    let user = format!("{}acme", server.database.tenant_roles);
    for setting in
        ["search_path = public", "statement_timeout = 1", "default_transaction_read_only = on"]
    {
        server.database.sql(&format!("ALTER ROLE {user} SET {setting}")).await;
    }
    server.database.sql(&format!("ALTER ROLE {user} NOLOGIN")).await;
    assert_eq!(names(&server, "acme", &acme_key).await, [] as [Value; 0]);
    assert_eq!(upload(&server.visitor, &acme_key, "acme", &archive).await.status, 201);

    // A view in the place of the table returns more than fits; the list stays short.
    for text in [
        "ALTER TABLE t_acme.cial_packages RENAME TO hidden".to_owned(),
        "CREATE VIEW t_acme.cial_packages AS SELECT gen_random_uuid() AS id, repeat('x', 10000) AS name, \
             '1' AS version, '' AS about, 1::bigint AS bytes, '' AS sha256, '' AS created_by, \
             now() AS created_at FROM generate_series(1, 100000)"
            .to_owned(),
        format!("GRANT SELECT ON t_acme.cial_packages TO {user}"),
    ] {
        server.database.sql(&text).await;
    }
    let listed = names(&server, "acme", &acme_key).await;
    assert_eq!((listed.len(), listed[0].as_str().unwrap().len()), (100, 63));
    server.database.sql("DROP SCHEMA t_acme CASCADE").await;
    let path = "/v1/tenants/acme/packages";
    let refused = call(&server.visitor, Method::GET, path, &acme_key).await;
    assert_eq!(refused.problem(), "409 tenant_schema_damaged");
    let refused = upload(&server.visitor, &acme_key, "acme", &archive).await;
    assert_eq!(refused.problem(), "409 tenant_schema_damaged");
    assert_eq!(upload(&server.visitor, &globex_key, "globex", &archive).await.status, 201);
    assert_eq!(names(&server, "globex", &globex_key).await, ["acme-etl"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_created_again_has_no_packages() {
    let (server, owner, [key, _]) = two_tenants(FakeOrchestrator::obedient()).await;
    let archive = archive(DESCRIPTION, "acme-etl-1.2.0");
    assert_eq!(upload(&server.visitor, &key, "acme", &archive).await.status, 201);
    let path = "/v1/tenants/acme/packages";
    assert_eq!(owner.send(Method::DELETE, "/v1/tenants/acme", &[], "").await.status, 202);
    assert_eq!(call(&server.visitor, Method::GET, path, &key).await.problem(), "401 invalid_key");
    server.until("acme", |tenant| tenant.is_none()).await;
    assert_eq!(owner.post("/v1/tenants", acme()).await.status, 201);
    server.until("acme", |tenant| tenant.is_some_and(|t| t.database.is_some())).await;
    assert_eq!(owner.get(path).await.json()["total"], 0);
    assert_eq!(call(&server.visitor, Method::GET, path, &key).await.problem(), "401 invalid_key");
}
