//! The stream of events: every change that a caller may see, once, also over a reconnection.

use std::collections::VecDeque;

use app_api::db::event;
use axum::http::Method;
use diesel_async::RunQueryDsl as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use protocol::State;
use protocol::api_keys::Role;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::callers::TestKey;
use crate::harness::client::EVENT_STREAM;
use crate::harness::schema::Schemas;
use crate::harness::{FakeOrchestrator, Server, Setup, TEST_TIMEOUT, TestClient, acme};

const PATH: &str = "/api/admin/events";

/// An event as a client receives it.
#[derive(Clone, Debug)]
struct Received {
    id: i64,
    event: String,
    data: Value,
}

impl Received {
    fn tenant(&self, field: &str) -> &str {
        self.data["tenant"][field].as_str().unwrap_or_default()
    }
}

/// Reads a stream like an `EventSource`.
struct EventReader {
    body: Incoming,
    unread: String,
    last_event_id: String,
}

impl EventReader {
    async fn open(client: &TestClient, headers: &[(&str, &str)]) -> Self {
        let response = client.send_streaming(Method::GET, PATH, headers, "").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], EVENT_STREAM);
        let body = response.into_body();
        Self { body, unread: String::new(), last_event_id: String::new() }
    }

    /// Opens the stream after an event.
    async fn resume(client: &TestClient, last_event_id: &str) -> Self {
        Self::open(client, &[("last-event-id", last_event_id)]).await
    }

    /// Reads the next text up to an empty line; `None` at the end of the stream.
    async fn next_block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.unread = rest;
                return Some(block);
            }
            let frame = timeout(TEST_TIMEOUT, self.body.frame()).await.expect("nothing arrives");
            let data = frame?.ok()?.into_data().unwrap();
            self.unread.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    async fn next(&mut self) -> Option<Received> {
        loop {
            let block = self.next_block().await?;
            let field = |name: &str| {
                block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
            };
            if let Some(id) = field("id: ") {
                self.last_event_id = id;
            }
            if let Some(data) = field("data: ") {
                return Some(Received {
                    id: self.last_event_id.parse().unwrap(),
                    event: field("event: ").unwrap_or_default(),
                    data: serde_json::from_str(&data).unwrap(),
                });
            }
        }
    }

    /// Reads events until the name of a tenant is `name`, that event included.
    async fn until_name(&mut self, name: &str) -> Vec<Received> {
        let mut received = Vec::new();
        loop {
            let next = self.next().await.expect("the stream ended");
            let is_last = next.tenant("name") == name;
            received.push(next);
            if is_last {
                return received;
            }
        }
    }
}

fn ids(received: &[Received]) -> Vec<i64> {
    received.iter().map(|event| event.id).collect()
}

/// Fails unless each event follows the one before: none is missing, none comes twice.
fn assert_complete(received: &[Received]) {
    let first = received.first().map_or(0, |event| event.id);
    let expected: Vec<_> = (first..).take(received.len()).collect();
    assert_eq!(ids(received), expected);
}

