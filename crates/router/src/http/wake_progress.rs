//! Relays the progress of wakes to waiting pages: one stream per tenant from the orchestrator becomes server-sent events
//! for every page.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt as _;
use protocol::TenantId;
use protocol::leases::{WakeProgress, WakeStep};
use service::client::Client;
use tokio::sync::{mpsc, watch};

/// A thread's handle: subscribes pages to the progress of a wake.
#[derive(Clone)]
pub(crate) struct ProgressWatchers {
    subscriptions: mpsc::UnboundedSender<Watcher>,
    slots: Arc<WatcherSlots>,
}

/// Bounds the pages that watch, in total and per tenant, so that the visitors of one tenant cannot take all slots.
struct WatcherSlots {
    max: usize,
    max_per_tenant: usize,
    slots_by_tenant: Mutex<HashMap<TenantId, usize>>,
}

/// Held while a page watches.
struct WatcherSlot {
    slots: Arc<WatcherSlots>,
    tenant: TenantId,
}

/// One page that watches.
struct Watcher {
    tenant: TenantId,
    events: mpsc::Sender<Vec<u8>>,
    slot: WatcherSlot,
}

/// Follows the orchestrator on behalf of all watchers.
pub(crate) struct ProgressRelay {
    subscribed: mpsc::UnboundedReceiver<Watcher>,
    client: Client,
    tenants: HashMap<TenantId, watch::Sender<LatestProgress>>,
}

/// The newest event of one wake.
#[derive(Clone, Default)]
struct LatestProgress {
    event: Option<Vec<u8>>,
    /// No further event follows.
    is_over: bool,
}

/// A stream without events sends a comment this often, so that no proxy closes the connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A page watches no longer than this. A page that still waits reloads before, and subscribes again.
const MAX_WATCH: Duration = Duration::from_secs(60);
/// The limit until the orchestrator begins its response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_LINE_BYTES: usize = 64 << 10;

impl ProgressWatchers {
    /// At most `max` pages watch at once, and `max_per_tenant` pages of one tenant.
    pub(crate) fn new(
        (max, max_per_tenant): (usize, usize),
        client: Client,
    ) -> (Self, ProgressRelay) {
        // Every message holds a slot: the slots bound the queue.
        let (subscriptions, subscribed) = mpsc::unbounded_channel();
        let slots =
            Arc::new(WatcherSlots { max, max_per_tenant, slots_by_tenant: Mutex::default() });
        let relay = ProgressRelay { subscribed, client, tenants: HashMap::new() };
        (Self { subscriptions, slots }, relay)
    }

    /// Returns the events of a wake until the wake is over, or `None` when no slot is free.
    pub(crate) fn watch(&self, tenant: TenantId) -> Option<mpsc::Receiver<Vec<u8>>> {
        let slot = WatcherSlots::take(&self.slots, tenant)?;
        let (events, received) = mpsc::channel(4);
        // The relay ends with the process: the page receives nothing and tries again.
        let _ = self.subscriptions.send(Watcher { tenant, events, slot });
        Some(received)
    }

    pub(crate) fn count(&self) -> usize {
        self.slots.lock().values().sum()
    }
}

