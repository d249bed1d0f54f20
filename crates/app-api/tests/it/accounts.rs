//! The first sign-up creates the owner and closes sign-up; sign-in does not reveal which accounts exist.

use axum::http::Method;
use serde_json::json;

use crate::harness::{EMAIL, FakeOrchestrator, PASSWORD, Server, Setup, TestClient, owner_sign_up};

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_concurrent_sign_ups_one_creates_the_owner() {
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    let all = (0..50).map(|n| {
        let visitor = server.visitor.new_client();
        async move {
            let request =
                json!({ "email": format!("u{n}@example.com"), "password": PASSWORD, "name": "U" });
            visitor.post("/api/auth/sign-up/email", request).await
        }
    });
    let responses = futures_util::future::join_all(all).await;
    let made = responses.iter().filter(|a| a.status == 201).count();
    // A client has a bounded share of the password queue: the rest is refused at once.
    let refused = responses.iter().filter(|a| a.status == 403 || a.status == 503).count();
    assert_eq!((made, refused), (1, 49));
    assert_eq!(server.database.count("users WHERE role = 'owner'").await, 1);
    assert_eq!(server.database.count("users").await, 1);
    let late = server.visitor.post("/api/auth/sign-up/email", owner_sign_up()).await;
    assert_eq!(late.problem(), "403 signup_closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_invalid_field_is_reported() {
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    let request = json!({ "email": "nonsense", "password": "short", "name": " " });
    let response = server.visitor.post("/api/auth/sign-up/email", request).await;
    assert_eq!(response.problem(), "422 invalid_fields");
    let fields: Vec<_> = response.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| format!("{} {}", e["field"].as_str().unwrap(), e["code"].as_str().unwrap()))
        .collect();
    assert_eq!(fields, ["email invalid_email", "password too_short", "name required"]);
    assert_eq!(server.database.count("users").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_and_sign_out() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let session = owner.get("/api/auth/session").await;
    assert_eq!(session.json()["user"]["email"], EMAIL);
    assert_eq!(session.json()["user"]["role"], "owner");
    assert!(!session.text().contains("password"));
    let mut second = owner.new_client();
    let request = json!({ "email": " ADA@example.com", "password": PASSWORD });
    let response = second.post("/api/auth/sign-in/email", request).await;
    assert_eq!(response.status, 200);
    second.store_cookie(&response);
    let out = second.send("POST".parse().unwrap(), "/api/auth/sign-out", &[], "").await;
    assert_eq!(out.status, 204);
    assert!(out.header("set-cookie").contains("Max-Age=0"), "{}", out.header("set-cookie"));
    assert_eq!(
        second.get("/api/auth/session").await.status,
        401,
        "its cookie is worth nothing now"
    );
    assert_eq!(owner.get("/api/auth/session").await.status, 200, "the other session stays");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_users_look_like_wrong_passwords() {
    let (server, _owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let mut bodies = Vec::new();
    for email in [EMAIL, "nobody@example.com", "", "\u{0}"] {
        let request = json!({ "email": email, "password": "wrong wrong wrong" });
        let response = server.visitor.post("/api/auth/sign-in/email", request).await;
        assert_eq!(response.problem(), "401 invalid_credentials", "{email:?}");
        let mut body = response.json();
        body["request_id"] = json!("");
        bodies.push(body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
}

/// Counted, not timed: the hash takes the time, and each attempt costs one hash.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_users_cost_as_much_as_wrong_passwords() {
    let (server, _owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let count = async || server.metric("cial_password_verifications_total").await;
    let long = format!("{}@example.com", "x".repeat(300));
    for email in [EMAIL, "nobody@example.com", "no address", "", "\u{0}", &long] {
        let before = count().await;
        let request = json!({ "email": email, "password": "wrong wrong wrong" });
        let response = server.visitor.post("/api/auth/sign-in/email", request).await;
        assert_eq!(response.problem(), "401 invalid_credentials", "{email:?}");
        assert_eq!(count().await - before, 1, "{email:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn password_guessing_is_throttled_until_the_window_ends() {
    let (server, _owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let request = |password: &str| json!({ "email": EMAIL, "password": password });
    let attempts =
        (0..20).map(|_| server.visitor.post("/api/auth/sign-in/email", request("wrong wrong")));
    let responses = futures_util::future::join_all(attempts).await;
    let let_through = responses.iter().filter(|a| a.status == 401).count();
    assert_eq!(let_through, 10, "many at once count as many");
    let refused = server.visitor.post("/api/auth/sign-in/email", request(PASSWORD)).await;
    assert_eq!(refused.problem(), "429 too_many_attempts");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    server.advance_clock(std::time::Duration::from_secs(wait));
    assert_eq!(server.visitor.post("/api/auth/sign-in/email", request(PASSWORD)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_a_client_locks_out_only_itself() {
    let mut setup = Setup::new(FakeOrchestrator::unreachable()).await;
    setup.env.push(("CIAL_TRUSTED_PROXIES", "127.0.0.0/8".to_owned()));
    let server = setup.start().await;
    server.sign_up().await;
    let sign_in = async |password: &str, forwarded: &str| {
        let request = json!({ "email": EMAIL, "password": password });
        let headers = [("x-forwarded-for", forwarded)];
        server.visitor.json(Method::POST, "/api/auth/sign-in/email", &headers, request).await
    };
    for _ in 0..10 {
        assert_eq!(sign_in("wrong wrong", "203.0.113.9").await.status, 401);
    }
    // Addresses before the first untrusted proxy are claims of the client and are ignored.
    for forwarded in ["203.0.113.9", "198.51.100.7, 203.0.113.9, 127.0.0.2"] {
        assert_eq!(sign_in(PASSWORD, forwarded).await.problem(), "429 too_many_attempts");
    }
    assert_eq!(sign_in(PASSWORD, "198.51.100.7").await.status, 200);
    let form =
        [("content-type", "application/x-www-form-urlencoded"), ("x-forwarded-for", "203.0.113.9")];
    let page =
        server.visitor.send(Method::POST, "/admin/login", &form, "email=ada@example.com").await;
    assert_eq!(page.status, 429, "by the page as by the API");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_trusted_proxy_the_forwarded_header_is_ignored() {
    let (server, _owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let request = json!({ "email": EMAIL, "password": "wrong wrong" });
    let mut statuses = Vec::new();
    for n in 0..11 {
        let address = format!("203.0.113.{n}");
        let headers = [("x-forwarded-for", address.as_str())];
        let path = "/api/auth/sign-in/email";
        let response = server.visitor.json(Method::POST, path, &headers, request.clone()).await;
        statuses.push(response.status.as_u16());
    }
    assert_eq!(statuses, [[401; 10].as_slice(), &[429]].concat());
}

/// Counted, not timed: the flood costs a bounded number of hashes, and the owner is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_sign_ins_leaves_the_owner_served() {
    let mut setup = Setup::new(FakeOrchestrator::unreachable()).await;
    setup.env.push(("CIAL_TRUSTED_PROXIES", "127.0.0.0/8".to_owned()));
    let server = setup.start().await;
    let signed_up = server.visitor.post("/api/auth/sign-up/email", owner_sign_up()).await;
    let cookies = signed_up.headers.get_all("set-cookie").iter();
    let device = cookies.filter_map(|c| c.to_str().unwrap().split(';').next()).next_back().unwrap();
    assert!(device.starts_with("cial_device="), "{device}");
    let sign_in = async |client: &TestClient, password: &str, forwarded: &str| {
        let request = json!({ "email": EMAIL, "password": password });
        let headers = [("x-forwarded-for", forwarded)];
        client.json(Method::POST, "/api/auth/sign-in/email", &headers, request).await
    };
    let before = server.metric("cial_password_hashes_total").await;
    for chunk in 0..20 {
        let flood = (0..50).map(|n| {
            let address = format!("203.0.{chunk}.{n}");
            let client = server.visitor.new_client();
            async move { sign_in(&client, "wrong wrong", &address).await.status.as_u16() }
        });
        for status in futures_util::future::join_all(flood).await {
            assert!(matches!(status, 401 | 429 | 503), "{status}");
        }
    }
    let hashes = server.metric("cial_password_hashes_total").await - before;
    assert!(hashes <= 100, "1,000 guesses at one account cost {hashes} hashes");
    let other = sign_in(&server.visitor, PASSWORD, "198.51.100.7").await;
    assert_eq!(other.problem(), "429 too_many_attempts", "the account is protected");
    let mut known = server.visitor.new_client();
    known.cookie = Some(device.to_owned());
    assert_eq!(sign_in(&known, PASSWORD, "198.51.100.7").await.status, 200);
    for name in
        ["database_pool", "password_hashes", "password_queue", "throttle_cells", "reconcile_runs"]
    {
        let limit = server.metric(&format!("cial_{name}_limit")).await;
        let current = server.metric(&format!("cial_{name}_current")).await;
        assert!(limit > 0 && current <= limit, "{name}: {current} of {limit}");
    }
}
