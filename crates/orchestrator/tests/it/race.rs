//! Lease requests around every deadline, on a slow engine. None is refused, granted for a suspended
//! tenant, or left waiting. The test runs in virtual time and is the same in each run.

use std::time::Duration;

use orchestrator::driver::memory::TenantBehavior;
use orchestrator::driver::{Driver as _, RunState};
use orchestrator::sleep::SleepSettings;
use protocol::TenantId;
use tokio::time::sleep;

use crate::support::router::Router;
use crate::support::simulation::{SHORT_DELAYS, Simulation, ready_tenant, with_policy};

const ROUNDS: u32 = 400;

/// A pseudo-random generator with a fixed seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        // Knuth's constants; the low bits are the bad ones.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    async fn wait_below(&mut self, millis: u64) {
        sleep(Duration::from_millis(self.below(millis))).await;
    }
}

async fn is_running(simulation: &Simulation, id: TenantId) -> bool {
    simulation
        .engine
        .inspect(id)
        .await
        .unwrap()
        .is_some_and(|seen| seen.run == RunState::Running && seen.ready)
}

#[tokio::test(start_paused = true)]
async fn no_request_is_lost_around_a_suspend() {
    let simulation = Simulation::new();
    let settings = SleepSettings {
        freeze_after: Some(Duration::from_millis(1_000)),
        sleep_after: Some(Duration::from_millis(2_000)),
        lease_duration: Duration::from_millis(1_500),
        ..SHORT_DELAYS
    };
    let running = simulation.controller(settings);
    let spec = ready_tenant(&running).await;
    let (first, second) = (Router::new(&running.controller), Router::new(&running.controller));
    let (mut random, mut woken) = (Random(7), 0);
    for round in 0..ROUNDS {
        let slow = Duration::from_millis(random.below(600));
        simulation
            .engine
            .set_behavior(spec.id, TenantBehavior { engine: slow, ..TenantBehavior::default() });
        // Holds the tenant's turn, so that time passes between a decision and its execution.
        let (controller, change) = (running.controller.clone(), with_policy(&spec, spec.policy));
        let later = Duration::from_millis(700 + random.below(500));
        let changing = tokio::spawn(async move {
            sleep(later).await;
            controller.operations.apply(change).await
        });
        // Around the freeze, or around the stop and both calls.
        if random.below(2) == 0 {
            sleep(Duration::from_millis(1_000)).await;
            random.wait_below(600).await;
        } else {
            random.wait_below(3_000).await;
        }
        let router = if random.below(2) == 0 { &first } else { &second };
        let grant = router.visit(spec.id).await.unwrap_or_else(|no| panic!("{round}: {no:?}"));
        woken += u32::from(grant.woke);
        let suspends = || simulation.count(spec.id, "freeze") + simulation.count(spec.id, "stop");
        let before = suspends();
        for _ in 0..random.below(4) {
            assert!(is_running(&simulation, spec.id).await, "round {round}: just granted");
            if random.below(8) == 0 {
                // The lease may have expired; the renewal then shows that.
                random.wait_below(2_000).await;
            } else {
                random.wait_below(500).await;
                assert_eq!(suspends(), before, "round {round}: under a live lease");
            }
            if router.renew(spec.id, 0).is_none() {
                break;
            }
        }
        // Sometimes a holder dies without a release.
        if random.below(4) > 0 {
            router.release(spec.id);
        }
        changing.await.unwrap().unwrap();
    }
    assert!(woken > ROUNDS / 4, "only {woken} met it asleep");
    let starts = simulation.count(spec.id, "start") - 1;
    assert!(starts <= usize::try_from(woken).unwrap(), "{starts} starts for {woken} wakes");
}