impl WatcherSlots {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, usize>> {
        self.slots_by_tenant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(slots: &Arc<Self>, tenant: TenantId) -> Option<WatcherSlot> {
        let mut slots_by_tenant = slots.lock();
        let of_tenant = slots_by_tenant.get(&tenant).copied().unwrap_or_default();
        if of_tenant >= slots.max_per_tenant || slots_by_tenant.values().sum::<usize>() >= slots.max
        {
            return None;
        }
        slots_by_tenant.insert(tenant, of_tenant + 1);
        Some(WatcherSlot { slots: slots.clone(), tenant })
    }
}

impl Drop for WatcherSlot {
    fn drop(&mut self) {
        let mut slots_by_tenant = self.slots.lock();
        if let Some(count) = slots_by_tenant.get_mut(&self.tenant) {
            *count -= 1;
        }
        slots_by_tenant.retain(|_, count| *count > 0);
    }
}

impl ProgressRelay {
    /// Relays for as long as the future is polled.
    pub(crate) async fn run(mut self) {
        while let Some(watcher) = self.subscribed.recv().await {
            self.tenants.retain(|_, latest| !latest.borrow().is_over);
            let latest = self.tenants.entry(watcher.tenant).or_insert_with(|| {
                let (latest, _) = watch::channel(LatestProgress::default());
                tokio::spawn(follow(self.client.clone(), watcher.tenant, latest.clone()));
                latest
            });
            tokio::spawn(send_events(latest.subscribe(), watcher));
        }
    }
}

/// Sends one page the newest event, then each event that follows.
async fn send_events(mut latest: watch::Receiver<LatestProgress>, watcher: Watcher) {
    let Watcher { events, slot, .. } = watcher;
    let deadline = tokio::time::sleep(MAX_WATCH);
    tokio::pin!(deadline);
    loop {
        let LatestProgress { event, is_over } = latest.borrow_and_update().clone();
        if let Some(event) = event
            && events.send(event).await.is_err()
        {
            break;
        }
        if is_over {
            break;
        }
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(KEEP_ALIVE_INTERVAL) => if events.send(b":\n\n".to_vec()).await.is_err() { break },
            () = events.closed() => break,
            () = &mut deadline => break,
        }
    }
    drop(slot);
}

/// Follows the wake of one tenant while a page watches.
async fn follow(client: Client, tenant: TenantId, latest: watch::Sender<LatestProgress>) {
    tokio::select! {
        () = read(&client, tenant, &latest) => {}
        () = latest.closed() => {}
    }
    latest.send_modify(|latest| latest.is_over = true);
}

async fn read(client: &Client, tenant: TenantId, latest: &watch::Sender<LatestProgress>) {
    let path = format!("/v1/leases/{tenant}/progress");
    let mut body = match client.stream(&path, RESPONSE_TIMEOUT).await {
        Ok(response) => response.into_body(),
        Err(error) => {
            tracing::debug!(%tenant, %error, "reading wake progress failed");
            return;
        }
    };
    let mut buffer = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(end) = memchr::memchr(b'\n', &buffer) {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let Ok(progress) = serde_json::from_slice::<WakeProgress>(&line) else { continue };
            latest.send_modify(|latest| latest.event = Some(format_event(&progress)));
            match progress.step {
                // The wake is over, or the tenant sleeps on: no further event follows.
                WakeStep::Asleep | WakeStep::Ready | WakeStep::Failed => return,
                WakeStep::Queued | WakeStep::Starting | WakeStep::Booting => {}
            }
        }
        if buffer.len() > MAX_LINE_BYTES {
            return;
        }
    }
}

/// Formats an event without its reason, which the page after a failed wake shows.
fn format_event(progress: &WakeProgress) -> Vec<u8> {
    let public = WakeProgress { reason: None, ..progress.clone() };
    let data = serde_json::to_string(&public).unwrap_or_default();
    format!("retry: 1000\nevent: progress\ndata: {data}\n\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tenant_takes_all_slots_and_a_freed_slot_is_taken_again() {
        let slots =
            Arc::new(WatcherSlots { max: 3, max_per_tenant: 2, slots_by_tenant: Mutex::default() });
        let [one, other] = [1, 2].map(|n| TenantId::new(uuid::Uuid::from_u128(n)));
        let mut held: Vec<_> = [one, one, one, other, other]
            .into_iter()
            .map(|tenant| WatcherSlots::take(&slots, tenant))
            .collect();
        let had: Vec<_> = held.iter().map(Option::is_some).collect();
        assert_eq!(had, [true, true, false, true, false]);
        held.remove(0);
        assert!(WatcherSlots::take(&slots, other).is_some());
        drop(held);
        assert!(slots.lock().is_empty());
    }

    #[test]
    fn an_event_on_the_wire() {
        let progress = WakeProgress {
            step: WakeStep::Queued,
            ahead: Some(3),
            elapsed_ms: 120,
            reason: Some("a\nb".to_owned()),
        };
        let event = String::from_utf8(format_event(&progress)).unwrap();
        insta::assert_snapshot!(event.trim_end(), @r#"
        retry: 1000
        event: progress
        data: {"step":"queued","ahead":3,"elapsed_ms":120}
        "#);
    }
}
