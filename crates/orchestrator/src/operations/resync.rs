//! Reads the engine's side: events as they arrive, inspections of single tenants, complete listings.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use protocol::TenantId;

use super::Operations;
use super::smoke_start::is_throw_away;
use super::turn::InspectionResult;
use crate::driver::{ContainerStatus, DriverErrorCode, EngineEvent};
use crate::revocation::Revocations;

/// The lines of a log that are shown beside the state.
const REASON_LINES: u32 = 6;
const MAX_REASON_BYTES: usize = 1 << 10;

impl Operations {
    /// The events of all tenants but those of smoke starts.
    pub(crate) fn watch_engine(&self) -> BoxStream<'static, EngineEvent> {
        let concerns_tenant = |event: &EngineEvent| {
            let id = match event {
                EngineEvent::Changed(id)
                | EngineEvent::Ready { id, .. }
                | EngineEvent::Died { id, .. } => Some(*id),
                EngineEvent::EventsMissed
                | EngineEvent::Reconnected
                | EngineEvent::Disconnected(_) => None,
            };
            !id.is_some_and(is_throw_away)
        };
        let events = self.driver.watch();
        events.filter(move |event| std::future::ready(concerns_tenant(event))).boxed()
    }

    /// The deliveries of ended sessions, from now on.
    pub(crate) fn revocations(&self) -> Revocations {
        Revocations::new(self.driver.clone(), self.store.clone())
    }

    /// Never waits: an event must not be held up by a call to the engine.
    pub(crate) fn on_engine_event(self: &Arc<Self>, event: EngineEvent) {
        match event {
            EngineEvent::Ready { id, container } => {
                if self.store.on_ready(id, &container) {
                    self.metrics.count_ready();
                    // An inspection that began before may have missed the response.
                    self.turns.touch(id, self.now());
                } else {
                    self.inspect_later(id);
                }
            }
            EngineEvent::Died { id, container, exit } => {
                let (code, out_of_memory) = (exit.code, exit.out_of_memory);
                let was_ready = exit.was_ready;
                if self.store.on_exit(id, &container, exit) {
                    tracing::info!(tenant = %id, code, out_of_memory, "tenant exited");
                    if !was_ready {
                        self.note_last_lines_later(id, container);
                    }
                }
                self.inspect_later(id);
            }
            EngineEvent::Changed(id) => self.inspect_later(id),
            EngineEvent::EventsMissed | EngineEvent::Reconnected => self.resync_later(),
            EngineEvent::Disconnected(error) => self.store.set_engine_error(Some(error)),
        }
    }

    /// Keeps the last lines of the log as the reason, which is shown with the state.
    fn note_last_lines_later(self: &Arc<Self>, id: TenantId, container: String) {
        let operations = self.clone();
        tokio::spawn(async move {
            let _permit = operations.other_calls.acquire().await;
            let lines = operations.end_of_log(id, REASON_LINES, MAX_REASON_BYTES).await;
            operations.store.update(id, |record| record.set_last_lines(&container, lines));
        });
    }

    /// An operation under way inspects at its own end.
    pub(super) fn inspect_later(self: &Arc<Self>, id: TenantId) {
        if self.turns.begin_inspection(id) {
            let operations = self.clone();
            tokio::spawn(async move { operations.inspect(id).await });
        }
    }

    async fn inspect(self: &Arc<Self>, id: TenantId) {
        let _permit = self.other_calls.acquire().await;
        let began = self.now();
        match self.driver.inspect(id).await {
            Ok(status) => self.take_status(id, status, began),
            Err(error) => tracing::debug!(tenant = %id, %error, "inspection failed"),
        }
    }

    /// The result of an operation is newer than a status that was read before the operation ended.
    fn take_status(self: &Arc<Self>, id: TenantId, status: Option<ContainerStatus>, began: u64) {
        let mut is_target_changed = false;
        let result = self.turns.finish_inspection(id, began, || {
            let change = self.store.reconcile_status(id, status);
            is_target_changed = change.is_target_changed;
            change.is_forgotten
        });
        match result {
            InspectionResult::Applied if is_target_changed => self.store.save_or_log(id),
            InspectionResult::Applied | InspectionResult::Deferred => {}
            InspectionResult::Outdated => self.inspect_later(id),
        }
    }

    pub(crate) fn resync_later(self: &Arc<Self>) {
        let operations = self.clone();
        tokio::spawn(async move { operations.resync().await });
    }

    /// Lists all containers once. A concurrent caller waits for the listing under way, and lists again.
    pub async fn resync(self: &Arc<Self>) {
        let _one = self.resync.lock().await;
        let began = self.now();
        match self.driver.list().await {
            Ok(list) => self.take_list(list, began),
            Err(error) => {
                tracing::warn!(code = error.code.as_str(), %error, "resync failed");
                // An error of this process says nothing about the engine.
                if error.code != DriverErrorCode::OutOfResources {
                    self.store.set_engine_error(Some(error.detail));
                }
            }
        }
    }

    fn take_list(self: &Arc<Self>, list: Vec<ContainerStatus>, began: u64) {
        self.store.set_engine_error(None);
        let (smoke_starts, list): (Vec<_>, Vec<_>) =
            list.into_iter().partition(|status| is_throw_away(status.id));
        smoke_starts.into_iter().for_each(|status| self.remove_left_smoke_start(status.id));
        let listed: HashSet<_> = list.iter().map(|status| status.id).collect();
        for status in list {
            self.take_status(status.id, Some(status), began);
        }
        for id in self.store.ids().into_iter().filter(|id| !listed.contains(id)) {
            self.take_status(id, None, began);
        }
        self.store.mark_listed();
        self.metrics.count_resync();
        self.store.unexplained().into_iter().for_each(|id| self.inspect_later(id));
    }
}
