//! Suspends and wakes on the real engine.

use std::collections::HashMap;
use std::time::Duration;

use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use orchestrator::sleep::SleepSettings;
use protocol::leases::RequestIntent;
use protocol::orchestrator::{Phase, Upstream};
use protocol::sleep::IdleState;
use protocol::spec::{Limits, Spec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::support::router::{Router, lease_error};
use crate::support::simulation::EPOCH_MILLIS;
use crate::support::{Install, PATIENCE, STOPS, apply, image, spec, with_install};

const SHORT: SleepSettings = SleepSettings {
    concurrent_starts: 2,
    freeze_after: Some(Duration::from_secs(1)),
    sleep_after: Some(Duration::from_secs(3)),
    // Nothing renews these leases: a request on a busy machine must end before.
    lease_duration: Duration::from_secs(5),
    ..SleepSettings::DEFAULT
};
const FREEZES: SleepSettings = SleepSettings { sleep_after: None, ..SHORT };

/// The engine's events of this tenant's container, in order.
async fn events(install: &Install, spec: &Spec) -> Vec<String> {
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("container".to_owned(), vec![spec.id.container()]),
    ]);
    let now = install.client.info().await.unwrap().system_time.unwrap();
    let until = chrono::DateTime::parse_from_rfc3339(&now).unwrap().timestamp() + 1;
    let wanted = EventsOptionsBuilder::default()
        .since("0")
        .until(&until.to_string())
        .filters(&filters)
        .build();
    let events: Vec<_> = install.client.events(Some(wanted)).try_collect().await.unwrap();
    events.into_iter().filter_map(|event| event.action).collect()
}

/// Sends one request over the tenant's socket, as the router does, and returns whether the response
/// is 200.
async fn responds(upstream: &Upstream) -> bool {
    let Upstream::Unix(path) = upstream else { return false };
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut response = String::new();
    // A frozen tenant accepts the request and does not respond.
    let read = stream.read_to_string(&mut response);
    tokio::time::timeout(PATIENCE, read).await.expect("it is awake").unwrap();
    response.starts_with("HTTP/1.1 200 ")
}

#[tokio::test]
async fn an_idle_tenant_freezes_then_stops_and_a_request_wakes_it_from_both() {
    with_install(async |install| {
        let (spec, running) = (spec("acme", ""), install.controller_with(EPOCH_MILLIS, FREEZES));
        running.run(&spec).await;
        running.until_phase(spec.id, Phase::Frozen).await;
        let router = Router::new(&running.controller);
        let grant = router.request(spec.id, RequestIntent::Background, 60_000).await.unwrap();
        assert!(grant.woke && responds(&grant.upstream).await);
        router.release(spec.id);
        running.until_phase(spec.id, Phase::Frozen).await;
        drop(running);

        // The next process finds the tenant frozen, thaws it and stops it.
        let next = install.controller_with(EPOCH_MILLIS + 3_600_000, SHORT);
        let asleep = next.until_phase(spec.id, Phase::Sleeping).await;
        assert_eq!((asleep.exits, asleep.reason), (0, None));
        let router = Router::new(&next.controller);
        let refusal = lease_error(router.request(spec.id, RequestIntent::Background, 60_000).await);
        assert_eq!(refusal.1, "wake_required");
        let grant = router.visit(spec.id).await.unwrap();
        assert!(grant.woke && responds(&grant.upstream).await);
        let wake = next.controller.sleep.status(spec.id).unwrap().last_wake.unwrap();
        assert_eq!(wake.from, IdleState::Sleeping);
        let shown = events(install, &spec).await;
        let acts: Vec<_> = shown
            .iter()
            .map(String::as_str)
            .filter(|a| ["start", "pause", "unpause", "stop"].contains(a))
            .collect();
        let expected = ["start", "pause", "unpause", "pause", "unpause", "stop", "start"];
        // Nothing renews the last lease, so the tenant may be frozen again.
        assert_eq!(acts.get(..expected.len()), Some(&expected[..]), "{shown:?}");
    })
    .await;
}

