//! Owners see why a tenant is awake or asleep and which policy applies. Reading changes nothing and never blocks.

use axum::http::Method;
use protocol::orchestrator::{DiskEnforcement, DiskUse, Phase};
use protocol::sleep::{IdleState, LastWake, SleepStatus, WakePhases};
use protocol::{State, TenantId, Timestamp};
use serde_json::{Value, json};

use crate::harness::schema::Schemas;
use crate::harness::{Call, FakeOrchestrator, Server, Setup, TestClient, acme, observed};

const ACME: &str = "/api/admin/tenants/acme";

async fn with_acme(phase: Phase, state: State) -> (Server, TestClient, TenantId) {
    let (server, owner) = Server::with_running_acme().await;
    let id = server.row("acme").await.tenant_id();
    server.orchestrator.publish(observed(id, phase));
    server.until_state("acme", state).await;
    (server, owner, id)
}

fn sleep_status(id: TenantId, now: Timestamp) -> SleepStatus {
    let phases_ms = WakePhases { queue: 1, engine: 310, boot: 12, first_byte: Some(4) };
    let at = now - chrono::TimeDelta::minutes(10);
    SleepStatus {
        tenant: id,
        phase: None,
        awake_because: vec!["In use: 1 request.".into()],
        asleep_because: Some("Nobody used it for 20 min.".into()),
        freezes_at: Some(now + chrono::TimeDelta::seconds(42)),
        sleeps_at: Some(now + chrono::TimeDelta::milliseconds(1_182_500)),
        last_wake: Some(LastWake { at, from: IdleState::Sleeping, total_ms: 327, phases_ms }),
    }
}

/// The fields of a tenant's JSON that concern sleep.
fn facts(tenant: &Value) -> Value {
    let names = [
        "policy",
        "effective_policy",
        "awake_because",
        "asleep_because",
        "freezes_at",
        "sleeps_at",
        "last_wake",
    ];
    names.iter().map(|name| ((*name).to_owned(), tenant[*name].clone())).collect()
}

