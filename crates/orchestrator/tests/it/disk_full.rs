//! A full disk of the engine is an error with a name. Nothing is lost, running tenants are served, and all operations
//! succeed again once there is space. On a real engine whose data, and the orchestrator's, are on one small filesystem.

use orchestrator::driver::DriverErrorCode;
use orchestrator::tenants::state_dir::StateDir;
use protocol::orchestrator::Phase;

use crate::support::private_engine::with_private_engine;
use crate::support::router::Router;
use crate::support::{apply, spec};

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
        // A stop that is not written would be undone by the next process. Its caller repeats it.
        let stop = operations.stop(kept.id).await.unwrap_err();
        assert_eq!(stop.code, DriverErrorCode::DiskFull, "{stop}");
        assert!(stop.detail.contains("CIAL_STATE_DIR cannot be written"), "{stop}");
        let shown = running.until_phase(kept.id, Phase::Ready).await;
        assert_eq!(shown.container_id, before.container_id);

        engine.disk.make_space().unwrap();
        running.run(&new).await;
        running.until_phase(new.id, Phase::Ready).await;
        let [containers, networks, volumes] = install.objects(Some(new.id)).await;
        assert_eq!((containers.len(), networks.len(), volumes.len()), (1, 1, 2));
        assert_eq!(operations.stop(kept.id).await.unwrap().phase, Phase::Stopped);
        // No temporary file of a failed write is left.
        assert_eq!(StateDir::new(install.base.join("state")).remove_temporary_files().unwrap(), 0);
    })
    .await;
}
