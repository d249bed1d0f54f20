//! After a restart of the process or the engine, every tenant is found again, and running tenants
//! are left alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use orchestrator::controller::Controller;
use orchestrator::tenants::state_dir::StateDir;
use protocol::orchestrator::{ObservedTenant, Phase};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::support::{AWAKE, Install, PATIENCE, Running, SOCKET, spec, with_install};

/// A proxy to the engine's socket, which a test can close.
struct EngineProxy {
    path: PathBuf,
    serving: Option<tokio::task::JoinHandle<()>>,
}

impl EngineProxy {
    fn new(install: &Install) -> Self {
        let mut proxy = Self { path: install.base.join("engine.sock"), serving: None };
        proxy.listen();
        proxy
    }

    fn listen(&mut self) {
        let listener = UnixListener::bind(&self.path).unwrap();
        self.serving = Some(tokio::spawn(async move {
            // All connections end with the task.
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                connections.spawn(async move {
                    let mut engine = UnixStream::connect(SOCKET).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
                });
            }
        }));
    }

    async fn close(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
        std::fs::remove_file(&self.path).unwrap();
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[tokio::test]
async fn a_new_process_leaves_running_tenants_alone() {
    with_install(async |install| {
        let (up, down) = (spec("up", ""), spec("down", ""));
        let first = install.controller();
        for spec in [&up, &down] {
            first.run(spec).await;
            first.until_phase(spec.id, Phase::Ready).await;
        }
        first.controller.operations.stop(down.id).await.unwrap();
        let before = first.until_phase(up.id, Phase::Ready).await;
        let name = up.id.container();
        let started = async || {
            let seen = install.client.inspect_container(&name, None).await.unwrap();
            seen.state.unwrap().started_at.unwrap()
        };
        let at = started().await;
        drop(first);

        let second = install.controller();
        assert_eq!(second.until_phase(up.id, Phase::Ready).await, before);
        second.until_phase(down.id, Phase::Stopped).await;
        assert_eq!(second.run(&up).await, before);
        assert_eq!(started().await, at, "not restarted");
    })
    .await;
}

#[tokio::test]
async fn an_engine_that_returns_is_followed_again() {
    with_install(async |install| {
        let mut proxy = EngineProxy::new(install);
        let driver = Arc::new(install.driver_at(&proxy.path().display().to_string()));
        let state_dir = StateDir::new(install.base.join("state"));
        let running = Running::new(Controller::new(driver, state_dir, 1, AWAKE));
        let spec = spec("acme", "");
        running.run(&spec).await;
        let ready = running.until_phase(spec.id, Phase::Ready).await;

        proxy.close().await;
        let unreachable =
            running.until(spec.id, |o| o.is_some_and(|o| o.reason.is_some())).await.unwrap();
        assert_eq!(
            (unreachable.phase, unreachable.upstream),
            (Phase::Ready, ready.upstream.clone())
        );
        assert!(running.controller.store.engine_status().is_err());
        install.client.pause_container(&spec.id.container()).await.unwrap();

        proxy.listen();
        // A listing may succeed before the event stream reconnects; then the engine counts as
        // unreachable once more.
        let back = |o: Option<&ObservedTenant>| {
            o.is_some_and(|o| o.phase == Phase::Frozen && o.reason.is_none())
        };
        let frozen = running.until(spec.id, back).await.unwrap();
        assert_eq!((frozen.container_id, frozen.exits), (ready.container_id.clone(), 0));
        install.client.unpause_container(&spec.id.container()).await.unwrap();
        running.until(spec.id, |o| o == Some(&ready)).await;
        tokio::time::timeout(PATIENCE, async {
            while running.controller.store.engine_status().is_err() {
                running.controller.operations.resync().await;
            }
        })
        .await
        .unwrap();
    })
    .await;
}
