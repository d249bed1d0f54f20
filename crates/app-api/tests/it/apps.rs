//! Apps, their releases, and tenants that follow them.

use axum::http::Method;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use protocol::State;
use protocol::orchestrator::Phase;
use protocol::process::{AppSpec, Hooks};
use serde_json::{Value, json};

use crate::harness::schema::Schemas;
use crate::harness::{
    Call, EMAIL, FakeOrchestrator, Reply, Server, TestClient, TestResponse, acme,
};

const MANIFEST: &str = "command = ['/bin/notes']\nport = 5000\nhealth.path = '/up'\nchat = '/chat'\npublic_paths = ['/hooks/']\nenv.GREETING = 'hello'\nhooks = { migrate = ['/bin/notes', 'up'], timeout = 90 }\n";

async fn create_app(owner: &TestClient) {
    let app = json!({ "slug": "notes", "name": "Notes" });
    let created = owner.post("/v1/apps", app).await;
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(created.header("location"), "/v1/apps/notes");
}

async fn release(owner: &TestClient, image: &str, manifest: Option<&str>) -> TestResponse {
    let release = json!({ "image": image, "manifest": manifest });
    owner.post("/v1/apps/notes/releases", release).await
}

async fn set_release(owner: &TestClient, slug: &str, release: &str) -> TestResponse {
    let path = format!("/v1/tenants/{slug}/release");
    owner.json(Method::PUT, &path, &[], json!({ "release": release })).await
}

