//! Waking tenants: thawing frozen ones, starting sleeping ones.

use std::sync::Arc;

use futures_util::FutureExt as _;
use lease::{CallId, EngineCall};
use protocol::TenantId;

use super::{SleepController, call_outcome};
use crate::driver::{DriverError, DriverErrorCode};
use crate::operations::Turn;
use crate::tenants::state_dir::TargetState;
use crate::tenants::{ContainerEvent, Recipe};

/// A start from the container's own spec could hand the program variables that its owner replaced.
const SPEC_LOST: &str = "Its configuration was lost with the orchestrator's state. It can be started as soon as the control plane \
     has applied the configuration again, which happens by itself.";

impl SleepController {
    pub(super) async fn wake_tenant(
        self: Arc<Self>,
        id: TenantId,
        call: EngineCall,
        call_id: CallId,
    ) {
        let turn = if let Some(turn) = self.operations.acquire_turn(id).now_or_never() {
            turn
        } else {
            self.leases.defer_call(id, call_id);
            self.operations.acquire_turn(id).await
        };
        let is_start = call == EngineCall::Start;
        // The starts that owners request happen at the same engine.
        let _permit = if is_start { self.operations.acquire_start().await } else { None };
        let Some(pending) = self.begin_call(id, call_id) else {
            return self.operations.release_turn(turn);
        };
        let result = if is_start { self.start_again(&turn).await } else { turn.thaw().await };
        let error = result.as_ref().err();
        self.store.set_wake_error(id, error.map(|error| error.detail.clone()));
        if let Err(error) = &result {
            tracing::warn!(tenant = %id, ?call, %error, "wake failed");
            turn.refresh().await;
            if is_start {
                self.return_to_sleep(&turn);
            }
        }
        turn.end_operation(error);
        pending.finish(call_outcome(&result));
        self.operations.release_turn(turn);
    }

    /// A tenant that could not be started sleeps as before, and can be requested again.
    fn return_to_sleep(&self, turn: &Turn<'_>) {
        if !turn.is_alive()
            && let Err(error) = turn.set_target(TargetState::Asleep)
        {
            tracing::error!(tenant = %turn.tenant(), %error, "state file not written");
        }
    }

    /// Where nothing changed since the tenant was stopped, the engine's start call is the only step.
    async fn start_again(&self, turn: &Turn<'_>) -> Result<(), DriverError> {
        turn.check_not_deleted()?;
        let recipe = self.store.recipe(turn.tenant());
        let Some(Recipe { spec, is_outdated }) = recipe else {
            return Err(DriverError::new(DriverErrorCode::Internal, SPEC_LOST));
        };
        if is_outdated {
            turn.ensure(&spec).await?;
        }
        self.store.on_event(turn.tenant(), ContainerEvent::StartRequested);
        turn.set_target(TargetState::Running)?;
        match turn.start(&spec).await {
            // The network or the container may be gone: retry from the spec.
            Err(error) if !is_outdated && error.is_fixed_by_recreating() => {
                turn.ensure(&spec).await?;
                turn.start(&spec).await
            }
            result => result,
        }
    }
}
