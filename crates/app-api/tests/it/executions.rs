//! Executions: run in their tenant, recorded in its schema, and never twice once they succeeded.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::Method;
use diesel_async::SimpleAsyncConnection as _;
use protocol::api_keys::Role;
use serde_json::{Value, json};

use crate::harness::orchestrator::TaskReply;
use crate::harness::work::{archive, upload};
use crate::harness::{FakeOrchestrator, Server, TEST_TIMEOUT, TestResponse};
use crate::packages::{call, two_tenants};

const TWO_TASKS: &str = r#"
name = "etl"
version = "1"
[[workflow]]
name = "nightly"
[[workflow.task]]
name = "sum"
command = ["bin/fetch"]
after = ["fetch"]
[[workflow.task]]
name = "fetch"
command = ["bin/fetch", "--all"]
inputs = ["day"]
retries = 1
"#;

const RUN: &str = "/v1/tenants/acme/workflows/nightly/execute";

struct Acme {
    server: Server,
    key: String,
    globex_key: String,
}

impl Acme {
    /// A tenant with the workflow `nightly`, whose attempts end like this.
    async fn new(replies: &[TaskReply]) -> Self {
        let orchestrator = FakeOrchestrator::obedient();
        orchestrator.task_replies.lock().unwrap().extend(replies.iter().cloned());
        let (server, _owner, [key, globex_key]) = two_tenants(orchestrator).await;
        let uploaded = upload(&server.visitor, &key, "acme", &archive(TWO_TASKS, "etl-1")).await;
        assert_eq!(uploaded.status, 201, "{}", uploaded.text());
        Self { server, key, globex_key }
    }

    async fn post(&self, path: &str, key: &str, body: Value) -> TestResponse {
        self.server.visitor.with_key(key).post(path, body).await
    }

    async fn get(&self, path: &str) -> TestResponse {
        call(&self.server.visitor, Method::GET, &format!("/v1/tenants/acme{path}"), &self.key).await
    }

    /// Runs the workflow; returns the id of the execution.
    async fn run(&self) -> String {
        let scheduled = self.post(RUN, &self.key, json!({ "context": { "day": "monday" } })).await;
        assert_eq!(scheduled.status, 202, "{}", scheduled.text());
        scheduled.json()["execution_id"].as_str().unwrap().to_owned()
    }

    /// Like `run`, with more attempts.
    async fn again(&self, replies: impl IntoIterator<Item = TaskReply>) -> String {
        self.server.orchestrator.task_replies.lock().unwrap().extend(replies);
        self.run().await
    }

    /// Executes statements in the schema of acme.
    async fn sql(&self, text: &str) {
        let mut conn = self.server.database.conn().await;
        conn.batch_execute(&format!("SET search_path = t_acme; {text}")).await.unwrap();
    }

