//! Operations on tenants, one at a time for each; a delete comes before all others.
//!
//! An operation that has begun continues when its caller leaves. A caller that repeats its request waits for the operation
//! under way and finds the result.

mod disk;
mod images;
mod resync;
mod smoke_start;
mod turn;
mod volumes;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use protocol::TenantId;
use protocol::busy::BusyList;
use protocol::exec::ExecCommand;
use protocol::gauges::Gauge;
use protocol::orchestrator::{ApplyRequest, Capacity, ObservedTenant, Phase};
use protocol::spec::Spec;
use protocol::summaries::SummaryReport;
use service::metrics::Bounded;
use tokio::sync::{Semaphore, SemaphorePermit};

pub(crate) use self::turn::Turn;

use self::disk::DiskWatch;
use self::images::ImageUses;
use self::smoke_start::SmokeStarts;
use self::turn::TurnTable;
use crate::core_back::{BusyError, CORE_BACK_TIMEOUT};
use crate::driver::{
    ContainerStatus, Driver, DriverError, DriverErrorCode, LogOptions, LogStream, PullMeter,
    ResourceUsage, RunState, RunningCommand,
};
use crate::metrics::Metrics;
use crate::revocation;
use crate::tenants::state_dir::TargetState;
use crate::tenants::{SpecVersion, TenantStore};

/// The part that decides about sleep, as far as operations may call it.
pub trait OwnerIntents: Send + Sync + 'static {
    /// Takes effect at once: lease requests that wait for the tenant get their response before the operation has its turn.
    fn set_owner_intent(&self, id: TenantId, wants_running: bool);
}

pub struct Operations {
    driver: Arc<dyn Driver>,
    store: Arc<TenantStore>,
    owner_intents: Arc<dyn OwnerIntents>,
    turns: TurnTable,
    starts: CallLimit,
    /// All other calls but freezes, thaws and stops.
    other_calls: CallLimit,
    /// Concurrent busy checks. Many tenants become idle at the same moment, and each check holds descriptors.
    busy_checks: CallLimit,
    disk: DiskWatch,
    smoke_starts: SmokeStarts,
    pulls: CallLimit,
    image_uses: Mutex<ImageUses>,
    /// The pulls under way, by the names of their images.
    pull_meters: Mutex<HashMap<String, PullMeter>>,
    /// Exports and imports of volumes.
    transfers: CallLimit,
    /// The tenants in a transfer.
    in_transfer: Mutex<HashSet<TenantId>>,
    /// One collection of gauges at a time.
    gauge_collection: tokio::sync::Mutex<()>,
    /// One resync at a time.
    resync: tokio::sync::Mutex<()>,
    /// Orders inspections and operations: an older inspection must not overwrite the result of a newer operation.
    clock: AtomicU64,
    metrics: Arc<Metrics>,
}

/// Bounds concurrent calls of one kind.
struct CallLimit {
    permits: Semaphore,
    limit: usize,
}

/// The calls under way, and their limits.
pub(crate) struct CallGauges {
    pub(crate) starts: Bounded,
    pub(crate) other: Bounded,
    pub(crate) busy_checks: Bounded,
    pub(crate) transfers: Bounded,
}

/// How often a container may vanish between its creation and its start.
const MAX_START_ATTEMPTS: u32 = 3;
pub(crate) const MAX_OTHER_CALLS: usize = 16;
pub(crate) const MAX_BUSY_CHECKS: usize = 64;
/// Calls for gauges use the permits of busy checks, and leave most of them to these.
const MAX_GAUGE_CALLS: usize = 16;
/// The longest wait for one of the [`MAX_BUSY_CHECKS`]. With silent tenants, 1,280 checks begin within this time.
const BUSY_QUEUE_TIMEOUT: Duration = Duration::from_secs(4);

// The authority ignores a later report, and suspends the tenant even if it is busy.
const _: () = assert!(
    BUSY_QUEUE_TIMEOUT.as_millis() + CORE_BACK_TIMEOUT.as_millis()
        < lease::BUSY_REPORT_TIMEOUT as u128
);