#[tokio::test]
async fn a_thousand_concurrent_requests_start_a_sleeping_tenant_once() {
    with_install(async |install| {
        let (spec, running) = (spec("acme", "slow"), install.controller_with(EPOCH_MILLIS, STOPS));
        running.run(&spec).await;
        running.until_phase(spec.id, Phase::Sleeping).await;
        let router = Router::new(&running.controller);
        let grants = join_all((0..1_000).map(|_| router.visit(spec.id))).await;
        for grant in grants {
            let grant = grant.unwrap();
            assert!(grant.woke && grant.generation == 1);
        }
        let shown = events(install, &spec).await;
        let starts = shown.iter().filter(|action| *action == "start").count();
        assert_eq!(starts, 2, "the first one, and one wake: {shown:?}");
    })
    .await;
}

#[tokio::test]
async fn requests_around_the_moment_of_a_freeze_are_all_granted() {
    with_install(async |install| {
        let settings = SleepSettings {
            freeze_after: Some(Duration::from_millis(100)),
            sleep_after: None,
            // A request on a busy machine must end before.
            lease_duration: Duration::from_secs(10),
            ..SHORT
        };
        let (spec, running) = (spec("acme", ""), install.controller_with(EPOCH_MILLIS, settings));
        running.run(&spec).await;
        running.until_phase(spec.id, Phase::Frozen).await;
        let router = Router::new(&running.controller);
        let mut woke = 0;
        for round in 0..60_u64 {
            let grant = router.request(spec.id, RequestIntent::Background, 60_000).await.unwrap();
            woke += u32::from(grant.woke);
            assert!(responds(&grant.upstream).await, "round {round}: frozen under a live lease");
            router.release(spec.id);
            // Spreads the requests over the time before and after the idle deadline.
            tokio::time::sleep(Duration::from_millis(85 + round % 30)).await;
        }
        assert!(woke > 0, "none of them met it frozen");
    })
    .await;
}

#[tokio::test]
async fn a_paused_container_takes_new_limits_and_is_thawed_by_a_request() {
    with_install(async |install| {
        let (spec, running) = (spec("acme", ""), install.controller());
        running.run(&spec).await;
        running.until_phase(spec.id, Phase::Ready).await;
        install.client.pause_container(&spec.id.container()).await.unwrap();
        running.until_phase(spec.id, Phase::Frozen).await;
        let limits = Limits { pids: 48, ..spec.limits };
        let change = apply(&Spec { limits, ..spec.clone() }, true);
        assert_eq!(running.controller.operations.apply(change).await.unwrap().phase, Phase::Frozen);
        let seen = install.client.inspect_container(&spec.id.container(), None).await.unwrap();
        assert_eq!(seen.host_config.unwrap().pids_limit, Some(48));
        let grant = Router::new(&running.controller).visit(spec.id).await.unwrap();
        assert!(grant.woke && responds(&grant.upstream).await);
    })
    .await;
}

#[tokio::test]
async fn a_wake_handles_a_removed_network_and_a_broken_image() {
    with_install(async |install| {
        let tag = install.name.to_string();
        let old = image::rebuild(&install.client, &tag, 1).await;
        let spec = Spec { image: Some(image::name(&tag)), ..spec("acme", "") };
        let running = install.controller_with(EPOCH_MILLIS, STOPS);
        running.run(&spec).await;
        running.until_phase(spec.id, Phase::Sleeping).await;
        install.client.remove_network(&spec.id.network()).await.unwrap();
        let router = Router::new(&running.controller);
        assert!(responds(&router.visit(spec.id).await.unwrap().upstream).await, "created again");

        router.release(spec.id);
        running.until_phase(spec.id, Phase::Sleeping).await;
        let broken = image::broken(&install.client, &tag).await;
        running.controller.operations.resync().await;
        running.until(spec.id, |o| o.is_some_and(|o| o.image_outdated)).await;
        let (status, code, _, detail) = lease_error(router.visit(spec.id).await);
        assert_eq!((status, code), (502, "wake_failed"));
        assert!(detail.contains("entry point must be the supervisor"), "{detail}");
        let shown = running.until_phase(spec.id, Phase::Sleeping).await;
        assert_eq!((shown.reason, shown.exits), (Some(detail), 0));
        running.controller.operations.delete(spec.id).await.unwrap();
        for image in [old, broken] {
            image::remove(&install.client, &image).await;
        }
    })
    .await;
}
