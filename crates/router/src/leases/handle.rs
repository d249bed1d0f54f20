//! The requests of the serving threads to the manager loop.

use std::sync::Arc;
use std::time::Duration;

use lease::LeaseError;
use protocol::TenantId;
use protocol::leases::RequestIntent;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::shared_state::{Limits, REPORT_INTERVAL, SharedState};
use crate::clock;
use crate::routes::cached_lease::{CachedLease, LeaseGuard};

/// A serving thread's access to leases.
#[derive(Clone)]
pub(crate) struct LeaseHandle {
    commands: mpsc::UnboundedSender<LeaseCommand>,
    pub(crate) shared: Arc<SharedState>,
}

pub(crate) enum LeaseCommand {
    Request(QueuedRequest),
    /// The waiter needs no result any more.
    Cancel {
        tenant: TenantId,
        waiter: u64,
    },
}

/// A request for a tenant on its way to the manager loop.
pub(crate) struct QueuedRequest {
    pub(crate) tenant: TenantId,
    pub(crate) intent: RequestIntent,
    /// A lease under which the tenant did not answer.
    pub(crate) failed_lease: Option<Arc<CachedLease>>,
    /// The sender knows that the last wake failed.
    pub(crate) retries_failure: bool,
    /// Holds the queue place of a request without a waiter until the loop has processed it.
    pub(crate) _permit: Option<OwnedSemaphorePermit>,
    /// `None`: no waiter needs the result.
    pub(crate) waiter: Option<Waiter>,
}

pub(crate) struct Waiter {
    pub(crate) id: u64,
    /// The thread that sends the request.
    pub(crate) thread: usize,
    pub(crate) result: oneshot::Sender<LeaseResult>,
    /// Holds the queue place until the loop has served or removed the waiter.
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl QueuedRequest {
    /// A request whose result no waiter needs.
    const fn new(tenant: TenantId, intent: RequestIntent) -> Self {
        Self {
            tenant,
            intent,
            failed_lease: None,
            retries_failure: false,
            _permit: None,
            waiter: None,
        }
    }
}

/// How a wait for a lease ended.
pub(crate) enum LeaseResult {
    Leased(LeaseGuard),
    /// The orchestrator is unreachable, and the route table shows the tenant running.
    Unleased(LeaseGuard),
    Refused(LeaseError),
}

impl LeaseHandle {
    pub(crate) fn new(limits: Limits) -> (Self, mpsc::UnboundedReceiver<LeaseCommand>) {
        // The permits bound the channel: a message has one, cancels a message that had one, or is one of a few a second.
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(SharedState::new(limits));
        (Self { commands, shared }, receiver)
    }

    /// Waits at most `timeout` for the right to send a request of `thread`.
    pub(crate) async fn wait_for_lease(
        &self,
        tenant: TenantId,
        thread: usize,
        intent: RequestIntent,
        failed_lease: Option<Arc<CachedLease>>,
        timeout: Duration,
    ) -> LeaseResult {
        let Some(permit) = self.shared.take_permit() else {
            return LeaseResult::Refused(LeaseError::RouterQueueFull);
        };
        let (sender, result) = oneshot::channel();
        let id = self.shared.next_waiter();
        let waiter = Waiter { id, thread, result: sender, _permit: permit };
        self.send(LeaseCommand::Request(QueuedRequest {
            failed_lease,
            waiter: Some(waiter),
            ..QueuedRequest::new(tenant, intent)
        }));
        let cancel = CancelOnDrop { handle: self, tenant, waiter: id };
        let result = tokio::time::timeout(timeout, result).await;
        if result.is_ok() {
            cancel.disarm();
        }
        match result {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => LeaseResult::Refused(LeaseError::OrchestratorUnavailable),
            Err(_) if self.shared.is_orchestrator_unreachable() => {
                LeaseResult::Refused(LeaseError::OrchestratorUnavailable)
            }
            Err(_) => {
                let queue_position = self.shared.queue_position(tenant);
                LeaseResult::Refused(LeaseError::Waking { queue_position })
            }
        }
    }

    /// Waits until data may be sent on a stream whose tenant may be frozen. All streams of one thread to one tenant take
    /// one queue place.
    pub(crate) async fn thaw_tenant(
        &self,
        tenant: TenantId,
        thread: usize,
        timeout: Duration,
    ) -> Result<Arc<CachedLease>, LeaseError> {
        let mut thawed = {
            let mut thaws = self.shared.thaws();
            let thawed = thaws.entry((thread, tenant)).or_insert_with(|| {
                let (sender, thawed) = watch::channel(None);
                let handle = self.clone();
                tokio::spawn(async move {
                    let intent = RequestIntent::Background;
                    let result = handle.wait_for_lease(tenant, thread, intent, None, timeout).await;
                    handle.shared.thaws().remove(&(thread, tenant));
                    sender.send_replace(Some(match result {
                        LeaseResult::Leased(guard) | LeaseResult::Unleased(guard) => {
                            Ok(guard.lease.clone())
                        }
                        LeaseResult::Refused(error) => Err(error),
                    }));
                });
                thawed
            });
            thawed.clone()
        };
        let result = thawed.wait_for(Option::is_some).await.ok().and_then(|result| result.clone());
        result.unwrap_or(Err(LeaseError::OrchestratorUnavailable))
    }