impl Operations {
    pub(crate) fn new(
        driver: Arc<dyn Driver>,
        store: Arc<TenantStore>,
        owner_intents: Arc<dyn OwnerIntents>,
        concurrent_starts: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            driver,
            store,
            owner_intents,
            turns: TurnTable::default(),
            starts: CallLimit::new(concurrent_starts),
            other_calls: CallLimit::new(MAX_OTHER_CALLS),
            busy_checks: CallLimit::new(MAX_BUSY_CHECKS),
            disk: DiskWatch::new(),
            smoke_starts: SmokeStarts::default(),
            pulls: CallLimit::new(images::MAX_PULLS),
            image_uses: Mutex::default(),
            pull_meters: Mutex::default(),
            transfers: CallLimit::new(volumes::MAX_TRANSFERS),
            in_transfer: Mutex::default(),
            gauge_collection: tokio::sync::Mutex::default(),
            resync: tokio::sync::Mutex::default(),
            clock: AtomicU64::default(),
            metrics,
        }
    }

    /// Makes a tenant as its spec says, running or not. Waits for the operation under way on the same tenant.
    ///
    /// A tenant that sleeps or is frozen stays so. Its container gets new limits or a new generation, the sleep controller gets
    /// its policy, and the next lease request wakes it. Only a restart, or its owner's wake, wakes it from here. A frozen
    /// container of an older generation counts as running: it is replaced and started.
    ///
    /// # Errors
    /// The driver's own, [`DriverErrorCode::TenantDeleted`] for a deleted tenant, or a state file that cannot be written.
    pub async fn apply(
        self: &Arc<Self>,
        request: ApplyRequest,
    ) -> Result<ObservedTenant, DriverError> {
        let id = request.spec.id;
        self.owner_intents.set_owner_intent(id, request.run);
        let version = self.store.announce_spec(&request.spec);
        let operations = self.clone();
        let operation = tokio::spawn(async move {
            let turn = operations.acquire_turn(id).await;
            turn.check_not_deleted()?;
            let result = operations.apply_in_turn(&turn, &request, version).await;
            operations.finish(turn, result).await
        });
        let outcome = joined(operation.await);
        self.metrics.count_apply(&outcome);
        outcome
    }

    /// Makes the resources and the container of a tenant that has no container, and starts nothing. An apply that follows has
    /// only the start left. Nothing is done for a tenant with a container, whatever its spec: a caller that comes late must not
    /// undo what another has applied.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn prepare(self: &Arc<Self>, spec: Spec) -> Result<(), DriverError> {
        let operations = self.clone();
        let operation = tokio::spawn(async move {
            let turn = operations.acquire_turn(spec.id).await;
            turn.check_not_deleted()?;
            if turn.has_container() {
                return Ok(());
            }
            let version = operations.store.announce_spec(&spec);
            operations.store.set_spec(&spec, version);
            let result = operations.ensure_saved(&turn, &spec).await;
            operations.finish(turn, result.map(drop)).await.map(drop)
        });
        joined(operation.await)
    }

    /// Stops a tenant for its owner: it stays stopped until it is requested to run again.
    ///
    /// # Errors
    /// The driver's own, [`DriverErrorCode::NoSuchTenant`] where no container exists.
    pub async fn stop(self: &Arc<Self>, id: TenantId) -> Result<ObservedTenant, DriverError> {
        self.owner_intents.set_owner_intent(id, false);
        let operations = self.clone();
        let operation = tokio::spawn(async move {
            let turn = operations.acquire_turn(id).await;
            turn.check_not_deleted()?;
            let result = stop_in_turn(&turn).await;
            operations.finish(turn, result).await
        });
        joined(operation.await)
    }

    /// Deletes everything of a tenant, for good. Operations that wait for their turn behind the delete fail.
    ///
    /// # Errors
    /// The driver's own, or a state file that cannot be removed.
    pub async fn delete(self: &Arc<Self>, id: TenantId) -> Result<(), DriverError> {
        self.store.mark_deleted(id);
        self.owner_intents.set_owner_intent(id, false);
        let operations = self.clone();
        let operation = tokio::spawn(async move {
            let turn = operations.acquire_turn(id).await;
            turn.expect_stop();
            operations.driver.remove(id).await.inspect_err(|error| {
                let detail = error.detail.clone();
                operations.store.update(id, |record| record.set_error(Some(detail)));
            })?;
            operations.store.delete_record(id).map_err(|error| state_dir_error(&error))?;
            drop(turn);
            operations.turns.remove_unused(id, || operations.store.forget(id));
            Ok(())
        });
        let outcome = joined(operation.await);
        self.metrics.count_delete(&outcome);
        outcome
    }

    /// # Errors
    /// The driver's own.
    pub async fn logs(&self, id: TenantId, options: LogOptions) -> Result<LogStream, DriverError> {
        self.driver.logs(id, options).await
    }

    /// Starts a command in a tenant that runs.
    ///
    /// # Errors
    /// The driver's own.
    pub async fn exec(
        &self,
        id: TenantId,
        command: &ExecCommand,
    ) -> Result<RunningCommand, DriverError> {
        self.driver.exec(id, command).await
    }

    /// Starts the program that runs one attempt of a task, in a tenant that runs.
    ///
    /// # Errors
    /// The driver's own.
    pub async fn start_task(&self, id: TenantId) -> Result<RunningCommand, DriverError> {
        self.driver.start_task(id).await
    }

    /// # Errors
    /// The driver's own.
    pub async fn resource_usage(&self, id: TenantId) -> Result<ResourceUsage, DriverError> {
        let usage = self.driver.stats(id).await?;
        Ok(ResourceUsage { disk_bytes: self.disk_bytes(id), ..usage })
    }

    /// # Errors
    /// The driver's own.
    pub async fn capacity(&self) -> Result<Capacity, DriverError> {
        self.driver.capacity().await
    }

    pub(crate) async fn fetch_busy_list(&self, id: TenantId) -> Result<BusyList, BusyError> {
        let permit = tokio::time::timeout(BUSY_QUEUE_TIMEOUT, self.busy_checks.acquire()).await;
        let Ok(_permit) = permit else {
            let detail = format!("{MAX_BUSY_CHECKS} other checks were under way");
            return Err(BusyError::Local(detail));
        };
        self.driver.busy_list(id).await
    }

    /// Reads the gauges of all tenants that run. A tenant that does not report is left out.
    pub(crate) async fn fetch_tenant_gauges(&self) -> Vec<(TenantId, Vec<Gauge>)> {
        // Concurrent callers share one collection.
        let _collection = self.gauge_collection.lock().await;
        let tenants = self.store.feed().map(|feed| feed.list()).unwrap_or_default();
        let ready = tenants.into_iter().filter(|tenant| tenant.phase == Phase::Ready);
        let fetch = |id| async move {
            let _permit = self.busy_checks.acquire().await;
            Some((id, self.driver.gauges(id).await.ok()?.gauges))
        };
        let reports = futures_util::stream::iter(ready.map(|tenant| fetch(tenant.id)));
        let mut reports: Vec<_> = reports
            .buffer_unordered(MAX_GAUGE_CALLS)
            .filter_map(async |report| report)
            .collect()
            .await;
        reports.sort_by_key(|(id, _)| *id);
        reports
    }

    /// Reads the summaries of a tenant's conversations that changed after `position`. Wakes nobody, and does not reset the
    /// idle timer.
    ///
    /// # Errors
    /// `None`: the tenant does not run. [`BusyError`]: it does not report.
    pub async fn fetch_summaries(
        &self,
        id: TenantId,
        position: i64,
    ) -> Result<SummaryReport, Option<BusyError>> {
        if self.store.phase(id) != Some(Phase::Ready) {
            return Err(None);
        }
        let _permit = self.busy_checks.acquire().await;
        Ok(self.driver.summaries(id, position).await?)
    }

    /// `None` is never returned while this process runs: the limit is never closed.
    pub(crate) async fn acquire_start(&self) -> Option<SemaphorePermit<'_>> {
        self.starts.acquire().await
    }

    pub(crate) fn gauges(&self) -> CallGauges {
        CallGauges {
            starts: self.starts.usage(),
            other: self.other_calls.usage(),
            busy_checks: self.busy_checks.usage(),
            transfers: self.transfers.usage(),
        }
    }

    async fn apply_in_turn(
        &self,
        turn: &Turn<'_>,
        request: &ApplyRequest,
        version: SpecVersion,
    ) -> Result<(), DriverError> {
        let ApplyRequest { spec, run, restart, revoked_sessions } = request;
        let target = self.store.set_spec(spec, version);
        if self.store.set_revoked_sessions(spec.id, revoked_sessions) {
            revocation::deliver_later(&self.driver, &self.store, spec.id);
        }
        let stays_asleep = *run && !*restart && target == TargetState::Asleep;
        if !stays_asleep {
            turn.set_target(if *run { TargetState::Running } else { TargetState::Stopped })?;
        }
        if *restart && *run {
            // A refusal must not end a running container.
            if let Err(refusal) = self.driver.check_start(spec) {
                let saved = self.store.save_requested(spec.id).await;
                saved.map_err(|error| state_dir_error(&error))?;
                return Err(refusal);
            }
        }
        if *restart || !*run {
            turn.stop_if_present().await?;
        }
        let mut container = self.ensure_saved(turn, spec).await?;
        let mut attempts = MAX_START_ATTEMPTS;
        loop {
            attempts -= 1;
            let is_down = match container.run {
                RunState::Running | RunState::Restarting | RunState::Paused => false,
                RunState::Created | RunState::Exited(_) => true,
            };
            if !*run || !is_down || stays_asleep {
                return Ok(());
            }
            let permit = self.starts.acquire().await;
            turn.check_not_deleted()?;
            match turn.start(spec).await {
                // Another program removed the container between the two calls.
                Err(error) if error.code == DriverErrorCode::NoSuchTenant && attempts > 0 => {
                    drop(permit);
                    container = turn.ensure(spec).await?;
                }
                result => return result,
            }
        }
    }

    /// Writes the spec to the disk beside the engine's calls, and before a start: after a loss of power no tenant may start from
    /// another spec than the one that its caller saw applied.
    async fn ensure_saved(
        &self,
        turn: &Turn<'_>,
        spec: &Spec,
    ) -> Result<ContainerStatus, DriverError> {
        let (saved, container) =
            tokio::join!(self.store.save_requested(spec.id), turn.ensure(spec));
        saved.map_err(|error| state_dir_error(&error))?;
        container
    }

    /// Ends an operation. Its error becomes the tenant's reason; events that arrived meanwhile are followed by an inspection.
    async fn finish(
        self: &Arc<Self>,
        turn: Turn<'_>,
        result: Result<(), DriverError>,
    ) -> Result<ObservedTenant, DriverError> {
        let id = turn.tenant();
        turn.end_operation(result.as_ref().err());
        if result.is_err() {
            turn.refresh().await;
        }
        self.release_turn(turn);
        result?;
        self.store.observed(id).ok_or_else(|| DriverError::no_such_tenant(id))
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}

