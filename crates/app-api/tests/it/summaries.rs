//! Counts of the conversations in tenants: each tenant writes its own only, and no text arrives.

use protocol::Timestamp;
use protocol::api_keys::Role;
use protocol::orchestrator::Phase;
use protocol::summaries::{ConversationSummary, SummaryReport};
use serde_json::{Value, json};
use testkit::eventually;
use uuid::Uuid;

use crate::harness::schema::Schemas;
use crate::harness::{EMAIL, FakeOrchestrator, Server, TEST_TIMEOUT, TestResponse, observed};

const INGEST: &str = "/v1/tenants/acme/ingest-summary";
const CONVERSATION: Uuid = Uuid::from_u128(7);

async fn post(server: &Server, key: &str, path: &str, body: Value) -> TestResponse {
    server.visitor.with_key(key).post(path, body).await
}

fn summary(user: Uuid, messages: u64) -> Value {
    json!({
        "user_id": user, "conversation": CONVERSATION, "messages": messages, "tokens": 40,
        "last_activity_at": "2027-01-15T07:00:00Z",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_writes_its_own_summaries_only() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    owner.post("/v1/tenants", json!({ "slug": "globex", "name": "Globex" })).await;
    let ada = server.user(EMAIL).await.id;
    let key = server.key_of(Some("acme"), Role::Write).await;
    for messages in [2, 6] {
        let stored = post(&server, &key, INGEST, summary(ada, messages)).await;
        assert_eq!(stored.status, 204, "{}", stored.text());
    }
    let listed = owner.get("/v1/tenants/acme/summaries").await.json();
    let at = "2027-01-15T07:00:00Z";
    let expected = json!({
        "total": { "conversations": 1, "messages": 6, "tokens": 40, "last_activity_at": at },
        "summaries": [summary(ada, 6)],
    });
    assert_eq!(listed, expected);
    let described = Schemas::served(&server.visitor).await;
    assert_eq!(described.violations("SummaryList", &listed), Vec::<String>::new());

    let foreign = "/v1/tenants/globex/ingest-summary";
    assert_eq!(post(&server, &key, foreign, summary(ada, 1)).await.problem(), "403 forbidden");
    let reader = server.key_of(Some("acme"), Role::Read).await;
    let refused = post(&server, &reader, INGEST, summary(ada, 1)).await;
    assert_eq!(refused.problem(), "403 insufficient_role");
    assert_eq!(server.database.count("conversation_summaries").await, 1);
    let none = owner.get("/v1/tenants/globex/summaries").await.json();
    assert_eq!(none["total"]["last_activity_at"], Value::Null);
    assert_eq!((&none["total"]["messages"], &none["summaries"]), (&json!(0), &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summary_that_breaks_a_rule_is_refused() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let ada = server.user(EMAIL).await.id;
    let with = |field: &str, value: Value| {
        let mut summary = summary(ada, 1);
        summary[field] = value;
        summary
    };
    for (body, expected) in [
        (with("text", json!("Hello!")), "400 invalid_json"),
        (with("messages", json!(-1)), "400 invalid_json"),
        (with("conversation", json!("Hello!")), "400 invalid_json"),
        (with("messages", json!(1_u64 << 53)), "422 invalid_fields"),
        (with("tokens", json!(u64::MAX)), "422 invalid_fields"),
        (with("last_activity_at", json!("2027-01-15T08:00:01Z")), "422 invalid_fields"),
        (with("last_activity_at", json!("-200000-01-01T00:00:00Z")), "422 invalid_fields"),
        (with("last_activity_at", json!("1969-12-31T23:59:59Z")), "422 invalid_fields"),
        (with("user_id", json!(Uuid::from_u128(1))), "422 invalid_fields"),
    ] {
        assert_eq!(owner.post(INGEST, body.clone()).await.problem(), expected, "{body}");
    }
    assert_eq!(server.database.count("conversation_summaries").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summaries_of_a_running_tenant_are_collected_once() {
    let (server, owner) = Server::with_running_acme().await;
    let (tenant, ada) = (server.row("acme").await.tenant_id(), server.user(EMAIL).await.id);
    let report = |user_id: Uuid, messages: u64, position: i64| {
        let conversation = CONVERSATION;
        let last_activity_at = Timestamp::UNIX_EPOCH;
        let summary =
            ConversationSummary { user_id, conversation, messages, tokens: 5, last_activity_at };
        SummaryReport { summaries: vec![summary], position }
    };
    // Before anything that the database can hold, by a tenant that means no good.
    let mut ancient = report(ada, 3, 11);
    ancient.summaries[0].last_activity_at = "-200000-01-01T00:00:00Z".parse().unwrap();
    let reports = vec![
        report(ada, 2, 4),
        // Nobody: left out, and requested once.
        report(Uuid::from_u128(1), 2, 9),
        ancient,
        report(ada, u64::MAX, 12),
    ];
    server.orchestrator.summaries.lock().unwrap().insert(tenant, reports);
    server.orchestrator.publish(observed(tenant, Phase::Ready));
    let is_collected =
        async || Ok(server.database.count("summary_positions WHERE position = 12").await == 1);
    eventually("the collection", TEST_TIMEOUT, is_collected).await.unwrap();
    let requests = server.orchestrator.summary_requests.lock().unwrap().clone();
    let reported = requests.into_iter().filter(|position| (4..12).contains(position));
    assert_eq!(reported.collect::<Vec<_>>(), [4, 9, 11], "each report is requested once");
    let listed = owner.get("/v1/tenants/acme/summaries").await.json();
    let [summary] = listed["summaries"].as_array().unwrap().as_slice() else { panic!("{listed}") };
    assert_eq!((&summary["user_id"], &summary["messages"]), (&json!(ada), &json!(3)));
    assert_eq!(summary["last_activity_at"], "1970-01-01T00:00:00Z");

    // A new history in the place of a damaged one counts from the beginning.
    server.orchestrator.summaries.lock().unwrap().insert(tenant, vec![report(ada, 1, 2)]);
    let is_collected =
        async || Ok(server.database.count("summary_positions WHERE position = 2").await == 1);
    eventually("the new history", TEST_TIMEOUT, is_collected).await.unwrap();
    assert_eq!(server.database.count("conversation_summaries WHERE messages = 1").await, 1);
}

/// At the bound what is known still changes: counts of a busy tenant do not stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_the_most_summaries_changes_those_and_adds_none() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let ada = server.user(EMAIL).await.id;
    for first in (1..100_000).step_by(10_000) {
        let fill = format!(
            "INSERT INTO conversation_summaries (tenant_id, user_id, conversation_id, messages, tokens, last_activity_at) \
         SELECT (SELECT id FROM tenants), '{ada}', lpad(to_hex(n), 32, '0')::uuid, 1, 1, 'epoch' \
         FROM generate_series({first}, {first} + 9999) n"
        );
        server.database.sql(&fill).await;
    }
    assert_eq!(owner.post(INGEST, summary(ada, 5)).await.status, 204);
    let mut new = summary(ada, 1);
    new["conversation"] = json!(Uuid::from_u128(1 << 40));
    assert_eq!(owner.post(INGEST, new).await.problem(), "422 invalid_fields");
    let changed = "conversation_summaries WHERE messages = 5";
    assert_eq!(server.database.count(changed).await, 1);
    assert_eq!(server.database.count("conversation_summaries").await, 100_000);
}
