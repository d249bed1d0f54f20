//! Export and import of a tenant's volumes.
//!
//! A transfer has the tenant's turn: nothing starts, thaws or changes the tenant meanwhile, so all files are from one moment. A
//! delete ends a transfer.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use protocol::TenantId;
use protocol::orchestrator::LastStart;
use tokio::sync::{SemaphorePermit, mpsc};
use tokio::time::timeout;

use super::{Operations, Turn, joined};
use crate::driver::{
    DriverError, DriverErrorCode, RunState, VolumePiece, VolumeSink, VolumeStream,
};

/// Concurrent transfers. Each costs the disk and the engine about as much as a few starts.
pub(crate) const MAX_TRANSFERS: usize = 2;
/// How long the other side of a transfer may take nothing, or send nothing, before the transfer ends: the tenant cannot be
/// woken as long.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a reader may take to read the reason why its stream breaks off. The break itself reaches it in any case.
const ERROR_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an export may take in all, however slowly its reader takes it.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(6 * 3_600);
/// How long a free transfer waits for the turn of its tenant, before other tenants get the transfer.
const TURN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a transfer waits for the end of an earlier transfer of the same tenant.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a transfer notices that its tenant is deleted.
const DELETE_CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// The pieces that wait for a slower reader.
const BACKLOG: usize = 4;

impl Operations {
    /// Reads both volumes of a tenant that rests, as a tar: see [`Driver::read_volumes`](crate::driver::Driver::read_volumes).
    /// Wakes nobody. The tenant is not woken either until the stream has ended or is dropped.
    ///
    /// # Errors
    /// [`DriverErrorCode::TenantAwake`]; the driver's own, also within the stream.
    pub async fn export_volumes(
        self: &Arc<Self>,
        id: TenantId,
    ) -> Result<VolumeStream, DriverError> {
        self.store.feed()?;
        let (sink, mut pieces) = mpsc::channel(BACKLOG);
        let operations = self.clone();
        tokio::spawn(async move { operations.run_export(id, sink).await });
        // An error before the first piece is an error of the call.
        let Some(first) = pieces.recv().await else {
            let detail = "The export ended without a reason. Look at the orchestrator's log.";
            return Err(DriverError::new(DriverErrorCode::Internal, detail));
        };
        let first = first?;
        let rest = stream::unfold(Some(pieces), async |pieces| {
            let mut pieces: mpsc::Receiver<VolumePiece> = pieces?;
            match pieces.recv().await {
                Some(Ok(piece)) if piece.is_empty() => None,
                Some(Ok(piece)) => Some((Ok(piece), Some(pieces))),
                Some(Err(error)) => Some((Err(io::Error::other(error)), None)),
                // The writer is gone without the mark of the end.
                None => Some((Err(io::ErrorKind::UnexpectedEof.into()), None)),
            }
        });
        Ok(stream::iter([Ok(first)]).chain(rest).boxed())
    }

    /// Makes the volumes of a tenant that has none, filled from `tar`. Leaves nothing when it fails.
    ///
    /// # Errors
    /// The driver's own.
    pub async fn import_volumes(
        self: &Arc<Self>,
        id: TenantId,
        limit_bytes: u64,
        tar: VolumeStream,
    ) -> Result<(), DriverError> {
        let operations = self.clone();
        let import = async move {
            let _only = operations.only_transfer(id).await?;
            let entered = tokio::select! {
                entered = operations.enter_transfer(id) => Ok(entered),
                deleted = operations.until_deleted(id) => Err(deleted),
            };
            let (turn, _permit) = entered?;
            turn.check_not_deleted()?;
            let filled = operations.driver.write_volumes(id, limit_bytes, bounded(tar));
            let filled = tokio::select! {
                filled = filled => filled,
                deleted = operations.until_deleted(id) => Err(deleted),
            };
            operations.release_turn(turn);
            filled
        };
        // Continues when the caller leaves, so that nothing of a failed import stays.
        joined(tokio::spawn(import).await)
    }

    async fn run_export(self: &Arc<Self>, id: TenantId, sink: VolumeSink) {
        let _only = match self.only_transfer(id).await {
            Ok(only) => only,
            Err(error) => {
                let _ = timeout(ERROR_TIMEOUT, sink.send(Err(error))).await;
                return;
            }
        };
        let (turn, _permit) = tokio::select! {
            entered = self.enter_transfer(id) => entered,
            () = sink.closed() => return,
        };
        let export = async {
            turn.check_not_deleted()?;
            self.check_at_rest(id).await?;
            let read = tokio::select! {
                read = self.driver.read_volumes(id, sink.clone()) => read,
                deleted = self.until_deleted(id) => Err(deleted),
                stalled = until_stalled(&sink) => Err(stalled),
                () = tokio::time::sleep(EXPORT_TIMEOUT) => Err(DriverError::reader_gone()),
            };
            if read.is_err() {
                self.driver.end_read(id).await;
            }
            read
        };
        let last = export.await.map(|()| Bytes::new());
        let patience = if let Err(error) = &last {
            tracing::warn!(tenant = %id, %error, "export of volumes failed");
            ERROR_TIMEOUT
        } else {
            STALL_TIMEOUT
        };
        let _ = timeout(patience, sink.send(last)).await;
        self.release_turn(turn);
    }

