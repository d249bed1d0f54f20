//! The OpenAPI description names every call, with the shapes of the real responses.

use app_api::access::Access;
use app_api::route::Surface;
use app_api::routes::ROUTES;
use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::schema::Schemas;
use crate::harness::{EMAIL, FakeOrchestrator, PASSWORD, Server, acme};

#[tokio::test(flavor = "multi_thread")]
async fn the_description_lists_every_route() {
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    let document = server.visitor.get("/api/openapi.json").await.json();
    let paths = document["paths"].as_object().unwrap();
    let described: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
    let api = ROUTES.iter().filter(|route| route.surface == Surface::Api);
    let api: Vec<_> = api.flat_map(|route| route.paths().map(move |path| (route, path))).collect();
    assert_eq!(described, api.len());
    for (route, path) in api {
        let operation = &paths[&path][route.method.as_str().to_lowercase()];
        let secured = !operation["security"].as_array().unwrap().is_empty();
        assert_eq!(secured, route.access != Access::Public, "{} {path}", route.method);
        assert_eq!(operation["x-access"], route.access.to_string(), "{} {path}", route.method);
        assert!(operation["responses"].as_object().unwrap().len() >= 2);
    }
    references(&document).iter().for_each(|name| {
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    });
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, value)| match (key.as_str(), value) {
                ("$ref", Value::String(to)) => vec![to.rsplit('/').next().unwrap().to_owned()],
                (_, value) => references(value),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(references).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn names(value: &Value) -> Vec<&str> {
    let mut names: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_match_their_schemas() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let described = Schemas::served(&server.visitor).await;
    let schemas = &described.0;
    owner.post("/api/admin/tenants", acme()).await;
    let policy = json!({
        "freeze_after_seconds": 1, "sleep_after_seconds": 2, "max_awake_seconds": 3, "wake_on": "visits",
        "require_sign_in": true,
    });
    // The default disk limit is absent from a response; this one shows.
    let patch = json!({ "policy": policy, "limits": { "disk_bytes": 1_u64 << 30 } });
    let tenant = owner.json(Method::PATCH, "/api/admin/tenants/acme", &[], patch).await.json();
    let session = owner.get("/api/auth/session").await.json();
    let problem = server.visitor.get("/api/auth/session").await.json();
    for (shown, schema) in [
        (&tenant, "Tenant"),
        (&tenant["limits"], "Limits"),
        (&tenant["policy"], "Policy"),
        (&tenant["effective_policy"], "EffectivePolicy"),
        (&session, "Session"),
        (&session["user"], "User"),
    ] {
        assert_eq!(names(shown), names(&schemas[schema]["properties"]), "{schema}");
        assert_eq!(described.violations(schema, shown), [""; 0]);
    }
    let list = owner.get("/api/admin/tenants").await.json();
    let signed_in = server.visitor.post("/api/auth/sign-in/email", sign_in()).await.json();
    let no_slug = json!({ "slug": "A", "name": "" });
    let faulty = owner.post("/api/admin/tenants", no_slug).await.json();
    assert_eq!(faulty["errors"].as_array().unwrap().len(), 2);
    for (shown, schema) in [
        (&list, "TenantList"),
        (&signed_in, "SignedIn"),
        (&problem, "Problem"),
        (&faulty, "Problem"),
    ] {
        assert_eq!(described.violations(schema, shown), [""; 0]);
    }
    let session_part = &schemas["Session"]["properties"]["session"]["properties"];
    assert_eq!(names(&session["session"]), names(session_part));
    for name in names(&problem) {
        assert!(schemas["Problem"]["properties"].get(name).is_some(), "{name}");
    }
}

fn sign_in() -> Value {
    json!({ "email": EMAIL, "password": PASSWORD })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_validator_finds_violations() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let described = Schemas::served(&server.visitor).await;
    owner.post("/api/admin/tenants", acme()).await;
    let tenant = owner.get("/api/admin/tenants/acme").await.json();
    for (field, other) in [
        ("revision", json!("1")),
        ("id", json!("acme")),
        ("state", json!("gone")),
        ("created_at", json!(1_800_000_000)),
        ("created_at", json!("yesterday")),
        ("awake_because", json!([1])),
        ("last_wake", json!({ "total_ms": 1 })),
        ("limits", json!({ "pids": 1 })),
        ("colour", json!("blue")),
    ] {
        let mut changed = tenant.clone();
        changed[field] = other;
        let faults = described.violations("Tenant", &changed);
        assert!(faults.len() == 1 && faults[0].contains(field), "{field}: {faults:?}");
    }
    let mut without = tenant;
    without.as_object_mut().unwrap().remove("url");
    assert_eq!(described.violations("Tenant", &without).len(), 1);
}