async fn patch(owner: &TestClient, body: Value) -> crate::harness::TestResponse {
    owner.json(Method::PATCH, ACME, &[], body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_shows_the_sleep_status() {
    let (server, owner, id) = with_acme(Phase::Ready, State::Running).await;
    let other =
        SleepStatus { tenant: TenantId::new(uuid::Uuid::nil()), ..sleep_status(id, server.now()) };
    *server.orchestrator.sleep_statuses.lock().unwrap() =
        Some(vec![other, sleep_status(id, server.now())]);
    let shown = owner.get(ACME).await.json();
    insta::assert_snapshot!(serde_json::to_string_pretty(&facts(&shown)).unwrap());
    let listed = owner.get("/api/admin/tenants").await.json();
    assert_eq!(listed["tenants"], json!([shown]));
    let described = Schemas::served(&server.visitor).await;
    assert_eq!(described.violations("Tenant", &shown), [""; 0]);
    let schema = &described.0["LastWake"];
    let names = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&shown["last_wake"]), names(&schema["properties"]));
    assert_eq!(
        names(&shown["last_wake"]["phases_ms"]),
        names(&schema["properties"]["phases_ms"]["properties"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_see_the_disk_use_its_limit_and_what_enforces_it() {
    let (server, owner, tenant) = with_acme(Phase::Ready, State::Running).await;
    let page = owner.visit("/admin/tenants/acme").await.text();
    assert!(page.contains("10 GiB, not measured yet"), "{page}");
    assert_eq!(owner.get(ACME).await.json()["disk"], Value::Null);
    let described = Schemas::served(&server.visitor).await;
    for (enforced_by, name, line, hint) in [
        (DiskEnforcement::Measurement, "measurement", "measured", "it is stopped"),
        (DiskEnforcement::Filesystem, "filesystem", "enforced by the file system", "cannot write"),
    ] {
        let disk_use =
            DiskUse { tenant, used_bytes: Some(3 << 29), limit_bytes: 10 << 30, enforced_by };
        *server.orchestrator.disk_uses.lock().unwrap() = vec![disk_use];
        let page = owner.visit("/admin/tenants/acme").await.text();
        assert!(page.contains(&format!("1.5 GiB used of 10 GiB, {line}<")), "{page}");
        assert!(page.contains(hint), "{page}");
        let shown = owner.get(ACME).await.json();
        assert_eq!(shown["disk"], json!({ "used_bytes": 3_u64 << 29, "enforced_by": name }));
        let listed = owner.get("/api/admin/tenants").await.json();
        assert_eq!(listed["tenants"], json!([shown]));
        assert_eq!(described.violations("Tenant", &shown), [""; 0]);
    }
}

/// The orchestrator answers before the watch has reported the wake.
#[tokio::test(flavor = "multi_thread")]
async fn the_state_and_the_last_wake_belong_to_one_moment() {
    for (phase, state) in [(Phase::Frozen, State::Frozen), (Phase::Sleeping, State::Sleeping)] {
        let (server, owner, id) = with_acme(phase, state).await;
        let mut woken = sleep_status(id, server.now());
        woken.phase = Some(Phase::Ready);
        woken.last_wake.as_mut().unwrap().at = server.now();
        *server.orchestrator.sleep_statuses.lock().unwrap() = Some(vec![woken.clone()]);
        let shown = owner.get(ACME).await.json();
        assert_eq!(
            (&shown["state"], &shown["state_since"]),
            (&json!("running"), &shown["last_wake"]["at"])
        );
        assert_eq!(owner.get("/api/admin/tenants").await.json()["tenants"], json!([shown]));
        let page = owner.visit("/admin/tenants/acme").await.text();
        assert!(page.contains(r#"data-state="running""#), "{page}");
        assert_eq!(server.row("acme").await.state, state, "a read changes nothing");
        // A stop that the owner requested is under way: the phase before it says nothing new.
        server.orchestrator.set_reachable(false);
        while server.visitor.get("/readyz").await.json()["orchestrator"] == "connected" {}
        let stopping = owner.post(&format!("{ACME}/stop"), json!({})).await.json();
        assert_eq!(stopping["state"], state.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_sleep_status_is_no_error() {
    let (server, owner, _) = with_acme(Phase::Frozen, State::Frozen).await;
    let nothing = |tenant: &Value| {
        assert_eq!(tenant["state"], "frozen");
        assert_eq!(tenant["awake_because"], json!([]));
        for empty in ["asleep_because", "freezes_at", "sleeps_at", "last_wake"] {
            assert_eq!(tenant[empty], Value::Null, "{empty}");
        }
        assert_eq!(tenant["effective_policy"]["freeze_after_seconds"], 60);
    };
    let look = || async {
        nothing(&owner.get(ACME).await.json());
        nothing(&owner.get("/api/admin/tenants").await.json()["tenants"][0]);
        let page = owner.visit("/admin/tenants/acme").await;
        assert_eq!(page.status, 200);
        assert!(page.text().contains("does not answer at the moment"), "{}", page.text());
    };
    // The orchestrator does not know the tenant, then never answers, then is unreachable.
    look().await;
    *server.orchestrator.sleep_statuses.lock().unwrap() = None;
    look().await;
    server.orchestrator.set_reachable(false);
    while server.visitor.get("/readyz").await.json()["orchestrator"] == "connected" {}
    look().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_does_not_wake_a_tenant() {
    for (phase, state) in [(Phase::Frozen, State::Frozen), (Phase::Sleeping, State::Sleeping)] {
        let (server, owner, id) = with_acme(phase, state).await;
        *server.orchestrator.sleep_statuses.lock().unwrap() =
            Some(vec![sleep_status(id, server.now())]);
        let before = server.row("acme").await.revision;
        for path in ["/admin", "/admin/tenants/acme", "/admin/tenants/acme/edit"] {
            assert_eq!(owner.visit(path).await.status, 200, "{path}");
        }
        for path in ["/api/admin/tenants", ACME, "/api/admin/tenants/acme/logs"] {
            assert_eq!(owner.get(path).await.status, 200, "{path}");
        }
        assert_eq!(server.orchestrator.calls(), [Call::Run]);
        assert_eq!(server.row("acme").await.revision, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_change_applies_without_a_wake() {
    for (phase, state) in [(Phase::Frozen, State::Frozen), (Phase::Sleeping, State::Sleeping)] {
        let (server, owner) = Server::with_owner(FakeOrchestrator::scripted(&[
            (Call::Run, crate::harness::Reply::Observed(phase)),
            (Call::Run, crate::harness::Reply::Observed(phase)),
        ]))
        .await;
        owner.post("/api/admin/tenants", acme()).await;
        server.until_state("acme", state).await;
        let policy = json!({ "sleep_after_seconds": 600, "wake_on": "any_request" });
        let changed = patch(&owner, json!({ "policy": policy })).await;
        assert_eq!(changed.status, 200, "{}", changed.text());
        assert_eq!(changed.json()["policy"]["freeze_after_seconds"], Value::Null);
        server.until("acme", |t| t.is_some_and(|t| t.changes_done == 1)).await;
        let handed = server.orchestrator.specs.lock().unwrap().last().unwrap().clone();
        assert_eq!(handed.spec.policy.sleep_after_seconds, Some(600));
        assert_eq!(server.row("acme").await.state, state);
        server.orchestrator.assert_script_done();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_effective_policy_uses_the_installations_settings() {
    let mut setup = Setup::new(FakeOrchestrator::unreachable()).await;
    setup.env.push(("CIAL_FREEZE_AFTER", "5".to_owned()));
    setup.env.push(("CIAL_SLEEP_AFTER", "0".to_owned()));
    let server = setup.start().await;
    let owner = server.sign_up().await;
    owner.post("/api/admin/tenants", acme()).await;
    let effective = |tenant: Value| {
        let policy = &tenant["effective_policy"];
        (policy["freeze_after_seconds"].clone(), policy["sleep_after_seconds"].clone())
    };
    assert_eq!(effective(owner.get(ACME).await.json()), (json!(5), json!(0)));
    let own = patch(&owner, json!({ "policy": { "freeze_after_seconds": 7 } })).await.json();
    assert_eq!(effective(own), (json!(7), json!(0)));
    let back = patch(&owner, json!({ "policy": { "freeze_after_seconds": null } })).await.json();
    assert_eq!(back["policy"]["freeze_after_seconds"], Value::Null);
    assert_eq!(effective(back), (json!(5), json!(0)));
    let page = owner.visit("/admin/tenants/acme").await.text();
    assert!(page.contains("never (the installation&#39;s default)"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_change_is_refused_field_by_field() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let standing = || async { server.row("acme").await.changeable() };
    let before = standing().await;
    let policy = |freeze: Value, sleep: Value| json!({ "policy": { "freeze_after_seconds": freeze, "sleep_after_seconds": sleep } });
    for (body, expected) in [
        (json!({ "policy": null }), "400 invalid_json"),
        (json!({ "policy": { "freeze": 1 } }), "400 invalid_json"),
        (json!({ "slug": "x" }), "400 invalid_json"),
        (policy(json!(-1), json!(60)), "422 policy.freeze_after_seconds"),
        (policy(json!(60), json!("60")), "422 policy.sleep_after_seconds"),
        (policy(json!(1), json!(31_536_001)), "422 policy.sleep_after_seconds"),
        (policy(json!(4_294_967_296_u64), json!(0)), "422 policy.freeze_after_seconds"),
        (policy(json!(61), json!(60)), "422 policy.sleep_after_seconds"),
        (
            policy(json!([]), json!({})),
            "422 policy.freeze_after_seconds policy.sleep_after_seconds",
        ),
        (json!({ "policy": { "wake_on": "always" } }), "422 policy.wake_on"),
        (json!({ "policy": { "max_awake_seconds": 0.5 } }), "422 policy.max_awake_seconds"),
        (json!({ "policy": { "require_sign_in": "yes" } }), "422 policy.require_sign_in"),
        (json!({ "name": "", "limits": { "pids": 31 } }), "422 name limits.pids"),
    ] {
        let response = patch(&owner, body.clone()).await;
        let mut found = response.problem();
        if response.status == 422 {
            let errors = response.json()["errors"].as_array().unwrap().clone();
            let fields = errors.iter().map(|e| e["field"].as_str().unwrap().to_owned());
            found = format!("422 {}", fields.collect::<Vec<_>>().join(" "));
        }
        assert_eq!(found, expected, "{body}");
    }
    assert_eq!(standing().await, before);
    let stale = owner.json(Method::PATCH, ACME, &[("if-match", "\"0\"")], json!({})).await;
    assert_eq!(stale.problem(), "412 revision_mismatch");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_tenant_is_opened_and_woken_from_its_page() {
    let (server, owner, id) = with_acme(Phase::Sleeping, State::Sleeping).await;
    *server.orchestrator.sleep_statuses.lock().unwrap() =
        Some(vec![sleep_status(id, server.now())]);
    let page = owner.visit("/admin/tenants/acme").await.text();
    for part in [
        r#"data-state="sleeping""#,
        "Asleep for",
        "Nobody used it for 20 min.",
        "from sleep",
        "engine 310 ms, boot 12 ms",
        ">Wake</button>",
        r#"action="/api/admin/tenants/acme/open""#,
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("http-equiv"), "what rests is not looked at again");
    let list = owner.visit("/admin").await.text();
    assert!(list.contains(r#"data-state="sleeping""#) && list.contains("Open acme"), "{list}");
    let opened = owner.submit("/api/admin/tenants/acme/open", &[]).await;
    assert_eq!(opened.header("location"), "http://acme.localhost:8080/.cial/sign-in");
    // While the orchestrator is unreachable the page shows the requested wake and reloads itself.
    server.orchestrator.set_reachable(false);
    while server.visitor.get("/readyz").await.json()["orchestrator"] == "connected" {}
    let asked = owner.submit("/admin/tenants/acme/start", &[]).await;
    assert_eq!(asked.header("location"), "/admin/tenants/acme");
    let page = owner.visit("/admin/tenants/acme").await.text();
    assert!(page.contains(r#"data-state="waking""#) && page.contains("http-equiv"), "{page}");
    assert!(!page.contains(">Wake</button>"), "{page}");
    server.orchestrator.set_reachable(true);
    server.until_state("acme", State::Running).await;
    assert_eq!(server.orchestrator.calls(), [Call::Run, Call::Wake]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edit_form_changes_a_tenant_and_shows_errors() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let path = "/admin/tenants/acme/edit";
    let page = owner.visit(path).await.text();
    for part in ["Default (1 min)", "Default (20 min)", r#"value="Acme Ltd""#, r#"value="4096""#] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let fields = |sleep, cpus| {
        [
            ("name", "New"),
            ("policy.freeze_after_seconds", "60"),
            ("policy.sleep_after_seconds", sleep),
            ("policy.wake_on", "any_request"),
            ("policy.max_awake_seconds", ""),
            ("policy.require_sign_in", "true"),
            ("cpus", cpus),
            ("memory", "256"),
            ("pids", "100"),
            ("disk", "10240"),
            ("database", "2048"),
        ]
    };
    let bad = owner.submit(path, &fields("30", "two<b>")).await;
    assert_eq!(bad.status, 422);
    let text = bad.text();
    assert!(text.contains("Enter 0.01 to 1024") && text.contains("two&#60;b&#62;"), "{text}");
    assert!(text.contains(r#"<option value="30" selected>30 s</option>"#), "{text}");
    let bad = owner.submit(path, &fields("30", "1.5")).await.text();
    assert!(bad.contains(r#"id="policy.sleep_after_seconds-fault""#), "{bad}");
    assert!(bad.contains("sleeps before it could freeze"), "{bad}");
    let good = owner.submit(path, &fields("", "1.5")).await;
    assert_eq!((good.status.as_u16(), good.header("location")), (303, "/admin/tenants/acme"));
    let stale: Vec<_> = fields("600", "2").into_iter().chain([("revision", "1")]).collect();
    let stale = owner.submit(path, &stale).await;
    let (status, text) = (stale.status, stale.text());
    assert_eq!(status, 412, "{text}");
    assert!(text.contains("Somebody changed this tenant meanwhile"), "{text}");
    assert!(text.contains(r#"<option value="600" selected>"#), "what was entered is kept: {text}");
    assert!(text.contains(r#"name="revision" value="2""#), "and can be sent again: {text}");
    let tenant = owner.get(ACME).await.json();
    assert_eq!(tenant["name"], "New");
    assert_eq!(
        tenant["limits"],
        json!({ "cpu_millis": 1_500, "memory_bytes": 256 << 20, "pids": 100, "disk_bytes": 10_u64 << 30, "database_bytes": 2_u64 << 30 })
    );
    assert_eq!(
        tenant["policy"],
        json!({
            "freeze_after_seconds": 60, "sleep_after_seconds": null, "wake_on": "any_request",
            "require_sign_in": true,
        })
    );
    server.stop().await;
}
