//! The progress of a wake, for those who wait for it.

use std::sync::Arc;

use futures_util::{Stream, stream};
use lease::Millis;
use protocol::TenantId;
use protocol::leases::{WakeProgress, WakeStep};
use protocol::orchestrator::Phase;

use super::lease_service::to_u32;
use super::{LeaseError, SleepController};
use crate::driver::DriverError;

impl SleepController {
    /// Streams one item for each change, until the tenant is ready or the wake failed. Wakes no tenant.
    ///
    /// # Errors
    /// [`DriverErrorCode::NoSuchTenant`](crate::driver::DriverErrorCode::NoSuchTenant).
    pub fn wake_progress(
        self: &Arc<Self>,
        id: TenantId,
    ) -> Result<impl Stream<Item = WakeProgress> + use<>, DriverError> {
        self.store.load(id);
        self.current_progress(id, false).ok_or_else(|| DriverError::no_such_tenant(id))?;
        let start =
            ProgressWatch { controller: self.clone(), changes: self.leases.changes(), last: None };
        Ok(stream::unfold(start, move |mut watch| async move {
            let progress = watch.next(id).await?;
            Some((progress, watch))
        }))
    }

    /// `was_waking`: a wake was under way before, so that a tenant that rests now failed to wake.
    fn current_progress(&self, id: TenantId, was_waking: bool) -> Option<WakeProgress> {
        Some(match self.leases.wake_progress(id)? {
            lease::WakeProgress::Queued { queue_position, elapsed } => WakeProgress {
                ahead: Some(u32::try_from(queue_position).unwrap_or(u32::MAX)),
                ..progress(WakeStep::Queued, elapsed)
            },
            lease::WakeProgress::Starting { elapsed } => progress(WakeStep::Starting, elapsed),
            lease::WakeProgress::Booting { elapsed } => progress(WakeStep::Booting, elapsed),
            lease::WakeProgress::NotWaking(Phase::Ready) => progress(WakeStep::Ready, 0),
            lease::WakeProgress::NotWaking(Phase::Starting) if !was_waking => {
                progress(WakeStep::Booting, 0)
            }
            lease::WakeProgress::NotWaking(Phase::Sleeping | Phase::Frozen) if !was_waking => {
                progress(WakeStep::Asleep, 0)
            }
            lease::WakeProgress::NotWaking(Phase::Stopped) => failed(LeaseError::stopped_reason()),
            lease::WakeProgress::NotWaking(
                Phase::Created | Phase::Exited | Phase::Sleeping | Phase::Frozen | Phase::Starting,
            ) => failed(self.store.reason(id)),
        })
    }
}

fn progress(step: WakeStep, elapsed: Millis) -> WakeProgress {
    WakeProgress { step, ahead: None, elapsed_ms: to_u32(elapsed), reason: None }
}

fn failed(reason: String) -> WakeProgress {
    WakeProgress { reason: Some(reason), ..progress(WakeStep::Failed, 0) }
}

struct ProgressWatch {
    controller: Arc<SleepController>,
    changes: tokio::sync::watch::Receiver<u64>,
    last: Option<WakeProgress>,
}

impl ProgressWatch {
    /// `None` after the last item, or when this process shuts down.
    async fn next(&mut self, id: TenantId) -> Option<WakeProgress> {
        let last_step = self.last.as_ref().map(|last| last.step);
        if matches!(last_step, Some(WakeStep::Ready | WakeStep::Failed)) {
            return None;
        }
        let was_waking =
            matches!(last_step, Some(WakeStep::Queued | WakeStep::Starting | WakeStep::Booting));
        while !self.controller.leases.is_shutting_down() {
            self.changes.mark_unchanged();
            let now = self.controller.current_progress(id, was_waking)?;
            let last = self.last.as_ref().map(|last| (last.step, last.ahead));
            if last != Some((now.step, now.ahead)) {
                self.last = Some(now.clone());
                return Some(now);
            }
            self.changes.changed().await.ok()?;
        }
        None
    }
}
