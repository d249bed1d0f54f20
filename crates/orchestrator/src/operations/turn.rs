//! The right to change one tenant, and the engine's calls that need it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::TenantId;
use protocol::spec::Spec;
use tokio::sync::OwnedMutexGuard;

use super::{Operations, state_dir_error};
use crate::driver::{ContainerStatus, DriverError, DriverErrorCode};
use crate::tenants::ContainerEvent;
use crate::tenants::state_dir::TargetState;

/// The turns of all tenants. Its lock is held while the store is called, never the other way round: the store has no
/// operations.
#[derive(Default)]
pub(super) struct TurnTable(Mutex<HashMap<TenantId, TurnState>>);

#[derive(Default)]
struct TurnState {
    /// Held by the operation under way.
    lock: Arc<tokio::sync::Mutex<()>>,
    /// Operations under way or waiting.
    users: u32,
    /// When the last operation ended, or the last inspection began, by the clock of [`Operations`].
    touched: u64,
    /// An event arrived during an operation.
    needs_inspection: bool,
}

/// Whether the result of an inspection may be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InspectionResult {
    Applied,
    /// An operation is under way, and inspects at its end.
    Deferred,
    /// A newer status is known.
    Outdated,
}

impl TurnTable {
    /// Whether an inspection may begin now. During an operation it is deferred to the end.
    pub(super) fn begin_inspection(&self, id: TenantId) -> bool {
        let mut turns = self.lock();
        let turn = turns.entry(id).or_default();
        turn.needs_inspection |= turn.users > 0;
        turn.users == 0
    }

    /// Calls `apply` when nothing happened to the tenant since the inspection began. `apply` returns whether the tenant was
    /// forgotten.
    pub(super) fn finish_inspection(
        &self,
        id: TenantId,
        began: u64,
        apply: impl FnOnce() -> bool,
    ) -> InspectionResult {
        let mut turns = self.lock();
        let turn = turns.entry(id).or_default();
        if turn.users > 0 {
            turn.needs_inspection = true;
            return InspectionResult::Deferred;
        }
        if turn.touched > began {
            return InspectionResult::Outdated;
        }
        // Inspections overtake each other: the one that began last has the newest status.
        turn.touched = began;
        if apply() {
            turns.remove(&id);
        }
        InspectionResult::Applied
    }

    /// Makes inspections that began before `now` outdated.
    pub(super) fn touch(&self, id: TenantId, now: u64) {
        if let Some(turn) = self.lock().get_mut(&id) {
            turn.touched = now;
            turn.needs_inspection |= turn.users > 0;
        }
    }

    /// Calls `forget` unless an operation is under way or waits.
    pub(super) fn remove_unused(&self, id: TenantId, forget: impl FnOnce()) {
        let mut turns = self.lock();
        if turns.get(&id).is_some_and(|turn| turn.users == 0) {
            turns.remove(&id);
            forget();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, TurnState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to change one tenant. Others wait until it is dropped, or given back by [`Operations::release_turn`].
pub(crate) struct Turn<'a> {
    operations: &'a Operations,
    id: TenantId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let now = self.operations.now();
        if let Some(turn) = self.operations.turns.lock().get_mut(&self.id) {
            turn.users -= 1;
            turn.touched = now;
        }
        self.guard.take();
    }
}

impl Operations {
    pub(crate) async fn acquire_turn(&self, id: TenantId) -> Turn<'_> {
        let lock = {
            let mut turns = self.turns.lock();
            let turn = turns.entry(id).or_default();
            turn.users += 1;
            turn.lock.clone()
        };
        // Before the wait: a caller that leaves while it waits no longer counts as a user.
        let mut turn = Turn { operations: self, id, guard: None };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }

    /// The next operation may begin. Events that arrived meanwhile are followed by an inspection.
    pub(crate) fn release_turn(self: &Arc<Self>, turn: Turn<'_>) {
        let id = turn.id;
        drop(turn);
        let needs_inspection = self
            .turns
            .lock()
            .get_mut(&id)
            .is_some_and(|turn| std::mem::take(&mut turn.needs_inspection));
        if needs_inspection {
            self.inspect_later(id);
        }
    }
}

