//! After a loss of power no tenant starts from another spec than the one that was applied last, whatever is left of its
//! state files. The tests use the engine in memory and virtual time.

use std::fs;
use std::time::Duration;

use protocol::orchestrator::Phase;
use protocol::spec::Spec;

use crate::support::router::{Router, lease_error};
use crate::support::simulation::{SHORT_DELAYS, Simulation, sleeping_tenant};
use crate::support::{Running, apply};

/// A tenant that sleeps, and whose variables were replaced meanwhile, and the process after the loss of power. `damage` gets
/// the names of its two state files.
async fn after_power_cut(
    simulation: &Simulation,
    damage: impl FnOnce(&str, &str),
) -> (Running, Spec) {
    let running = simulation.controller(SHORT_DELAYS);
    let old = sleeping_tenant(&running).await;
    let spec = Spec { sealed_env: Some("replaced".to_owned()), ..old };
    running.controller.operations.apply(apply(&spec, true)).await.unwrap();
    running.until_phase(spec.id, Phase::Sleeping).await;
    drop(running);
    let file = |suffix| simulation.state.path().join(format!("{}{suffix}", spec.id));
    damage(file(".json").to_str().unwrap(), file(".spec.json").to_str().unwrap());
    let running = simulation.controller_later(Duration::from_secs(3_600), SHORT_DELAYS);
    running.until_phase(spec.id, Phase::Sleeping).await;
    (running, spec)
}

#[tokio::test(start_paused = true)]
async fn an_emptied_state_file_costs_no_variable() {
    let simulation = Simulation::new();
    let empty = |state: &str, _: &str| fs::write(state, "").unwrap();
    let (running, spec) = after_power_cut(&simulation, empty).await;
    assert!(Router::new(&running.controller).visit(spec.id).await.unwrap().woke);
    assert_eq!(simulation.engine.sealed_env(spec.id), spec.sealed_env);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_whose_spec_was_lost_starts_once_it_was_applied_again() {
    let damages: [fn(&str, &str); 3] = [
        |_, requested| fs::write(requested, "").unwrap(),
        |_, requested| fs::remove_file(requested).unwrap(),
        |state, requested| {
            [state, requested].into_iter().for_each(|path| fs::write(path, "{").unwrap())
        },
    ];
    for damage in damages {
        let simulation = Simulation::new();
        let (running, spec) = after_power_cut(&simulation, damage).await;
        let router = Router::new(&running.controller);
        let (_, code, _, detail) = lease_error(router.visit(spec.id).await);
        assert_eq!(code, "wake_failed");
        assert!(detail.contains("configuration was lost"), "{detail}");
        assert_eq!(simulation.count(spec.id, "start"), 1, "the first one, before it slept");
        let shown = running.until_phase(spec.id, Phase::Sleeping).await;
        assert!(shown.lacks_spec, "the reconciler applies it again");

        let shown = running.controller.operations.apply(apply(&spec, true)).await.unwrap();
        assert_eq!((shown.phase, shown.lacks_spec, shown.reason), (Phase::Sleeping, false, None));
        assert!(router.visit(spec.id).await.unwrap().woke);
        assert_eq!(simulation.engine.sealed_env(spec.id), spec.sealed_env);
        assert_eq!(simulation.state_dir().read(spec.id).requested.spec.as_ref(), Some(&spec));
    }
}
