//! Sleep and wake: leases for routers, and the engine's calls that [`lease::Authority`] decides on.

mod hold;
mod lease_error;
mod lease_requests;
mod lease_service;
mod progress;
mod settings;
mod sleep_reasons;
mod status;
mod suspend;
mod wake;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lease::{BusyReport, CallId, CallOutcome, EngineCall, Moment};
use protocol::TenantId;
use protocol::busy::BusyList;
use protocol::orchestrator::Phase;
use protocol::sleep::IdleState;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;

pub use self::hold::AwakeHold;
pub use self::lease_error::LeaseError;
pub(crate) use self::lease_service::{LeaseGauges, LeaseService, SleepCommand};
pub use self::settings::SleepSettings;

use self::lease_service::{to_last_wake, to_moment};
use crate::core_back::BusyError;
use crate::driver::DriverError;
use crate::metrics::Metrics;
use crate::metrics::sleep::{BusyResponse, WakePart};
use crate::operations::Operations;
use crate::tenants::{ContainerEvent, TenantStore};

/// Decides through the lease service, and acts through the operations. Neither of them can call the controller.
pub struct SleepController {
    leases: Arc<LeaseService>,
    store: Arc<TenantStore>,
    operations: Arc<Operations>,
    commands: Mutex<Option<mpsc::UnboundedReceiver<SleepCommand>>>,
    suspends: Semaphore,
    /// Suspends and wakes under way.
    calls: TaskTracker,
    metrics: Arc<Metrics>,
}

/// Less than the time that a container engine leaves this process to end.
const CALLS_TIMEOUT: Duration = Duration::from_secs(5);

impl SleepController {
    pub(crate) fn new(
        leases: Arc<LeaseService>,
        commands: mpsc::UnboundedReceiver<SleepCommand>,
        store: Arc<TenantStore>,
        operations: Arc<Operations>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            commands: Mutex::new(Some(commands)),
            suspends: Semaphore::new(leases.settings().concurrent_suspends),
            leases,
            store,
            operations,
            calls: TaskTracker::new(),
            metrics,
        }
    }

    /// The commands for [`Self::execute`]: once in the life of a controller.
    pub(crate) fn take_commands(&self) -> Option<mpsc::UnboundedReceiver<SleepCommand>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends when a deadline passed. Must run in a loop: the timer is part of every decision. Cancel-safe.
    pub(crate) async fn run_timer(&self) {
        self.leases.run_timer().await;
    }

    /// Never waits: calls that take time run in tasks of their own.
    pub(crate) fn execute(self: &Arc<Self>, command: SleepCommand) {
        let controller = self.clone();
        match command {
            SleepCommand::QueryBusy { tenant, generation } => {
                tokio::spawn(async move {
                    let report = controller.query_busy(tenant).await;
                    controller.leases.on_busy_report(tenant, generation, report);
                });
            }
            SleepCommand::CallEngine { tenant, call, call_id } => {
                self.calls.spawn(async move {
                    match call {
                        EngineCall::Freeze | EngineCall::Stop | EngineCall::ThawThenStop => {
                            controller.suspend(tenant, call, call_id).await;
                        }
                        EngineCall::Thaw | EngineCall::Start => {
                            controller.wake_tenant(tenant, call, call_id).await;
                        }
                    }
                });
            }
            SleepCommand::RecordWake { tenant, timings } => {
                let Some(wake) = to_last_wake(&timings) else { return };
                self.metrics.sleep.count_wake(wake.from, true);
                let parts = [
                    (WakePart::Queue, timings.queue),
                    (WakePart::Engine, timings.engine),
                    (WakePart::Boot, timings.boot),
                    (WakePart::Total, timings.total),
                ];
                for (part, millis) in parts {
                    let duration = Duration::from_millis(millis);
                    self.metrics.sleep.record_wake_time(wake.from, part, duration);
                }
                self.store.set_last_wake(tenant, wake);
            }
            SleepCommand::RecordFailedWake { tenant } => {
                let from = self.store.phase(tenant).and_then(IdleState::from_phase);
                self.metrics.sleep.count_wake(from.unwrap_or(IdleState::Sleeping), false);
            }
        }
    }

    /// Asks the tenant whether work inside is busy, and keeps its response for people.
    async fn query_busy(&self, id: TenantId) -> BusyReport {
        let response = self.operations.fetch_busy_list(id).await;
        let report = busy_report(&response, self.leases.now());
        self.metrics.sleep.count_busy_check(match report {
            BusyReport::NotBusy | BusyReport::NotQueried => BusyResponse::Idle,
            BusyReport::Busy { .. } | BusyReport::BusyTooLong { .. } => BusyResponse::Busy,
            BusyReport::NoReply => BusyResponse::None,
        });
        if let Err(error) = &response {
            tracing::debug!(tenant = %id, %error, "busy check failed");
        }
        self.store.set_busy_response(id, response);
        report
    }

    /// The recheck right before the engine is called. `None`: the call is not wanted any more, or this process is shutting
    /// down.
    fn begin_call(&self, id: TenantId, call_id: CallId) -> Option<PendingEngineCall<'_>> {
        let begins = self.leases.begin_call(id, call_id);
        begins.then_some(PendingEngineCall { controller: self, id, call_id: Some(call_id) })
    }

    /// Writes the state files of the tenants that were used since the last call, and those that could not be written before:
    /// every few seconds, and before the process ends.
    pub fn save_states(&self) {
        for id in self.leases.take_used().into_iter().chain(self.store.unsaved()) {
            if self.store.read(id, |_| ()).is_some() {
                self.store.save_or_log(id);
            }
        }
    }

    /// Accepts no lease request from here on; those who wait are notified in the order of their requests.
    pub fn shut_down(&self) {
        self.leases.shut_down();
    }

    /// Waits for the engine's calls that have begun, for a bounded time.
    pub async fn wait_for_calls(&self) {
        self.calls.close();
        if tokio::time::timeout(CALLS_TIMEOUT, self.calls.wait()).await.is_err() {
            tracing::warn!("shutdown interrupts engine calls");
        }
    }

    pub(crate) fn gauges(&self) -> LeaseGauges {
        self.leases.gauges(&self.store.ids())
    }

    pub(crate) fn active_suspends(&self) -> usize {
        self.settings().concurrent_suspends.saturating_sub(self.suspends.available_permits())
    }

    pub(crate) fn settings(&self) -> &SleepSettings {
        self.leases.settings()
    }
}

