//! Registries that want an account, and images that are pulled for releases.

use std::time::Duration;

use axum::http::Method;
use diesel_async::SimpleAsyncConnection as _;
use protocol::images::{PullPolicy, PulledImage, RegistryLogin, SealedLogin};
use protocol::problem::Code;
use serde_json::{Value, json};
use service::{Secret, keys, sealed};
use testkit::eventually;

use crate::harness::schema::Schemas;
use crate::harness::{
    EMAIL, FakeOrchestrator, MASTER, Server, TEST_TIMEOUT, TestClient, TestResponse,
};

const PASSWORD: &str = "hunter2-hunter2";

async fn set(owner: &TestClient, host: &str, password: &str) -> TestResponse {
    let login = json!({ "username": "bob", "password": password });
    owner.json(Method::PUT, &format!("/v1/registries/{host}"), &[], login).await
}

async fn delete(owner: &TestClient, host: &str) -> TestResponse {
    owner.send(Method::DELETE, &format!("/v1/registries/{host}"), &[], "").await
}

async fn with_app() -> (Server, TestClient) {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    owner.post("/v1/apps", json!({ "slug": "notes", "name": "Notes" })).await;
    (server, owner)
}

async fn release(owner: &TestClient, release: Value) -> TestResponse {
    owner.post("/v1/apps/notes/releases", release).await
}

