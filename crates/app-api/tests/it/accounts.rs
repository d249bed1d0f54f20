//! The first sign-up makes the owner and closes the door; sign-in tells nobody who exists.

use axum::http::Method;
use serde_json::json;

use crate::world::{EMAIL, Fake, PASSWORD, Server, Setup, owner_wish};

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_first_sign_ups_one_makes_the_owner() {
    let server = Server::with(Fake::silent()).await;
    let all = (0..50).map(|n| {
        let visitor = server.visitor.stranger();
        async move {
            let wish =
                json!({ "email": format!("u{n}@example.com"), "password": PASSWORD, "name": "U" });
            visitor.post("/api/auth/sign-up/email", wish).await
        }
    });
    let answers = futures_util::future::join_all(all).await;
    let made = answers.iter().filter(|a| a.status == 201).count();
    let closed = answers.iter().filter(|a| a.status == 403).count();
    assert_eq!((made, closed), (1, 49));
    assert_eq!(server.database.count("users WHERE role = 'owner'").await, 1);
    assert_eq!(server.database.count("users").await, 1);
    let late = server.visitor.post("/api/auth/sign-up/email", owner_wish()).await;
    assert_eq!(late.problem(), "403 signup_closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_fields_are_told_one_by_one() {
    let server = Server::with(Fake::silent()).await;
    let wish = json!({ "email": "nonsense", "password": "short", "name": " " });
    let answer = server.visitor.post("/api/auth/sign-up/email", wish).await;
    assert_eq!(answer.problem(), "422 invalid_fields");
    let fields: Vec<_> = answer.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| format!("{} {}", e["field"].as_str().unwrap(), e["code"].as_str().unwrap()))
        .collect();
    assert_eq!(fields, ["email invalid_email", "password too_short", "name required"]);
    assert_eq!(server.database.count("users").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_and_out() {
    let (server, owner) = Server::owned(Fake::silent()).await;
    let session = owner.get("/api/auth/session").await;
    assert_eq!(session.json()["user"]["email"], EMAIL);
    assert_eq!(session.json()["user"]["role"], "owner");
    assert!(!session.text().contains("password"));
    let mut second = owner.stranger();
    let wish = json!({ "email": " ADA@example.com", "password": PASSWORD });
    let answer = second.post("/api/auth/sign-in/email", wish).await;
    assert_eq!(answer.status, 200);
    second.keep(&answer);
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
    let (server, _owner) = Server::owned(Fake::silent()).await;
    let mut bodies = Vec::new();
    for email in [EMAIL, "nobody@example.com", "", "\u{0}"] {
        let wish = json!({ "email": email, "password": "wrong wrong wrong" });
        let answer = server.visitor.post("/api/auth/sign-in/email", wish).await;
        assert_eq!(answer.problem(), "401 invalid_credentials", "{email:?}");
        let mut body = answer.json();
        body["request_id"] = json!("");
        bodies.push(body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
}

/// Counted, not timed: what takes time is the hash, and each attempt costs one.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_users_cost_as_much_as_wrong_passwords() {
    let (server, _owner) = Server::owned(Fake::silent()).await;
    let inside = crate::world::Browser::new(server.internal);
    let count = || async {
        let text = inside.get("/metrics").await.text();
        let line = text.lines().find_map(|l| l.strip_prefix("cial_password_verifications_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let long = format!("{}@example.com", "x".repeat(300));
    for email in [EMAIL, "nobody@example.com", "no address", "", "\u{0}", &long] {
        let before = count().await;
        let wish = json!({ "email": email, "password": "wrong wrong wrong" });
        let answer = server.visitor.post("/api/auth/sign-in/email", wish).await;
        assert_eq!(answer.problem(), "401 invalid_credentials", "{email:?}");
        assert_eq!(count().await - before, 1, "{email:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_down_and_time_heals() {
    let (server, _owner) = Server::owned(Fake::silent()).await;
    let wish = |password: &str| json!({ "email": EMAIL, "password": password });
    let attempts =
        (0..20).map(|_| server.visitor.post("/api/auth/sign-in/email", wish("wrong wrong")));
    let answers = futures_util::future::join_all(attempts).await;
    let let_through = answers.iter().filter(|a| a.status == 401).count();
    assert_eq!(let_through, 10, "many at once count as many");
    let refused = server.visitor.post("/api/auth/sign-in/email", wish(PASSWORD)).await;
    assert_eq!(refused.problem(), "429 too_many_attempts");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    server.pass(std::time::Duration::from_secs(wait));
    assert_eq!(server.visitor.post("/api/auth/sign-in/email", wish(PASSWORD)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_a_stranger_shuts_out_only_themselves() {
    let mut setup = Setup::new(Fake::silent()).await;
    setup.env.push(("CIAL_TRUSTED_PROXIES", "127.0.0.0/8".to_owned()));
    let server = setup.start().await;
    server.sign_up().await;
    let sign_in = async |password: &str, forwarded: &str| {
        let wish = json!({ "email": EMAIL, "password": password });
        let headers = [("x-forwarded-for", forwarded)];
        server.visitor.json(Method::POST, "/api/auth/sign-in/email", &headers, wish).await
    };
    for _ in 0..10 {
        assert_eq!(sign_in("wrong wrong", "203.0.113.9").await.status, 401);
    }
    // What it claims to have come through is beyond the first address outside the proxies.
    for stranger in ["203.0.113.9", "198.51.100.7, 203.0.113.9, 127.0.0.2"] {
        assert_eq!(sign_in(PASSWORD, stranger).await.problem(), "429 too_many_attempts");
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
async fn without_a_trusted_proxy_nobody_chooses_who_they_are() {
    let (server, _owner) = Server::owned(Fake::silent()).await;
    let wish = json!({ "email": EMAIL, "password": "wrong wrong" });
    let mut statuses = Vec::new();
    for n in 0..11 {
        let address = format!("203.0.113.{n}");
        let headers = [("x-forwarded-for", address.as_str())];
        let path = "/api/auth/sign-in/email";
        let answer = server.visitor.json(Method::POST, path, &headers, wish.clone()).await;
        statuses.push(answer.status.as_u16());
    }
    assert_eq!(statuses, [[401; 10].as_slice(), &[429]].concat());
}
