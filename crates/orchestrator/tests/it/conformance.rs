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
struct Rig<'a> {
    driver: Arc<dyn Driver>,
    /// Prepares a tenant that behaves according to `mode`.
    script: &'a dyn Fn(&Spec),
}

impl Rig<'_> {
    fn spec(&self, mode: &str) -> Spec {
        let spec = spec("acme", mode);
        (self.script)(&spec);
        spec
    }

    async fn until_ready(&self, spec: &Spec, started: impl AsyncFnOnce()) {
        self.until(started, |s| matches!(s, EngineEvent::Ready { id, .. } if *id == spec.id)).await;
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

async fn on_memory(test: impl AsyncFnOnce(&Rig<'_>)) {
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
                Err(orchestrator::busy::BusyError::NoResponse("it was told so".to_owned())),
            ),
            _ => {}
        }
    };
    test(&Rig { driver: Arc::new(memory.clone()), script: &script }).await;
}

/// The busy list of the stand-in.
fn backup() -> BusyList {
    let busy = r#"{"busy":[{"reason":"backup","owner":"core","until":"2099-01-01T00:00:00Z"}]}"#;
    serde_json::from_str(busy).unwrap()
}

async fn on_docker(test: impl AsyncFnOnce(&Rig<'_>)) {
    with_install(async |install| {
        test(&Rig { driver: Arc::new(install.driver()), script: &|_| {} }).await;
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
    a_container_is_made_once_and_not_started,
    a_start_is_told_ready_once_and_twice_is_once,
    what_never_answers_is_never_ready,
    a_stop_ends_it_and_twice_is_fine,
    a_frozen_one_thaws_stops_and_starts,
    an_exit_is_told_with_its_code,
    a_remove_leaves_nothing_and_twice_is_fine,
    a_new_generation_is_a_new_container,
    what_is_not_there_is_refused_by_its_code,
    a_missing_image_is_told_by_its_code,
    logs_stats_and_room_are_shown,
    what_is_under_way_is_asked_of_the_tenant_itself,
);

async fn a_container_is_made_once_and_not_started(rig: &Rig<'_>) {
    let spec = rig.spec("");
    let made = rig.driver.ensure(&spec).await.unwrap();
    assert_eq!((made.run.clone(), made.generation), (RunState::Created, 1));
    let again = rig.driver.ensure(&spec).await.unwrap();
    assert_eq!(again.container, made.container);
    assert_eq!(rig.driver.inspect(spec.id).await.unwrap().unwrap().container, made.container);
    assert!(rig.is_listed(spec.id).await);
}

async fn a_start_is_told_ready_once_and_twice_is_once(rig: &Rig<'_>) {
    let spec = rig.spec("");
    let made = rig.driver.ensure(&spec).await.unwrap();
    rig.until_ready(&spec, async || {
        let started = rig.driver.start(spec.id).await.unwrap();
        assert_eq!((started.run, started.container), (RunState::Running, made.container.clone()));
        assert!(started.started_at.is_some());
    })
    .await;
    let again = rig.driver.start(spec.id).await.unwrap();
    assert!(again.ready && again.upstream.is_some(), "{again:?}");
    let kept = rig.driver.ensure(&spec).await.unwrap();
    assert_eq!((kept.run, kept.container), (RunState::Running, made.container));
}

async fn what_never_answers_is_never_ready(rig: &Rig<'_>) {
    let (mute, other) = (rig.spec("never"), rig.spec(""));
    for spec in [&mute, &other] {
        rig.driver.ensure(spec).await.unwrap();
    }
    rig.driver.start(mute.id).await.unwrap();
    // The other tenant is the clock: it starts later and is reported ready.
    rig.until_ready(&other, async || {
        rig.driver.start(other.id).await.unwrap();
    })
    .await;
    let seen = rig.driver.inspect(mute.id).await.unwrap().unwrap();
    assert!(seen.run == RunState::Running && !seen.ready, "{seen:?}");
}

async fn a_stop_ends_it_and_twice_is_fine(rig: &Rig<'_>) {
    let spec = rig.spec("");
    rig.driver.ensure(&spec).await.unwrap();
    let before = rig.driver.stop(spec.id).await.unwrap();
    assert_eq!(before.run, RunState::Created, "never started: nothing to end");
    rig.until_ready(&spec, async || {
        rig.driver.start(spec.id).await.unwrap();
    })
    .await;
    for _ in 0..2 {
        let stopped = rig.driver.stop(spec.id).await.unwrap();
        assert!(matches!(stopped.run, RunState::Exited(_)) && !stopped.ready, "{stopped:?}");
        assert_eq!((stopped.port, stopped.upstream), (None, None));
    }
    rig.until_ready(&spec, async || {
        rig.driver.start(spec.id).await.unwrap();
    })
    .await;
}

async fn a_frozen_one_thaws_stops_and_starts(rig: &Rig<'_>) {
    let spec = rig.spec("");
    rig.driver.ensure(&spec).await.unwrap();
    rig.until_ready(&spec, async || {
        rig.driver.start(spec.id).await.unwrap();
    })
    .await;
    for _ in 0..2 {
        let frozen = rig.driver.freeze(spec.id).await.unwrap();
        assert!(frozen.run == RunState::Paused && frozen.upstream.is_some(), "{frozen:?}");
    }
    let heard = tokio::time::timeout(MOMENT, rig.driver.wait_until_responsive(spec.id)).await;
    assert!(heard.is_err(), "what is frozen does not answer");
    for _ in 0..2 {
        rig.driver.thaw(spec.id).await.unwrap();
        rig.driver.wait_until_responsive(spec.id).await;
        let thawed = rig.driver.inspect(spec.id).await.unwrap().unwrap();
        assert!(thawed.run == RunState::Running && thawed.ready, "{thawed:?}");
    }
    rig.driver.freeze(spec.id).await.unwrap();
    assert_eq!(rig.driver.start(spec.id).await.unwrap().run, RunState::Running);
    rig.driver.freeze(spec.id).await.unwrap();
    assert!(matches!(rig.driver.stop(spec.id).await.unwrap().run, RunState::Exited(_)));
}

async fn an_exit_is_told_with_its_code(rig: &Rig<'_>) {
    let spec = rig.spec("exits");
    let made = rig.driver.ensure(&spec).await.unwrap();
    let start = async || {
        rig.driver.start(spec.id).await.unwrap();
    };
    let fits = |s: &EngineEvent| matches!(s, EngineEvent::Died { id, .. } if *id == spec.id);
    let EngineEvent::Died { container, exit, .. } = rig.until(start, fits).await else {
        unreachable!()
    };
    assert_eq!((container, exit.code, exit.was_ready), (made.container, 3, false));
}

async fn a_remove_leaves_nothing_and_twice_is_fine(rig: &Rig<'_>) {
    let spec = rig.spec("");
    rig.driver.ensure(&spec).await.unwrap();
    rig.driver.start(spec.id).await.unwrap();
    for _ in 0..2 {
        rig.driver.remove(spec.id).await.unwrap();
        assert_eq!(rig.driver.inspect(spec.id).await.unwrap(), None);
        assert!(!rig.is_listed(spec.id).await);
    }
}

async fn a_new_generation_is_a_new_container(rig: &Rig<'_>) {
    let spec = rig.spec("");
    let old = rig.driver.ensure(&spec).await.unwrap();
    rig.driver.start(spec.id).await.unwrap();
    let next = Spec { generation: 2, ..spec };
    let new = rig.driver.ensure(&next).await.unwrap();
    assert_eq!((new.run.clone(), new.generation), (RunState::Created, 2));
    assert_ne!(new.container, old.container);
    rig.until_ready(&next, async || {
        rig.driver.start(next.id).await.unwrap();
    })
    .await;
}

async fn what_is_not_there_is_refused_by_its_code(rig: &Rig<'_>) {
    let nobody = rig.spec("").id;
    let driver = &rig.driver;
    assert_eq!(driver.inspect(nobody).await.unwrap(), None);
    let refusals = [
        driver.start(nobody).await.unwrap_err(),
        driver.stop(nobody).await.unwrap_err(),
        driver.freeze(nobody).await.unwrap_err(),
        driver.thaw(nobody).await.unwrap_err(),
        driver.stats(nobody).await.unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.code, DriverErrorCode::NoSuchTenant, "{refusal}");
    }
}

async fn a_missing_image_is_told_by_its_code(rig: &Rig<'_>) {
    let spec =
        Spec { image: Some("cial-test-orchestrator:never-built".to_owned()), ..rig.spec("") };
    (rig.script)(&spec);
    let refusal = rig.driver.ensure(&spec).await.unwrap_err();
    assert_eq!(refusal.code, DriverErrorCode::ImageMissing, "{refusal}");
    assert!(refusal.detail.contains("Build or load the image"), "{refusal}");
}

async fn logs_stats_and_room_are_shown(rig: &Rig<'_>) {
    let spec = rig.spec("");
    rig.driver.ensure(&spec).await.unwrap();
    rig.until_ready(&spec, async || {
        rig.driver.start(spec.id).await.unwrap();
    })
    .await;
    let lines = rig.driver.logs(spec.id, Default::default()).await.unwrap();
    let text: Vec<u8> = lines.map(|piece| piece.unwrap()).collect::<Vec<_>>().await.concat();
    assert!(text.ends_with(b"\n") && !text.contains(&0x1b), "{}", String::from_utf8_lossy(&text));
    rig.driver.stats(spec.id).await.unwrap();
    let room = rig.driver.capacity().await.unwrap();
    assert!(room.networks_used >= 1 && room.networks_used < room.networks_total, "{room:?}");
}

async fn what_is_under_way_is_asked_of_the_tenant_itself(rig: &Rig<'_>) {
    let (busy, idle, mute) = (rig.spec("busy"), rig.spec(""), rig.spec("mute"));
    for spec in [&busy, &idle, &mute] {
        rig.driver.ensure(spec).await.unwrap();
        rig.until_ready(spec, async || {
            rig.driver.start(spec.id).await.unwrap();
        })
        .await;
    }
    let reasons = |list: BusyList| list.busy.into_iter().map(|b| b.reason).collect::<Vec<_>>();
    assert_eq!(rig.driver.busy_list(busy.id).await.map(reasons), Ok(vec!["backup".to_owned()]));
    assert_eq!(rig.driver.busy_list(idle.id).await.map(reasons), Ok(vec![]));
    assert!(rig.driver.busy_list(mute.id).await.is_err());
}