fn opened(login: &SealedLogin) -> RegistryLogin {
    let key = keys::registry_key(&Secret::new(MASTER), &login.host);
    serde_json::from_slice(&sealed::open(&key, &login.sealed).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_stored_encrypted_and_never_shown_again() {
    let (server, owner) = with_app().await;
    assert_eq!(set(&owner, "r.example%3A5000", "first-first").await.status, 204);
    assert_eq!(set(&owner, "r.example:5000", PASSWORD).await.status, 204);
    let listed = owner.get("/v1/registries").await;
    let list = listed.json();
    let [shown] = &list["registries"].as_array().unwrap()[..] else { panic!("one registry") };
    assert_eq!((&shown["host"], &shown["username"]), (&json!("r.example:5000"), &json!("bob")));
    assert_eq!(shown["updated_by"], EMAIL);
    let described = Schemas::served(&server.visitor).await;
    assert_eq!(described.violations("RegistryList", &list), [""; 0]);
    let page = owner.visit("/admin/registries").await;
    assert!(page.text().contains("r.example:5000"), "{}", page.text());
    let audit = owner.get("/v1/audit").await;
    for response in [&listed, &page, &audit] {
        assert!(!response.text().contains(PASSWORD), "{}", response.text());
    }
    let plain = format!("registries WHERE registries::text LIKE '%{PASSWORD}%'");
    assert_eq!(server.database.count(&plain).await, 0);
    assert_eq!(delete(&owner, "R.example:5000").await.status, 204);
    assert_eq!(delete(&owner, "r.example:5000").await.problem(), "404 resource_not_found");
    assert_eq!(owner.get("/v1/registries").await.json(), json!({ "registries": [] }));
    for (action, count) in [("registry.set", 2), ("registry.delete", 1)] {
        let entries = server.audited(action).await;
        assert_eq!(entries.len(), count, "{action}");
        let (actor, resource, before, after) = &entries[0];
        assert_eq!((actor.as_str(), resource.as_str()), (EMAIL, "registry:r.example:5000"));
        let username = json!({ "username": "bob" });
        assert!(before == &username || after == &username, "{before} {after}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_registry_is_refused_with_the_field_and_the_rule() {
    let (_server, owner) = with_app().await;
    for (host, rule) in [
        ("https:%2F%2Fr.example", "without a scheme"),
        ("r.example%2Fteam", "without a path"),
        ("r.example:0", "a port from 1"),
        ("registry", "a dot or a port"),
        ("%00", "the name of a host"),
    ] {
        let refused = set(&owner, host, PASSWORD).await;
        assert_eq!(refused.problem(), "422 invalid_fields", "{host}");
        let error = refused.json()["errors"][0].clone();
        assert_eq!(error["field"], "host", "{error}");
        assert!(error["message"].as_str().unwrap().contains(rule), "{error}");
        assert_eq!(delete(&owner, host).await.problem(), "404 resource_not_found", "{host}");
    }
    let empty = set(&owner, "r.example", "").await;
    assert_eq!(empty.json()["errors"][0]["field"], "password", "{}", empty.text());
    let fields = [("host", "registry"), ("username", "bob"), ("password", PASSWORD)];
    let form = owner.submit("/admin/registries", &fields).await;
    assert_eq!(form.status, 422);
    assert!(form.text().contains("a dot or a port"), "{}", form.text());
    assert!(!form.text().contains(PASSWORD), "a page does not repeat the password");
    let fields = [("host", "r.example"), ("username", "bob"), ("password", PASSWORD)];
    assert_eq!(owner.submit("/admin/registries", &fields).await.status, 303);
    assert_eq!(owner.submit("/admin/registries/r.example/delete", &[]).await.status, 303);
    assert_eq!(owner.get("/v1/registries").await.json(), json!({ "registries": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_orchestrator_receives_the_account_of_the_images_registry_only() {
    let (server, owner) = with_app().await;
    set(&owner, "r.example", PASSWORD).await;
    for (image, pull) in [
        ("r.example/notes:1", "missing"),
        ("r.example/notes:1", "never"),
        ("other.example/notes:1", "always"),
        ("notes:1", "missing"),
    ] {
        let made = release(&owner, json!({ "image": image, "pull": pull })).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let repository_digest = made.json()["repository_digest"].clone();
        assert_eq!(repository_digest.is_string(), image.contains('/'), "{image}");
    }
    let prepared = server.orchestrator.prepared.lock().unwrap().clone();
    let policies: Vec<_> = prepared.iter().map(|request| request.pull).collect();
    use PullPolicy::{Always, Missing, Never};
    assert_eq!(policies, [Missing, Never, Always, Missing]);
    let logins: Vec<_> =
        prepared.iter().map(|request| request.login.as_ref().map(opened)).collect();
    let login = RegistryLogin { username: "bob".to_owned(), password: PASSWORD.to_owned() };
    assert_eq!(logins, [Some(login), None, None, None]);
    let listed = owner.get("/v1/apps/notes/releases").await.json();
    let digests = listed["releases"].as_array().unwrap().iter();
    let digests: Vec<_> = digests.map(|release| &release["repository_digest"]).collect();
    assert_eq!(digests[3], "r.example/notes:1@sha256:1");
    let audited = owner.get("/v1/audit?action=release.create").await;
    assert!(audited.text().contains("r.example/notes:1@sha256:1"), "{}", audited.text());
    assert!(!audited.text().contains(PASSWORD));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_an_image_from_being_pulled_is_said_at_its_field() {
    let (server, owner) = with_app().await;
    for (image, rule) in [
        ("https://r.example/notes:1", "no scheme"),
        ("r.example/Notes:1", "a path of"),
        ("r.example/notes@sha256:1", "after the @"),
    ] {
        let refused = release(&owner, json!({ "image": image })).await;
        assert_eq!(refused.problem(), "422 invalid_fields", "{image}");
        assert!(refused.text().contains(rule), "{}", refused.text());
        assert_eq!(refused.json()["errors"][0]["field"], "image", "{image}");
    }
    assert_eq!(server.orchestrator.prepared.lock().unwrap().len(), 0, "nobody was asked");
    let unknown = release(&owner, json!({ "image": "notes:1", "pull": "often" })).await;
    assert_eq!(unknown.problem(), "400 invalid_json");
    for (code, status) in [
        (Code::RegistryUnreachable, 502),
        (Code::RegistryRefused, 422),
        (Code::ImageMissing, 422),
        (Code::ImageInvalid, 422),
        (Code::DiskFull, 507),
    ] {
        let reason = Some((code, "The reason.".to_owned()));
        *server.orchestrator.refuse_images.lock().unwrap() = reason;
        let refused = release(&owner, json!({ "image": "r.example/notes:1" })).await;
        assert_eq!(refused.problem(), format!("{status} {code}"));
        let shown = refused.json();
        assert_eq!(
            (&shown["detail"], &shown["errors"][0]["field"]),
            (&json!("The reason."), &json!("image"))
        );
    }
    assert_eq!(server.database.count("releases").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_image_goes_with_its_last_release() {
    let (server, owner) = with_app().await;
    let pulled = |image: &str| PulledImage { image_id: image.to_owned(), preparations: 1 };
    assert_eq!(release(&owner, json!({ "image": "r.example/notes:1" })).await.status, 201);
    owner.post("/v1/apps", json!({ "slug": "other", "name": "Other" })).await;
    let images = || server.orchestrator.pulled_images.lock().unwrap().clone();
    let needed = pulled("sha256:of-r.example/notes:1");
    server.orchestrator.pulled_images.lock().unwrap().extend([needed.clone(), pulled("sha256:x")]);
    // Another app's end shows what nobody needs.
    assert_eq!(owner.send(Method::DELETE, "/v1/apps/other", &[], "").await.status, 204);
    let swept = async |rest: &[PulledImage]| {
        eventually("the sweep", TEST_TIMEOUT, async || Ok(images() == rest)).await.unwrap();
    };
    swept(std::slice::from_ref(&needed)).await;
    // The engine fails to remove the first image of the list; the sweep goes on with the others.
    let broken = pulled("sha256:broken");
    *server.orchestrator.irremovable_image.lock().unwrap() = Some(broken.image_id.clone());
    server.orchestrator.pulled_images.lock().unwrap().insert(0, broken.clone());
    assert_eq!(owner.send(Method::DELETE, "/v1/apps/notes", &[], "").await.status, 204);
    swept(&[broken]).await;
}

/// The orchestrator holds an image for so long only.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_written_too_late_is_refused() {
    let (server, owner) = with_app().await;
    let mut holder = server.database.conn().await;
    holder.batch_execute("BEGIN; SELECT FROM apps FOR UPDATE").await.unwrap();
    let releasing = tokio::spawn(async move {
        let refused = release(&owner, json!({ "image": "r.example/notes:1" })).await;
        (refused.problem(), owner)
    });
    server.database.until_blocked().await;
    server.advance_clock(Duration::from_secs(30));
    holder.batch_execute("COMMIT").await.unwrap();
    let (problem, owner) = releasing.await.unwrap();
    assert_eq!(problem, "503 database_unavailable");
    assert_eq!(server.database.count("releases").await, 0);
    assert_eq!(release(&owner, json!({ "image": "r.example/notes:1" })).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_shows_what_it_has_done() {
    let (server, owner) = with_app().await;
    let shown = owner.get("/v1/image-pulls?image=r.example%2Fnotes:1").await.json();
    let progress =
        json!({ "layers": 3, "layers_done": 1, "bytes": 5 << 20, "bytes_total": 9 << 20 });
    assert_eq!(shown, json!({ "progress": progress }));
    let described = Schemas::served(&server.visitor).await;
    assert_eq!(described.violations("PullStatus", &shown), [""; 0]);
    let none = owner.get("/v1/image-pulls?image=notes:1").await.json();
    assert_eq!(none, json!({ "progress": null }));
    assert_eq!(described.violations("PullStatus", &none), [""; 0]);
}
