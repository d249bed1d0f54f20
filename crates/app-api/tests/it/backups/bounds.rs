//! Backups hold schemas, their number is bounded, and they survive a wrong clock, a lost archive and the deletion of their tenant.

use super::*;
use crate::tenant_databases::connect_as;

impl Drill {
    /// A tenant that sleeps, with a schema on Postgres.
    async fn sleeping_with_schema(&self, sql: &str) {
        self.tenant("acme", &noise(300_000)).await;
        let has_schema = self
            .server
            .until("acme", |tenant| tenant.is_some_and(|tenant| tenant.database.is_some()));
        has_schema.await;
        let tenant = connect_as(&self.server, "acme").await.unwrap();
        tenant.batch_execute(sql).await.unwrap();
        self.sleeps("acme").await;
    }

    async fn until_count(&self, from: &str, expected: i64) {
        let counted = eventually(from, TEST_TIMEOUT, async || {
            Ok(self.server.database.count(from).await == expected)
        });
        counted.await.unwrap();
    }

    async fn request(&self, slug: &str) -> TestResponse {
        self.owner.post(&format!("/v1/tenants/{slug}/backups"), json!({})).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_has_the_tables_of_the_tenant() {
    let drill = Drill::new(&[]).await;
    let tables = "CREATE TABLE orders (id bigserial, note text); INSERT INTO orders (note) VALUES ('a'), ('b')";
    drill.sleeping_with_schema(tables).await;
    drill.next_minute().await;
    let made = drill.until_state("acme", "complete").await;
    assert_eq!(made["failure"], Value::Null);
    let restored = drill.restore(&made, "copy").await;
    assert_eq!(restored.status, 201, "{}", restored.text());
    assert_eq!(drill.server.database.count("t_copy.orders WHERE note IN ('a', 'b')").await, 2);
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_cannot_be_read_costs_no_files_and_is_shown() {
    let drill = Drill::new(&[]).await;
    let forced = "CREATE TABLE rows (a int); ALTER TABLE rows ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY";
    drill.sleeping_with_schema(forced).await;
    drill.next_minute().await;
    let made = drill.until_state("acme", "complete").await;
    let lacks = made["failure"].as_str().unwrap();
    assert!(lacks.starts_with("The tenant's schema is left out."), "{lacks}");
    assert!(lacks.contains("row-level security"), "{lacks}");
    let status = drill.owner.get("/v1/backups/status").await.json();
    assert_eq!(status["problems"][0]["id"], made["id"]);
    let restored = drill.restore(&made, "copy").await;
    assert_eq!(restored.status, 201, "{}", restored.text());
    // The next one tries again, though the tenant did not change.
    let tenant = connect_as(&drill.server, "acme").await.unwrap();
    tenant.batch_execute("DROP TABLE rows").await.unwrap();
    drop(tenant);
    drill.next_minute().await;
    let is_whole = |backup: &Value| backup["state"] == "complete" && backup["failure"].is_null();
    drill.until("acme", "a whole backup", is_whole).await;
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_during_a_copy_for_the_schedule_gets_a_copy_of_its_own() {
    let drill = Drill::new(&[]).await;
    drill.tenant("acme", &noise(300_000)).await;
    drill.server.orchestrator.stalls_exports.send_replace(true);
    drill.sleeps("acme").await;
    drill.next_minute().await;
    drill.until_first_export().await;
    let requested = drill.request("acme").await;
    assert_eq!(requested.status, 202, "{}", requested.text());
    drill.server.orchestrator.stalls_exports.send_replace(false);
    let made = drill.until_state("acme", "complete").await;
    assert_eq!(made["id"], requested.json()["id"]);
    assert_eq!(made["requested_by"], "ada@example.com");
    assert_eq!(drill.exports(), 2, "the copy that began before the request does not count");
    assert_eq!(drill.files(), [drill.object(&made)]);
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requested_backups_are_bounded() {
    let drill = Drill::new(&[]).await;
    drill.tenant("acme", b"x").await;
    drill.sleeps("acme").await;
    for count in 1..=5_u64 {
        // Two at the same moment are made, too.
        drill.server.advance_clock(Duration::from_secs(count % 2));
        let requested = drill.request("acme").await;
        assert_eq!(requested.status, 202, "{}", requested.text());
        drill.until_count("backups WHERE state = 'complete'", i64::try_from(count).unwrap()).await;
    }
    assert_eq!(drill.request("acme").await.problem(), "409 backup_limit");
    assert_eq!(drill.backups("acme").await.len(), 5);
    let one = drill.backups("acme").await[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(drill.delete(&format!("/v1/backups/{one}")).await.status, 204);
    assert_eq!(drill.request("acme").await.status, 202);
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_deleted_tenant_keeps_its_row_as_long_as_its_archive() {
    let mut drill = Drill::new(&[]).await;
    let gone = drill.folder.path().join("gone");
    // A folder that is not empty cannot be deleted.
    std::fs::create_dir_all(gone.join("stays")).unwrap();
    std::fs::write(gone.join("stays/x"), "x").unwrap();
    std::fs::write(gone.join("goes"), "x").unwrap();
    for object in ["gone/stays", "gone/goes"] {
        let row = format!(
            "INSERT INTO backups (id, tenant_id, slug, state, due_at, not_before, object) \
             VALUES (gen_random_uuid(), gen_random_uuid(), 'gone', 'running', now(), now(), '{object}')"
        );
        drill.server.database.sql(&row).await;
    }
    drill.server = drill.server.restart().await;
    drill.until_count("backups WHERE object = 'gone/goes'", 0).await;
    assert!(!gone.join("goes").exists());
    assert_eq!(drill.server.database.count("backups WHERE object = 'gone/stays'").await, 1);
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_wrong_for_a_moment_does_not_end_the_schedule() {
    let drill = Drill::new(&[]).await;
    drill.tenant("acme", b"x").await;
    drill.sleeps("acme").await;
    let wrong = "UPDATE backup_schedule SET planned_until = planned_until + interval '10 years'";
    drill.server.database.sql(wrong).await;
    drill.server.advance_clock(MINUTE);
    let now = drill.server.now();
    drill.until_count(&format!("backup_schedule WHERE planned_until <= '{now}'"), 1).await;
    drill.next_minute().await;
    drill.until_state("acme", "complete").await;
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_archive_takes_no_place_of_one_that_is_there() {
    let drill = Drill::new(&[("CIAL_BACKUP_KEEP", "2 daily")]).await;
    drill.tenant("acme", b"x").await;
    drill.sleeps("acme").await;
    drill.next_minute().await;
    let first = drill.until_state("acme", "complete").await;
    let before = "UPDATE backups SET due_at = due_at - interval '2 days', taken_at = taken_at - interval '2 days'";
    drill.server.database.sql(before).await;
    let lost = "INSERT INTO backups (id, tenant_id, slug, state, due_at, not_before, object, taken_at, bytes, sha256) \
        SELECT gen_random_uuid(), tenant_id, slug, 'missing', due_at + interval '1 day', not_before, 'acme/lost', \
            taken_at + interval '1 day', bytes, sha256 FROM backups";
    drill.server.database.sql(lost).await;
    let id = drill.server.row("acme").await.tenant_id();
    let started = Timestamp::from_timestamp(1_800_000_001, 0).unwrap();
    drill.server.orchestrator.last_starts.lock().unwrap().insert(id, started);
    drill.next_minute().await;
    let newest = "backups WHERE state = 'complete' AND due_at = '2027-01-15T08:02:00Z'";
    drill.until_count(newest, 1).await;
    // Behind it, after the old ones have gone.
    drill.next_minute().await;
    drill.until_count(&format!("{newest} AND current_at IS NOT NULL"), 1).await;
    let kept = format!("backups WHERE id = '{}'", first["id"].as_str().unwrap());
    assert_eq!(drill.server.database.count(&kept).await, 1);
    assert_eq!(drill.server.database.count("backups WHERE state = 'missing'").await, 1);
    drill.server.stop().await;
}