async fn rename(owner: &TestClient, slug: &str, name: &str) {
    let path = format!("/api/admin/tenants/{slug}");
    let renamed = owner.json(Method::PATCH, &path, &[], json!({ "name": name })).await;
    assert_eq!(renamed.status, 200, "{}", renamed.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_followed_from_its_creation_to_its_end() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    let mut events = EventReader::open(&owner, &[]).await;
    owner.post("/api/admin/tenants", acme()).await;
    let created = events.next().await.unwrap();
    assert_eq!((created.event.as_str(), created.tenant("slug")), ("tenant.created", "acme"));
    assert_eq!(created.tenant("state"), "provisioning");
    assert_eq!(created.data["id"], created.id);
    assert_eq!(created.data["kind"], "tenant.created");
    let mut all = vec![created];
    while all.last().is_some_and(|event| event.tenant("state") != "running") {
        all.push(events.next().await.unwrap());
    }
    let shown = owner.get("/api/admin/tenants/acme").await.json();
    let last = all.last().unwrap().data["tenant"].clone();
    for field in ["id", "slug", "name", "desired", "state", "state_since", "state_reason"] {
        assert_eq!(last[field], shown[field], "{field}");
    }
    owner.send(Method::DELETE, "/api/admin/tenants/acme", &[], "").await;
    while all.last().is_some_and(|event| event.event != "tenant.deleted") {
        all.push(events.next().await.unwrap());
    }
    let changed = all.iter().filter(|event| event.event == "tenant.changed");
    assert_eq!(changed.count(), all.len() - 2, "{all:#?}");
    assert_complete(&all);
    server.stop().await;
    assert!(events.next().await.is_none(), "the stream outlives its process");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reconnects_to_another_replica_receives_every_event_once() {
    let setup = Setup::new(FakeOrchestrator::unreachable()).await;
    let replica = setup.replica();
    let (first, second) = (setup.start().await, replica.start().await);
    let owner = first.sign_up().await;
    let mut owner_at_second = second.visitor.new_client();
    owner_at_second.cookie.clone_from(&owner.cookie);

    let mut events = EventReader::open(&owner_at_second, &[]).await;
    owner.post("/api/admin/tenants", acme()).await;
    let mut all = events.until_name("Acme Ltd").await;
    drop(events);
    // More than one read returns.
    for round in 0..150 {
        first.database.sql(&format!("UPDATE tenants SET name = 'missed {round}'")).await;
    }
    let mut events = EventReader::resume(&owner, &all.last().unwrap().id.to_string()).await;
    all.extend(events.until_name("missed 149").await);
    rename(&owner_at_second, "acme", "live").await;
    all.extend(events.until_name("live").await);
    assert_complete(&all);
    assert!(all.len() > 150, "{}", all.len());

    // A client that received nothing but the beginning continues from there.
    let mut idle = EventReader::open(&owner, &[]).await;
    assert!(idle.next_block().await.unwrap().starts_with("retry: 2000\nid: "));
    rename(&owner, "acme", "unseen").await;
    let mut resumed = EventReader::resume(&owner, &all.last().unwrap().id.to_string()).await;
    assert_eq!(ids(&resumed.until_name("unseen").await)[0], all.last().unwrap().id + 1);
    first.stop().await;
    second.stop().await;
}

/// Ids of rows are often given before the commit. A reader of the latest id would then miss the slower transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_commits_late_is_not_missed() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    owner.post("/api/admin/tenants", json!({ "slug": "globex", "name": "Globex" })).await;
    let mut events = EventReader::resume(&owner, "0").await;
    let mut all = events.until_name("Globex").await;
    let mut slow = server.database.conn().await;
    for statement in ["BEGIN", "UPDATE tenants SET name = 'slow' WHERE slug = 'acme'"] {
        diesel::sql_query(statement).execute(&mut slow).await.unwrap();
    }
    server.database.sql("UPDATE tenants SET name = 'fast' WHERE slug = 'globex'").await;
    all.extend(events.until_name("fast").await);
    diesel::sql_query("COMMIT").execute(&mut slow).await.unwrap();
    all.extend(events.until_name("slow").await);
    assert_complete(&all);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_receives_events_of_their_tenants_alone() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    for slug in ["acme", "globex", "shared"] {
        owner.post("/api/admin/tenants", json!({ "slug": slug, "name": slug })).await;
    }
    let both = [("acme", "viewer"), ("shared", "viewer")];
    let mia = server.sign_in_as("mia", "none", &both).await;
    let eve = server.sign_in_as("eve", "none", &[("shared", "admin")]).await;
    let vic = server.sign_in_as("vic", "viewer", &[("shared", "viewer")]).await;
    let of_vic = TestKey { person: Some("vic@example.com"), ..TestKey::new(None, Role::Read) };
    let login_key = server.insert_key(of_vic).await;
    let globex_key = server.key_of(Some("globex"), Role::Read).await;
    let key_of_all = server.key_of(None, Role::Read).await;
    let nobody = &server.visitor;
    let all = &["acme", "globex", "shared"][..];
    let mut readers = Vec::new();
    for (name, client, key, slugs) in [
        ("the owner", &owner, None, all),
        ("a platform viewer", &vic, None, all),
        ("a login key of the viewer", nobody, Some(&login_key), all),
        ("a key of all tenants", nobody, Some(&key_of_all), all),
        ("a key of globex", nobody, Some(&globex_key), &["globex"]),
        ("mia", &mia, None, &["acme", "shared"]),
        ("eve", &eve, None, &["shared"]),
    ] {
        let client = key.map_or_else(|| client.clone(), |key| client.with_key(key));
        readers.push((name, EventReader::open(&client, &[]).await, slugs.to_vec()));
    }
    let database = &server.database;
    let mut renamed = VecDeque::new();
    let mut change = async |name: &str| {
        for slug in ["acme", "globex", "shared"] {
            database
                .sql(&format!("UPDATE tenants SET name = '{name}' WHERE slug = '{slug}'"))
                .await;
            renamed.push_back(format!("{slug} {name}"));
        }
    };
    change("first").await;
    change("second").await;
    for (name, reader, slugs) in &mut readers {
        let last = format!("{} second", slugs.last().unwrap());
        let mut received = Vec::new();
        while received.last() != Some(&last) {
            let event = reader.next().await.unwrap();
            received.push(format!("{} {}", event.tenant("slug"), event.tenant("name")));
        }
        // Also what the reconciler changed meanwhile belongs to these tenants.
        received.dedup();
        let own: Vec<_> =
            renamed.iter().filter(|line| slugs.iter().any(|slug| line.starts_with(slug))).collect();
        let is_renamed = |line: &&String| line.ends_with("first") || line.ends_with("second");
        let received: Vec<_> = received.iter().filter(is_renamed).collect();
        assert_eq!(received, own, "{name}");
    }
    // Rights that end count for the events that follow.
    database.sql("DELETE FROM memberships WHERE tenant_id = (SELECT id FROM tenants WHERE slug = 'acme')").await;
    database.sql("UPDATE users SET role = 'none' WHERE name = 'vic'").await;
    for (slug, name) in [("acme", "third"), ("globex", "third"), ("shared", "third")] {
        database.sql(&format!("UPDATE tenants SET name = '{name}' WHERE slug = '{slug}'")).await;
    }
    for (name, reader, _) in
        readers.iter_mut().filter(|(name, ..)| name.contains("login key") || *name == "mia")
    {
        let received = reader.until_name("third").await;
        let changed = received.iter().filter(|event| event.event == "tenant.changed");
        let slugs: Vec<_> = changed.map(|event| event.tenant("slug")).collect();
        assert_eq!(slugs, ["shared"], "{name}");
    }
}

/// One change of each kind beside tenants, by the API, but for the end of a membership.
async fn change_everything(server: &Server, owner: &TestClient) {
    let created = async |path: &str, body: Value| {
        let response = owner.post(path, body).await;
        assert_eq!(response.status, 201, "{path}: {}", response.text());
        format!("{path}/{}", response.json()["id"].as_str().unwrap_or_default())
    };
    let ended = async |path: String| {
        let response = owner.send(Method::DELETE, &path, &[], "").await;
        assert!(response.status.is_success(), "{path}: {}", response.text());
    };
    let (mia, vic) = (server.user("mia@example.com").await, server.user("vic@example.com").await);
    let grace = json!({ "email": "grace@example.com", "role": "viewer" });
    ended(created("/v1/tenants/acme/invitations", grace).await).await;
    let member = format!("/v1/tenants/acme/members/{}", mia.id);
    owner.json(Method::PUT, &member, &[], json!({ "role": "member" })).await;
    let key = json!({ "name": "ci", "role": "read" });
    ended(created("/v1/tenants/acme/keys", key).await).await;
    created("/v1/invitations", json!({ "email": "ops@example.com", "role": "admin" })).await;
    created("/v1/auth/keys", json!({ "name": "robot", "role": "read" })).await;
    let name = json!({ "name": "Victor" });
    owner.json(Method::PATCH, &format!("/v1/users/{}", vic.id), &[], name).await;
    created("/v1/apps", json!({ "slug": "notes", "name": "Notes" })).await;
    created("/v1/apps/notes/releases", json!({ "image": "notes:1" })).await;
    ended("/v1/apps/notes".to_owned()).await;
    server.sign_in_as("joe", "none", &[("acme", "viewer")]).await;
    let joe = server.user("joe@example.com").await;
    ended(format!("/v1/users/{}", joe.id)).await;
}

/// The lists that a caller may read: a set of bits.
const ADMINS: u8 = 1;
const MEMBERS: u8 = 2;
const OPERATORS: u8 = 4;
const KEYS: u8 = 8;

/// The events of [`change_everything`], and of the end of a membership: kind, name and tenant, with those who see them.
const CHANGES: [(&str, u8); 16] = [
    ("invitation.created grace@example.com acme", ADMINS),
    ("invitation.deleted grace@example.com acme", ADMINS),
    ("membership.changed mia@example.com acme", MEMBERS),
    ("key.created ci acme", ADMINS),
    ("key.revoked ci acme", ADMINS),
    ("invitation.created ops@example.com ", OPERATORS),
    ("key.created robot ", KEYS),
    ("user.changed vic@example.com ", OPERATORS),
    ("app.created Notes ", OPERATORS),
    ("release.created notes:1 ", OPERATORS),
    ("app.deleted Notes ", OPERATORS),
    ("user.created joe@example.com ", OPERATORS),
    ("membership.created joe@example.com acme", MEMBERS),
    ("user.deleted joe@example.com ", OPERATORS),
    // Without the name of somebody who does not exist any more.
    ("membership.deleted  acme", MEMBERS),
    ("membership.deleted mia@example.com acme", MEMBERS),
];

/// Describes an event beside a tenant like a line of [`CHANGES`]; `None` for an event of the tenant itself.
fn change(event: &Received) -> Option<String> {
    let name = event.data["resource"].as_object()?.get("name");
    let name = name.and_then(Value::as_str).unwrap_or_default();
    Some(format!("{} {name} {}", event.event, event.tenant("slug")))
}

#[tokio::test(flavor = "multi_thread")]
async fn people_keys_and_apps_are_followed_by_those_who_may_list_them() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    for slug in ["acme", "globex"] {
        owner.post("/api/admin/tenants", json!({ "slug": slug, "name": slug })).await;
    }
    let vic = server.sign_in_as("vic", "viewer", &[]).await;
    let mia = server.sign_in_as("mia", "none", &[("acme", "viewer"), ("globex", "viewer")]).await;
    let bea = server.sign_in_as("bea", "none", &[("acme", "admin")]).await;
    let eve = server.sign_in_as("eve", "none", &[("globex", "admin")]).await;
    let of_bea = TestKey { person: Some("bea@example.com"), ..TestKey::new(None, Role::Read) };
    let of_bea = server.insert_key(of_bea).await;
    let acme_reads = server.key_of(Some("acme"), Role::Read).await;
    let acme_admin = server.key_of(Some("acme"), Role::Admin).await;
    let all_read = server.key_of(None, Role::Read).await;
    let nobody = &server.visitor;
    let mut readers = Vec::new();
    for (name, client, key, sees) in [
        ("the owner", &owner, None, ADMINS | MEMBERS | OPERATORS | KEYS),
        ("a platform viewer", &vic, None, MEMBERS | OPERATORS),
        ("a member", &mia, None, MEMBERS),
        ("an admin of the tenant", &bea, None, ADMINS | MEMBERS),
        ("a login key to read of that admin", nobody, Some(&of_bea), MEMBERS),
        ("an admin of another tenant", &eve, None, 0),
        ("a key to read", nobody, Some(&acme_reads), MEMBERS),
        ("a key of an admin", nobody, Some(&acme_admin), ADMINS | MEMBERS),
        ("a key to read all tenants", nobody, Some(&all_read), MEMBERS),
    ] {
        let bearer = key.map(|key| format!("Bearer {key}"));
        let headers: Vec<_> =
            bearer.iter().map(|value| ("authorization", value.as_str())).collect();
        readers.push((name, EventReader::open(client, &headers).await, sees));
    }
    change_everything(&server, &owner).await;
    let rename_both = async |name: &str| {
        for slug in ["acme", "globex"] {
            rename(&owner, slug, name).await;
        }
    };
    rename_both("changed").await;
    let mut before = Vec::new();
    for (_, reader, _) in &mut readers {
        before.push(reader.until_name("changed").await);
    }
    // From its end on, a membership gives no right to what has not been read yet.
    let member = format!("/v1/tenants/acme/members/{}", server.user("mia@example.com").await.id);
    assert_eq!(owner.send(Method::DELETE, &member, &[], "").await.status, 204);
    rename_both("the end").await;
    let described = Schemas::served(&server.visitor).await;
    for ((name, reader, sees), mut received) in readers.iter_mut().zip(before) {
        received.extend(reader.until_name("the end").await);
        for event in &received {
            assert_eq!(described.violations("Event", &event.data), [""; 0], "{event:?}");
        }
        let changes: Vec<_> = received.iter().filter_map(change).collect();
        let expected = CHANGES.iter().filter(|(_, readers)| *sees & readers != 0);
        assert_eq!(changes, expected.map(|(line, _)| *line).collect::<Vec<_>>(), "{name}");
    }
}

