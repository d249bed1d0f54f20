//! A full disk of the engine is an error with a name. Nothing is lost, running tenants are served, and all operations
//! succeed again once there is space. On a real engine whose data, and the orchestrator's, are on one small filesystem.

use orchestrator::driver::DriverErrorCode;
use orchestrator::tenants::state_dir::{StateDir, TargetState};
use protocol::orchestrator::Phase;
use protocol::spec::Spec;
use testkit::eventually;

use crate::support::private_engine::with_private_engine;
use crate::support::router::Router;
use crate::support::{PATIENCE, apply, spec};

#[tokio::test]
async fn a_full_disk_refuses_creates_and_state_files_by_name_until_there_is_space() {
    with_private_engine(async |engine, install| {
        let running = install.controller();
        let operations = &running.controller.operations;
        let (kept, new) = (spec("kept", ""), spec("new", ""));
        running.run(&kept).await;
        let before = running.until_phase(kept.id, Phase::Ready).await;
        engine.disk.fill().unwrap();

        let create = operations.apply(apply(&new, true)).await.unwrap_err();
        assert_eq!(create.code, DriverErrorCode::DiskFull, "{create}");
        let router = Router::new(&running.controller);
        assert!(!router.visit(kept.id).await.unwrap().woke, "it runs");
        router.release(kept.id);
        let shown = running.until_phase(kept.id, Phase::Ready).await;
        assert_eq!(shown.container_id, before.container_id);
        let changed = Spec { sealed_env: Some("changed".to_owned()), ..kept.clone() };
        let refused = operations.apply(apply(&changed, true)).await.unwrap_err();
        assert_eq!(refused.code, DriverErrorCode::DiskFull, "{refused}");
        assert!(refused.detail.contains("CIAL_STATE_DIR cannot be written"), "{refused}");

        engine.disk.make_space().unwrap();
        running.run(&new).await;
        running.until_phase(new.id, Phase::Ready).await;
        let [containers, networks, volumes] = install.objects(Some(new.id)).await;
        assert_eq!((containers.len(), networks.len(), volumes.len()), (1, 1, 2));
        // The caller repeats a change that was refused.
        running.run(&changed).await;
        let state_dir = StateDir::new(install.base.join("state"));
        assert_eq!(state_dir.read(kept.id).requested.spec, Some(changed));
        assert_eq!(operations.stop(kept.id).await.unwrap().phase, Phase::Stopped);
        // No temporary file of a failed write is left.
        assert_eq!(state_dir.recover().unwrap(), 0);
    })
    .await;
}

/// A delete frees the disk. It begins with a stop where the tenant has a database.
#[tokio::test]
async fn a_tenant_is_stopped_and_deleted_on_a_full_disk() {
    with_private_engine(async |engine, install| {
        let running = install.controller();
        let operations = &running.controller.operations;
        let (deleted, stopped) = (spec("deleted", ""), spec("stopped", ""));
        for spec in [&deleted, &stopped] {
            running.run(spec).await;
            running.until_phase(spec.id, Phase::Ready).await;
        }
        engine.disk.fill().unwrap();
        for spec in [&deleted, &stopped] {
            assert_eq!(operations.stop(spec.id).await.unwrap().phase, Phase::Stopped);
        }
        operations.delete(deleted.id).await.unwrap();
        assert_eq!(install.objects(Some(deleted.id)).await.map(|list| list.len()), [0, 0, 0]);
        engine.disk.make_space().unwrap();
        // The unwritten state is written as soon as there is space.
        let state_dir = StateDir::new(install.base.join("state"));
        let written = eventually("the state file", PATIENCE, async || {
            Ok(state_dir.read(stopped.id).target == TargetState::Stopped)
        });
        written.await.unwrap();
    })
    .await;
}
