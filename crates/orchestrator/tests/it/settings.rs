//! Changed settings of the installation reach existing tenants at their next start, and their data
//! stays.

use protocol::orchestrator::{ApplyRequest, Phase};

use crate::support::router::Router;
use crate::support::simulation::EPOCH_MILLIS;
use crate::support::{AWAKE, Install, STOPS, apply, spec, until_logged, with_install};

/// `CIAL_EGRESS=none` applies to existing tenants, too.
#[tokio::test]
async fn changed_egress_applies_at_the_next_start_and_data_is_kept() {
    with_install(async |install| {
        let (spec, open) = (spec("acme", ""), install.controller());
        open.run(&spec).await;
        let before = open.until_phase(spec.id, Phase::Ready).await;
        drop(open);
        let closed = Install { egress: false, ..install.sibling() }.controller_with(2, AWAKE);
        closed.until_phase(spec.id, Phase::Ready).await;
        let kept = closed.run(&spec).await;
        assert_eq!(kept.container_id, before.container_id, "a running container is kept");
        let again = ApplyRequest { restart: true, ..apply(&spec, true) };
        let after = closed.controller.operations.apply(again).await.unwrap();
        assert_ne!(after.container_id, before.container_id);
        closed.until_phase(spec.id, Phase::Ready).await;
        let network = install.client.inspect_network(&spec.id.network(), None).await.unwrap();
        assert_eq!(network.internal, Some(true));
        until_logged(&closed, &spec, "start 2 on this volume").await;
    })
    .await;
}

#[tokio::test]
async fn a_sleeping_tenant_wakes_with_the_current_egress_setting() {
    with_install(async |install| {
        let spec = spec("acme", "");
        let first = install.controller_with(EPOCH_MILLIS, STOPS);
        first.run(&spec).await;
        let before = first.until_phase(spec.id, Phase::Sleeping).await;
        drop(first);
        let closed = Install { egress: false, ..install.sibling() };
        let second = closed.controller_with(EPOCH_MILLIS + 3_600_000, STOPS);
        second.until_phase(spec.id, Phase::Sleeping).await;
        let grant = Router::new(&second.controller).visit(spec.id).await.unwrap();
        assert!(grant.woke);
        let network = install.client.inspect_network(&spec.id.network(), None).await.unwrap();
        assert_eq!(network.internal, Some(true));
        let woken = second.until_phase(spec.id, Phase::Sleeping).await;
        assert_ne!(woken.container_id, before.container_id);
        drop(second);

        // With its own settings again, the tenant is left alone, because nothing differs.
        let third = closed.controller_with(EPOCH_MILLIS + 7_200_000, STOPS);
        third.until_phase(spec.id, Phase::Sleeping).await;
        assert!(Router::new(&third.controller).visit(spec.id).await.unwrap().woke);
        let again = third.until_phase(spec.id, Phase::Sleeping).await;
        assert_eq!(again.container_id, woken.container_id);
    })
    .await;
}