/// Neither who left, nor who was invited, nor which keys there were.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_and_a_new_admin_see_nothing_of_before() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let invite = async |name: &str| {
        let new = json!({ "email": format!("{name}@example.com"), "role": "viewer" });
        assert_eq!(owner.post("/v1/tenants/acme/invitations", new).await.status, 201);
    };
    server.sign_in_as("bea", "none", &[("acme", "viewer")]).await;
    server.database.sql("DELETE FROM memberships").await;
    rename(&owner, "acme", "before").await;
    let mia = server.sign_in_as("mia", "none", &[("acme", "viewer")]).await;
    rename(&owner, "acme", "joined").await;
    invite("grace").await;
    let member = format!("/v1/tenants/acme/members/{}", server.user("mia@example.com").await.id);
    owner.json(Method::PUT, &member, &[], json!({ "role": "admin" })).await;
    invite("hal").await;
    rename(&owner, "acme", "the end").await;
    let received = EventReader::resume(&mia, "0").await.until_name("the end").await;
    assert_eq!(
        received.iter().filter_map(change).collect::<Vec<_>>(),
        [
            "user.created mia@example.com ",
            "membership.created mia@example.com acme",
            "membership.changed mia@example.com acme",
            "invitation.created hal@example.com acme",
        ]
    );
    let tenants = received.iter().filter(|event| event.event.starts_with("tenant."));
    let mut names: Vec<_> = tenants.map(|event| event.tenant("name")).collect();
    names.dedup();
    // The reconciler may change the tenant between two names.
    assert!(
        matches!(names[..], ["joined", "the end"] | ["before", "joined", "the end"]),
        "{names:?}"
    );
    assert!(received.iter().all(|event| event.event != "tenant.created"), "{received:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_followed_by_those_who_may_list_it() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    owner.post("/v1/apps", json!({ "slug": "notes", "name": "Notes" })).await;
    for image in ["notes:1", "notes:2"] {
        owner.post("/v1/apps/notes/releases", json!({ "image": image })).await;
    }
    let new = json!({ "slug": "acme", "name": "Acme", "app": "notes", "release": "v1" });
    owner.post("/v1/tenants", new).await;
    server.until_state("acme", State::Running).await;
    let vic = server.sign_in_as("vic", "viewer", &[]).await;
    let mia = server.sign_in_as("mia", "none", &[("acme", "admin")]).await;
    let mut of_viewer = EventReader::open(&vic, &[]).await;
    let mut of_member = EventReader::open(&mia, &[]).await;
    // Waits for the tenant to sleep.
    let idle = json!({ "release": "v2", "window": "idle" });
    let rollout = owner.post("/v1/apps/notes/rollouts", idle).await.json();
    for verb in ["pause", "resume", "abort"] {
        let path = format!("/v1/apps/notes/rollouts/{}/{verb}", rollout["id"].as_str().unwrap());
        owner.send(Method::POST, &path, &[], "").await;
    }
    rename(&owner, "acme", "the end").await;
    let described = Schemas::served(&server.visitor).await;
    let mut states = Vec::new();
    for event in of_viewer.until_name("the end").await {
        assert_eq!(described.violations("Event", &event.data), [""; 0], "{event:?}");
        let resource = &event.data["resource"];
        if resource["kind"] == "rollout" {
            assert_eq!((&resource["app"], &resource["name"]), (&json!("notes"), &json!("v2")));
            assert_eq!(resource["id"], rollout["id"]);
            states.push(format!("{} {}", event.event, resource["state"].as_str().unwrap()));
        }
    }
    // A new reason is a change, too.
    states.dedup();
    assert_eq!(
        states,
        [
            "rollout.created running",
            "rollout.changed paused",
            "rollout.changed running",
            "rollout.changed aborted",
        ]
    );
    let seen = of_member.until_name("the end").await;
    assert_eq!(seen.iter().filter_map(change).collect::<Vec<_>>(), [""; 0]);
}