impl Turn<'_> {
    pub(crate) const fn tenant(&self) -> TenantId {
        self.id
    }

    /// # Errors
    /// [`DriverErrorCode::TenantDeleted`]: a delete is under way or done.
    pub(crate) fn check_not_deleted(&self) -> Result<(), DriverError> {
        if self.operations.store.is_deleted(self.id) {
            Err(DriverError::deleted(self.id))
        } else {
            Ok(())
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.operations.store.read(self.id, |entry| entry.record.is_alive()).unwrap_or(false)
    }

    pub(crate) fn has_container(&self) -> bool {
        let known = self.operations.store.read(self.id, |entry| entry.record.status().is_some());
        known.unwrap_or(false)
    }

    /// Sets what is requested of the tenant, and saves a change.
    pub(crate) fn set_target(&self, target: TargetState) -> Result<(), DriverError> {
        let saved = self.operations.store.set_target(self.id, target);
        saved.map_err(|error| state_dir_error(&error))
    }

    /// Makes the tenant's resources and its container as `spec` says.
    pub(crate) async fn ensure(&self, spec: &Spec) -> Result<ContainerStatus, DriverError> {
        let store = &self.operations.store;
        store.update(self.id, |record| {
            if record.status().is_some_and(|status| status.generation != spec.generation) {
                record.on_event(ContainerEvent::RecreateRequested);
            }
        });
        let permit = self.operations.other_calls.acquire().await;
        self.check_not_deleted()?;
        let status = self.operations.driver.ensure(spec).await?;
        drop(permit);
        store.set_status(self.id, Some(status.clone()));
        Ok(status)
    }

    /// Starts the tenant's container, which was made from `spec`.
    pub(crate) async fn start(&self, spec: &Spec) -> Result<(), DriverError> {
        self.operations.check_disk_limit(self.id)?;
        self.operations.store.on_event(self.id, ContainerEvent::StartRequested);
        let status = self.operations.driver.start(spec).await?;
        self.operations.store.on_started(self.id, status);
        Ok(())
    }

    /// From here on the end of the process is expected, and does not count as an exit.
    pub(crate) fn expect_stop(&self) {
        self.operations.store.on_event(self.id, ContainerEvent::StopRequested);
    }

    pub(crate) async fn stop(&self) -> Result<(), DriverError> {
        self.expect_stop();
        let status = self.operations.driver.stop(self.id).await?;
        self.operations.store.set_status(self.id, Some(status));
        Ok(())
    }

    /// Returns `false` when no container exists.
    pub(crate) async fn stop_if_present(&self) -> Result<bool, DriverError> {
        match self.stop().await {
            Ok(()) => Ok(true),
            Err(error) if error.code == DriverErrorCode::NoSuchTenant => {
                self.operations.store.set_status(self.id, None);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn freeze(&self) -> Result<(), DriverError> {
        let status = self.operations.driver.freeze(self.id).await?;
        self.operations.store.set_status(self.id, Some(status));
        Ok(())
    }

    /// Ends with the engine's call. A tenant that responds before the call returns is published as running at once, so that
    /// those who wait for it are served.
    pub(crate) async fn thaw(&self) -> Result<(), DriverError> {
        let Operations { driver, store, .. } = self.operations;
        let mut call = driver.thaw(self.id);
        tokio::select! {
            biased;
            result = &mut call => {
                result?;
                store.update(self.id, |record| record.on_thawed(false));
                Ok(())
            }
            () = driver.wait_until_responsive(self.id) => {
                store.update(self.id, |record| record.on_thawed(true));
                call.await
            }
        }
    }

    /// Inspects the container and takes over its status. A failed inspection changes nothing.
    pub(crate) async fn refresh(&self) {
        match self.operations.driver.inspect(self.id).await {
            Ok(status) => self.operations.store.set_status(self.id, status),
            Err(error) => tracing::debug!(tenant = %self.id, %error, "inspection failed"),
        }
    }

    /// No call is pending any more. An error that is about the tenant becomes its reason; success removes the reason.
    pub(crate) fn end_operation(&self, error: Option<&DriverError>) {
        let error = error.filter(|error| error.concerns_tenant());
        let error = error.map(|error| error.detail.clone());
        self.operations.store.update(self.id, |record| {
            record.on_event(ContainerEvent::OperationEnded);
            record.set_error(error);
        });
    }
}
