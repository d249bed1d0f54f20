//! Tenant and membership events are delivered to webhooks: signed, retried, logged, and never to private addresses.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use app_api::webhooks::signature::sign;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::harness::{
    EMAIL, FakeOrchestrator, PASSWORD, Server, Setup, TEST_TIMEOUT, TestClient, acme,
};

/// A receiver that records requests and answers with the next of its statuses, then with 200.
#[derive(Clone, Default)]
struct Receiver {
    received: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    statuses: Arc<Mutex<Vec<StatusCode>>>,
    arrived: Arc<Notify>,
}

impl Receiver {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/hook", post(receive)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}/hook")
    }

    /// Waits for the request of this number, from 1.
    async fn nth(&self, number: usize) -> (HeaderMap, Bytes) {
        let wait = async {
            loop {
                let arrived = self.arrived.notified();
                if let Some(found) = self.received.lock().unwrap().get(number - 1) {
                    return found.clone();
                }
                arrived.await;
            }
        };
        timeout(TEST_TIMEOUT, wait).await.expect("no delivery")
    }
}

async fn receive(
    State(receiver): State<Receiver>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, [(&'static str, &'static str); 1]) {
    receiver.received.lock().unwrap().push((headers, body));
    receiver.arrived.notify_waiters();
    let status = receiver.statuses.lock().unwrap().pop().unwrap_or(StatusCode::OK);
    (status, [("location", "/elsewhere")])
}

async fn with_webhooks(targets: &str) -> (Server, TestClient) {
    let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
    // Longer than any test waits.
    setup.webhook_timeout = 2 * TEST_TIMEOUT;
    setup.env.push(("CIAL_WEBHOOK_TARGETS", targets.to_owned()));
    let server = setup.start().await;
    let owner = server.sign_up().await;
    (server, owner)
}

async fn create(owner: &TestClient, url: &str) -> Value {
    let created = owner.post("/v1/webhooks", json!({ "url": url })).await;
    assert_eq!(created.status, 201, "{}", created.text());
    created.json()
}

