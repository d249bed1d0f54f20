//! The development profile: off by default, and only for an admin on this machine.

use app_api::routes::DEV_ROUTES;
use app_api::settings::Settings;
use axum::http::Method;
use protocol::State;
use protocol::orchestrator::Phase;
use serde_json::{Value, json};

use crate::harness::{Call, FakeOrchestrator, Reply, Server, Setup, TestClient, TestResponse};

async fn with_profile(orchestrator: FakeOrchestrator) -> Server {
    let mut setup = Setup::new(orchestrator).await;
    setup.env.push(("CIAL_DEV_LOGIN", "on".to_owned()));
    setup.env.push(("CIAL_LISTEN", "127.0.0.1:3100".to_owned()));
    setup.start().await
}

fn login(user_id: &str, email: &str) -> Value {
    json!({ "user_id": user_id, "email": email, "plan": "free", "onboarding_completed": true })
}

async fn sign_in(server: &Server, user_id: &str) -> TestClient {
    let mut client = server.visitor.new_client();
    let email = format!("{user_id}@example.com");
    let response = client.post("/auth/login", login(user_id, &email)).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let cookie = response.header("set-cookie");
    for part in ["HttpOnly", "SameSite=Lax", "Max-Age=1800"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    client.store_cookie(&response);
    client
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
    let (ada, bob) = (sign_in(&server, "ada").await, sign_in(&server, "bob").await);
    sign_in(&server, "ada").await;
    assert_eq!(server.database.count("tenants").await, 2, "one for each account");
    server.until_state("ada", State::Running).await;
    owner.send(Method::POST, "/v1/tenants/ada/stop", &[], "").await;
    server.until_state("ada", State::Stopped).await;

    let own = warm_up(&ada, json!({ "user_id": "ada" })).await;
    assert_eq!(own.status, 200, "{}", own.text());
    assert_eq!(own.json(), json!({ "tenant": "ada", "state": "running" }));
    for other in ["ada", "nobody", "\0"] {
        let refused = warm_up(&bob, json!({ "user_id": other })).await;
        assert_eq!(refused.problem(), "403 forbidden", "{other}");
    }
    let nobody = warm_up(&server.visitor, json!({ "user_id": "ada" })).await;
    assert_eq!(nobody.problem(), "401 unauthenticated");
    assert_eq!(warm_up(&ada, json!({})).await.problem(), "400 invalid_json");

    // Neither an operator's account nor a tenant of others is taken over.
    let operator = server.visitor.post("/auth/login", login("eve", crate::harness::EMAIL)).await;
    assert_eq!(operator.problem(), "403 forbidden");
    let taken = server.visitor.post("/auth/login", login("ada", "eve@example.com")).await;
    assert_eq!(taken.problem(), "403 forbidden");
    assert_eq!(server.database.count("users WHERE email = 'eve@example.com'").await, 0);
    let bad = server.visitor.post("/auth/login", login("A B", "x@example.com")).await;
    assert_eq!(bad.problem(), "422 invalid_slug");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_cannot_start_fails_its_warmup() {
    let refused = Reply::Refused(422, "image_missing");
    let script = [
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Stop, Reply::Observed(Phase::Stopped)),
        (Call::Run, refused),
    ];
    let server = with_profile(FakeOrchestrator::scripted(&script)).await;
    let ada = sign_in(&server, "ada").await;
    server.until_state("ada", State::Running).await;
    assert_eq!(ada.send(Method::POST, "/v1/tenants/ada/stop", &[], "").await.status, 202);
    server.until_state("ada", State::Stopped).await;
    let failed = warm_up(&ada, json!({ "user_id": "ada" })).await;
    assert_eq!(failed.problem(), "503 warmup_failed");
}

#[test]
fn a_public_address_refuses_the_profile() {
    let faults = |listen: &'static str, admin: &'static str| {
        let env = move |name: &str| match name {
            "CIAL_DEV_LOGIN" => Some("on".to_owned()),
            "CIAL_LISTEN" => Some(listen.to_owned()),
            "CIAL_ADMIN_URL" => Some(admin.to_owned()),
            _ => None,
        };
        let faults = Settings::read(&env).err().map(|faults| faults.0).unwrap_or_default();
        faults.iter().any(|fault| fault.starts_with("CIAL_DEV_LOGIN"))
    };
    assert!(!faults("127.0.0.1:3100", "http://localhost:3100"));
    assert!(!faults("[::1]:3100", "http://127.0.0.1:3100"));
    for (listen, admin) in [
        ("0.0.0.0:3100", "http://localhost:3100"),
        ("192.0.2.1:3100", "http://localhost:3100"),
        ("127.0.0.1:3100", "http://cial.example"),
        ("127.0.0.1:3100", "http://192.0.2.1"),
    ] {
        assert!(faults(listen, admin), "{listen} {admin}");
    }
}
