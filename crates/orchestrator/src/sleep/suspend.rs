//! Freezing and stopping idle tenants.

use std::sync::Arc;

use lease::{CallId, EngineCall};
use protocol::TenantId;
use protocol::orchestrator::Phase;
use protocol::sleep::IdleState;

use super::{SleepController, call_outcome, sleep_reasons};
use crate::driver::DriverError;
use crate::metrics::sleep::SuspendResult;
use crate::operations::Turn;
use crate::tenants::ContainerEvent;
use crate::tenants::state_dir::TargetState;

impl SleepController {
    /// A lease request that arrives before the engine is called cancels the suspend.
    pub(super) async fn suspend(self: Arc<Self>, id: TenantId, call: EngineCall, call_id: CallId) {
        // The permit comes before the turn: a wake must not queue behind all tenants that fall asleep.
        let _permit = self.suspends.acquire().await;
        let turn = self.operations.acquire_turn(id).await;
        let wanted = match call {
            EngineCall::Freeze => IdleState::Frozen,
            EngineCall::Stop | EngineCall::ThawThenStop | EngineCall::Thaw | EngineCall::Start => {
                IdleState::Sleeping
            }
        };
        let Some(pending) = self.begin_call(id, call_id) else {
            self.metrics.sleep.count_suspend(wanted, SuspendResult::KeptAwake);
            return self.operations.release_turn(turn);
        };
        let result = match call {
            EngineCall::ThawThenStop => self.thaw_then_stop(&turn).await,
            EngineCall::Stop => stop_for_sleep(&turn).await,
            EngineCall::Freeze | EngineCall::Thaw | EngineCall::Start => turn.freeze().await,
        };
        // After a failed stop the process may still run; its later end counts as an exit by itself.
        self.store.on_event(id, ContainerEvent::OperationEnded);
        if let Err(error) = &result {
            tracing::warn!(tenant = %id, ?call, %error, "suspend failed");
            turn.refresh().await;
        }
        let phase = self.store.phase(id);
        self.metrics.sleep.count_suspend(wanted, suspend_result(wanted, phase, result.is_ok()));
        pending.finish(call_outcome(&result));
        if matches!(phase, Some(Phase::Frozen | Phase::Sleeping)) {
            self.record_sleep(id);
        }
        self.operations.release_turn(turn);
    }

    /// An engine that stops a paused container waits in vain and kills it, so the container is thawed first. Then the tenant
    /// is checked: what it declared right before it froze is not known yet.
    async fn thaw_then_stop(&self, turn: &Turn<'_>) -> Result<(), DriverError> {
        turn.thaw().await?;
        // A request that arrived meanwhile does not wait for the busy check, too.
        if !self.leases.is_still_unused(turn.tenant()) {
            return Ok(());
        }
        let report = self.query_busy(turn.tenant()).await;
        if self.leases.continue_after_thaw(turn.tenant(), report) {
            stop_for_sleep(turn).await
        } else {
            Ok(())
        }
    }

    /// Saves why the tenant fell asleep.
    fn record_sleep(&self, id: TenantId) {
        let Some(sleep) = self.leases.last_sleep(id) else { return };
        self.store.set_asleep_because(id, |response| sleep_reasons::asleep(sleep, response));
    }
}

/// The target is saved before the call: after a crash the tenant must not look as if it had ended by itself.
async fn stop_for_sleep(turn: &Turn<'_>) -> Result<(), DriverError> {
    turn.expect_stop();
    turn.set_target(TargetState::Asleep)?;
    turn.stop().await
}

fn suspend_result(wanted: IdleState, phase: Option<Phase>, is_ok: bool) -> SuspendResult {
    match (phase.and_then(IdleState::from_phase) == Some(wanted), is_ok) {
        (true, _) => SuspendResult::Asleep,
        (false, true) => SuspendResult::KeptAwake,
        (false, false) => SuspendResult::Failed,
    }
}
