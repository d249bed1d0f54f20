//! After the machine went down and came back, tenants that ran or slept are served with their data, and stopped ones stay
//! stopped: on a real engine whose processes all end.

use protocol::orchestrator::Phase;

use crate::support::private_engine::{Shutdown, with_private_engine};
use crate::support::router::{Router, lease_error};
use crate::support::simulation::EPOCH_MILLIS;
use crate::support::{AWAKE, STOPS, spec, until_logged};

/// Tenants count their starts in a file of their volume.
const DATA_KEPT: &str = "start 2 on this volume";

async fn every_tenant_returns_after(how: Shutdown) {
    with_private_engine(async |engine, install| {
        let [running, frozen, stopped, sleeping] =
            ["running", "frozen", "stopped", "sleeping"].map(|slug| spec(slug, ""));
        let before = install.controller_with(EPOCH_MILLIS, STOPS);
        before.run(&sleeping).await;
        before.until_phase(sleeping.id, Phase::Sleeping).await;
        drop(before);
        let before = install.controller_with(EPOCH_MILLIS + 1_000, AWAKE);
        for spec in [&running, &frozen, &stopped] {
            before.run(spec).await;
            before.until_phase(spec.id, Phase::Ready).await;
        }
        install.client.pause_container(&frozen.id.container()).await.unwrap();
        before.until_phase(frozen.id, Phase::Frozen).await;
        before.controller.operations.stop(stopped.id).await.unwrap();
        drop(before);

        engine.shut_down(how).await;
        engine.boot().await;

        let after = install.controller_with(EPOCH_MILLIS + 3_600_000, AWAKE);
        // A tenant that ran runs again: by the engine, or by the reconciler, which calls exactly this for an exited container.
        for spec in [&running, &frozen] {
            after.run(spec).await;
            after.until_phase(spec.id, Phase::Ready).await;
            until_logged(&after, spec, DATA_KEPT).await;
        }
        // The engine starts every container that ended with another code than 0, also one that was stopped. The owner's
        // stop holds nevertheless.
        let router = Router::new(&after.controller);
        assert_eq!(lease_error(router.visit(stopped.id).await).1, "tenant_stopped");
        after.controller.operations.stop(stopped.id).await.unwrap();
        after.until_phase(stopped.id, Phase::Stopped).await;
        router.visit(sleeping.id).await.unwrap();
        until_logged(&after, &sleeping, DATA_KEPT).await;
        let objects = install.objects(None).await.map(|list| list.len());
        assert_eq!(objects, [4, 4, 8], "containers, networks, volumes");
    })
    .await;
}

#[tokio::test]
async fn every_tenant_returns_after_a_reboot() {
    every_tenant_returns_after(Shutdown::Orderly).await;
}

#[tokio::test]
async fn every_tenant_returns_after_a_power_cut() {
    every_tenant_returns_after(Shutdown::PowerCut).await;
}
