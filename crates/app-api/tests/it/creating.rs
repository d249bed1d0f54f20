//! A tenant is created once, as requested, or not at all.

use serde_json::{Value, json};

use crate::harness::{FakeOrchestrator, Server, acme};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_tenant_is_provisioning() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let response = owner.post("/api/admin/tenants", acme()).await;
    assert_eq!(response.status, 201);
    assert_eq!(response.header("location"), "/api/admin/tenants/acme");
    let mut tenant = response.json();
    for unsure in ["id", "owner_id"] {
        assert!(tenant[unsure].as_str().unwrap().parse::<uuid::Uuid>().is_ok());
        tenant[unsure] = json!("…");
    }
    // The first part is the test's own.
    assert!(tenant["database"]["user"].as_str().unwrap().ends_with("_acme"));
    tenant["database"]["user"] = json!("…");
    insta::assert_snapshot!(serde_json::to_string_pretty(&tenant).unwrap());
    assert_eq!(server.database.count("tenants WHERE state = 'provisioning'").await, 1);
    let listed = owner.get("/api/admin/tenants").await.json();
    assert_eq!(listed["tenants"][0]["state"], "provisioning");
    assert_eq!(listed["tenants"][0]["slug"], "acme");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_slugs_are_refused() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let (long, longest) = ("x".repeat(41), "x".repeat(40));
    for slug in [
        "",
        "a",
        &long,
        "Acme",
        "a_b",
        "a.b",
        "a/../b",
        "ümlaut",
        "acme\n",
        "-ab",
        "ab-",
        "xn--a",
        "admin",
        "new",
        "wpad",
        "autodiscover",
        "autoconfig",
        "mta-sts",
        "isatap",
        "core--acme",
        "_dmarc",
        "\u{0}\u{0}",
    ] {
        let request = json!({ "slug": slug, "name": "N" });
        let response = owner.post("/api/admin/tenants", request).await;
        assert_eq!(response.problem(), "422 invalid_slug", "{slug:?}");
        assert_eq!(response.json()["errors"][0]["field"], "slug");
    }
    for slug in ["ab", longest.as_str(), "a-b", "42"] {
        let response = owner.post("/api/admin/tenants", json!({ "slug": slug, "name": "N" })).await;
        assert_eq!(response.status, 201, "{slug}");
        let again = owner.post("/api/admin/tenants", json!({ "slug": slug, "name": "M" })).await;
        assert_eq!(again.problem(), "409 slug_taken");
    }
    assert_eq!(server.database.count("tenants").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_another_shape_is_refused() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let post = || "POST".parse::<axum::http::Method>().unwrap();
    let path = "/api/admin/tenants";
    let extra = json!({ "slug": "acme", "name": "A", "state": "running" });
    let refused = owner.post(path, extra).await;
    assert_eq!(refused.problem(), "400 invalid_json");
    assert!(refused.json()["detail"].as_str().unwrap().contains("state"));
    let json_type = [("content-type", "application/json")];
    let broken = owner.send(post(), path, &json_type, "{").await;
    assert_eq!(broken.problem(), "400 invalid_json");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let other = owner.send(post(), path, &form, "slug=acme&name=A").await;
    assert_eq!(other.problem(), "415 unsupported_media_type");
    let none = owner.send(post(), path, &[], r#"{"slug":"acme","name":"A"}"#).await;
    assert_eq!(none.problem(), "415 unsupported_media_type");
    let huge = json!({ "slug": "acme", "name": "x".repeat(70_000) });
    assert_eq!(owner.post(path, huge).await.problem(), "413 body_too_large");
    assert_eq!(server.database.count("tenants").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_idempotency_key_returns_the_same_tenant() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let post = || "POST".parse::<axum::http::Method>().unwrap();
    let key = [("idempotency-key", "k-1")];
    let all = (0..10).map(|_| owner.json(post(), "/api/admin/tenants", &key, acme()));
    let responses = futures_util::future::join_all(all).await;
    let bodies: Vec<Value> =
        responses.iter().map(|a| (a.status == 201).then(|| a.json()).unwrap()).collect();
    assert!(bodies.iter().all(|b| *b == bodies[0]));
    let other = json!({ "slug": "other", "name": "A" });
    let mismatch = owner.json(post(), "/api/admin/tenants", &key, other).await;
    assert_eq!(mismatch.problem(), "422 idempotency_mismatch");
    let fresh =
        owner.json(post(), "/api/admin/tenants", &[("idempotency-key", "k-2")], acme()).await;
    assert_eq!(fresh.problem(), "409 slug_taken");
    let empty = owner.json(post(), "/api/admin/tenants", &[("idempotency-key", "")], acme()).await;
    assert_eq!(empty.problem(), "400 invalid_idempotency_key");
    assert_eq!(server.database.count("tenants").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_needs_a_visible_character() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    for name in ["\u{200b}", "\u{ad}\u{2060}", "\u{2800}", "\u{3164}", "\u{feff}", "\u{e0041}"] {
        let response =
            owner.post("/api/admin/tenants", json!({ "slug": "acme", "name": name })).await;
        assert_eq!(response.problem(), "422 invalid_fields", "{name:?}");
        assert_eq!(response.json()["errors"][0]["code"], "required", "{name:?}");
    }
    let emoji = json!({ "slug": "acme", "name": "👩\u{200d}💻" });
    assert_eq!(owner.post("/api/admin/tenants", emoji).await.status, 201);
    assert_eq!(server.database.count("tenants").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_of_a_deleted_tenant_is_gone() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    let post = || "POST".parse::<axum::http::Method>().unwrap();
    let key = [("idempotency-key", "k-1")];
    assert_eq!(owner.json(post(), "/api/admin/tenants", &key, acme()).await.status, 201);
    server.until_state("acme", protocol::State::Running).await;
    owner.send("DELETE".parse().unwrap(), "/api/admin/tenants/acme", &[], "").await;
    server.until("acme", |tenant| tenant.is_none()).await;
    let replayed = owner.json(post(), "/api/admin/tenants", &key, acme()).await;
    assert_eq!(replayed.problem(), "410 tenant_deleted");
    let fresh = [("idempotency-key", "k-2")];
    assert_eq!(owner.json(post(), "/api/admin/tenants", &fresh, acme()).await.status, 201);
}
