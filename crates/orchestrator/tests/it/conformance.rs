//! The contract of every driver: the same functions test each driver.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use orchestrator::driver::memory::{MemoryDriver, TenantBehavior};
use orchestrator::driver::{Driver, DriverErrorCode, EngineEvent, RunState};
use protocol::TenantId;
use protocol::busy::BusyList;
use protocol::spec::Spec;

use crate::support::{PATIENCE, spec, with_install};

/// Long enough for a running tenant to respond.
const MOMENT: Duration = Duration::from_millis(300);

/// One driver under test, with the abilities of its own environment.
struct Harness<'a> {
    driver: Arc<dyn Driver>,
    /// Prepares a tenant that behaves according to `mode`.
    script: &'a dyn Fn(&Spec),
}

impl Harness<'_> {
    fn spec(&self, mode: &str) -> Spec {
        let spec = spec("acme", mode);
        (self.script)(&spec);
        spec
    }

    async fn until_ready(&self, spec: &Spec, started: impl AsyncFnOnce()) {
        self.until(started, |s| matches!(s, EngineEvent::Ready { id, .. } if *id == spec.id)).await;
    }

    async fn start(&self, spec: &Spec) {
        let start = async || {
            self.driver.start(spec).await.unwrap();
        };
        self.until_ready(spec, start).await;
    }

    async fn until(
        &self,
        act: impl AsyncFnOnce(),
        fits: impl Fn(&EngineEvent) -> bool,
    ) -> EngineEvent {
        let mut events = self.driver.watch();
        act().await;
        let seen = async {
            loop {
                let event = events.next().await.expect("a watch never ends");
                if fits(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("seen in time")
    }

    async fn is_listed(&self, id: TenantId) -> bool {
        self.driver.list().await.unwrap().iter().any(|seen| seen.id == id)
    }
}

async fn on_memory(test: impl AsyncFnOnce(&Harness<'_>)) {
    let memory = MemoryDriver::default();
    let script = |spec: &Spec| {
        let mode = spec.env.get("MODE").map(String::as_str).unwrap_or_default();
        let after = Duration::from_millis(10);
        let script = match mode {
            "exits" => TenantBehavior {
                ready_after: None,
                exits_after: Some((after, 3)),
                ..TenantBehavior::default()
            },
            "never" => TenantBehavior { ready_after: None, ..TenantBehavior::default() },
            _ => TenantBehavior { image_exists: spec.image.is_none(), ..TenantBehavior::default() },
        };
        memory.set_behavior(spec.id, script);
        match mode {
            "busy" => memory.set_busy_list(spec.id, Ok(backup())),
            "mute" => memory.set_busy_list(
                spec.id,
                Err(orchestrator::core_back::BusyError::NoResponse("scripted silence".to_owned())),
            ),
            _ => {}
        }
    };
    test(&Harness { driver: Arc::new(memory.clone()), script: &script }).await;
}

/// The busy list of the stand-in.
fn backup() -> BusyList {
    let busy = r#"{"busy":[{"reason":"backup","owner":"core","until":"2099-01-01T00:00:00Z"}]}"#;
    serde_json::from_str(busy).unwrap()
}

async fn on_docker(test: impl AsyncFnOnce(&Harness<'_>)) {
    with_install(async |install| {
        test(&Harness { driver: Arc::new(install.driver()), script: &|_| {} }).await;
    })
    .await;
}

macro_rules! every_driver {
    ($($test:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test(start_paused = true)]
            async fn $test() {
                super::on_memory(super::$test).await;
            })+
        }

        mod docker {
            $(#[tokio::test]
            async fn $test() {
                super::on_docker(super::$test).await;
            })+
        }
    };
}

every_driver!(
    a_container_is_created_once_and_not_started,
    a_start_is_idempotent_and_reported_ready,
    a_tenant_that_never_responds_is_never_ready,
    a_stop_is_idempotent,
    a_frozen_tenant_thaws_stops_and_starts,
    an_exit_is_reported_with_its_code,
    a_remove_leaves_nothing_and_is_idempotent,
    a_new_generation_is_a_new_container,
    calls_for_an_unknown_tenant_are_refused_with_a_code,
    a_missing_image_is_refused_with_its_code,
    logs_usage_and_capacity_are_readable,
    the_busy_list_is_read_from_the_tenant,
);

async fn a_container_is_created_once_and_not_started(harness: &Harness<'_>) {
    let spec = harness.spec("");
    let created = harness.driver.ensure(&spec).await.unwrap();
    assert_eq!((created.run.clone(), created.generation), (RunState::Created, 1));
    let again = harness.driver.ensure(&spec).await.unwrap();
    assert_eq!(again.container, created.container);
    assert_eq!(
        harness.driver.inspect(spec.id).await.unwrap().unwrap().container,
        created.container
    );
    assert!(harness.is_listed(spec.id).await);
}

async fn a_start_is_idempotent_and_reported_ready(harness: &Harness<'_>) {
    let spec = harness.spec("");
    let created = harness.driver.ensure(&spec).await.unwrap();
    harness
        .until_ready(&spec, async || {
            let started = harness.driver.start(&spec).await.unwrap();
            assert_eq!(
                (started.run, started.container),
                (RunState::Running, created.container.clone())
            );
            assert!(started.started_at.is_some());
        })
        .await;
    let again = harness.driver.start(&spec).await.unwrap();
    assert!(again.ready && again.upstream.is_some(), "{again:?}");
    let kept = harness.driver.ensure(&spec).await.unwrap();
    assert_eq!((kept.run, kept.container), (RunState::Running, created.container));
}

async fn a_tenant_that_never_responds_is_never_ready(harness: &Harness<'_>) {
    let (mute, other) = (harness.spec("never"), harness.spec(""));
    for spec in [&mute, &other] {
        harness.driver.ensure(spec).await.unwrap();
    }
    harness.driver.start(&mute).await.unwrap();
    // The other tenant is the clock: it starts later and is reported ready.
    harness.start(&other).await;
    let seen = harness.driver.inspect(mute.id).await.unwrap().unwrap();
    assert!(seen.run == RunState::Running && !seen.ready, "{seen:?}");
}

async fn a_stop_is_idempotent(harness: &Harness<'_>) {
    let spec = harness.spec("");
    harness.driver.ensure(&spec).await.unwrap();
    let before = harness.driver.stop(spec.id).await.unwrap();
    assert_eq!(before.run, RunState::Created, "it was never started");
    harness.start(&spec).await;
    for _ in 0..2 {
        let stopped = harness.driver.stop(spec.id).await.unwrap();
        assert!(matches!(stopped.run, RunState::Exited(_)) && !stopped.ready, "{stopped:?}");
        assert_eq!((stopped.port, stopped.upstream), (None, None));
    }
    harness.start(&spec).await;
}

async fn a_frozen_tenant_thaws_stops_and_starts(harness: &Harness<'_>) {
    let spec = harness.spec("");
    harness.driver.ensure(&spec).await.unwrap();
    harness.start(&spec).await;
    for _ in 0..2 {
        let frozen = harness.driver.freeze(spec.id).await.unwrap();
        assert!(frozen.run == RunState::Paused && frozen.upstream.is_some(), "{frozen:?}");
    }
    let response =
        tokio::time::timeout(MOMENT, harness.driver.wait_until_responsive(spec.id)).await;
    assert!(response.is_err(), "a frozen tenant responded");
    for _ in 0..2 {
        harness.driver.thaw(spec.id).await.unwrap();
        harness.driver.wait_until_responsive(spec.id).await;
        let thawed = harness.driver.inspect(spec.id).await.unwrap().unwrap();
        assert!(thawed.run == RunState::Running && thawed.ready, "{thawed:?}");
    }
    harness.driver.freeze(spec.id).await.unwrap();
    assert_eq!(harness.driver.start(&spec).await.unwrap().run, RunState::Running);
    harness.driver.freeze(spec.id).await.unwrap();
    assert!(matches!(harness.driver.stop(spec.id).await.unwrap().run, RunState::Exited(_)));
}

async fn an_exit_is_reported_with_its_code(harness: &Harness<'_>) {
    let spec = harness.spec("exits");
    let created = harness.driver.ensure(&spec).await.unwrap();
    let start = async || {
        harness.driver.start(&spec).await.unwrap();
    };
    let fits = |s: &EngineEvent| matches!(s, EngineEvent::Died { id, .. } if *id == spec.id);
    let EngineEvent::Died { container, exit, .. } = harness.until(start, fits).await else {
        unreachable!()
    };
    assert_eq!((container, exit.code, exit.was_ready), (created.container, 3, false));
}

async fn a_remove_leaves_nothing_and_is_idempotent(harness: &Harness<'_>) {
    let spec = harness.spec("");
    harness.driver.ensure(&spec).await.unwrap();
    harness.driver.start(&spec).await.unwrap();
    for _ in 0..2 {
        harness.driver.remove(spec.id).await.unwrap();
        assert_eq!(harness.driver.inspect(spec.id).await.unwrap(), None);
        assert!(!harness.is_listed(spec.id).await);
    }
}

async fn a_new_generation_is_a_new_container(harness: &Harness<'_>) {
    let spec = harness.spec("");
    let old = harness.driver.ensure(&spec).await.unwrap();
    harness.driver.start(&spec).await.unwrap();
    let next = Spec { generation: 2, ..spec };
    let new = harness.driver.ensure(&next).await.unwrap();
    assert_eq!((new.run.clone(), new.generation), (RunState::Created, 2));
    assert_ne!(new.container, old.container);
    harness.start(&next).await;
}

async fn calls_for_an_unknown_tenant_are_refused_with_a_code(harness: &Harness<'_>) {
    let spec = harness.spec("");
    let unknown = spec.id;
    let driver = &harness.driver;
    assert_eq!(driver.inspect(unknown).await.unwrap(), None);
    let refusals = [
        driver.start(&spec).await.unwrap_err(),
        driver.stop(unknown).await.unwrap_err(),
        driver.freeze(unknown).await.unwrap_err(),
        driver.thaw(unknown).await.unwrap_err(),
        driver.stats(unknown).await.unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.code, DriverErrorCode::NoSuchTenant, "{refusal}");
    }
}

async fn a_missing_image_is_refused_with_its_code(harness: &Harness<'_>) {
    let spec =
        Spec { image: Some("cial-test-orchestrator:never-built".to_owned()), ..harness.spec("") };
    (harness.script)(&spec);
    let refusal = harness.driver.ensure(&spec).await.unwrap_err();
    assert_eq!(refusal.code, DriverErrorCode::ImageMissing, "{refusal}");
    assert!(refusal.detail.contains("Build or load the image"), "{refusal}");
}

async fn logs_usage_and_capacity_are_readable(harness: &Harness<'_>) {
    let spec = harness.spec("");
    harness.driver.ensure(&spec).await.unwrap();
    harness.start(&spec).await;
    // The engine's log may lag behind the tenant.
    let logged = async {
        loop {
            let lines = harness.driver.logs(spec.id, Default::default()).await.unwrap();
            let lines: Vec<_> = lines.map(|piece| piece.unwrap()).collect().await;
            if !lines.is_empty() {
                return lines.concat();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let text = tokio::time::timeout(PATIENCE, logged).await.expect("a line of the tenant");
    assert!(text.ends_with(b"\n") && !text.contains(&0x1b), "{}", String::from_utf8_lossy(&text));
    harness.driver.stats(spec.id).await.unwrap();
    let room = harness.driver.capacity().await.unwrap();
    assert!(room.networks_used >= 1 && room.networks_used < room.networks_total, "{room:?}");
}

async fn the_busy_list_is_read_from_the_tenant(harness: &Harness<'_>) {
    let (busy, idle, mute) = (harness.spec("busy"), harness.spec(""), harness.spec("mute"));
    for spec in [&busy, &idle, &mute] {
        harness.driver.ensure(spec).await.unwrap();
        harness.start(spec).await;
    }
    let reasons = |list: BusyList| list.busy.into_iter().map(|b| b.reason).collect::<Vec<_>>();
    assert_eq!(harness.driver.busy_list(busy.id).await.map(reasons), Ok(vec!["backup".to_owned()]));
    assert_eq!(harness.driver.busy_list(idle.id).await.map(reasons), Ok(vec![]));
    assert!(harness.driver.busy_list(mute.id).await.is_err());
}
