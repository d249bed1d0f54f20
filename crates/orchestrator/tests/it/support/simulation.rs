//! A controller over an engine in memory, in virtual time, with tenants that fall asleep within
//! seconds.

use std::sync::Arc;
use std::time::Duration;

use orchestrator::controller::Controller;
use orchestrator::driver::Driver as _;
use orchestrator::driver::memory::MemoryDriver;
use orchestrator::sleep::SleepSettings;
use orchestrator::tenants::state_dir::StateDir;
use protocol::TenantId;
use protocol::orchestrator::{ApplyRequest, Phase};
use protocol::sleep::SleepStatus;
use protocol::spec::{Policy, Spec};

use super::{Running, TempDir, apply, spec};

/// Frozen after 10 s, stopped after 30 s; a lease lasts 15 s.
pub(crate) const SHORT_DELAYS: SleepSettings = SleepSettings {
    freeze_after: Some(Duration::from_secs(10)),
    sleep_after: Some(Duration::from_secs(30)),
    ..SleepSettings::DEFAULT
};
/// A start time in milliseconds since 1970. Every process of a test needs a different one.
pub(crate) const EPOCH_MILLIS: u64 = 1_795_000_000_000;

pub(crate) struct Simulation {
    pub(crate) engine: MemoryDriver,
    pub(crate) state: TempDir,
}

impl Simulation {
    pub(crate) fn new() -> Self {
        Self { engine: MemoryDriver::default(), state: TempDir::new("orchestrator").unwrap() }
    }

    /// A simulation with its first controller.
    pub(crate) fn start(settings: SleepSettings) -> (Self, Running) {
        let simulation = Self::new();
        let running = simulation.controller(settings);
        (simulation, running)
    }

    /// [`Self::start`] with a tenant whose start call has returned.
    pub(crate) async fn with_run(settings: SleepSettings) -> (Self, Running, Spec) {
        let (simulation, running) = Self::start(settings);
        let spec = spec("acme", "");
        running.run(&spec).await;
        (simulation, running, spec)
    }

    /// [`Self::start`] with a tenant that is ready.
    pub(crate) async fn with_ready(settings: SleepSettings) -> (Self, Running, Spec) {
        let (simulation, running) = Self::start(settings);
        let spec = ready_tenant(&running).await;
        (simulation, running, spec)
    }

    /// [`Self::start`] with a frozen tenant.
    pub(crate) async fn with_frozen(settings: SleepSettings) -> (Self, Running, Spec) {
        let (simulation, running) = Self::start(settings);
        let spec = frozen_tenant(&running).await;
        (simulation, running, spec)
    }

    /// [`Self::start`] with a sleeping tenant.
    pub(crate) async fn with_sleeping(settings: SleepSettings) -> (Self, Running, Spec) {
        let (simulation, running) = Self::start(settings);
        let spec = sleeping_tenant(&running).await;
        (simulation, running, spec)
    }

    pub(crate) fn controller(&self, settings: SleepSettings) -> Running {
        self.controller_later(Duration::ZERO, settings)
    }

    /// A process that starts `later` than the first one.
    pub(crate) fn controller_later(&self, later: Duration, settings: SleepSettings) -> Running {
        let epoch = EPOCH_MILLIS + u64::try_from(later.as_millis()).unwrap();
        let engine = Arc::new(self.engine.clone());
        // A new process does not know which tenants are ready.
        drop(engine.watch());
        Running::new(Controller::new(engine, self.state_dir(), epoch, settings))
    }

    /// The number of starts of all tenants.
    pub(crate) fn starts(&self) -> usize {
        self.engine.calls().iter().filter(|call| call.starts_with("start")).count()
    }

    pub(crate) fn state_dir(&self) -> StateDir {
        StateDir::new(self.state.path().to_owned())
    }

    /// The engine's calls for this tenant, in order.
    pub(crate) fn calls(&self, id: TenantId) -> Vec<String> {
        let (calls, id) = (self.engine.calls(), format!(" {id}"));
        calls.iter().filter_map(|call| call.strip_suffix(&id)).map(str::to_owned).collect()
    }

    pub(crate) fn count(&self, id: TenantId, what: &str) -> usize {
        self.calls(id).iter().filter(|call| *call == what).count()
    }
}

/// A tenant that is ready, and one that sleeps.
pub(crate) async fn ready_tenant(running: &Running) -> Spec {
    let spec = spec("acme", "");
    running.run(&spec).await;
    running.until_phase(spec.id, Phase::Ready).await;
    spec
}

pub(crate) async fn frozen_tenant(running: &Running) -> Spec {
    let spec = ready_tenant(running).await;
    running.until_phase(spec.id, Phase::Frozen).await;
    spec
}

pub(crate) async fn sleeping_tenant(running: &Running) -> Spec {
    let spec = ready_tenant(running).await;
    running.until_phase(spec.id, Phase::Sleeping).await;
    spec
}

pub(crate) fn sleep_status(running: &Running, id: TenantId) -> SleepStatus {
    running.controller.sleep.status(id).unwrap()
}

pub(crate) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) fn with_policy(spec: &Spec, policy: Policy) -> ApplyRequest {
    apply(&Spec { policy, ..spec.clone() }, true)
}
