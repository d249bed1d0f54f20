//! The development profile: off by default, and only for an admin on this machine.

use app_api::routes::DEV_ROUTES;
use app_api::settings::Settings;
use axum::http::Method;
use protocol::State;
use protocol::orchestrator::Phase;
use serde_json::{Value, json};

use crate::harness::{
    Call, EMAIL, FakeOrchestrator, Reply, Server, Setup, TestClient, TestResponse,
};

async fn with_profile(orchestrator: FakeOrchestrator) -> Server {
    Setup::new(orchestrator).await.with_dev_login().start().await
}

fn login(user_id: &str, email: &str) -> Value {
    json!({ "user_id": user_id, "email": email, "plan": "free", "onboarding_completed": true })
}

/// Signs in, and returns the slug of the person's tenant.
async fn sign_in(server: &Server, user_id: &str) -> (TestClient, String) {
    let mut client = server.visitor.new_client();
    let email = format!("{}@example.com", user_id.to_lowercase());
    let response = client.post("/auth/login", login(user_id, &email)).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let cookie = response.header("set-cookie");
    for part in ["HttpOnly", "SameSite=Lax", "Max-Age=1800"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    client.store_cookie(&response);
    let tenants = client.get("/v1/tenants").await.json();
    let [tenant] = tenants["tenants"].as_array().unwrap().as_slice() else {
        panic!("not one tenant: {tenants}")
    };
    (client, tenant["slug"].as_str().unwrap().to_owned())
}

async fn warm_up(client: &TestClient, body: Value) -> TestResponse {
    client.post("/warmup", body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_profile_there_are_no_such_routes() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    for route in DEV_ROUTES {
        for path in route.paths() {
            let response = owner.post(&path, login("ada", "x@example.com")).await;
            assert_eq!(response.problem(), "404 not_found", "{path}");
        }
    }
    assert_eq!(server.database.count("users").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn anybody_signs_in_and_wakes_their_own_tenant() {
    let server = with_profile(FakeOrchestrator::obedient()).await;
    let owner = server.sign_up().await;
    let (ada, slug) = sign_in(&server, "user_1").await;
    let (bob, other) = sign_in(&server, "user_2").await;
    assert_ne!(slug, other);
    server.until_state(&slug, State::Running).await;
    owner.send(Method::POST, &format!("/v1/tenants/{slug}/stop"), &[], "").await;
    server.until_state(&slug, State::Stopped).await;

    let own = warm_up(&ada, json!({ "user_id": "user_1" })).await;
    assert_eq!(own.status, 200, "{}", own.text());
    assert_eq!(own.json(), json!({ "tenant": slug, "state": "running" }));
    for not_own in ["user_1", "nobody", "", "\0"] {
        let refused = warm_up(&bob, json!({ "user_id": not_own })).await;
        assert_eq!(refused.problem(), "403 forbidden", "{not_own:?}");
    }
    let nobody = warm_up(&server.visitor, json!({ "user_id": "user_1" })).await;
    assert_eq!(nobody.problem(), "401 unauthenticated");
    assert_eq!(warm_up(&ada, json!({})).await.problem(), "400 invalid_json");
    let by_operator = warm_up(&owner, json!({ "user_id": "user_1" })).await;
    assert_eq!(by_operator.json()["tenant"], json!(slug));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_has_one_tenant_whatever_comes_at_once_and_after_a_restart() {
    let server = with_profile(FakeOrchestrator::obedient()).await;
    let logins = (0..20).map(|n| {
        let client = server.visitor.clone();
        let user_id = if n % 2 == 0 { "user_1" } else { "USER_1" };
        async move { client.post("/auth/login", login(user_id, "one@example.com")).await.status }
    });
    let statuses = futures_util::future::join_all(logins).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(server.database.count("tenants").await, 1);
    let mut client = server.visitor.new_client();
    client.store_cookie(&client.post("/auth/login", login("user_1", "one@example.com")).await);
    let warmups = (0..20).map(|_| warm_up(&client, json!({ "user_id": "user_1" })));
    let warm = futures_util::future::join_all(warmups).await;
    let slug = warm[0].json()["tenant"].as_str().unwrap().to_owned();
    assert!(warm.iter().all(|warm| warm.json()["tenant"] == json!(slug)));

    let setup = server.replica();
    server.kill().await;
    let server = setup.with_dev_login().start().await;
    let mut client = server.visitor.new_client();
    client.store_cookie(&client.post("/auth/login", login("user_1", "one@example.com")).await);
    let again = warm_up(&client, json!({ "user_id": "user_1" })).await;
    assert_eq!(again.json()["tenant"], json!(slug), "the same tenant after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_operator_and_no_tenant_of_others_is_taken_over() {
    let server = with_profile(FakeOrchestrator::obedient()).await;
    server.sign_up().await;
    sign_in(&server, "user_1").await;
    for (user_id, email) in [("eve", EMAIL), ("user_1", "eve@example.com")] {
        let refused = server.visitor.post("/auth/login", login(user_id, email)).await;
        assert_eq!(refused.problem(), "403 forbidden", "{user_id} {email}");
    }
    let bad = server.visitor.post("/auth/login", login("", "none")).await;
    assert_eq!(bad.problem(), "422 invalid_fields");
    assert_eq!(bad.json()["errors"].as_array().unwrap().len(), 2, "{}", bad.text());
    assert_eq!(server.database.count("users").await, 2);
    assert_eq!(server.database.count("tenants").await, 1);
    // The account has no password that anybody knows.
    let password = json!({ "email": "user_1@example.com", "password": "" });
    let refused = server.visitor.post("/api/auth/sign-in/email", password).await;
    assert_eq!(refused.problem(), "401 invalid_credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_cannot_start_fails_its_warmup() {
    let script = [
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Stop, Reply::Observed(Phase::Stopped)),
        (Call::Run, Reply::Refused(422, "image_missing")),
    ];
    let server = with_profile(FakeOrchestrator::scripted(&script)).await;
    let (ada, slug) = sign_in(&server, "user_1").await;
    server.until_state(&slug, State::Running).await;
    let stop = ada.send(Method::POST, &format!("/v1/tenants/{slug}/stop"), &[], "").await;
    assert_eq!(stop.status, 202, "{}", stop.text());
    server.until_state(&slug, State::Stopped).await;
    let failed = warm_up(&ada, json!({ "user_id": "user_1" })).await;
    assert_eq!(failed.problem(), "503 warmup_failed");
}

#[test]
fn a_public_address_refuses_the_profile() {
    let is_refused = |listen: &'static str, admin: &'static str| {
        let env = move |name: &str| match name {
            "CIAL_DEV_LOGIN" => Some("on".to_owned()),
            "CIAL_LISTEN" => Some(listen.to_owned()),
            "CIAL_ADMIN_URL" => Some(admin.to_owned()),
            _ => None,
        };
        let faults = Settings::read(&env).err().map(|faults| faults.0).unwrap_or_default();
        faults.iter().any(|fault| fault.starts_with("CIAL_DEV_LOGIN"))
    };
    assert!(!is_refused("127.0.0.1:3100", "http://localhost:3100"));
    assert!(!is_refused("[::1]:3100", "http://127.0.0.1:3100"));
    for (listen, admin) in [
        ("0.0.0.0:3100", "http://localhost:3100"),
        ("192.0.2.1:3100", "http://localhost:3100"),
        ("127.0.0.1:3100", "http://cial.example"),
        ("127.0.0.1:3100", "http://192.0.2.1"),
    ] {
        assert!(is_refused(listen, admin), "{listen} {admin}");
    }
}
