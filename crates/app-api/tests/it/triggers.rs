//! Triggers: each time of a schedule has one execution, whoever dies meanwhile, and each tenant its own triggers.

use std::time::Duration;

use app_api::db::trigger::CLAIM;
use axum::http::{Method, StatusCode};
use diesel_async::{RunQueryDsl as _, SimpleAsyncConnection as _};
use protocol::api_keys::Role;
use serde_json::{Value, json};

use crate::harness::orchestrator::TaskReply;
use crate::harness::work::{DUE_AT, WORKFLOWS, archive, insert_triggers, upload};
use crate::harness::{FakeOrchestrator, Server, TEST_TIMEOUT, TestClient, TestResponse, acme};
use crate::packages::{call, two_tenants};

const TRIGGERS: &str = "/v1/tenants/acme/triggers";

struct Acme {
    server: Server,
    owner: TestClient,
    key: String,
    globex_key: String,
}

impl Acme {
    /// Two tenants with the same package.
    async fn new() -> Self {
        let (server, owner, [key, globex_key]) = two_tenants(FakeOrchestrator::obedient()).await;
        for (slug, key) in [("acme", &key), ("globex", &globex_key)] {
            let uploaded = upload(&server.visitor, key, slug, &archive(WORKFLOWS, "etl-1")).await;
            assert_eq!(uploaded.status, 201, "{}", uploaded.text());
        }
        Self { server, owner, key, globex_key }
    }

    async fn post(&self, path: &str, key: &str, body: Value) -> TestResponse {
        self.server.visitor.with_key(key).post(path, body).await
    }

    /// Creates a trigger of acme.
    async fn create(&self, body: Value) -> Value {
        let created = self.post(TRIGGERS, &self.key, body).await;
        assert_eq!(created.status, 201, "{}", created.text());
        created.json()
    }

    async fn trigger(&self, name: &str) -> Value {
        let path = format!("{TRIGGERS}/{name}");
        call(&self.server.visitor, Method::GET, &path, &self.key).await.json()
    }

    async fn executions(&self, condition: &str) -> i64 {
        self.server.database.count(&format!("t_acme.cial_executions {condition}")).await
    }

    /// Waits until there are so many executions of acme.
    async fn until_executions(&self, count: i64) {
        let reached = testkit::eventually("executions of acme", TEST_TIMEOUT, async || {
            Ok(self.executions("").await == count)
        });
        if reached.await.is_err() {
            panic!("{} instead of {count} executions", self.executions("").await);
        }
    }