    /// Wakes the tenant for a waiting page, which reloads by itself. Dropped when the queue is full.
    pub(crate) fn wake_tenant(&self, tenant: TenantId) {
        let request = QueuedRequest::new(tenant, RequestIntent::Visit);
        self.send_if_not_full(QueuedRequest { retries_failure: true, ..request });
    }

    /// Reports that another process answered at the tenant's address. Dropped when the queue is
    /// full: the next response reports it again.
    pub(crate) fn report_failed_lease(&self, lease: &Arc<CachedLease>) {
        let request = QueuedRequest::new(lease.tenant, RequestIntent::Background);
        self.send_if_not_full(QueuedRequest { failed_lease: Some(lease.clone()), ..request });
    }

    /// Reports a request without a lease, so that one is requested as soon as the orchestrator is back.
    pub(crate) fn report_unleased_request(&self, lease: &CachedLease) {
        if lease.mark_use_reported() || self.shared.take_report() {
            let request = QueuedRequest::new(lease.tenant, RequestIntent::Background);
            self.send(LeaseCommand::Request(request));
        }
    }

    /// Reports data of a stream without a lease: nothing keeps the tenant from being frozen. One report stands for all
    /// streams, and is repeated at later data.
    pub(crate) fn report_unleased_data(&self, lease: &CachedLease) {
        if !lease.may_report(clock::now(), REPORT_INTERVAL)
            || self.shared.is_orchestrator_unreachable() && !self.shared.take_report()
        {
            return;
        }
        self.send_if_not_full(QueuedRequest::new(lease.tenant, RequestIntent::Background));
    }

    fn send_if_not_full(&self, request: QueuedRequest) {
        if let Some(permit) = self.shared.take_permit() {
            self.send(LeaseCommand::Request(QueuedRequest { _permit: Some(permit), ..request }));
        }
    }

    fn send(&self, command: LeaseCommand) {
        // The loop ends last. After that a waiter is refused, because its sender is dropped with the message.
        let _ = self.commands.send(command);
    }
}

/// Removes a waiter whose client left or whose deadline passed. Its queue place is freed when the
/// loop has removed it.
struct CancelOnDrop<'a> {
    handle: &'a LeaseHandle,
    tenant: TenantId,
    waiter: u64,
}

impl CancelOnDrop<'_> {
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.handle.send(LeaseCommand::Cancel { tenant: self.tenant, waiter: self.waiter });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_briefly(handle: &LeaseHandle, tenant: TenantId) -> LeaseResult {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let timeout = Duration::from_millis(1);
        runtime.block_on(handle.wait_for_lease(tenant, 0, RequestIntent::Visit, None, timeout))
    }

    #[test]
    fn a_wait_that_times_out_reports_the_last_known_queue_position() {
        let (handle, _commands) = LeaseHandle::new(Limits::default());
        let tenant = TenantId::new(uuid::Uuid::from_u128(1));
        for position in [None, Some(4), None] {
            handle.shared.set_queue_position(tenant, position);
            let LeaseResult::Refused(error) = wait_briefly(&handle, tenant) else {
                panic!("leased")
            };
            assert_eq!(error, LeaseError::Waking { queue_position: position });
        }
    }

    #[test]
    fn a_cancelled_wait_keeps_its_queue_place_until_its_messages_are_processed() {
        let (handle, mut commands) =
            LeaseHandle::new(Limits { max_waiters: 2, ..Limits::default() });
        let tenant = TenantId::new(uuid::Uuid::from_u128(1));
        for _ in 0..2 {
            wait_briefly(&handle, tenant);
        }
        assert_eq!(handle.shared.held_requests(), 2);
        let LeaseResult::Refused(error) = wait_briefly(&handle, tenant) else { panic!("leased") };
        assert_eq!(error, LeaseError::RouterQueueFull, "two messages are queued");
        // The waiter, then its cancellation.
        let LeaseCommand::Request(request) = commands.try_recv().unwrap() else { panic!() };
        let LeaseCommand::Cancel { waiter, .. } = commands.try_recv().unwrap() else { panic!() };
        assert_eq!(request.waiter.as_ref().map(|waiter| waiter.id), Some(waiter));
        drop(request);
        assert_eq!(handle.shared.held_requests(), 1);
    }
}