impl CallLimit {
    fn new(limit: usize) -> Self {
        Self { permits: Semaphore::new(limit), limit }
    }

    async fn acquire(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    fn usage(&self) -> Bounded {
        let current = self.limit.saturating_sub(self.permits.available_permits());
        Bounded { current, limit: self.limit }
    }
}

/// Stops also where the disk is full: a delete may begin with a stop, and frees the disk. The state file is written again
/// later, and its loss costs no more than a repeated stop: the control plane knows that the tenant is to be stopped.
async fn stop_in_turn(turn: &Turn<'_>) -> Result<(), DriverError> {
    if let Err(error) = turn.set_target(TargetState::Stopped) {
        tracing::warn!(tenant = %turn.tenant(), %error, "state file not written");
    }
    if turn.stop_if_present().await? {
        Ok(())
    } else {
        Err(DriverError::no_such_tenant(turn.tenant()))
    }
}

fn joined<T>(
    result: Result<Result<T, DriverError>, tokio::task::JoinError>,
) -> Result<T, DriverError> {
    result
        .unwrap_or_else(|error| Err(DriverError::new(DriverErrorCode::Internal, error.to_string())))
}

fn state_dir_error(error: &std::io::Error) -> DriverError {
    let detail = format!("CIAL_STATE_DIR cannot be written: {error}.");
    let is_full = error.kind() == std::io::ErrorKind::StorageFull;
    let code = if is_full { DriverErrorCode::DiskFull } else { DriverErrorCode::Internal };
    DriverError::new(code, detail)
}
