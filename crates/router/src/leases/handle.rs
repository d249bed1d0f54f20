//! The requests of the serving threads to the manager loop, and the bounds of their waits.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lease::{LeaseError, Millis, OrchestratorStatus};
use protocol::TenantId;
use protocol::leases::RequestIntent;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::clock;
use crate::leases::{CachedLease, LeaseGuard};

/// Bounds of the waiters in this process. They are no settings of an installation, because they
/// bound memory, not service.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that wait for a tenant, all together.
    pub held: usize,
    /// Requests that wait for one tenant.
    pub held_for_one: usize,
    /// Waiting pages that watch a wake, all together.
    pub watchers: usize,
    /// Waiting pages that watch the wake of one tenant.
    pub watchers_of_one: usize,
    /// Pairs of tenant and client for which the rate limit keeps a count.
    pub clients: usize,
    /// How long a restart of the orchestrator takes. While it is away for longer, requests for a tenant that does not
    /// run are refused at once.
    pub restart: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            held: 16_384,
            // A sixteenth: the visitors of one tenant must not take the places of the others.
            held_for_one: 1_024,
            watchers: 1_024,
            watchers_of_one: 64,
            clients: 65_536,
            restart: Duration::from_secs(10),
        }
    }
}

/// A serving thread's access to leases.
#[derive(Clone)]
pub(crate) struct LeaseHandle {
    commands: mpsc::UnboundedSender<LeaseCommand>,
    pub(crate) queue: Arc<LeaseQueue>,
}

/// The state that all threads share with the manager loop. Touched only by requests without a
/// lease.
pub(crate) struct LeaseQueue {
    /// One permit per queued request. The permit travels with the request's message.
    permits: Arc<Semaphore>,
    pub(crate) limits: Limits,
    /// An [`OrchestratorStatus`].
    status: AtomicU8,
    /// From this moment on a request without a lease may be the reason for another lease request.
    next_report_at: AtomicU64,
    last_waiter: AtomicU64,
    /// Streams that wait for their tenant, one wait for each thread and tenant.
    thaws: Mutex<Thaws>,
    /// Wakes before that of a tenant, as last reported by the orchestrator.
    queue_positions: Mutex<HashMap<TenantId, u32>>,
}

/// `None` until the wait has ended.
type ThawResult = Option<Result<Arc<CachedLease>, LeaseError>>;
type Thaws = HashMap<(usize, TenantId), watch::Receiver<ThawResult>>;

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

/// How a wait for a lease ended.
pub(crate) enum LeaseResult {
    Leased(LeaseGuard),
    /// The orchestrator is away, and the route table shows the tenant running.
    Unleased(LeaseGuard),
    Refused(LeaseError),
}

/// Minimum time between two reports of use without a lease.
const REPORT_INTERVAL: Millis = 1_000;