    /// Waits until a trigger satisfies `is_expected`.
    async fn until(&self, name: &str, is_expected: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                let shown = self.trigger(name).await;
                if is_expected(&shown) {
                    return shown;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        match tokio::time::timeout(TEST_TIMEOUT, wait).await {
            Ok(shown) => shown,
            Err(_) => panic!("still {}", self.trigger(name).await),
        }
    }

    /// Executes statements in the schema of acme.
    async fn sql(&self, text: &str) {
        let mut conn = self.server.database.conn().await;
        conn.batch_execute(&format!("SET search_path = t_acme; {text}")).await.unwrap();
    }

    async fn audited(&self, action: &str) -> i64 {
        self.server.database.count(&format!("audit_log WHERE action = '{action}'")).await
    }

    /// A second process on the same database, whose clock shows the same time.
    async fn second_process(&self) -> Server {
        let second = self.server.replica().start().await;
        second.advance_clock((self.server.now() - second.now()).to_std().unwrap_or_default());
        second
    }
}

fn times(name: &str, cron: &str, catch_up: &str) -> Value {
    json!({
        "name": name, "workflow": "nightly", "kind": "cron", "cron": cron, "catch_up": catch_up,
        "context": { "day": "monday" },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_runs_its_workflow_at_its_time() {
    let acme = Acme::new().await;
    let reply = TaskReply::Ends { failure: None, result: None };
    acme.server.orchestrator.task_replies.lock().unwrap().push_back(reply);
    let mut nightly = times("at-half-past", "30 9 * * *", "skip");
    nightly["time_zone"] = json!("europe/berlin");
    let created = acme.create(nightly).await;
    // The clock of the server shows 2027-01-15 08:00 UTC.
    assert_eq!(created["next_fire_at"], "2027-01-15T08:30:00.000Z");
    assert_eq!(created["time_zone"], "Europe/Berlin");
    assert_eq!(created["url"], Value::Null);
    acme.server.advance_clock(Duration::from_secs(1_799));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(acme.executions("").await, 0, "a second too early");
    acme.server.advance_clock(Duration::from_secs(1));
    acme.until_executions(1).await;
    let fired = acme.until("at-half-past", |shown| shown["last_fire_at"] != Value::Null).await;
    assert_eq!(fired["last_fire_at"], "2027-01-15T08:30:00.000Z");
    assert_eq!(fired["next_fire_at"], "2027-01-16T08:30:00.000Z");
    assert_eq!(fired["last_failure"], Value::Null);
    let id = fired["last_execution_id"].as_str().unwrap();
    let path = format!("/v1/tenants/acme/executions/{id}");
    let succeeded = testkit::eventually("the execution", TEST_TIMEOUT, async || {
        let shown = call(&acme.server.visitor, Method::GET, &path, &acme.key).await.json();
        Ok(shown["state"] == "succeeded" && shown["created_by"] == "trigger at-half-past")
    });
    succeeded.await.unwrap();
    let jobs = acme.server.orchestrator.jobs.lock().unwrap().clone();
    assert_eq!(jobs[0]["input"]["context"], json!({ "day": "monday" }));
    assert_eq!(acme.audited("trigger.create").await, 1);
    let entry = "audit_log WHERE action = 'trigger.fire' AND actor_kind = 'command' \
        AND actor = 'trigger at-half-past' AND resource = 'acme/at-half-past'";
    assert_eq!(acme.server.database.count(entry).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_passed_meanwhile_fire_by_the_rule_of_the_trigger() {
    let acme = Acme::new().await;
    acme.create(times("young", "*/5 * * * *", "skip")).await;
    acme.create(times("each", "*/5 * * * *", "run_all")).await;
    acme.server.advance_clock(Duration::from_secs(26 * 60));
    acme.until_executions(7).await;
    for (name, next) in [("young", 2), ("each", 5)] {
        let of_trigger = format!(
            "WHERE trigger_id = (SELECT id FROM triggers WHERE name = '{name}') AND created_by = 'trigger {name}'"
        );
        assert_eq!(acme.executions(&of_trigger).await, next, "{name}");
        let shown = acme.until(name, |shown| shown["next_fire_at"] == "2027-01-15T08:30:00.000Z");
        assert_eq!(shown.await["last_fire_at"], "2027-01-15T08:25:00.000Z", "{name}");
    }
    let times = "(SELECT DISTINCT fire_at FROM t_acme.cial_executions) AS times";
    assert_eq!(acme.server.database.count(times).await, 5);
}

/// Both processes look every second, and one of them dies again and again. The clock of the next process is set back.
#[tokio::test(flavor = "multi_thread")]
async fn no_time_is_lost_or_doubled_however_many_processes_there_are() {
    let mut acme = Acme::new().await;
    for name in ["first", "second"] {
        acme.create(times(name, "* * * * *", "run_all")).await;
    }
    acme.create(times("third", "*/2 * * * *", "run_all")).await;
    let steady = acme.second_process().await;
    let mut passed = Duration::ZERO;
    for round in 0..8_u32 {
        let step = Duration::from_secs(60 * u64::from(1 + round % 3));
        passed += step;
        acme.server.advance_clock(step);
        steady.advance_clock(step);
        // The processes look once a second, each at its own moment.
        tokio::time::sleep(Duration::from_millis(u64::from(137 * round))).await;
        acme.server = acme.server.restart().await;
        acme.server.advance_clock(passed);
    }
    // The claims of the dead processes expire after a minute.
    passed += Duration::from_secs(60);
    acme.server.advance_clock(Duration::from_secs(60));
    steady.advance_clock(Duration::from_secs(60));
    // And what failed meanwhile is tried again.
    tokio::time::sleep(Duration::from_secs(2)).await;
    acme.server.advance_clock(Duration::from_secs(40));
    steady.advance_clock(Duration::from_secs(40));
    let minutes = i64::try_from(passed.as_secs() / 60).unwrap();
    let expected = 2 * minutes + minutes / 2;
    acme.until_executions(expected).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(acme.executions("").await, expected);
    let distinct = "(SELECT DISTINCT trigger_id, fire_at FROM t_acme.cial_executions) AS fires";
    assert_eq!(acme.server.database.count(distinct).await, expected);
    // A process may die when the entry is written and the execution is not: then there is one more.
    assert!(acme.audited("trigger.fire").await >= expected);
    steady.kill().await;
}

/// The process died between its two writes: the execution is there, and the trigger still at its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_whose_execution_is_there_does_not_run_again() {
    let acme = Acme::new().await;
    acme.create(times("hourly", "0 * * * *", "run_all")).await;
    acme.server.advance_clock(Duration::from_secs(3_600));
    let fired = acme.until("hourly", |shown| shown["last_execution_id"] != Value::Null).await;
    let database = &acme.server.database;
    database
        .sql("UPDATE triggers SET next_fire_at = next_fire_at - interval '1 hour', last_execution_id = NULL")
        .await;
    let again = acme.until("hourly", |shown| shown["last_execution_id"] != Value::Null).await;
    assert_eq!(again["last_execution_id"], fired["last_execution_id"]);
    assert_eq!(again["next_fire_at"], "2027-01-15T10:00:00.000Z");
    assert_eq!(acme.executions("").await, 1);
    // A claim from before a step of the clock holds up nothing.
    database.sql("UPDATE triggers SET not_before = '2100-01-01'").await;
    acme.server.advance_clock(Duration::from_secs(3_600));
    acme.until_executions(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_trigger_fires_nothing_and_a_resumed_one_from_then_on() {
    let acme = Acme::new().await;
    acme.create(times("minutely", "* * * * *", "run_all")).await;
    let path = |verb: &str| format!("{TRIGGERS}/minutely/{verb}");
    for _ in 0..2 {
        let paused = acme.post(&path("pause"), &acme.key, json!({})).await.json();
        assert_eq!((&paused["paused"], &paused["next_fire_at"]), (&json!(true), &Value::Null));
    }
    acme.server.advance_clock(Duration::from_secs(600));
    let refused = acme.post(&path("fire"), &acme.key, json!({})).await;
    assert_eq!(refused.problem(), "409 trigger_paused");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(acme.executions("").await, 0);
    let resumed = acme.post(&path("resume"), &acme.key, json!({})).await.json();
    assert_eq!(resumed["next_fire_at"], "2027-01-15T08:11:00.000Z");
    acme.server.advance_clock(Duration::from_secs(60));
    acme.until_executions(1).await;
    acme.until("minutely", |shown| shown["last_execution_id"] != Value::Null).await;
    for action in ["trigger.pause", "trigger.resume"] {
        assert_eq!(acme.audited(action).await, 1, "{action}");
    }
    // By hand it fires at any time, and its times stay.
    let fired = acme.post(&path("fire"), &acme.key, json!({})).await;
    assert_eq!(fired.status, 202, "{}", fired.text());
    assert_eq!(fired.json()["workflow_name"], "nightly");
    let id = fired.json()["execution_id"].as_str().unwrap().to_owned();
    assert_eq!(fired.header("location"), format!("/v1/tenants/acme/executions/{id}"));
    let shown = acme.until("minutely", |shown| shown["last_execution_id"] == json!(id)).await;
    assert_eq!(shown["next_fire_at"], "2027-01-15T08:12:00.000Z");
    assert_eq!(acme.audited("trigger.fire").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_at_which_nothing_can_run_is_over_with_the_reason() {
    let acme = Acme::new().await;
    acme.create(times("minutely", "* * * * *", "run_all")).await;
    let pause = "/v1/tenants/acme/workflows/nightly/pause";
    assert_eq!(acme.post(pause, &acme.key, json!({})).await.status, 200);
    acme.server.advance_clock(Duration::from_secs(60));
    let paused = "Workflow nightly is paused. Resume it first.";
    let shown = acme.until("minutely", |shown| shown["last_failure"] == paused).await;
    assert_eq!(shown["last_fire_at"], "2027-01-15T08:01:00.000Z");
    assert_eq!(shown["next_fire_at"], "2027-01-15T08:02:00.000Z");
    acme.sql("DELETE FROM cial_packages").await;
    acme.server.advance_clock(Duration::from_secs(60));
    let gone = "The tenant has no workflow of this name.";
    acme.until("minutely", |shown| shown["last_failure"] == gone).await;
    assert_eq!(acme.executions("").await, 0);
}

/// The trigger waits, and goes on with the time that it could not fire.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_cannot_run_more_now_runs_it_later() {
    let acme = Acme::new().await;
    acme.create(times("hourly", "0 * * * *", "skip")).await;
    acme.sql(
        "INSERT INTO cial_executions (id, package_id, package, workflow, definition, context, state, created_by, created_at) \
         SELECT gen_random_uuid(), id, 'etl-1', 'other', '{}', '{}', 'scheduled', '', now() \
         FROM cial_packages, generate_series(1, 100); \
         INSERT INTO cial_paused_workflows VALUES ('other', '', now())",
    )
    .await;
    acme.server.advance_clock(Duration::from_secs(3_600));
    let full = acme.until("hourly", |shown| shown["last_failure"] != Value::Null).await;
    let reason = "100 executions of the tenant have not ended. Wait, or cancel some.";
    assert_eq!(full["last_failure"], reason);
    assert_eq!(full["next_fire_at"], "2027-01-15T09:00:00.000Z");
    acme.sql("DELETE FROM cial_executions").await;
    // However late that is.
    acme.server.advance_clock(Duration::from_secs(1_200));
    let fired = acme.until("hourly", |shown| shown["last_failure"] == Value::Null).await;
    assert_eq!(fired["last_fire_at"], "2027-01-15T09:00:00.000Z");
    assert_eq!(acme.executions("").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_and_changes_its_own_triggers_alone() {
    let acme = Acme::new().await;
    acme.create(times("secret-plan", "0 2 * * *", "skip")).await;
    let other = "/v1/tenants/globex/triggers";
    let same_name = times("secret-plan", "0 3 * * *", "skip");
    assert_eq!(acme.post(other, &acme.globex_key, same_name).await.status, 201);
    acme.create(times("only-here", "0 2 * * *", "skip")).await;
    let visitor = &acme.server.visitor;
    let own = call(visitor, Method::GET, TRIGGERS, &acme.key).await.json();
    let names: Vec<_> = own["items"].as_array().unwrap().iter().map(|item| &item["name"]).collect();
    assert_eq!(names, ["only-here", "secret-plan"]);
    assert_eq!((&own["total"], &own["next"]), (&json!(2), &Value::Null));
    // The values of one trigger alone are shown: those of all may be long.
    assert!(!own.to_string().contains("monday"), "{own}");
    assert_eq!(acme.trigger("only-here").await["context"], json!({ "day": "monday" }));
    let theirs = call(visitor, Method::GET, other, &acme.globex_key).await;
    assert!(
        !theirs.text().contains("only-here") && theirs.json()["total"] == 1,
        "{}",
        theirs.text()
    );
    let hidden = call(visitor, Method::GET, &format!("{other}/only-here"), &acme.globex_key).await;
    assert_eq!(hidden.problem(), "404 resource_not_found");
    let mut bodies = Vec::new();
    for path in ["", "/secret-plan/pause", "/secret-plan/resume", "/secret-plan/fire", "/none/fire"]
    {
        let refused = acme.post(&format!("{other}{path}"), &acme.key, json!({})).await;
        assert_eq!(refused.problem(), "403 forbidden", "{path}");
    }
    for name in ["secret-plan", "none"] {
        let refused = call(visitor, Method::DELETE, &format!("{other}/{name}"), &acme.key).await;
        let mut body = refused.json();
        body["request_id"] = Value::Null;
        bodies.push(body);
    }
    assert_eq!(bodies[0], bodies[1]);
    let read_key = acme.server.key_of(Some("acme"), Role::Read).await;
    for path in [TRIGGERS.to_owned(), format!("{TRIGGERS}/only-here")] {
        assert_eq!(call(visitor, Method::GET, &path, &read_key).await.status, 200);
    }
    for path in ["", "/only-here/pause", "/only-here/resume", "/only-here/fire"] {
        let refused = acme.post(&format!("{TRIGGERS}{path}"), &read_key, json!({})).await;
        assert_eq!(refused.problem(), "403 insufficient_role", "{path}");
    }
    let path = format!("{TRIGGERS}/only-here");
    let refused = call(visitor, Method::DELETE, &path, &read_key).await;
    assert_eq!(refused.problem(), "403 insufficient_role");
    assert_eq!(call(visitor, Method::DELETE, &path, &acme.key).await.status, 204);
    assert_eq!(
        call(visitor, Method::DELETE, &path, &acme.key).await.problem(),
        "404 resource_not_found"
    );
    assert_eq!(acme.audited("trigger.delete").await, 1);
    // Each fires in its own tenant.
    acme.server.advance_clock(Duration::from_secs(18 * 3_600));
    acme.until_executions(1).await;
    assert_eq!(acme.server.database.count("t_globex.cial_executions").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_could_never_run_is_refused() {
    let acme = Acme::new().await;
    let fields = |refused: TestResponse| {
        assert_eq!(refused.problem(), "422 invalid_fields", "{}", refused.text());
        let errors = refused.json()["errors"].as_array().unwrap().clone();
        errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let base = times("t", "0 2 * * *", "skip");
    let with = |field: &str, value: Value| {
        let mut body = base.clone();
        body[field] = value;
        body
    };
    for (body, expected) in [
        (with("name", json!("Not A Name")), vec!["name"]),
        (with("cron", json!("* * * * * *")), vec!["cron"]),
        (with("cron", json!("0 0 31 2 *")), vec!["cron"]),
        (with("time_zone", json!("Mars")), vec!["time_zone"]),
        (with("kind", json!("webhook")), vec!["cron", "catch_up"]),
        (with("context", json!({})), vec!["context.day"]),
        (with("context", json!({ "day": 1, "week": 2 })), vec!["context.week"]),
        (with("context", json!({ "day": "\u{0}" })), vec!["context.day"]),
        (with("context", json!({ "day": [f64::MAX] })), vec!["context.day"]),
    ] {
        assert_eq!(fields(acme.post(TRIGGERS, &acme.key, body.clone()).await), expected, "{body}");
    }
    for workflow in ["none", "", "a\u{0}"] {
        let refused = acme.post(TRIGGERS, &acme.key, with("workflow", json!(workflow))).await;
        assert_eq!(refused.problem(), "404 resource_not_found");
    }
    assert_eq!(acme.server.database.count("triggers").await, 0);
    acme.create(base.clone()).await;
    assert_eq!(acme.post(TRIGGERS, &acme.key, base.clone()).await.problem(), "409 trigger_exists");
    let more = "INSERT INTO triggers (id, tenant_id, name, workflow, kind, catch_up, context, not_before, created_by, created_at) \
        SELECT gen_random_uuid(), tenant_id, 't' || n, workflow, 'webhook', 'skip', '{}', now(), '', now() \
        FROM triggers, generate_series(1, 99) n";
    acme.server.database.sql(more).await;
    let refused = acme.post(TRIGGERS, &acme.key, with("name", json!("one-more"))).await;
    assert_eq!(refused.problem(), "409 too_many_triggers");
    assert_eq!(acme.server.database.count("triggers").await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_whose_workflow_a_trigger_runs_is_not_deleted() {
    let acme = Acme::new().await;
    acme.create(times("nightly", "0 2 * * *", "skip")).await;
    let delete = async |path: &str| {
        let path = format!("/v1/tenants/acme/packages/{path}");
        call(&acme.server.visitor, Method::DELETE, &path, &acme.key).await
    };
    assert_eq!(delete("etl/1").await.problem(), "409 workflow_in_use");
    let next = archive(&WORKFLOWS.replace("version = \"1\"", "version = \"2\""), "etl-2");
    assert_eq!(upload(&acme.server.visitor, &acme.key, "acme", &next).await.status, 201);
    assert_eq!(delete("etl/1").await.status, 204);
    assert_eq!(delete("etl/2").await.problem(), "409 workflow_in_use");
    let path = format!("{TRIGGERS}/nightly");
    assert_eq!(call(&acme.server.visitor, Method::DELETE, &path, &acme.key).await.status, 204);
    assert_eq!(delete("etl/2").await.status, 204);
}

fn webhook(name: &str) -> Value {
    json!({ "name": name, "workflow": "called", "kind": "webhook", "context": { "day": "monday" } })
}

/// The path of an address.
fn path_of(url: &Value) -> String {
    let (_, path) = url.as_str().unwrap().split_once("/v1/").unwrap();
    format!("/v1/{path}")
}

async fn send(client: &TestClient, path: &str, body: &str) -> TestResponse {
    client.send(Method::POST, path, &[("x-request-id", "0123456789abcdef")], body.to_owned()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_knows_the_address_of_a_webhook_runs_its_workflow() {
    let acme = Acme::new().await;
    let reply = TaskReply::Ends { failure: None, result: None };
    acme.server.orchestrator.task_replies.lock().unwrap().push_back(reply);
    let created = acme.create(webhook("orders")).await;
    let path = path_of(&created["url"]);
    assert!(created["url"].as_str().unwrap().starts_with("http://localhost:3100/v1/triggers/"));
    assert!(!acme.trigger("orders").await.as_object().unwrap().contains_key("url"));
    let anonymous = acme.server.visitor.new_client();
    let called = send(&anonymous, &path, r#"{"order": 7}"#).await;
    assert_eq!(called.status, 202, "{}", called.text());
    let id = called.json()["execution_id"].clone();
    assert_eq!(called.json(), json!({ "execution_id": id, "status": "scheduled" }));
    let ran = testkit::eventually("the task", TEST_TIMEOUT, async || {
        Ok(!acme.server.orchestrator.jobs.lock().unwrap().is_empty())
    });
    ran.await.unwrap();
    let input = acme.server.orchestrator.jobs.lock().unwrap()[0]["input"]["context"].clone();
    assert_eq!(input, json!({ "body": { "order": 7 }, "day": "monday" }));
    assert_eq!(
        acme.until("orders", |shown| shown["last_execution_id"] == id).await["next_fire_at"],
        Value::Null
    );
    let entry = "audit_log WHERE action = 'trigger.fire' AND actor = 'trigger orders' AND address = '127.0.0.1'";
    assert_eq!(acme.server.database.count(entry).await, 1);
    let large = "x".repeat((64 << 10) + 1);
    assert_eq!(send(&anonymous, &path, &large).await.problem(), "413 body_too_large");
    let by_page =
        anonymous.send(Method::POST, &path, &[("origin", "https://evil.example")], "").await;
    assert_eq!(by_page.problem(), "403 cross_site");
    assert_eq!(anonymous.get(&path).await.problem(), "405 method_not_allowed");
    assert_eq!(acme.executions("").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_address_tells_nothing_about_triggers() {
    let acme = Acme::new().await;
    let address = path_of(&acme.create(webhook("orders")).await["url"]);
    let gone = path_of(&acme.create(webhook("gone")).await["url"]);
    acme.create(times("nightly", "0 2 * * *", "skip")).await;
    let path = format!("{TRIGGERS}/gone");
    assert_eq!(call(&acme.server.visitor, Method::DELETE, &path, &acme.key).await.status, 204);
    let (rest, token) = address.rsplit_once('/').unwrap();
    let other_token = format!("A{}", &token[1..]);
    let wrong = [
        format!("{rest}/{}", if other_token == token { "B" } else { &other_token }),
        format!("{rest}/{}", &token[1..]),
        format!("{}/{token}", gone.rsplit_once('/').unwrap().0),
        format!("/v1/triggers/00000000-0000-0000-0000-000000000000/{token}"),
        format!("/v1/triggers/none/{token}"),
        "/v1/triggers/%ff/%00".to_owned(),
        gone,
    ];
    let anonymous = acme.server.visitor.new_client();
    let mut responses = Vec::new();
    for path in &wrong {
        let refused = send(&anonymous, path, "{}").await;
        assert_eq!(refused.problem(), "404 not_found", "{path}");
        responses.push(refused.text());
    }
    responses.dedup();
    assert_eq!(responses.len(), 1, "{responses:#?}");
    // Guesses are bounded, and do not hold up who knows the address.
    let mut statuses = Vec::new();
    for _ in wrong.len()..60 {
        statuses.push(send(&anonymous, &wrong[0], "{}").await.status);
    }
    let refused =
        statuses.iter().filter(|status| **status == StatusCode::TOO_MANY_REQUESTS).count();
    assert_eq!(refused, 10, "{statuses:?}");
    assert_eq!(send(&anonymous, &address, "{}").await.status, 202);
    let paused = acme.post(&format!("{TRIGGERS}/orders/pause"), &acme.key, json!({})).await;
    assert_eq!(paused.status, 200);
    for _ in 1..300 {
        assert_eq!(send(&anonymous, &address, "{}").await.problem(), "409 trigger_paused");
    }
    let limited = send(&anonymous, &address, "{}").await;
    assert_eq!(limited.problem(), "429 rate_limited");
    assert!(limited.header("retry-after").parse::<u64>().unwrap() <= 300);
    assert_eq!(acme.executions("").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_triggers_of_a_deleted_tenant_go_with_it() {
    let acme = Acme::new().await;
    let address = path_of(&acme.create(webhook("orders")).await["url"]);
    acme.create(times("minutely", "* * * * *", "run_all")).await;
    assert_eq!(acme.owner.send(Method::DELETE, "/v1/tenants/acme", &[], "").await.status, 202);
    acme.server.until("acme", |tenant| tenant.is_none()).await;
    assert_eq!(acme.server.database.count("triggers").await, 0);
    assert_eq!(send(&acme.server.visitor, &address, "{}").await.problem(), "404 not_found");
    let gone = call(&acme.server.visitor, Method::GET, TRIGGERS, &acme.key).await;
    assert_eq!(gone.problem(), "401 invalid_key");
    acme.owner.post("/v1/tenants", acme_request()).await;
    acme.server.until("acme", |tenant| tenant.is_some_and(|t| t.database.is_some())).await;
    assert_eq!(acme.owner.get(TRIGGERS).await.json()["total"], 0);
    acme.server.advance_clock(Duration::from_secs(300));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(acme.executions("").await, 0);
}

fn acme_request() -> Value {
    acme()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_damaged_its_schema_holds_up_nobody_else() {
    let acme = Acme::new().await;
    acme.create(times("minutely", "* * * * *", "run_all")).await;
    let other = "/v1/tenants/globex/triggers";
    let created =
        acme.post(other, &acme.globex_key, times("minutely", "* * * * *", "run_all")).await;
    assert_eq!(created.status, 201);
    acme.sql("ALTER TABLE cial_executions RENAME TO elsewhere").await;
    acme.server.advance_clock(Duration::from_secs(60));
    let damaged = "The tables cial_… of the tenant's schema cannot be used.";
    let shown = acme.until("minutely", |shown| shown["last_failure"] == damaged).await;
    assert_eq!(shown["next_fire_at"], "2027-01-15T08:01:00.000Z");
    let fired = testkit::eventually("globex fires", TEST_TIMEOUT, async || {
        Ok(acme.server.database.count("t_globex.cial_executions").await == 1)
    });
    fired.await.unwrap();
    // Once it is whole again, no time is missing.
    acme.sql("ALTER TABLE elsewhere RENAME TO cial_executions").await;
    acme.server.advance_clock(Duration::from_secs(120));
    acme.until_executions(3).await;
}

/// A row that no program can read any more: neither the tenant's other triggers nor the list wait for it, and it can be deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_cannot_be_read_holds_up_no_other() {
    let acme = Acme::new().await;
    for name in ["broken", "whole"] {
        acme.create(times(name, "* * * * *", "run_all")).await;
    }
    let breaking = "UPDATE triggers SET context = '{\"day\": 1e400}' WHERE name = 'broken'";
    assert_eq!(acme.server.database.sql(breaking).await, 1);
    acme.server.advance_clock(Duration::from_secs(60));
    acme.until_executions(1).await;
    let told = "triggers WHERE name = 'broken' AND failures > 0 \
        AND last_failure = 'The values of the trigger cannot be read. Delete it, and create it again.'";
    let told = testkit::eventually("the reason", TEST_TIMEOUT, async || {
        Ok(acme.server.database.count(told).await == 1)
    });
    told.await.unwrap();
    let listed = call(&acme.server.visitor, Method::GET, TRIGGERS, &acme.key).await;
    assert_eq!(listed.json()["total"], 2, "{}", listed.text());
    let path = format!("{TRIGGERS}/broken");
    assert_eq!(call(&acme.server.visitor, Method::DELETE, &path, &acme.key).await.status, 204);
}

/// However many of its triggers are due: of each tenant a few are claimed at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_locks_its_tables_takes_one_place() {
    let acme = Acme::new().await;
    let of_acme = "tenants t, generate_series(1, 100) n WHERE t.slug = 'acme'";
    assert_eq!(insert_triggers(&acme.server.database, DUE_AT, of_acme).await, 100);
    let later = times("later", "2 8 * * *", "run_all");
    let created = acme.post("/v1/tenants/globex/triggers", &acme.globex_key, later).await;
    assert_eq!(created.status, 201, "{}", created.text());
    let mut locked = acme.server.database.conn().await;
    locked
        .batch_execute("BEGIN; LOCK TABLE t_acme.cial_executions IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    acme.server.advance_clock(Duration::from_secs(120));
    let fired = testkit::eventually("globex fires", TEST_TIMEOUT, async || {
        Ok(acme.server.database.count("t_globex.cial_executions").await == 1)
    });
    fired.await.unwrap();
    let claimed = "triggers WHERE next_fire_at = '2027-01-15T08:01:00Z' AND not_before > '2027-01-15T08:00:00Z'";
    let claimed = acme.server.database.count(claimed).await;
    assert!((1..=8).contains(&claimed), "{claimed}");
    locked.batch_execute("ROLLBACK").await.unwrap();
}

/// Executions are created some at a time, and the runner of executions starts as many as it may.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_triggers_of_one_second_fire_in_bounded_waves() {
    let acme = Acme::new().await;
    let of_both = "tenants t, generate_series(1, 100) n";
    assert_eq!(insert_triggers(&acme.server.database, DUE_AT, of_both).await, 200);
    acme.server.advance_clock(Duration::from_secs(60));
    let mut most_claimed = 0;
    let fired = testkit::eventually("all fire", TEST_TIMEOUT, async || {
        let due = "triggers WHERE next_fire_at = '2027-01-15T08:01:00Z'";
        let claimed = format!("{due} AND not_before > '2027-01-15T08:01:00Z'");
        most_claimed = most_claimed.max(acme.server.database.count(&claimed).await);
        Ok(acme.server.database.count(due).await == 0)
    });
    fired.await.unwrap();
    assert!((1..=64).contains(&most_claimed), "{most_claimed}");
    for schema in ["t_acme", "t_globex"] {
        let fires = format!("(SELECT DISTINCT trigger_id FROM {schema}.cial_executions) AS fires");
        assert_eq!(acme.server.database.count(&fires).await, 100, "{schema}");
        let all = format!("{schema}.cial_executions WHERE fire_at = '2027-01-15T08:01:00Z'");
        assert_eq!(acme.server.database.count(&all).await, 100, "{schema}");
    }
    assert_eq!(acme.server.database.count("triggers WHERE last_failure IS NOT NULL").await, 0);
}

/// A wake keeps the engine busy, and a task does not: tasks run beside the wakes that follow.
#[tokio::test(flavor = "multi_thread")]
async fn tenants_whose_triggers_are_due_at_once_wake_some_at_a_time() {
    const TENANTS: usize = 24;
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    server.tenants_with_workflows(&owner, TENANTS).await;
    let reply =
        TaskReply::Wakes { wake: Duration::from_millis(100), run: Duration::from_millis(100) };
    let replies = std::iter::repeat_n(reply, TENANTS);
    server.orchestrator.task_replies.lock().unwrap().extend(replies);
    let of_all = "tenants t, generate_series(1, 1) n";
    assert_eq!(insert_triggers(&server.database, DUE_AT, of_all).await, TENANTS);
    server.advance_clock(Duration::from_secs(60));
    let run = testkit::eventually("the tasks", TEST_TIMEOUT, async || {
        Ok(server.orchestrator.jobs.lock().unwrap().len() == TENANTS)
    });
    run.await.unwrap();
    let (waking, running) = (server.orchestrator.waking.most(), server.orchestrator.tasks.most());
    assert!((2..=16).contains(&waking), "{waking}");
    assert!((waking..=TENANTS).contains(&running), "{running}");
}

/// 10,000 triggers that are not due cost one search of an index, which finds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_ten_thousand_triggers_reads_an_index_alone() {
    let (server, _) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let later = "'2030-01-01Z'::timestamptz + n * interval '1 second'";
    let of_acme = "tenants t, generate_series(1, 10000) n";
    assert_eq!(insert_triggers(&server.database, later, of_acme).await, 10_000);
    let mut conn = server.database.conn().await;
    conn.batch_execute("ANALYZE triggers").await.unwrap();
    let query = CLAIM
        .replace("$1", "'2027-01-15T08:00:00Z'")
        .replace("$2", "'2027-01-15T08:01:00Z'")
        .replace("$3", "'2027-01-15T08:06:00Z'")
        .replace("$4", "'{}'::uuid[]")
        .replace("$5", "64");
    let explain = format!("EXPLAIN (FORMAT TEXT) {query}");
    let explain = diesel::dsl::sql::<diesel::sql_types::Text>(&explain);
    let plan = explain.load::<String>(&mut conn).await.unwrap().join("\n");
    assert!(plan.contains("triggers_due") && !plan.contains("Seq Scan"), "{plan}");

    // Later looks know the statistics, and what earlier ones did is counted by then.
    until_looks(&server, 2).await;
    let scans = "SELECT seq_scan AS n FROM pg_stat_user_tables WHERE relname = 'triggers'";
    let entries =
        "SELECT idx_tup_read AS n FROM pg_stat_user_indexes WHERE indexrelname = 'triggers_due'";
    // Connections that rest count late what they did before.
    for _ in 0..5 {
        let before = (number(&server, scans).await, number(&server, entries).await);
        until_looks(&server, 5).await;
        let after = (number(&server, scans).await, number(&server, entries).await);
        if after == before {
            return;
        }
    }
    panic!("a look reads the table, or entries of the index that are not due");
}

/// Waits until the process looked so many times more.
async fn until_looks(server: &Server, looks: i64) {
    let searches =
        "SELECT idx_scan AS n FROM pg_stat_user_indexes WHERE indexrelname = 'triggers_due'";
    let begun = number(server, searches).await;
    let looked = testkit::eventually("looks", TEST_TIMEOUT, async || {
        Ok(number(server, searches).await >= begun + looks)
    });
    looked.await.unwrap();
}

async fn number(server: &Server, query: &str) -> i64 {
    #[derive(diesel::QueryableByName)]
    struct Number {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        n: i64,
    }
    let query = diesel::sql_query(query);
    query.get_result::<Number>(&mut server.database.conn().await).await.unwrap().n
}