/// Waits until the latest delivery satisfies `is_expected`.
async fn latest(owner: &TestClient, id: &str, is_expected: impl Fn(&Value) -> bool) -> Value {
    let wait = async {
        loop {
            let list = owner.get(&format!("/v1/webhooks/{id}/deliveries")).await.json();
            let found = list["deliveries"][0].clone();
            if is_expected(&found) {
                return found;
            }
        }
    };
    timeout(TEST_TIMEOUT, wait).await.expect("no such delivery")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_delivered_with_a_signature_that_the_receiver_can_check() {
    let (server, owner) = with_webhooks("any").await;
    let receiver = Receiver::default();
    let webhook = create(&owner, &receiver.start().await).await;
    let (id, secret) = (webhook["id"].as_str().unwrap(), webhook["secret"].as_str().unwrap());
    assert!(secret.starts_with("whsec_"), "{secret}");
    assert!(!owner.get("/v1/webhooks").await.text().contains("whsec_"), "shown once");
    let created = owner.get("/v1/audit?action=webhook.create").await.json();
    let shown = created["entries"][0]["after"]["url"].as_str().unwrap();
    let url = webhook["url"].as_str().unwrap();
    assert!(
        url.starts_with(shown) && url.len() > shown.len(),
        "{url} {shown}: a path may be a secret"
    );
    owner.post("/v1/tenants", acme()).await;
    let (headers, body) = receiver.nth(1).await;
    assert_eq!(headers["x-cial-event"], "tenant.create");
    assert_eq!(headers["x-cial-signature"], sign(secret, server.now(), &body));
    let event: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(event["resource"], "tenant:acme");
    assert_eq!(event["action"], "tenant.create");
    let done = latest(&owner, id, |delivery| delivery["state"] == "delivered").await;
    assert_eq!(headers["x-cial-delivery"], done["id"].as_str().unwrap());
    assert_eq!((&done["attempts"], &done["last_status"]), (&json!(1), &json!(200)));
    // Sign-ins are no events; a delivery can be sent again; a deleted webhook gets nothing.
    let replay = format!("/v1/webhooks/{id}/deliveries/{}/replay", done["id"].as_str().unwrap());
    assert_eq!(owner.send(Method::POST, &replay, &[], "").await.status, 204);
    assert_eq!(receiver.nth(2).await.1, body);
    let entry =
        (EMAIL.to_owned(), format!("webhook:{id}"), Value::Null, json!({ "delivery": done["id"] }));
    assert_eq!(server.audited("webhook.replay").await, [entry]);
    assert_eq!(
        owner.send(Method::DELETE, &format!("/v1/webhooks/{id}"), &[], "").await.status,
        204
    );
    assert_eq!(
        owner.send(Method::POST, &replay, &[], "").await.problem(),
        "404 resource_not_found"
    );
    assert_eq!(server.database.count("webhook_deliveries").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_members_are_delivered_in_the_order_in_which_they_happen() {
    let (server, owner) = with_webhooks("any").await;
    owner.post("/v1/tenants", acme()).await;
    let receiver = Receiver::default();
    create(&owner, &receiver.start().await).await;
    let invitation = json!({ "email": "grace@example.com", "role": "viewer" });
    let invited = owner.post("/v1/tenants/acme/invitations", invitation).await.json();
    let link = invited["url"].as_str().unwrap().strip_prefix("http://localhost:3100").unwrap();
    let joined = server.visitor.submit(link, &[("name", "Grace"), ("password", PASSWORD)]).await;
    assert_eq!(joined.status, 303);
    let grace = server.user("grace@example.com").await;
    let path = format!("/v1/tenants/acme/members/{}", grace.id);
    for (number, action) in
        ["invitation.accept", "membership.set", "membership.remove"].iter().enumerate()
    {
        let status = match *action {
            "membership.set" => {
                owner.json(Method::PUT, &path, &[], json!({ "role": "admin" })).await.status
            }
            "membership.remove" => owner.send(Method::DELETE, &path, &[], "").await.status,
            _ => StatusCode::OK,
        };
        assert!(status.is_success(), "{action}: {status}");
        // The next one happens after this one has arrived.
        let (headers, body) = receiver.nth(number + 1).await;
        assert_eq!(headers["x-cial-event"], *action);
        let event: Value = serde_json::from_slice(&body).unwrap();
        let actor = if *action == "invitation.accept" { "grace@example.com" } else { EMAIL };
        assert_eq!((&event["action"], &event["actor"]), (&json!(action), &json!(actor)));
        assert!(event["resource"].as_str().unwrap().contains("grace@example.com"), "{event}");
    }
    assert_eq!(server.database.count("webhook_deliveries").await, 3, "an invitation is no event");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_delivery_is_retried_later_and_a_redirect_is_a_failure() {
    let (server, owner) = with_webhooks("any").await;
    let receiver = Receiver::default();
    *receiver.statuses.lock().unwrap() =
        vec![StatusCode::INTERNAL_SERVER_ERROR, StatusCode::TEMPORARY_REDIRECT];
    let webhook = create(&owner, &receiver.start().await).await;
    let id = webhook["id"].as_str().unwrap();
    owner.post("/v1/tenants", acme()).await;
    receiver.nth(1).await;
    let failed = latest(&owner, id, |delivery| delivery["last_status"] == 307).await;
    assert_eq!((&failed["state"], &failed["attempts"]), (&json!("pending"), &json!(1)));
    assert_eq!(receiver.received.lock().unwrap().len(), 1, "the redirect was not followed");
    server.advance_clock(Duration::from_secs(6));
    receiver.nth(2).await;
    let failed = latest(&owner, id, |delivery| delivery["last_status"] == 500).await;
    assert!(failed["last_error"].as_str().unwrap().contains("500"), "{failed}");
    server.advance_clock(Duration::from_secs(36));
    receiver.nth(3).await;
    let done = latest(&owner, id, |delivery| delivery["state"] == "delivered").await;
    assert_eq!(done["attempts"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_do_not_reach_private_addresses() {
    let (server, owner) = with_webhooks("public").await;
    for url in
        ["http://127.0.0.1:1/", "http://169.254.169.254/latest", "http://[::1]/", "ftp://a.b", "x"]
    {
        let refused = owner.post("/v1/webhooks", json!({ "url": url })).await;
        assert_eq!(refused.problem(), "422 invalid_fields", "{url}");
    }
    // A name is checked when it is resolved.
    let receiver = Receiver::default();
    let url = receiver.start().await.replace("127.0.0.1", "localhost");
    let webhook = create(&owner, &url).await;
    owner.post("/v1/tenants", acme()).await;
    let id = webhook["id"].as_str().unwrap();
    let failed = latest(&owner, id, |delivery| !delivery["last_error"].is_null()).await;
    assert!(failed["last_error"].as_str().unwrap().contains("no public address"), "{failed}");
    assert!(receiver.received.lock().unwrap().is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_receiver_ends_in_failed_after_the_last_retry() {
    let (server, owner) = with_webhooks("any").await;
    let webhook = create(&owner, "http://127.0.0.1:1/").await;
    let id = webhook["id"].as_str().unwrap();
    owner.post("/v1/tenants", acme()).await;
    for attempts in 1..=10 {
        let failed =
            latest(&owner, id, |d| d["attempts"] == attempts && !d["last_error"].is_null()).await;
        let is_last = attempts == 10;
        if is_last {
            let failed = latest(&owner, id, |d| d["state"] == "failed").await;
            assert_eq!(failed["next_attempt_at"], Value::Null);
        } else {
            assert_eq!(failed["state"], "pending", "{failed}");
            // Later than the claim and the longest delay, within the session's idle time.
            server.database.sql("UPDATE webhook_deliveries SET next_attempt_at = '2027-01-15', last_error = NULL").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_receiver_delays_no_other() {
    let (server, owner) = with_webhooks("any").await;
    // Accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    create(&owner, &format!("http://{address}/")).await;
    let receiver = Receiver::default();
    create(&owner, &receiver.start().await).await;
    for number in 1..=6 {
        let new = json!({ "slug": format!("tenant-{number}"), "name": "T" });
        assert_eq!(owner.post("/v1/tenants", new).await.status, 201);
        receiver.nth(number).await;
    }
    // The silent one has as many attempts as one webhook may have; the others are still due.
    let attempted = "webhook_deliveries d JOIN webhooks w ON w.id = d.webhook_id \
        WHERE url NOT LIKE '%/hook' AND attempts > 0";
    assert!(server.database.count(attempted).await <= 4);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_deliveries_are_deleted_by_age_and_by_count() {
    let (server, owner) = with_webhooks("any").await;
    let webhook = create(&owner, &Receiver::default().start().await).await;
    let insert = async |state: &str, count: u32, at: &str| {
        let text = format!(
            "INSERT INTO webhook_deliveries (id, webhook_id, event, payload, state, next_attempt_at, created_at) \
             SELECT gen_random_uuid(), '{}', 'x', '{{}}', '{state}', '2030-01-01', '{at}' \
             FROM generate_series(1, {count})",
            webhook["id"].as_str().unwrap()
        );
        server.database.sql(&text).await;
    };
    insert("delivered", 3, "2026-11-01").await;
    insert("pending", 2, "2026-11-01").await;
    insert("failed", 1_005, "2027-01-14").await;
    server.advance_clock(Duration::from_secs(3_600));
    let until = async |from: &str, expected: i64| {
        let wait = async { while server.database.count(from).await != expected {} };
        timeout(TEST_TIMEOUT, wait).await.expect("not deleted");
    };
    until("webhook_deliveries WHERE state = 'delivered'", 0).await;
    until("webhook_deliveries WHERE state = 'failed'", 1_000).await;
    until("webhook_deliveries WHERE state = 'pending'", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_webhooks_is_bounded() {
    let (server, owner) = with_webhooks("any").await;
    server
        .database
        .sql(
            "INSERT INTO webhooks (id, url, created_by, created_at) \
             SELECT gen_random_uuid(), 'http://127.0.0.1:1/', 'test', now() FROM generate_series(1, 99)",
        )
        .await;
    create(&owner, "http://127.0.0.1:1/").await;
    let refused = owner.post("/v1/webhooks", json!({ "url": "http://127.0.0.1:1/" })).await;
    assert_eq!(refused.problem(), "409 too_many_webhooks");
    assert_eq!(server.database.count("webhooks").await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_managed_by_forms_alone() {
    let (server, owner) = with_webhooks("any").await;
    let bad = owner.submit("/admin/webhooks", &[("url", "nonsense")]).await;
    assert!(bad.status == 422 && bad.text().contains("url-fault"), "{}", bad.text());
    let receiver = Receiver::default();
    let url = receiver.start().await;
    let created = owner.submit("/admin/webhooks", &[("url", &url)]).await;
    assert_eq!(created.status, 201);
    assert!(created.text().contains("whsec_"), "{}", created.text());
    let page = owner.visit("/admin/webhooks").await.text();
    assert!(page.contains(&url) && !page.contains("whsec_"), "{page}");
    let id = owner.get("/v1/webhooks").await.json()["webhooks"][0]["id"].clone();
    let path = format!("/admin/webhooks/{}", id.as_str().unwrap());
    assert!(owner.visit(&path).await.text().contains("No deliveries yet"));
    owner.post("/v1/tenants", acme()).await;
    let done = latest(&owner, id.as_str().unwrap(), |d| d["state"] == "delivered").await;
    let page = owner.visit(&path).await.text();
    assert!(page.contains("tenant.create") && page.contains("HTTP 200"), "{page}");
    let replay = format!("{path}/deliveries/{}/replay", done["id"].as_str().unwrap());
    assert_eq!(owner.submit(&replay, &[]).await.header("location"), path);
    receiver.nth(2).await;
    let deleted = owner.submit(&format!("{path}/delete"), &[]).await;
    assert_eq!(deleted.header("location"), "/admin/webhooks");
    assert_eq!(owner.visit(&path).await.status, 404);
    let viewer = server.sign_in_as("viewer", "viewer", &[]).await;
    assert_eq!(viewer.visit("/admin/webhooks").await.status, 403);
    assert!(!viewer.visit("/admin").await.text().contains("/admin/webhooks"));
}