    /// Returns when the tenant has its turn and one of [`MAX_TRANSFERS`] is free. A wait for the turn takes no transfer from
    /// other tenants, but for a moment, and one for a transfer keeps nobody from waking this tenant.
    async fn enter_transfer(
        self: &Arc<Self>,
        id: TenantId,
    ) -> (Turn<'_>, Option<SemaphorePermit<'_>>) {
        loop {
            self.release_turn(self.acquire_turn(id).await);
            let permit = self.transfers.acquire().await;
            if let Ok(turn) = timeout(TURN_TIMEOUT, self.acquire_turn(id)).await {
                return (turn, permit);
            }
        }
    }

    /// Waits a moment for the end of a transfer whose reader has just left.
    ///
    /// # Errors
    /// [`DriverErrorCode::EngineRefused`] for a tenant that is in a transfer.
    async fn only_transfer(self: &Arc<Self>, id: TenantId) -> Result<OnlyTransfer, DriverError> {
        let entered = async {
            while !self.tenants_in_transfer().insert(id) {
                tokio::time::sleep(DELETE_CHECK_INTERVAL).await;
            }
        };
        if timeout(END_TIMEOUT, entered).await.is_ok() {
            return Ok(OnlyTransfer { operations: self.clone(), id });
        }
        let detail = "An export or import of this tenant is under way. Wait for its end.";
        Err(DriverError::new(DriverErrorCode::EngineRefused, detail))
    }

    fn tenants_in_transfer(&self) -> MutexGuard<'_, HashSet<TenantId>> {
        self.in_transfer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// [`DriverErrorCode::TenantAwake`] for a tenant whose processes may write.
    async fn check_at_rest(&self, id: TenantId) -> Result<(), DriverError> {
        let status = self.driver.inspect(id).await?;
        match status.map(|status| status.run) {
            Some(RunState::Running | RunState::Restarting) => {
                let detail = "The tenant runs, so its files may change while they are read. Stop it, or wait until it is \
                              frozen or sleeps.";
                Err(DriverError::new(DriverErrorCode::TenantAwake, detail))
            }
            Some(RunState::Created | RunState::Paused | RunState::Exited(_)) | None => Ok(()),
        }
    }

    /// Inspects the tenant's container for its last start.
    ///
    /// # Errors
    /// For a tenant without a container; the driver's own.
    pub async fn last_start(&self, id: TenantId) -> Result<LastStart, DriverError> {
        let status = self.driver.inspect(id).await?;
        let status = status.ok_or_else(|| DriverError::no_such_tenant(id))?;
        let has_ended = matches!(status.run, RunState::Created | RunState::Exited(_));
        let is_running = matches!(status.run, RunState::Running | RunState::Restarting);
        Ok(LastStart {
            container_id: status.container,
            at: status.started_at,
            has_ended,
            is_running,
        })
    }

    async fn until_deleted(&self, id: TenantId) -> DriverError {
        while !self.store.is_deleted(id) {
            tokio::time::sleep(DELETE_CHECK_INTERVAL).await;
        }
        DriverError::deleted(id)
    }
}

/// A tenant in a transfer, until this is dropped.
struct OnlyTransfer {
    operations: Arc<Operations>,
    id: TenantId,
}

impl Drop for OnlyTransfer {
    fn drop(&mut self) {
        self.operations.tenants_in_transfer().remove(&self.id);
    }
}

/// Resolves when the reader took nothing for too long.
async fn until_stalled(sink: &VolumeSink) -> DriverError {
    loop {
        // Room in the channel is progress.
        let room = timeout(STALL_TIMEOUT, sink.reserve()).await;
        if !matches!(room, Ok(Ok(_))) {
            return DriverError::reader_gone();
        }
        drop(room);
        tokio::time::sleep(DELETE_CHECK_INTERVAL).await;
    }
}

/// Ends a tar whose writer sends nothing for too long.
pub(super) fn bounded(tar: VolumeStream) -> VolumeStream {
    let pieces = stream::unfold(Some(tar), async |tar| {
        let mut tar = tar?;
        match timeout(STALL_TIMEOUT, tar.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(tar))),
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Ok(None) => None,
            Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
        }
    });
    pieces.boxed()
}