/// With a tenant ends what belongs to it, and one event stands for all.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_tenant_is_one_event() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::obedient()).await;
    server.until_state("acme", State::Running).await;
    server.sign_in_as("mia", "none", &[("acme", "viewer")]).await;
    server.key_of(Some("acme"), Role::Read).await;
    let mut events = EventReader::open(&owner, &[]).await;
    let requested = owner.send(Method::DELETE, "/v1/tenants/acme", &[], "").await;
    assert_eq!(requested.status, 202, "{}", requested.text());
    let mut deleted = events.next().await.unwrap();
    while deleted.event != "tenant.deleted" {
        assert_eq!(deleted.event, "tenant.changed", "{deleted:?}");
        deleted = events.next().await.unwrap();
    }
    server.database.sql("UPDATE users SET name = 'Mia' WHERE name = 'mia'").await;
    let after = events.next().await.unwrap();
    assert_eq!((after.id, after.event.as_str()), (deleted.id + 1, "user.changed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_session_or_key() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let viewer = server.sign_in_as("vic", "viewer", &[]).await;
    let program = server.visitor.with_key(&server.admin_key().await);
    let mut of_session = EventReader::open(&viewer, &[]).await;
    let mut of_key = EventReader::open(&program, &[]).await;
    let mut of_owner = EventReader::open(&owner, &[]).await;
    for reader in [&mut of_session, &mut of_key, &mut of_owner] {
        assert!(reader.next_block().await.unwrap().starts_with("retry: "));
    }
    viewer.send(Method::POST, "/api/auth/sign-out", &[], "").await;
    server.database.sql("UPDATE api_keys SET revoked = true").await;
    assert!(of_session.next().await.is_none());
    assert!(of_key.next().await.is_none());
    owner.post("/api/admin/tenants", acme()).await;
    of_owner.until_name("Acme Ltd").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_missed_too_much_is_notified() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    server.database.sql("UPDATE tenants SET name = 'a'").await;
    server.database.sql("UPDATE tenants SET name = 'b'").await;
    let mut conn = server.database.conn().await;
    event::prune(&mut conn, 2).await.unwrap();
    assert_eq!(server.database.count("event_log").await, 2);
    let bounds = event::bounds(&mut conn).await.unwrap();
    assert_eq!(bounds.oldest, Some(bounds.head - 1));
    let (missed, future) = ((bounds.head - 3).to_string(), (bounds.head + 100).to_string());
    for last in [&missed, &future] {
        let resync = EventReader::resume(&owner, last).await.next().await.unwrap();
        assert_eq!(resync.event, "resync");
        assert!(resync.id >= bounds.head && resync.data["id"] == resync.id, "{resync:?}");
    }
    let last = (bounds.head - 2).to_string();
    let next = EventReader::resume(&owner, &last).await.next().await.unwrap();
    assert_eq!((next.id, next.event.as_str()), (bounds.head - 1, "tenant.changed"));
    let malformed = owner.send(Method::GET, PATH, &[("last-event-id", "x")], "").await;
    assert_eq!(malformed.problem(), "400 invalid_last_event_id");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_has_only_so_many_streams() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let mut readers = Vec::new();
    for _ in 0..16 {
        readers.push(EventReader::open(&owner, &[]).await);
    }
    let refused = owner.get(PATH).await;
    assert_eq!(refused.problem(), "429 rate_limited");
    assert_eq!(refused.header("retry-after"), "5");
    EventReader::open(&server.visitor.with_key(&server.admin_key().await), &[]).await;
    readers.pop();
    let free = testkit::eventually("a place", TEST_TIMEOUT, async || {
        Ok(owner.get(PATH).await.status == 200)
    });
    free.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_reports_events_that_it_can_read_no_more() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let mut events = EventReader::open(&owner, &[]).await;
    rename(&owner, "acme", "seen").await;
    let last = events.until_name("seen").await.last().unwrap().id;
    // One statement: no stream reads between the two.
    server
        .database
        .sql("WITH pruned AS (DELETE FROM event_log) UPDATE event_head SET id = id + 5")
        .await;
    let mut next = events.next().await.unwrap();
    while next.event != "resync" {
        next = events.next().await.unwrap();
    }
    assert!(next.data["id"].as_i64().unwrap() >= last + 5, "{next:?}");
    rename(&owner, "acme", "after").await;
    events.until_name("after").await;
}
