//! Waiting pages that watch a wake: one stream from the orchestrator a tenant, as server-sent events to all who look.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt as _;
use protocol::TenantId;
use protocol::leases::{WakeProgress, WakeStep};
use service::client::Client;
use tokio::sync::{mpsc, watch};

/// A thread's way to the progress of wakes.
#[derive(Clone)]
pub(crate) struct Watchers {
    asks: mpsc::UnboundedSender<Watcher>,
    room: Arc<Room>,
}

/// For so many pages, of all tenants and of one: no visitor of one takes the room of the others.
struct Room {
    most: usize,
    most_of_one: usize,
    taken: Mutex<HashMap<TenantId, usize>>,
}

/// Held for as long as a page looks.
struct Place {
    room: Arc<Room>,
    tenant: TenantId,
}

/// One page.
struct Watcher {
    tenant: TenantId,
    to: mpsc::Sender<Vec<u8>>,
    place: Place,
}

pub(crate) struct Watching {
    asked: mpsc::UnboundedReceiver<Watcher>,
    client: Client,
    tenants: HashMap<TenantId, watch::Sender<Told>>,
}

/// The last of a wake.
#[derive(Clone, Default)]
struct Told {
    event: Option<Vec<u8>>,
    /// Nothing follows soon.
    is_over: bool,
}

/// How long a page hears nothing before it is told that somebody is there.
const SILENCE: Duration = Duration::from_secs(10);
/// No page looks for longer. One that still waits is loaded anew by then, and asks again.
const LOOK: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(3);
const LINE_LIMIT: usize = 64 << 10;

impl Watchers {
    /// Pages that look at once: `most`, of one tenant `most_of_one`.
    pub(crate) fn new((most, most_of_one): (usize, usize), client: Client) -> (Self, Watching) {
        let (asks, asked) = mpsc::unbounded_channel();
        let room = Arc::new(Room { most, most_of_one, taken: Mutex::default() });
        (Self { asks, room }, Watching { asked, client, tenants: HashMap::new() })
    }

    /// Events as they come, until the wake is over; `None` when too many look already.
    pub(crate) fn watch(&self, tenant: TenantId) -> Option<mpsc::Receiver<Vec<u8>>> {
        let place = Room::take(&self.room, tenant)?;
        let (to, events) = mpsc::channel(4);
        // At the very end nobody listens: the page hears nothing and tries again.
        let _ = self.asks.send(Watcher { tenant, to, place });
        Some(events)
    }

    pub(crate) fn count(&self) -> usize {
        self.room.taken().values().sum()
    }
}

impl Room {
    fn taken(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(room: &Arc<Self>, tenant: TenantId) -> Option<Place> {
        let mut taken = room.taken();
        let of_one = taken.get(&tenant).copied().unwrap_or_default();
        if of_one >= room.most_of_one || taken.values().sum::<usize>() >= room.most {
            return None;
        }
        taken.insert(tenant, of_one + 1);
        Some(Place { room: room.clone(), tenant })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        if let Some(count) = taken.get_mut(&self.tenant) {
            *count -= 1;
        }
        taken.retain(|_, count| *count > 0);
    }
}

impl Watching {
    /// Serves for as long as it is polled.
    pub(crate) async fn run(mut self) {
        while let Some(watcher) = self.asked.recv().await {
            self.tenants.retain(|_, told| !told.borrow().is_over);
            let told = self.tenants.entry(watcher.tenant).or_insert_with(|| {
                let (told, _) = watch::channel(Told::default());
                tokio::spawn(follow(self.client.clone(), watcher.tenant, told.clone()));
                told
            });
            tokio::spawn(show(told.subscribe(), watcher));
        }
    }
}

/// One page: the last that is known, and what follows.
async fn show(mut told: watch::Receiver<Told>, watcher: Watcher) {
    let Watcher { to, place, .. } = watcher;
    let end = tokio::time::sleep(LOOK);
    tokio::pin!(end);
    loop {
        let Told { event, is_over } = told.borrow_and_update().clone();
        if let Some(event) = event
            && to.send(event).await.is_err()
        {
            break;
        }
        if is_over {
            break;
        }
        tokio::select! {
            changed = told.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(SILENCE) => if to.send(b":\n\n".to_vec()).await.is_err() { break },
            () = to.closed() => break,
            () = &mut end => break,
        }
    }
    drop(place);
}

/// One tenant, for as long as a page looks at it.
async fn follow(client: Client, tenant: TenantId, told: watch::Sender<Told>) {
    tokio::select! {
        () = read(&client, tenant, &told) => {}
        () = told.closed() => {}
    }
    told.send_modify(|told| told.is_over = true);
}

async fn read(client: &Client, tenant: TenantId, told: &watch::Sender<Told>) {
    let path = format!("/v1/leases/{tenant}/progress");
    let mut body = match client.stream(&path, PATIENCE).await {
        Ok(answer) => answer.into_body(),
        Err(error) => {
            tracing::debug!(%tenant, %error, "nobody tells how a wake goes");
            return;
        }
    };
    let mut held = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        held.extend_from_slice(&data);
        while let Some(end) = memchr::memchr(b'\n', &held) {
            let line: Vec<u8> = held.drain(..=end).collect();
            let Ok(progress) = serde_json::from_slice::<WakeProgress>(&line) else { continue };
            told.send_modify(|told| told.event = Some(event(&progress)));
            match progress.step {
                // Nobody wakes it: no page is to look at that.
                WakeStep::Asleep | WakeStep::Ready | WakeStep::Failed => return,
                WakeStep::Queued | WakeStep::Starting | WakeStep::Booting => {}
            }
        }
        if held.len() > LINE_LIMIT {
            return;
        }
    }
}

/// The reason stays here: the page that a failed wake leads to says it.
fn event(progress: &WakeProgress) -> Vec<u8> {
    let shown = WakeProgress { reason: None, ..progress.clone() };
    let data = serde_json::to_string(&shown).unwrap_or_default();
    format!("retry: 1000\nevent: progress\ndata: {data}\n\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tenant_takes_all_the_room_and_what_is_given_back_is_there() {
        let room = Arc::new(Room { most: 3, most_of_one: 2, taken: Mutex::default() });
        let [one, other] = [1, 2].map(|n| TenantId::new(uuid::Uuid::from_u128(n)));
        let mut places: Vec<_> = [one, one, one, other, other]
            .into_iter()
            .map(|tenant| Room::take(&room, tenant))
            .collect();
        let had: Vec<_> = places.iter().map(Option::is_some).collect();
        assert_eq!(had, [true, true, false, true, false]);
        places.remove(0);
        assert!(Room::take(&room, other).is_some());
        drop(places);
        assert!(room.taken().is_empty());
    }

    #[test]
    fn an_event_as_it_is_written() {
        let progress = WakeProgress {
            step: WakeStep::Queued,
            ahead: Some(3),
            elapsed_ms: 120,
            reason: Some("a\nb".to_owned()),
        };
        let event = String::from_utf8(event(&progress)).unwrap();
        insta::assert_snapshot!(event.trim_end(), @r#"
        retry: 1000
        event: progress
        data: {"step":"queued","ahead":3,"elapsed_ms":120}
        "#);
    }
}
