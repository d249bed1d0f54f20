//! Backups: who is copied and when, what comes back, and what a store that lost or changed an archive leads to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::Method;
use protocol::Timestamp;
use protocol::api_keys::Role;
use protocol::orchestrator::Phase;
use protocol::problem::Code;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{eventually, wait_for};

use crate::harness::{
    FakeOrchestrator, Server, Setup, TEST_TIMEOUT, TestClient, TestResponse, observed,
};
use crate::transfers::{exported_volumes, noise, volumes};

mod bounds;

const MINUTE: Duration = Duration::from_secs(60);

/// A server that makes every tenant due each minute, in a folder.
struct Drill {
    server: Server,
    owner: TestClient,
    folder: TempDir,
}

impl Drill {
    async fn new(settings: &[(&'static str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
        setup.env.push(("CIAL_BACKUP_URL", format!("file://{}", folder.path().display())));
        setup.env.push(("CIAL_BACKUP_SCHEDULE", "* * * * *".to_owned()));
        setup.env.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let server = setup.start().await;
        let owner = server.sign_up().await;
        let drill = Self { server, owner, folder };
        // The first minute is planned for nobody.
        eventually("the schedule begins", TEST_TIMEOUT, async || {
            Ok(drill.server.database.count("backup_schedule").await == 1)
        })
        .await
        .unwrap();
        drill
    }

    /// A tenant that runs, with these files.
    async fn tenant(&self, slug: &str, content: &[u8]) {
        self.owner.post("/v1/tenants", json!({ "slug": slug, "name": slug })).await;
        self.server.until_state(slug, protocol::State::Running).await;
        let id = self.server.row(slug).await.tenant_id();
        self.server.orchestrator.volumes.lock().unwrap().insert(id, volumes(content));
    }

    async fn observe(&self, slug: &str, phase: Phase, state: protocol::State) {
        let id = self.server.row(slug).await.tenant_id();
        self.server.orchestrator.publish(observed(id, phase));
        self.server.until_state(slug, state).await;
    }

    async fn sleeps(&self, slug: &str) {
        self.observe(slug, Phase::Sleeping, protocol::State::Sleeping).await;
    }

    async fn backups(&self, slug: &str) -> Vec<Value> {
        let list = self.owner.get(&format!("/v1/tenants/{slug}/backups")).await;
        assert_eq!(list.status, 200, "{}", list.text());
        list.json()["backups"].as_array().unwrap().clone()
    }

    /// Waits until the newest backup of a tenant is as expected.
    async fn until(&self, slug: &str, what: &str, expected: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, TEST_TIMEOUT, async || {
            let newest = self.backups(slug).await.into_iter().next();
            Ok(newest.filter(|backup| expected(backup)))
        })
        .await
        .unwrap()
    }

    async fn until_state(&self, slug: &str, state: &str) -> Value {
        self.until(slug, state, |backup| backup["state"] == state).await
    }

    /// Makes everybody due, and waits until that is planned.
    async fn next_minute(&self) {
        self.server.advance_clock(MINUTE);
        let now = self.server.now();
        let planned = format!("backup_schedule WHERE planned_until > '{}'", now - MINUTE);
        eventually("the minute is planned", TEST_TIMEOUT, async || {
            Ok(self.server.database.count(&planned).await == 1)
        })
        .await
        .unwrap();
    }

    async fn restore(&self, backup: &Value, slug: &str) -> TestResponse {
        let path = format!("/v1/backups/{}/restore", backup["id"].as_str().unwrap());
        self.owner.post(&path, json!({ "as": slug })).await
    }

    async fn delete(&self, path: &str) -> TestResponse {
        self.owner.send(Method::DELETE, path, &[], "").await
    }

    fn object(&self, backup: &Value) -> PathBuf {
        self.folder.path().join(backup["object"].as_str().unwrap())
    }

    /// The files in the store, those that are being written included.
    fn files(&self) -> Vec<PathBuf> {
        files_below(self.folder.path())
    }

    fn volumes_of(&self, id: protocol::TenantId) -> Option<Vec<u8>> {
        self.server.orchestrator.volumes.lock().unwrap().get(&id).cloned()
    }

    fn exports(&self) -> usize {
        *self.server.orchestrator.exports.borrow()
    }

    async fn until_first_export(&self) {
        let mut exports = self.server.orchestrator.exports.subscribe();
        exports.wait_for(|exports| *exports == 1).await.unwrap();
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, mut files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.extend(folders.iter().flat_map(|folder| files_below(folder)));
    files
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_copied_once_it_rests_and_comes_back_after_its_end() {
    let drill = Drill::new(&[]).await;
    let content = noise(3 << 20);
    drill.tenant("acme", &content).await;
    drill.tenant("busy", b"x").await;
    drill.next_minute().await;
    let waiting = drill.until_state("acme", "waiting").await;
    assert_eq!(waiting["due_at"], "2027-01-15T08:01:00.000Z");
    assert_eq!((&waiting["requested_by"], &waiting["taken_at"]), (&Value::Null, &Value::Null));
    drill.sleeps("acme").await;
    let made = drill.until_state("acme", "complete").await;
    assert_eq!(made["id"], waiting["id"]);
    assert_eq!(drill.exports(), 1, "who runs is left alone");
    assert_eq!(drill.backups("busy").await[0]["state"], "waiting");
    let archive = std::fs::read(drill.object(&made)).unwrap();
    assert!(archive.ends_with(&protocol::transfer::END_MARK));
    assert_eq!(made["sha256"], sha256(&archive));
    assert_eq!(made["bytes"], archive.len());
    assert_eq!(drill.files(), [drill.object(&made)]);
    let taken = drill.restore(&made, "acme").await;
    assert_eq!(taken.problem(), "409 slug_taken");

    drill.delete("/v1/tenants/acme").await;
    drill.server.until("acme", |tenant| tenant.is_none()).await;
    let all = drill.owner.get("/v1/backups").await.json();
    assert!(all["backups"].as_array().unwrap().contains(&made), "{all}");
    let restored = drill.restore(&made, "acme").await;
    assert_eq!(restored.status, 201, "{}", restored.text());
    assert_eq!(restored.header("location"), "/v1/tenants/acme");
    let id = drill.server.row("acme").await.tenant_id();
    assert!(drill.volumes_of(id).unwrap() == exported_volumes(&content));
    assert_eq!(drill.server.database.count("tenant_imports").await, 0);
    let resource = format!("backup:acme/{}", made["id"].as_str().unwrap());
    // An attempt that is refused is an entry, too.
    for (action, count) in [("backup.create", 1), ("backup.restore", 2)] {
        let entries = drill.server.audited(action).await;
        assert_eq!((entries.len(), &entries[0].1), (count, &resource), "{action}");
    }
    assert_eq!(drill.server.audited("tenant.import").await.len(), 1);
    let import = drill.owner.get("/v1/audit?action=tenant.import").await.json();
    assert_eq!(import["entries"][0]["address"], "127.0.0.1", "a task keeps its origin");
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_did_not_change_is_not_copied_again() {
    let drill = Drill::new(&[]).await;
    drill.tenant("acme", b"x").await;
    drill.sleeps("acme").await;
    drill.next_minute().await;
    let first = drill.until_state("acme", "complete").await;
    for minute in 2..4 {
        drill.next_minute().await;
        let due = format!("2027-01-15T08:0{minute}:00.000Z");
        let kept = drill.until("acme", &due, |backup| backup["current_at"] == due.as_str()).await;
        assert_eq!(kept["id"], first["id"]);
    }
    assert_eq!((drill.exports(), drill.backups("acme").await.len()), (1, 1));
    let id = drill.server.row("acme").await.tenant_id();
    let is_other = |last: &Value| {
        let last = last["id"].clone();
        move |backup: &Value| backup["id"] != last && backup["state"] == "complete"
    };

    let started = Timestamp::from_timestamp(1_800_000_200, 0).unwrap();
    drill.server.orchestrator.last_starts.lock().unwrap().insert(id, started);
    drill.next_minute().await;
    let second = drill.until("acme", "a copy after a start", is_other(&first)).await;

    let change = json!({ "name": "Acme and Sons" });
    drill.owner.json(Method::PATCH, "/v1/tenants/acme", &[], change).await;
    drill.sleeps("acme").await;
    drill.next_minute().await;
    let third = drill.until("acme", "a copy after a change", is_other(&second)).await;

    // Frozen for long enough, and free to go on without a start.
    drill.observe("acme", Phase::Frozen, protocol::State::Frozen).await;
    drill.server.advance_clock(Duration::from_secs(400));
    drill.next_minute().await;
    let fourth = drill.until("acme", "a copy of a frozen tenant", is_other(&third)).await;
    drill.next_minute().await;
    drill.until("acme", "a copy of one that stayed frozen", is_other(&fourth)).await;
    assert_eq!(drill.exports(), 5);
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_has_just_been_frozen_is_left_to_its_visitor() {
    let drill = Drill::new(&[]).await;
    drill.tenant("acme", b"x").await;
    drill.tenant("asleep", b"x").await;
    drill.observe("acme", Phase::Frozen, protocol::State::Frozen).await;
    drill.sleeps("asleep").await;
    drill.next_minute().await;
    drill.until_state("asleep", "complete").await;
    assert_eq!(drill.backups("acme").await[0]["state"], "waiting");
    // A requested backup is made regardless.
    let requested = drill.owner.post("/v1/tenants/acme/backups", json!({})).await;
    assert_eq!(requested.status, 202, "{}", requested.text());
    assert_eq!(requested.header("location"), "/v1/tenants/acme/backups");
    let made = drill.until_state("acme", "complete").await;
    assert_eq!(
        (&made["id"], &made["requested_by"]),
        (&requested.json()["id"], &json!("ada@example.com"))
    );
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_was_changed_or_lost_is_refused() {
    let drill = Drill::new(&[]).await;
    drill.tenant("acme", &noise(300_000)).await;
    drill.sleeps("acme").await;
    drill.next_minute().await;
    let made = drill.until_state("acme", "complete").await;
    let object = drill.object(&made);
    let whole = std::fs::read(&object).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    // Whole by its own checksum, but another one.
    let mut other = whole.clone();
    let end = other.len() - 1;
    other[end] ^= 1;
    let cut = &whole[..whole.len() - 1];
    for (what, bytes) in [("damaged", damaged.as_slice()), ("other", &other), ("cut", cut)] {
        std::fs::write(&object, bytes).unwrap();
        let refused = drill.restore(&made, "acme2").await;
        assert_eq!(refused.problem(), "422 backup_corrupt", "{what}: {}", refused.text());
        assert_eq!(drill.server.database.count("tenants WHERE slug = 'acme2'").await, 0, "{what}");
        assert_eq!(drill.server.orchestrator.volumes.lock().unwrap().len(), 1, "{what}");
    }
    std::fs::remove_file(&object).unwrap();
    assert_eq!(drill.restore(&made, "acme2").await.problem(), "410 backup_missing");
    assert_eq!(drill.backups("acme").await[0]["state"], "missing");
    let status = drill.owner.get("/v1/backups/status").await.json();
    assert_eq!(status["problems"][0]["id"], made["id"], "{status}");
    // A tenant that did not change is copied again, because nothing of it is left.
    drill.next_minute().await;
    let again = drill.until_state("acme", "complete").await;
    assert_ne!(again["id"], made["id"]);
    let folder = drill.folder;
    drill.server.stop().await;
    drop(folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_the_middle_leaves_nothing_and_the_next_one_goes_on() {
    let mut drill = Drill::new(&[]).await;
    let content = noise(3 << 20);
    drill.tenant("acme", &content).await;
    drill.server.orchestrator.stalls_exports.send_replace(true);
    drill.sleeps("acme").await;
    drill.next_minute().await;
    drill.until_first_export().await;
    let begun = drill.until_state("acme", "running").await;
    // As a part of the upload that the process had written.
    let name = drill.object(&begun).file_name().unwrap().to_owned();
    let part = drill.folder.path().join(".parts").join(format!("{}.1", name.display()));
    std::fs::create_dir_all(part.parent().unwrap()).unwrap();
    std::fs::write(&part, "a part").unwrap();
    drill.server = drill.server.restart().await;
    drill.owner = drill.server.new_session_of(crate::harness::EMAIL).await;
    let running = drill.backups("acme").await;
    assert_eq!((running.len(), &running[0]["state"]), (1, &json!("running")), "the claim lives on");
    assert_eq!(drill.exports(), 1);
    drill.server.orchestrator.stalls_exports.send_replace(false);
    drill.server.advance_clock(Duration::from_secs(121));
    let made = drill.until_state("acme", "complete").await;
    assert_eq!(made["id"], begun["id"]);
    assert_eq!(drill.exports(), 2);
    assert_eq!(drill.files(), [drill.object(&made)]);
    let restored = drill.restore(&made, "acme2").await;
    assert_eq!(restored.status, 201, "{}", restored.text());
    let id = drill.server.row("acme2").await.tenant_id();
    assert!(drill.volumes_of(id).unwrap() == exported_volumes(&content));
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fails_leaves_nothing_and_is_tried_again() {
    let drill = Drill::new(&[]).await;
    let whole = volumes(&noise(300_000));
    drill.tenant("acme", b"x").await;
    let id = drill.server.row("acme").await.tenant_id();
    let cut = whole[..whole.len() / 2].to_vec();
    drill.server.orchestrator.volumes.lock().unwrap().insert(id, cut);
    drill.sleeps("acme").await;
    drill.next_minute().await;
    let failed = drill.until("acme", "a failure", |backup| !backup["failure"].is_null()).await;
    assert_eq!(failed["state"], "waiting");
    assert_eq!(failed["failure"], "The tenant's data could not be read to their end.");
    assert_eq!(drill.files(), [] as [PathBuf; 0]);
    let status = drill.owner.get("/v1/backups/status").await.json();
    assert_eq!(status["problems"][0]["id"], failed["id"]);
    drill.server.orchestrator.volumes.lock().unwrap().insert(id, whole);
    drill.server.advance_clock(MINUTE * 2);
    let made = drill.until_state("acme", "complete").await;
    assert_eq!((&made["id"], &made["failure"]), (&failed["id"], &Value::Null));
    assert_eq!(drill.files(), [drill.object(&made)]);
    let status = drill.owner.get("/v1/backups/status").await.json();
    assert_eq!((&status["problems"], &status["enabled"]), (&json!([]), &json!(true)));
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_wakes_first_is_copied_later_without_a_failure() {
    let drill = Drill::new(&[]).await;
    drill.tenant("acme", b"x").await;
    *drill.server.orchestrator.refuse_transfers.lock().unwrap() = Some(Code::TenantAwake);
    drill.sleeps("acme").await;
    drill.next_minute().await;
    let attempted = "backups WHERE state = 'waiting' AND not_before > due_at";
    eventually("an attempt", TEST_TIMEOUT, async || {
        Ok(drill.server.database.count(attempted).await == 1)
    })
    .await
    .unwrap();
    assert_eq!(drill.backups("acme").await[0]["failure"], Value::Null);
    assert!(drill.server.audited("backup.create").await.is_empty(), "nothing was created");
    *drill.server.orchestrator.refuse_transfers.lock().unwrap() = None;
    drill.server.advance_clock(MINUTE * 2);
    drill.until_state("acme", "complete").await;
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_backups_go_and_those_that_somebody_requested_stay() {
    let drill = Drill::new(&[("CIAL_BACKUP_KEEP", "1 daily")]).await;
    drill.tenant("acme", b"x").await;
    drill.sleeps("acme").await;
    let requested = drill.owner.post("/v1/tenants/acme/backups", json!({})).await.json();
    drill.until_state("acme", "complete").await;
    let id = drill.server.row("acme").await.tenant_id();
    let mut last = Value::Null;
    for minute in 1..4 {
        let started = Timestamp::from_timestamp(1_800_000_000 + minute, 0).unwrap();
        drill.server.orchestrator.last_starts.lock().unwrap().insert(id, started);
        drill.next_minute().await;
        let is_newer = |backup: &Value| {
            backup["state"] == "complete" && backup["id"] != last && backup["id"] != requested["id"]
        };
        last = drill.until("acme", "the next copy", is_newer).await["id"].clone();
        eventually("the one before goes", TEST_TIMEOUT, async || {
            Ok(drill.backups("acme").await.len() == 2 && drill.files().len() == 2)
        })
        .await
        .unwrap();
    }
    let left: Vec<_> = drill.backups("acme").await.iter().map(|b| b["id"].clone()).collect();
    assert_eq!(left, [last, requested["id"].clone()]);
    assert_eq!(drill.server.audited("backup.delete").await.len(), 2);
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_requested_once_and_deleted_with_its_archive() {
    let drill = Drill::new(&[]).await;
    drill.tenant("acme", b"x").await;
    let path = "/v1/tenants/acme/backups";
    let first = drill.owner.post(path, json!({})).await.json();
    let second = drill.owner.post(path, json!({})).await.json();
    assert_eq!((&first["id"], &first["state"]), (&second["id"], &json!("waiting")));
    let one = format!("/v1/backups/{}", first["id"].as_str().unwrap());
    assert_eq!(drill.owner.get(&one).await.json()["tenant"], "acme");
    assert_eq!(drill.restore(&first, "acme2").await.problem(), "409 backup_incomplete");
    assert_eq!(drill.delete(&one).await.status, 204);
    assert_eq!(drill.owner.get(&one).await.problem(), "404 resource_not_found");
    assert_eq!(drill.delete(&one).await.problem(), "404 resource_not_found");
    assert_eq!(drill.restore(&first, "acme2").await.problem(), "404 resource_not_found");

    drill.sleeps("acme").await;
    let requested = drill.owner.post(path, json!({})).await.json();
    let made = drill.until_state("acme", "complete").await;
    assert_eq!(made["id"], requested["id"]);
    assert_eq!(drill.files().len(), 1);
    let one = format!("/v1/backups/{}", made["id"].as_str().unwrap());
    assert_eq!(drill.delete(&one).await.status, 204);
    assert_eq!(drill.files(), [] as [PathBuf; 0]);
    assert_eq!(drill.server.audited("backup.request").await.len(), 3);
    let deleted = drill.server.audited("backup.delete").await;
    assert_eq!((deleted.len(), deleted[0].0.as_str()), (2, "ada@example.com"));
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_deleted_while_it_is_made_leaves_nothing() {
    let drill = Drill::new(&[]).await;
    drill.tenant("acme", &noise(300_000)).await;
    drill.server.orchestrator.stalls_exports.send_replace(true);
    drill.sleeps("acme").await;
    let requested = drill.owner.post("/v1/tenants/acme/backups", json!({})).await.json();
    drill.until_first_export().await;
    let one = format!("/v1/backups/{}", requested["id"].as_str().unwrap());
    assert_eq!(drill.delete(&one).await.status, 204);
    drill.server.orchestrator.stalls_exports.send_replace(false);
    // Behind it in the queue.
    drill.owner.post("/v1/tenants/acme/backups", json!({})).await;
    let made = drill.until_state("acme", "complete").await;
    assert_ne!(made["id"], requested["id"]);
    assert_eq!(drill.files(), [drill.object(&made)]);
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_never_rests_is_reported() {
    let drill = Drill::new(&[]).await;
    drill.tenant("acme", b"x").await;
    drill.next_minute().await;
    let waiting = drill.until_state("acme", "waiting").await;
    assert_eq!(waiting["overdue"], false);
    drill.server.advance_clock(Duration::from_secs(12 * 3_600 + 1));
    // The owner's session has ended meanwhile.
    let owner = drill.server.new_session_of(crate::harness::EMAIL).await;
    let listed = owner.get("/v1/tenants/acme/backups").await.json();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 1, "it waits once: {listed}");
    assert_eq!(
        (&listed["backups"][0]["id"], &listed["backups"][0]["overdue"]),
        (&waiting["id"], &json!(true))
    );
    let status = owner.get("/v1/backups/status").await.json();
    assert_eq!(status["problems"][0]["tenant"], "acme");
    drill.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_nothing_is_made() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::obedient()).await;
    let refused = owner.post("/v1/tenants/acme/backups", json!({})).await;
    assert_eq!(refused.problem(), "409 backups_off");
    let status = owner.get("/v1/backups/status").await.json();
    assert_eq!(status, json!({ "enabled": false, "next_due_at": null, "problems": [] }));
    assert_eq!(owner.get("/v1/backups").await.json(), json!({ "backups": [], "next": null }));
    let member = server.key_of(Some("acme"), Role::Write).await;
    let member = server.visitor.with_key(&member);
    let refused = member.send(Method::POST, "/v1/tenants/acme/backups", &[], "").await;
    assert_eq!(refused.problem(), "403 insufficient_role");
    server.stop().await;
}