/// A call of the engine that has begun. A call that panics counts as refused: without a report, the authority would wait for
/// its end for ever.
struct PendingEngineCall<'a> {
    controller: &'a SleepController,
    id: TenantId,
    /// `None` once its end was reported.
    call_id: Option<CallId>,
}

impl PendingEngineCall<'_> {
    /// Reports what the engine shows now. The tenant's turn must still be held.
    fn finish(mut self, outcome: CallOutcome) {
        self.report(outcome);
    }

    fn report(&mut self, outcome: CallOutcome) {
        let Some(call_id) = self.call_id.take() else { return };
        let phase = self.controller.store.phase(self.id).unwrap_or(Phase::Exited);
        self.controller.leases.on_call_finished(self.id, call_id, outcome, phase);
    }
}

impl Drop for PendingEngineCall<'_> {
    fn drop(&mut self) {
        if self.call_id.is_some() {
            self.controller.store.on_event(self.id, ContainerEvent::OperationEnded);
            self.report(CallOutcome::Refused);
        }
    }
}

fn busy_report(response: &Result<BusyList, BusyError>, now: Moment) -> BusyReport {
    match response {
        Err(BusyError::NoResponse(_)) => BusyReport::NoReply,
        // The work inside is unknown: the tenant must not be suspended now, and is checked again.
        Err(BusyError::Local(_)) => BusyReport::Busy { until: now },
        Ok(list) => match list.busy.iter().map(|busy| busy.until).max() {
            Some(until) => BusyReport::Busy { until: to_moment(until) },
            None => BusyReport::NotBusy,
        },
    }
}

fn call_outcome(result: &Result<(), DriverError>) -> CallOutcome {
    if result.is_ok() { CallOutcome::Done } else { CallOutcome::Refused }
}

/// Converts the moment to the wall clock.
fn clock_time(at: Moment) -> String {
    lease_service::to_timestamp(at).format("%H:%M:%S UTC").to_string()
}