    /// Waits until the execution satisfies `is_expected`.
    async fn until(&self, id: &str, is_expected: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/executions/{id}");
        let wait = async {
            loop {
                let shown = self.get(&path).await.json();
                if is_expected(&shown) {
                    return shown;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(TEST_TIMEOUT, wait).await;
        match waited {
            Ok(shown) => shown,
            Err(_) => panic!("still {}", self.get(&path).await.text()),
        }
    }

    /// Waits until the tenant has received as many tasks. A task is `running` before that.
    async fn until_received(&self, tasks: usize) {
        let received = async || Ok(self.jobs().len() == tasks);
        testkit::eventually("the tasks", TEST_TIMEOUT, received).await.unwrap();
    }

    async fn until_state(&self, id: &str, state: &str) -> Value {
        self.until(id, |shown| shown["state"] == state).await
    }

    fn jobs(&self) -> Vec<Value> {
        self.server.orchestrator.jobs.lock().unwrap().clone()
    }
}

fn succeeds(result: Value) -> TaskReply {
    TaskReply::Ends { failure: None, result: Some(result) }
}

fn fails(why: &str) -> TaskReply {
    TaskReply::Ends { failure: Some(why.to_owned()), result: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tasks_of_a_workflow_run_in_order_inside_the_tenant() {
    let acme = Acme::new(&[succeeds(json!({ "rows": 3 })), succeeds(json!(6))]).await;
    let workflows = acme.get("/workflows").await.json();
    assert_eq!(workflows["items"][0]["tasks"], json!(["fetch", "sum"]));
    assert_eq!(workflows["items"][0]["inputs"], json!(["day"]));

    let id = acme.run().await;
    let shown = acme.until_state(&id, "succeeded").await;
    assert_eq!(shown["tasks"][0]["output"], json!({ "rows": 3 }));
    assert_eq!(shown["tasks"][1]["output"], json!(6));
    assert_eq!(shown["package"], "etl-1");
    let jobs = acme.jobs();
    let names: Vec<_> = jobs.iter().map(|job| job["task"].as_str().unwrap()).collect();
    assert_eq!(names, ["fetch", "sum"]);
    assert_eq!(jobs[0]["command"], json!(["bin/fetch", "--all"]));
    assert_eq!(jobs[0]["input"], json!({ "context": { "day": "monday" }, "outputs": {} }));
    assert_eq!(jobs[1]["input"], json!({ "context": {}, "outputs": { "fetch": { "rows": 3 } } }));
    // The whole package arrives, unpacked, whatever its compression.
    let tar = acme.server.orchestrator.task_archives.lock().unwrap()[0].clone();
    assert!(tar.windows(10).any(|bytes| bytes == b"#!/bin/sh\n"));

    let output = acme.get(&format!("/executions/{id}/logs")).await.text();
    assert!(output.contains("[fetch 1] hello[31m from fetch"), "{output}");
    assert!(!output.contains('\u{1b}'), "{output}");
    let tenant = acme.server.row("acme").await.id;
    assert_eq!(acme.post(RUN, &acme.key, json!({ "context": { "day": 1 } })).await.json(), {
        let second = acme.get("/executions").await.json()["items"][0]["id"].clone();
        json!({ "execution_id": second, "workflow_name": "nightly", "tenant_id": tenant, "status": "scheduled" })
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_lie_in_the_schema_of_their_tenant_alone() {
    let acme = Acme::new(&[succeeds(json!(1)), succeeds(json!(2))]).await;
    let id = acme.run().await;
    acme.until_state(&id, "succeeded").await;
    let database = &acme.server.database;
    for (table, count) in [
        ("t_acme.cial_executions", 1),
        ("t_acme.cial_tasks", 2),
        ("t_acme.cial_task_lines", 2),
        ("t_globex.cial_executions", 0),
        ("audit_log WHERE action = 'workflow.run'", 1),
    ] {
        assert_eq!(database.count(table).await, count, "{table}");
    }
    for path in ["workflows", "executions"] {
        let path = format!("/v1/tenants/globex/{path}");
        let list = call(&acme.server.visitor, Method::GET, &path, &acme.globex_key).await;
        assert_eq!(list.json()["total"], 0, "{path}");
    }
    // Globex has no such workflow, and cannot run that of acme, or see or cancel its executions.
    let context = json!({ "context": { "day": "monday" } });
    let own = "/v1/tenants/globex/workflows/nightly/execute";
    let not_there = acme.post(own, &acme.globex_key, context.clone()).await;
    assert_eq!(not_there.problem(), "404 resource_not_found");
    for path in [RUN.to_owned(), format!("/v1/tenants/acme/executions/{id}/cancel")] {
        let refused = acme.post(&path, &acme.globex_key, context.clone()).await;
        assert_eq!(refused.problem(), "403 forbidden");
    }
    let path = format!("/v1/tenants/globex/executions/{id}");
    let hidden = call(&acme.server.visitor, Method::GET, &path, &acme.globex_key).await;
    assert_eq!(hidden.problem(), "404 resource_not_found");
    let read_key = acme.server.key_of(Some("acme"), Role::Read).await;
    assert_eq!(acme.post(RUN, &read_key, context).await.problem(), "403 insufficient_role");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_needs_exactly_the_values_of_its_inputs() {
    let acme = Acme::new(&[]).await;
    let refused = acme.post(RUN, &acme.key, json!({ "context": { "week": 1 } })).await;
    assert_eq!(refused.problem(), "422 invalid_fields");
    let fields: Vec<_> = refused.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["field"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(fields, ["context.day", "context.week"]);
    // Postgres keeps all digits of a number.
    for unfit in [json!(vec![1e300; 1_000]), json!(f64::MAX)] {
        let long = json!({ "context": { "day": unfit } });
        let refused = acme.post(RUN, &acme.key, long).await;
        assert_eq!(refused.problem(), "422 invalid_fields");
        assert_eq!(refused.json()["errors"][0]["field"], "context.day");
    }
    assert_eq!(acme.server.database.count("t_acme.cial_executions").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fails_runs_again_as_often_as_it_says() {
    let acme = Acme::new(&[fails("It exited with code 1."), succeeds(json!(1)), fails("no")]).await;
    let id = acme.run().await;
    let waiting = acme
        .until(&id, |shown| {
            shown["tasks"][0]["state"] == "waiting" && shown["tasks"][0]["attempts"] == 1
        })
        .await;
    assert_eq!(waiting["tasks"][0]["reason"], "It exited with code 1.");
    acme.server.advance_clock(Duration::from_secs(20));
    let failed = acme.until_state(&id, "failed").await;
    assert_eq!(failed["reason"], "Task sum failed. no");
    let attempts: Vec<_> =
        failed["tasks"].as_array().unwrap().iter().map(|task| task["attempts"].clone()).collect();
    assert_eq!(attempts, [2, 1]);
    assert_eq!(acme.jobs().len(), 3);
}

/// The process dies while a task runs, and another one takes over.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_end_is_unknown_counts_as_one() {
    let replies = [TaskReply::NeverEnds, succeeds(json!(1)), TaskReply::NeverEnds];
    let mut acme = Acme::new(&replies).await;
    let id = acme.run().await;
    acme.until_received(1).await;
    acme.server = acme.server.restart().await;
    acme.server.advance_clock(Duration::from_secs(60));
    // The task has a retry left; the one after it has none.
    acme.until(&id, |shown| shown["tasks"][0]["state"] == "waiting").await;
    acme.server.advance_clock(Duration::from_secs(60));
    acme.until_received(3).await;
    acme.server = acme.server.restart().await;
    acme.server.advance_clock(Duration::from_secs(180));
    let failed = acme.until_state(&id, "failed").await;
    assert!(
        failed["reason"].as_str().unwrap().starts_with("Task sum failed. Its end is unknown"),
        "{failed}"
    );
    let names: Vec<_> = acme.jobs().iter().map(|job| job["task"].clone()).collect();
    assert_eq!(names, ["fetch", "fetch", "sum"], "what succeeded did not run again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_execution_ends_with_its_task() {
    let acme = Acme::new(&[TaskReply::NeverEnds]).await;
    let id = acme.run().await;
    acme.until_received(1).await;
    let path = format!("/v1/tenants/acme/executions/{id}/cancel");
    assert_eq!(acme.post(&path, &acme.key, json!({})).await.status, 202);
    let cancelled = acme.until_state(&id, "cancelled").await;
    assert_eq!(cancelled["tasks"][0]["state"], "cancelled");
    assert_eq!(cancelled["tasks"][1]["state"], "cancelled");
    let entry = ("test".to_owned(), format!("execution:acme/{id}"), Value::Null, Value::Null);
    assert_eq!(acme.server.audited("execution.cancel").await, [entry]);
    assert_eq!(acme.jobs().len(), 1);
    let unknown = "/v1/tenants/acme/executions/0192f0c4-0000-7000-8000-000000000001/cancel";
    assert_eq!(acme.post(unknown, &acme.key, json!({})).await.problem(), "404 resource_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_cannot_begin_uses_up_no_attempt() {
    let refused = TaskReply::Refused("engine_unreachable");
    let replies = [refused, succeeds(json!(1)), TaskReply::Refused("tenant_stopped")];
    let acme = Acme::new(&replies).await;
    let id = acme.run().await;
    acme.until(&id, |shown| shown["tasks"][0]["reason"] == "The tenant could not be reached.")
        .await;
    acme.server.advance_clock(Duration::from_secs(20));
    let failed = acme.until_state(&id, "failed").await;
    assert_eq!(failed["tasks"][0]["attempts"], 1);
    assert_eq!(failed["reason"], "Task sum failed. The tenant is stopped.");
    let busy = acme.again([TaskReply::Refused("too_many_commands"), TaskReply::Breaks]).await;
    acme.until(&busy, |shown| shown["tasks"][0]["reason"] == "It waits: as many tasks run as may.")
        .await;
    acme.server.advance_clock(Duration::from_secs(3_600));
    let broken = "The connection to the tenant broke.";
    let broken = acme.until(&busy, |shown| shown["tasks"][0]["reason"] == broken).await;
    assert_eq!(broken["tasks"][0]["attempts"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_of_a_deleted_package_fails_with_the_reason() {
    let acme = Acme::new(&[TaskReply::NeverEnds]).await;
    let first = acme.run().await;
    acme.until(&first, |shown| shown["tasks"][0]["state"] == "running").await;
    let second = acme.run().await;
    let path = "/v1/tenants/acme/packages/etl/1";
    let deleted = call(&acme.server.visitor, Method::DELETE, path, &acme.key).await;
    assert_eq!(deleted.status, 204);
    let cancel = format!("/v1/tenants/acme/executions/{first}/cancel");
    assert_eq!(acme.post(&cancel, &acme.key, json!({})).await.status, 202);
    let failed = acme.until_state(&second, "failed").await;
    assert_eq!(failed["reason"], "Package etl-1 was deleted.");
}

/// The workflow of globex has the same name.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_does_to_its_tables_stops_nobody_else() {
    let acme = Acme::new(&[]).await;
    let uploaded =
        upload(&acme.server.visitor, &acme.globex_key, "globex", &archive(TWO_TASKS, "etl-1"))
            .await;
    assert_eq!(uploaded.status, 201);
    let context = json!({ "context": { "day": "monday" } });
    let tables = "cial_task_lines, cial_tasks, cial_executions";
    let keeps_nothing = "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
        CREATE TRIGGER nothing BEFORE UPDATE ON cial_tasks FOR EACH ROW EXECUTE FUNCTION nothing(); \
        CREATE TRIGGER nothing BEFORE UPDATE ON cial_executions FOR EACH ROW EXECUTE FUNCTION nothing();";
    let path = "/v1/tenants/globex/workflows/nightly/execute";
    // Refused, so that it waits while its tables change.
    let waiting = acme.again([TaskReply::Refused("engine_unreachable")]).await;
    acme.until(&waiting, |shown| shown["tasks"][0]["reason"] != Value::Null).await;
    for (done, damage) in (1..).zip([keeps_nothing.to_owned(), format!("DROP TABLE {tables}")]) {
        acme.sql(&damage).await;
        acme.server.advance_clock(Duration::from_secs(3_600));
        let replies = [succeeds(json!(1)), succeeds(json!(2))];
        acme.server.orchestrator.task_replies.lock().unwrap().extend(replies);
        let run = acme.post(path, &acme.globex_key, context.clone()).await;
        let id = run.json()["execution_id"].as_str().unwrap().to_owned();
        let shown = format!("/v1/tenants/globex/executions/{id}");
        let succeeded =
            testkit::eventually("globex goes on", crate::harness::TEST_TIMEOUT, async || {
                let shown = call(&acme.server.visitor, Method::GET, &shown, &acme.globex_key).await;
                Ok(shown.json()["state"] == "succeeded")
            });
        succeeded.await.unwrap();
        let runs = acme.server.database.count("t_globex.cial_executions WHERE state = 'succeeded'");
        assert_eq!(runs.await, done);
        assert!(acme.jobs().iter().all(|job| job["execution"] != json!(waiting)), "{damage}");
    }
    for path in ["/executions", "/executions/0192f0c4-0000-7000-8000-000000000001"] {
        assert_eq!(acme.get(path).await.problem(), "409 tenant_schema_damaged", "{path}");
    }
    let refused = acme.post(RUN, &acme.key, context).await;
    assert_eq!(refused.problem(), "409 tenant_schema_damaged");
    acme.sql("DROP TABLE cial_package_pieces, cial_workflows, cial_packages").await;
    for path in ["/workflows", "/packages"] {
        assert_eq!(acme.get(path).await.problem(), "409 tenant_schema_damaged", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_and_times_that_a_tenant_wrote_are_bounded() {
    let acme = Acme::new(&[]).await;
    for (damage, reason) in [
        ("UPDATE cial_tasks SET attempts = 2147483647", "The record of the execution is damaged."),
        ("UPDATE cial_tasks SET attempts = -2147483648", "The record of the execution is damaged."),
        ("DELETE FROM cial_tasks WHERE name = 'sum'", "The record of the execution is damaged."),
        (
            "UPDATE cial_executions SET definition = jsonb_set(definition, '{tasks,0,timeout_seconds}', '4294967295')",
            "The record of the execution is damaged.",
        ),
        (
            "UPDATE cial_executions SET definition = jsonb_build_object('x', repeat('x', 300000))",
            "The record of the execution is damaged.",
        ),
        (
            "UPDATE cial_executions SET context = jsonb_build_object('day', repeat('x', 300000))",
            "The record of the execution is damaged.",
        ),
        (
            "UPDATE cial_tasks SET state = 'succeeded', attempts = 1, output = to_jsonb(repeat('x', 200000)) WHERE name = 'fetch'",
            "The record of the execution is damaged.",
        ),
        // Larger than any number of ours.
        (
            "UPDATE cial_executions SET context = '{\"day\": 1e400}'",
            "The record of the execution is damaged.",
        ),
        (
            "UPDATE cial_tasks SET state = 'succeeded', attempts = 1, output = '1e400' WHERE name = 'fetch'",
            "The record of the execution is damaged.",
        ),
        ("UPDATE cial_executions SET package_id = gen_random_uuid()", "Package etl-1 was deleted."),
    ] {
        let id = acme.again([TaskReply::Refused("engine_unreachable")]).await;
        acme.until(&id, |shown| shown["tasks"][0]["reason"] != Value::Null).await;
        acme.sql(&format!(
            "{damage} {} = '{id}'",
            match damage.contains("cial_tasks") {
                true if damage.contains("WHERE") => "AND execution_id",
                true => "WHERE execution_id",
                false => "WHERE id",
            }
        ))
        .await;
        acme.server.advance_clock(Duration::from_secs(20));
        assert_eq!(acme.until_state(&id, "failed").await["reason"], reason, "{damage}");
    }
    // A time that never comes does not count.
    let replies =
        [TaskReply::Refused("engine_unreachable"), succeeds(json!(1)), succeeds(json!(2))];
    let id = acme.again(replies).await;
    acme.until(&id, |shown| shown["tasks"][0]["reason"] != Value::Null).await;
    acme.sql(
        "UPDATE cial_tasks SET next_attempt_at = 'infinity', not_started_since = '-infinity', \
        started_at = 'infinity'",
    )
    .await;
    acme.sql("UPDATE cial_executions SET created_at = 'infinity', finished_at = '-infinity'").await;
    acme.server.advance_clock(Duration::from_secs(20));
    acme.until_state(&id, "succeeded").await;
    acme.sql(
        "ALTER TABLE cial_executions DROP CONSTRAINT cial_executions_state_check; \
        UPDATE cial_executions SET state = 'odd'",
    )
    .await;
    assert_eq!(acme.get("/executions").await.problem(), "409 tenant_schema_damaged");
}

/// The tenant made a column of its table larger than everything that a query asks for.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_of_any_size_ends_its_connection_and_nothing_else() {
    let acme = Acme::new(&[succeeds(json!(1)), succeeds(json!(2))]).await;
    let id = acme.run().await;
    acme.until_state(&id, "succeeded").await;
    acme.sql(
        "ALTER TABLE cial_executions ALTER cancel_requested DROP DEFAULT, \
         ALTER cancel_requested TYPE text USING repeat('x', 40000000)",
    )
    .await;
    for _ in 0..3 {
        assert_eq!(acme.get("/executions").await.problem(), "503 database_unavailable");
    }
    assert_eq!(acme.get("/workflows").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_could_not_be_read_again_fails_its_task() {
    let acme = Acme::new(&[succeeds(json!(vec![1e300; 1_000])), fails("no")]).await;
    let id = acme.run().await;
    let reason =
        "Its result is too large with all digits of its numbers. Leave such numbers as texts.";
    acme.until(&id, |shown| shown["tasks"][0]["reason"] == reason).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_cannot_be_written_hold_up_no_task() {
    let refused = TaskReply::Refused("engine_unreachable");
    let acme = Acme::new(&[refused, TaskReply::Writes(3_000), succeeds(json!(1))]).await;
    let id = acme.run().await;
    acme.until(&id, |shown| shown["tasks"][0]["reason"] != Value::Null).await;
    let mut conn = acme.server.database.conn().await;
    conn.batch_execute("BEGIN; LOCK TABLE t_acme.cial_task_lines IN EXCLUSIVE MODE").await.unwrap();
    acme.server.advance_clock(Duration::from_secs(20));
    let read = testkit::eventually("all is read", crate::harness::TEST_TIMEOUT, async || {
        Ok(acme.server.orchestrator.task_messages_read.load(Ordering::Relaxed) == 3_002)
    });
    read.await.unwrap();
    conn.batch_execute("COMMIT").await.unwrap();
    acme.until_state(&id, "succeeded").await;
    let lines = "t_acme.cial_task_lines WHERE text = 'a line'";
    assert_eq!(acme.server.database.count(lines).await, 3_000, "it was only slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_is_recorded_is_accepted_whatever_follows() {
    let acme = Acme::new(&[]).await;
    // The first note of the tenant's work inserts a row, the second updates it.
    acme.sql(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''refused''; END'; \
         CREATE TRIGGER refuse BEFORE UPDATE ON public.open_work FOR EACH ROW EXECUTE FUNCTION public.refuse()",
    )
    .await;
    acme.run().await;
    assert_eq!(acme.server.database.count("t_acme.cial_executions").await, 1);
}

/// Killed at many points: what the next process finds is enough.
#[tokio::test(flavor = "multi_thread")]
async fn whenever_the_process_dies_no_task_that_succeeded_runs_again() {
    let description: String = ["a", "b", "c", "d"].iter().fold(
        "name = \"etl\"\nversion = \"1\"\n[[workflow]]\nname = \"nightly\"\n".to_owned(),
        |text, name| {
            let retries = if *name == "c" { 0 } else { 10 };
            format!("{text}[[workflow.task]]\nname = \"{name}\"\ncommand = [\"bin/fetch\"]\nretries = {retries}\n")
        },
    );
    let orchestrator = FakeOrchestrator::obedient();
    orchestrator.task_replies.lock().unwrap().extend((0..200).map(|n| succeeds(json!(n))));
    let (server, _owner, [key, globex_key]) = two_tenants(orchestrator).await;
    let uploaded = upload(&server.visitor, &key, "acme", &archive(&description, "etl-1")).await;
    assert_eq!(uploaded.status, 201, "{}", uploaded.text());
    let mut acme = Acme { server, key, globex_key };
    let mut ids = Vec::new();
    for round in 0..8 {
        let scheduled = acme.post(RUN, &acme.key, json!({})).await;
        assert_eq!(scheduled.status, 202, "{}", scheduled.text());
        ids.push(scheduled.json()["execution_id"].as_str().unwrap().to_owned());
        tokio::time::sleep(Duration::from_millis(13 * round)).await;
        acme.server = acme.server.restart().await;
        acme.server.advance_clock(Duration::from_secs(100 * (round + 1)));
    }
    for id in &ids {
        let shown = acme
            .until(id, |shown| {
                // Retries wait for the clock.
                acme.server.advance_clock(Duration::from_secs(1));
                shown["state"] == "succeeded" || shown["state"] == "failed"
            })
            .await;
        let jobs = acme.jobs().into_iter().filter(|job| job["execution"] == json!(id));
        let names: Vec<_> = jobs.map(|job| job["task"].as_str().unwrap().to_owned()).collect();
        assert!(names.is_sorted(), "{names:?}");
        assert!(names.iter().filter(|name| *name == "c").count() <= 1, "{names:?}");
        let is_lost = shown["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("Task c failed. Its end is unknown"));
        assert!(shown["state"] == "succeeded" || is_lost, "{shown}");
    }
}

/// Two processes, of which each looks for work, and whose clocks jump.
#[tokio::test(flavor = "multi_thread")]
async fn no_two_processes_work_for_one_tenant() {
    let acme = Acme::new(&[]).await;
    let second = acme.server.replica().start().await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(acme.again([succeeds(json!(1)), succeeds(json!(2))]).await);
    }
    let endless = acme.again([TaskReply::NeverEnds]).await;
    for id in &ids {
        acme.until_state(id, "succeeded").await;
    }
    acme.until(&endless, |shown| shown["tasks"][0]["state"] == "running").await;
    let began =
        testkit::eventually("the last task begins", crate::harness::TEST_TIMEOUT, async || {
            Ok(acme.jobs().len() == 21)
        });
    began.await.unwrap();
    // Both clocks: the holder renews its claim by its own.
    acme.server.advance_clock(Duration::from_secs(20));
    second.advance_clock(Duration::from_secs(20));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(acme.jobs().len(), 21);
    let shown = acme.get(&format!("/executions/{endless}")).await.json();
    assert_eq!((&shown["state"], &shown["tasks"][0]["attempts"]), (&json!("running"), &json!(1)));
    second.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_workflow_begins_nothing_until_it_is_resumed() {
    let acme = Acme::new(&[]).await;
    let waiting = acme.again([TaskReply::Refused("engine_unreachable")]).await;
    acme.until(&waiting, |shown| shown["tasks"][0]["reason"] != Value::Null).await;
    let path = |verb: &str| format!("/v1/tenants/acme/workflows/nightly/{verb}");
    for _ in 0..2 {
        let paused = acme.post(&path("pause"), &acme.key, json!({})).await;
        assert_eq!(
            (paused.json()["paused"].as_bool(), paused.json()["name"].as_str()),
            (Some(true), Some("nightly"))
        );
    }
    assert_eq!(acme.get("/workflows").await.json()["items"][0]["paused"], true);
    let refused = acme.post(RUN, &acme.key, json!({ "context": { "day": 1 } })).await;
    assert_eq!(refused.problem(), "409 workflow_paused");
    let replies = [succeeds(json!(1)), succeeds(json!(2))];
    acme.server.orchestrator.task_replies.lock().unwrap().extend(replies);
    acme.server.advance_clock(Duration::from_secs(60));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(acme.jobs().is_empty());
    let resumed = acme.post(&path("resume"), &acme.key, json!({})).await;
    assert_eq!(resumed.json()["paused"], false);
    acme.until_state(&waiting, "succeeded").await;
    let audited = "audit_log WHERE action IN ('workflow.pause', 'workflow.resume')";
    assert_eq!(acme.server.database.count(audited).await, 2);
    let unknown = "/v1/tenants/acme/workflows/other/pause";
    assert_eq!(acme.post(unknown, &acme.key, json!({})).await.problem(), "404 resource_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_and_kept_executions_are_bounded() {
    let acme = Acme::new(&[TaskReply::NeverEnds]).await;
    let first = acme.run().await;
    acme.until(&first, |shown| shown["tasks"][0]["state"] == "running").await;
    acme.sql("INSERT INTO cial_executions (id, package_id, package, workflow, definition, context, state, created_by, created_at) \
        SELECT gen_random_uuid(), package_id, package, workflow, definition, context, 'scheduled', '', now() \
        FROM cial_executions, generate_series(1, 99)").await;
    let refused = acme.post(RUN, &acme.key, json!({ "context": { "day": 1 } })).await;
    assert_eq!(refused.problem(), "409 too_many_executions");
    acme.sql("UPDATE cial_executions SET state = 'succeeded' WHERE state = 'scheduled'; \
        INSERT INTO cial_executions (id, package_id, package, workflow, definition, context, state, created_by, created_at) \
        SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, package_id, package, workflow, definition, context, 'failed', '', now() \
        FROM cial_executions, generate_series(1, 1500) n WHERE state = 'running'").await;
    acme.sql(
        "INSERT INTO cial_task_lines (execution_id, task, attempt, output, at, text) \
         SELECT '00000000-0000-7000-8000-000000000001', 'fetch', 1, 'stdout', now(), '' FROM generate_series(1, 20001)",
    )
    .await;
    acme.run().await;
    assert_eq!(acme.server.database.count("t_acme.cial_executions").await, 1_001);
    assert_eq!(acme.server.database.count("t_acme.cial_task_lines WHERE text = ''").await, 0);
    let page = acme.get("/executions?limit=2").await.json();
    assert_eq!((page["items"].as_array().unwrap().len(), &page["total"]), (2, &json!(1_001)));
    let path = format!("/executions?cursor={}", page["next"].as_str().unwrap());
    assert_eq!(acme.get(&path).await.json()["items"].as_array().unwrap().len(), 100);
    acme.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''refused''; END'; \
         CREATE TRIGGER refuse BEFORE DELETE ON cial_executions FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    acme.run().await;
    let all = acme.server.database.count("t_acme.cial_executions").await;
    assert_eq!(all, 1_002, "records that cannot be deleted refuse no run");
}
