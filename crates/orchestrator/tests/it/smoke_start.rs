//! The program of an image is tried in a throw-away tenant. The tests use the engine in memory and virtual time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use orchestrator::controller::Controller;
use orchestrator::driver::memory::{MemoryDriver, TenantBehavior};
use orchestrator::driver::{Driver as _, DriverError, DriverErrorCode};
use orchestrator::tenants::state_dir::StateDir;
use protocol::TenantId;
use protocol::images::PullPolicy;
use protocol::process::{AppSpec, PrepareImage, PreparedImage};
use protocol::spec::Spec;
use protocol::variables::SealedAppEnv;
use testkit::eventually;
use uuid::Uuid;

use crate::support::{AWAKE, Running, TempDir, spec};

async fn prepare(
    engine: &MemoryDriver,
    behavior: TenantBehavior,
) -> Result<PreparedImage, DriverError> {
    let state = TempDir::new("orchestrator").unwrap();
    let running = start(engine, &state);
    engine.set_default_behavior(behavior);
    let request = PrepareImage {
        image: "notes:1".to_owned(),
        pull: PullPolicy::Missing,
        login: None,
        app: AppSpec::default(),
        smoke_start: Some(BTreeMap::new()),
        app_env: Some(SealedAppEnv { app: Uuid::nil(), sealed: "sealed".to_owned() }),
    };
    let prepared = running.controller.operations.prepare_image(request).await;
    let tenants = running.controller.store.feed().map(|feed| feed.list());
    assert_eq!(tenants.unwrap_or_default(), [], "nobody sees the throw-away tenant");
    assert_eq!(engine.list().await.unwrap(), [], "nothing of it stays");
    prepared
}

fn start(engine: &MemoryDriver, state: &TempDir) -> Running {
    let state_dir = StateDir::new(state.path().to_owned());
    Running::new(Controller::new(Arc::new(engine.clone()), state_dir, 1, AWAKE))
}

#[tokio::test(start_paused = true)]
async fn a_program_that_gets_ready_makes_a_release() {
    let engine = MemoryDriver::default();
    prepare(&engine, TenantBehavior::default()).await.unwrap();
    let calls = engine.calls();
    let operations: Vec<_> = calls.iter().filter_map(|call| call.split(' ').next()).collect();
    assert_eq!(operations, ["create", "start", "remove"]);
    let env = engine.app_envs().pop().flatten();
    assert_eq!(env.map(|env| env.sealed).as_deref(), Some("sealed"), "it has the app's variables");
}

#[tokio::test(start_paused = true)]
async fn a_program_that_does_not_stay_ready_is_refused_with_its_log() {
    let ok = TenantBehavior::default();
    let never = TenantBehavior { ready_after: None, ..ok };
    let exits = |seconds, code| Some((Duration::from_secs(seconds), code));
    for (behavior, expected) in [
        (never, "The program was not ready within 30 seconds."),
        (
            TenantBehavior { exits_after: exits(1, 3), ..never },
            "The program ended before it was ready; its tenant exited with code 3.",
        ),
        (
            TenantBehavior { exits_after: exits(1, 4), ..ok },
            "The program ended soon after it was ready; its tenant exited with code 4.",
        ),
    ] {
        let refused = prepare(&MemoryDriver::default(), behavior).await.unwrap_err();
        assert_eq!(refused.code, DriverErrorCode::ProgramFailed);
        let log = " The last lines of its log:\ncontainer ";
        assert!(refused.detail.starts_with(&format!("{expected}{log}")), "{}", refused.detail);
    }
    let broken = TenantBehavior { refuses_start: true, ..ok };
    let refused = prepare(&MemoryDriver::default(), broken).await.unwrap_err();
    assert_eq!(refused.code, DriverErrorCode::EngineRefused);
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_process_left_is_removed_and_tenants_stay() {
    let engine = MemoryDriver::default();
    let left = uuid::Builder::from_custom_bytes(*Uuid::now_v7().as_bytes()).into_uuid();
    let left = Spec { id: TenantId::new(left), ..spec("smoke-start", "") };
    let tenant = spec("acme", "");
    for spec in [&left, &tenant] {
        engine.ensure(spec).await.unwrap();
    }
    let state = TempDir::new("orchestrator").unwrap();
    let _running = start(&engine, &state);
    let listed = eventually("the removal", Duration::from_secs(60), async || {
        Ok(engine.list().await?.iter().map(|status| status.id).eq([tenant.id]))
    });
    listed.await.unwrap();
}