fn acme_with(app: &str, release: Value) -> Value {
    json!({ "slug": "acme", "name": "Acme", "app": app, "release": release })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_an_image_by_its_id_and_a_manifest() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    create_app(&owner).await;
    let first = release(&owner, "notes:1", Some(MANIFEST)).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let mut shown = first.json();
    assert!(shown["created_at"].as_str().is_some_and(|at| at.ends_with('Z')));
    shown["created_at"] = json!("…");
    let expected = json!({
        "app": "notes", "release": "v1", "image": "notes:1", "digest": "sha256:of-notes:1",
        "repository_digest": null, "command": ["/bin/notes"], "port": 5000, "health_path": "/up", "public_paths": ["/hooks/"],
        "database": false, "chat": "/chat", "hooks": { "migrate": ["/bin/notes", "up"], "timeout_seconds": 90 },
        "secrets": {}, "missing_secrets": [], "env": { "GREETING": "hello" },
        "created_at": "…",
    });
    assert_eq!(shown, expected);
    assert_eq!(release(&owner, "notes:2", None).await.json()["release"], "v2");
    let listed = owner.get("/v1/apps/notes/releases").await.json();
    let names: Vec<_> =
        listed["releases"].as_array().unwrap().iter().map(|r| &r["release"]).collect();
    assert_eq!(names, ["v2", "v1"]);
    let app = owner.get("/v1/apps/notes").await.json();
    assert_eq!(app["latest_release"], "v2");
    let described = Schemas::served(&server.visitor).await;
    let apps = owner.get("/v1/apps").await.json();
    for (shown, schema) in [(&apps, "AppList"), (&app, "App")] {
        assert_eq!(described.violations(schema, shown), [""; 0], "{schema}");
    }
    let audited = owner.get("/v1/audit?action=release.create").await.json();
    assert_eq!(audited["entries"][0]["resource"], "release:notes/v2", "{audited}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_run_makes_no_release_unless_the_caller_insists() {
    let (_server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    create_app(&owner).await;
    let refused = release(&owner, "dead:1", None).await;
    assert_eq!(refused.problem(), "422 program_failed");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.ends_with("The last lines of its log:\nno"), "{detail}");
    assert_eq!(owner.get("/v1/apps/notes").await.json()["latest_release"], Value::Null);
    let untried = json!({ "image": "dead:1", "smoke_start": false });
    assert_eq!(owner.post("/v1/apps/notes/releases", untried).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_wants_a_database_is_handed_the_tenants_role() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    create_app(&owner).await;
    for (image, manifest, wants) in
        [("notes:1", Some("database = true"), true), ("notes:2", None, false)]
    {
        let made = release(&owner, image, manifest).await.json();
        assert_eq!(made["database"], wants, "{made}");
    }
    let user = format!("{}acme", server.database.tenant_roles);
    for (slug, release, user) in [("acme", "v1", Some(user)), ("globex", "v2", None)] {
        let tenant = json!({ "slug": slug, "name": slug, "app": "notes", "release": release });
        assert_eq!(owner.post("/v1/tenants", tenant).await.status, 201);
        server.until_state(slug, State::Running).await;
        assert_eq!(server.row(slug).await.spec().database_user, user, "{slug}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_apps_and_releases_are_refused_with_every_reason() {
    let (_server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    for (slug, problem) in [
        ("hello", "409 app_taken"),
        ("a", "422 invalid_slug"),
        ("notes", "201"),
        ("notes", "409 app_taken"),
    ] {
        let response = owner.post("/v1/apps", json!({ "slug": slug, "name": "N" })).await;
        let found = if response.status == 201 { "201".to_owned() } else { response.problem() };
        assert_eq!(found, problem, "{slug}");
    }
    let faulty = release(&owner, "notes:1", Some("prot = 5000\nport = 80\n")).await;
    assert_eq!(faulty.problem(), "422 invalid_fields");
    let errors = faulty.json()["errors"].clone();
    let messages: Vec<_> =
        errors.as_array().unwrap().iter().map(|e| e["message"].as_str().unwrap()).collect();
    assert_eq!(messages.len(), 2);
    assert!(messages[0].starts_with("line 1, column 1: prot is unknown; did you mean port?"));
    assert!(messages[1].starts_with("line 2, column 8: port must not be a privileged port"));
    assert_eq!(release(&owner, "missing:1", None).await.problem(), "422 image_missing");
    assert_eq!(owner.get("/v1/apps/nothing").await.problem(), "404 resource_not_found");
    assert_eq!(owner.get("/v1/apps/%00/releases").await.problem(), "404 resource_not_found");
    let nowhere = json!({ "image": "notes:1" });
    let response = owner.post("/v1/apps/hello/releases", nowhere).await;
    assert_eq!(response.problem(), "404 resource_not_found");
    assert!(response.text().contains("built-in"), "{}", response.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_follows_the_latest_release_unless_it_names_one() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    create_app(&owner).await;
    let none = owner.post("/v1/tenants", acme_with("notes", Value::Null)).await;
    assert_eq!(none.problem(), "422 invalid_fields", "no release yet");
    for image in ["notes:1", "notes:2"] {
        assert_eq!(release(&owner, image, Some(MANIFEST)).await.status, 201);
    }
    for (app, release) in [
        ("nothing", json!(null)),
        ("notes", json!("v3")),
        ("notes", json!("2")),
        ("hello", json!("v1")),
    ] {
        let response = owner.post("/v1/tenants", acme_with(app, release.clone())).await;
        assert_eq!(response.problem(), "422 invalid_fields", "{app} {release}");
    }
    let created = owner.post("/v1/tenants", acme_with("notes", Value::Null)).await.json();
    assert_eq!((&created["app"], &created["release"]), (&json!("notes"), &json!("v2")));
    let spec = server.row("acme").await.spec();
    assert_eq!(spec.image.as_deref(), Some("sha256:of-notes:2"));
    assert_eq!(spec.env["GREETING"], "hello");
    let app = AppSpec {
        command: Some(vec!["/bin/notes".to_owned()]),
        port: Some(5000),
        health_path: Some("/up".to_owned()),
        public_paths: vec!["/hooks/".to_owned()],
        chat: Some("/chat".to_owned()),
        hooks: Hooks {
            migrate: Some(vec!["/bin/notes".to_owned(), "up".to_owned()]),
            timeout_seconds: Some(90),
            ..Hooks::default()
        },
        ..AppSpec::default()
    };
    assert_eq!(spec.app, Some(app));
    let globex = json!({ "slug": "globex", "name": "Globex" });
    let built_in = owner.post("/v1/tenants", globex).await.json();
    assert_eq!((&built_in["app"], &built_in["release"]), (&json!("hello"), &Value::Null));
    assert_eq!(server.row("globex").await.spec().app, None);
    assert_eq!(set_release(&owner, "globex", "v1").await.problem(), "422 invalid_fields");
    let page = owner.visit("/admin/tenants/acme").await.text();
    assert!(page.contains("notes/v2"), "{page}");
    let form = owner.visit("/admin/tenants/new").await.text();
    assert!(form.contains("Notes (notes)") && form.contains("hello (built in)"), "{form}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_form_offers_no_choice_of_one_app() {
    let (_server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    create_app(&owner).await;
    let form = owner.visit("/admin/tenants/new").await.text();
    assert!(!form.contains("name=\"app\""), "an app without a release cannot be chosen: {form}");
    let fields = [("slug", "acme"), ("name", "Acme"), ("app", "notes")];
    assert_eq!(owner.submit("/admin/tenants/new", &fields).await.status, 422);
    assert_eq!(owner.submit("/admin/tenants/new", &fields[..2]).await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_tenant_moves_to_another_release_at_once() {
    let script =
        [(Call::Run, Reply::Observed(Phase::Ready)), (Call::Run, Reply::Newer(Phase::Ready))];
    let (server, owner) = Server::with_owner(FakeOrchestrator::scripted(&script)).await;
    create_app(&owner).await;
    for image in ["notes:1", "notes:2"] {
        release(&owner, image, None).await;
    }
    owner.post("/v1/tenants", acme_with("notes", json!("v1"))).await;
    server.until_state("acme", State::Running).await;
    let moved = set_release(&owner, "acme", "v2").await;
    assert_eq!(moved.status, 202, "{}", moved.text());
    assert_eq!(
        (&moved.json()["release"], &moved.json()["state"]),
        (&json!("v2"), &json!("starting"))
    );
    server
        .until("acme", |t| t.is_some_and(|t| t.state == State::Running && t.generation == 2))
        .await;
    let images: Vec<_> = {
        let specs = server.orchestrator.specs.lock().unwrap();
        specs.iter().map(|apply| apply.spec.image.clone().unwrap_or_default()).collect()
    };
    assert_eq!(images, ["sha256:of-notes:1", "sha256:of-notes:2"]);
    let same = set_release(&owner, "acme", "v2").await.json();
    assert_eq!(same["generation"], 2, "the release it follows already");
    let audited = owner.get("/v1/audit?action=tenant.release").await.json();
    let entries = audited["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "{audited}");
    assert_eq!(
        (&entries[0]["before"]["release"], &entries[0]["after"]["release"]),
        (&json!("v1"), &json!("v2"))
    );
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_deleted_only_when_no_tenant_follows_it() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    create_app(&owner).await;
    release(&owner, "notes:1", None).await;
    owner.post("/v1/tenants", acme_with("notes", Value::Null)).await;
    let delete = || owner.send(Method::DELETE, "/v1/apps/notes", &[], "");
    let refused = delete().await;
    assert_eq!(refused.problem(), "409 app_in_use");
    assert!(refused.text().contains("acme"), "{}", refused.text());
    server.database.sql("DELETE FROM tenants").await;
    assert_eq!(delete().await.status, 204);
    let entries = server.audited("app.delete").await;
    let [(actor, resource, before, after)] = &entries[..] else { panic!("one entry") };
    assert_eq!((actor.as_str(), resource.as_str()), (EMAIL, "app:notes"));
    assert_eq!((&before["name"], after), (&json!("Notes"), &Value::Null));
    assert_eq!(server.database.count("releases").await, 0);
    assert_eq!(owner.post("/v1/tenants", acme()).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_and_a_tenant_that_follows_it_meet() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    create_app(&owner).await;
    release(&owner, "notes:1", None).await;
    owner.post("/v1/tenants", acme_with("notes", Value::Null)).await;
    let execute = async |conn: &mut AsyncPgConnection, text: &str| {
        diesel::sql_query(text).execute(conn).await.unwrap();
    };
    // The tenant is created, and its transaction has not ended yet.
    let mut creating = server.database.conn().await;
    server.database.sql("CREATE TABLE copy AS SELECT * FROM tenants").await;
    server.database.sql("DELETE FROM tenants").await;
    execute(&mut creating, "BEGIN").await;
    execute(&mut creating, "INSERT INTO tenants SELECT * FROM copy").await;
    let delete = tokio::spawn({
        let owner = owner.clone();
        async move { owner.send(Method::DELETE, "/v1/apps/notes", &[], "").await }
    });
    server.database.until_blocked().await;
    execute(&mut creating, "COMMIT").await;
    assert_eq!(delete.await.unwrap().problem(), "409 app_in_use");

    // The app is deleted, and its transaction has not ended yet.
    server.database.sql("DELETE FROM tenants").await;
    let mut deleting = server.database.conn().await;
    execute(&mut deleting, "BEGIN").await;
    execute(&mut deleting, "DELETE FROM apps").await;
    let create = tokio::spawn({
        let owner = owner.clone();
        async move { owner.post("/v1/tenants", acme_with("notes", Value::Null)).await }
    });
    server.database.until_blocked().await;
    execute(&mut deleting, "COMMIT").await;
    let refused = create.await.unwrap();
    assert_eq!(refused.problem(), "422 invalid_fields");
    assert_eq!(refused.json()["errors"][0]["code"], "unknown_app");
}