impl LeaseHandle {
    pub(crate) fn new(limits: Limits) -> (Self, mpsc::UnboundedReceiver<LeaseCommand>) {
        // The permits bound the channel: a message has one, cancels a message that had one, or is one of a few a second.
        let (commands, receiver) = mpsc::unbounded_channel();
        let queue = LeaseQueue {
            permits: Arc::new(Semaphore::new(limits.held)),
            limits,
            status: AtomicU8::new(OrchestratorStatus::Reachable as u8),
            next_report_at: AtomicU64::new(0),
            last_waiter: AtomicU64::new(0),
            thaws: Mutex::default(),
            queue_positions: Mutex::default(),
        };
        (Self { commands, queue: Arc::new(queue) }, receiver)
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
        let Some(permit) = self.queue.take_permit() else {
            return LeaseResult::Refused(LeaseError::RouterQueueFull);
        };
        let (sender, result) = oneshot::channel();
        let id = self.queue.last_waiter.fetch_add(1, Relaxed) + 1;
        let waiter = Waiter { id, thread, result: sender, _permit: permit };
        self.send(LeaseCommand::Request(QueuedRequest {
            tenant,
            intent,
            failed_lease,
            retries_failure: false,
            _permit: None,
            waiter: Some(waiter),
        }));
        let cancel = CancelOnDrop { handle: self, tenant, waiter: id };
        let result = tokio::time::timeout(timeout, result).await;
        if result.is_ok() {
            cancel.disarm();
        }
        match result {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => LeaseResult::Refused(LeaseError::OrchestratorUnavailable),
            Err(_) if self.queue.is_orchestrator_away() => {
                LeaseResult::Refused(LeaseError::OrchestratorUnavailable)
            }
            Err(_) => {
                let queue_position = self.queue.queue_positions().get(&tenant).copied();
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
            let mut thaws = self.queue.thaws();
            let thawed = thaws.entry((thread, tenant)).or_insert_with(|| {
                let (sender, thawed) = watch::channel(None);
                let handle = self.clone();
                tokio::spawn(async move {
                    let intent = RequestIntent::Background;
                    let result = handle.wait_for_lease(tenant, thread, intent, None, timeout).await;
                    handle.queue.thaws().remove(&(thread, tenant));
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

    /// Wakes the tenant for a visitor that comes back by itself. Dropped when the queue is full.
    pub(crate) fn wake_tenant(&self, tenant: TenantId) {
        self.send_without_waiter(tenant, RequestIntent::Visit, None, true);
    }

    /// Reports that another process answered at the tenant's address. Dropped when the queue is
    /// full: the next response reports it again.
    pub(crate) fn report_failed_lease(&self, lease: &Arc<CachedLease>) {
        let failed_lease = Some(lease.clone());
        self.send_without_waiter(lease.tenant, RequestIntent::Background, failed_lease, false);
    }

    /// Reports a request without a lease, so that one is requested as soon as the orchestrator is back.
    pub(crate) fn report_unleased_request(&self, lease: &CachedLease) {
        if lease.mark_use_reported() || self.queue.take_report() {
            self.send(LeaseCommand::Request(QueuedRequest {
                tenant: lease.tenant,
                intent: RequestIntent::Background,
                failed_lease: None,
                retries_failure: false,
                _permit: None,
                waiter: None,
            }));
        }
    }

    /// Reports data of a stream without a lease: nothing keeps the tenant from being frozen. One report stands for all
    /// streams, and is repeated at later data.
    pub(crate) fn report_unleased_data(&self, lease: &CachedLease) {
        if !lease.may_report(clock::now(), REPORT_INTERVAL)
            || self.queue.is_orchestrator_away() && !self.queue.take_report()
        {
            return;
        }
        self.send_without_waiter(lease.tenant, RequestIntent::Background, None, false);
    }

    fn send_without_waiter(
        &self,
        tenant: TenantId,
        intent: RequestIntent,
        failed_lease: Option<Arc<CachedLease>>,
        retries_failure: bool,
    ) {
        let Some(permit) = self.queue.take_permit() else { return };
        self.send(LeaseCommand::Request(QueuedRequest {
            tenant,
            intent,
            failed_lease,
            retries_failure,
            _permit: Some(permit),
            waiter: None,
        }));
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

impl LeaseQueue {
    fn take_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    pub(crate) fn is_orchestrator_away(&self) -> bool {
        self.status.load(Relaxed) == OrchestratorStatus::Away as u8
    }

    pub(crate) fn is_rejected_by_orchestrator(&self) -> bool {
        self.status.load(Relaxed) == OrchestratorStatus::RejectsCalls as u8
    }

    pub(crate) fn set_status(&self, status: OrchestratorStatus) {
        if status == OrchestratorStatus::Away {
            self.next_report_at.store(clock::now().plus(REPORT_INTERVAL).0, Relaxed);
        }
        self.status.store(status as u8, Relaxed);
    }

    /// Returns `true` once per [`REPORT_INTERVAL`].
    fn take_report(&self) -> bool {
        let (now, at) = (clock::now(), self.next_report_at.load(Relaxed));
        let next = now.plus(REPORT_INTERVAL).0;
        at <= now.0 && self.next_report_at.compare_exchange(at, next, Relaxed, Relaxed).is_ok()
    }

    fn queue_positions(&self) -> MutexGuard<'_, HashMap<TenantId, u32>> {
        self.queue_positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_queue_position(&self, tenant: TenantId, queue_position: Option<u32>) {
        match queue_position {
            Some(position) => self.queue_positions().insert(tenant, position),
            None => self.queue_positions().remove(&tenant),
        };
    }

    fn thaws(&self) -> MutexGuard<'_, Thaws> {
        self.thaws.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of requests that wait.
    pub(crate) fn held_requests(&self) -> usize {
        self.limits.held.saturating_sub(self.permits.available_permits())
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
            handle.queue.set_queue_position(tenant, position);
            let LeaseResult::Refused(error) = wait_briefly(&handle, tenant) else {
                panic!("leased")
            };
            assert_eq!(error, LeaseError::Waking { queue_position: position });
        }
    }

    #[test]
    fn a_cancelled_wait_keeps_its_queue_place_until_its_messages_are_processed() {
        let (handle, mut commands) = LeaseHandle::new(Limits { held: 2, ..Limits::default() });
        let tenant = TenantId::new(uuid::Uuid::from_u128(1));
        for _ in 0..2 {
            wait_briefly(&handle, tenant);
        }
        assert_eq!(handle.queue.held_requests(), 2);
        let LeaseResult::Refused(error) = wait_briefly(&handle, tenant) else { panic!("leased") };
        assert_eq!(error, LeaseError::RouterQueueFull, "two messages are queued");
        // The waiter, then its cancellation.
        let LeaseCommand::Request(request) = commands.try_recv().unwrap() else { panic!() };
        let LeaseCommand::Cancel { waiter, .. } = commands.try_recv().unwrap() else { panic!() };
        assert_eq!(request.waiter.as_ref().map(|waiter| waiter.id), Some(waiter));
        drop(request);
        assert_eq!(handle.queue.held_requests(), 1);
    }

    #[test]
    fn one_tenant_gets_at_most_a_sixteenth_of_the_queue() {
        let limits = Limits::default();
        // A thousand requests at once for one sleeping tenant are all served.
        assert!(limits.held_for_one >= 1_024 && limits.held_for_one <= limits.held / 16);
        assert!(limits.watchers_of_one <= limits.watchers / 16);
    }
}
