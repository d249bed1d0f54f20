//! The engine's events as hints. The stream ends without a word now and then: it is taken up again from a
//! little before its end, and whoever listens is told to list.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker as Client;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt as _;
use protocol::TenantId;
use protocol::id::labels;
use protocol::orchestrator::Exit;
use tokio::sync::broadcast::Sender;

use super::engine::{Engine, LOOK, within};
use super::flags::House;
use crate::driver::{Refusal, Sighting};
use crate::ready::Doors;

/// How far before the end of a stream the next one begins.
const OVERLAP_SECONDS: i64 = 2;
/// More events than the overlap can hold.
const REMEMBERED: usize = 4_096;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Never ends.
pub(super) async fn follow(
    engine: Arc<Engine>,
    house: House,
    doors: Arc<Doors>,
    tell: Sender<Sighting>,
) {
    let mut reader = Reader::new(doors, tell);
    let mut pause = FIRST_PAUSE;
    loop {
        match reader.follow_once(&engine, &house).await {
            // It held for a while: what comes next is a new trouble, if any.
            Ok(()) => pause = FIRST_PAUSE,
            Err(refusal) => {
                // A newer or older engine may answer next.
                engine.forget();
                reader.tell(Sighting::Lost(refusal.detail));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

struct Reader {
    doors: Arc<Doors>,
    tell: Sender<Sighting>,
    /// Engine's clock, seconds: where the next stream begins.
    since: Option<i64>,
    known: Known,
    out_of_memory: HashSet<String>,
}

/// Events seen already: an overlap repeats some.
#[derive(Default)]
struct Known {
    order: VecDeque<(i64, String, String)>,
    set: HashSet<(i64, String, String)>,
}

impl Known {
    fn is_new(&mut self, event: (i64, String, String)) -> bool {
        if !self.set.insert(event.clone()) {
            return false;
        }
        self.order.push_back(event);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}

impl Reader {
    fn new(doors: Arc<Doors>, tell: Sender<Sighting>) -> Self {
        Self {
            doors,
            tell,
            since: None,
            known: Known::default(),
            out_of_memory: HashSet::default(),
        }
    }

    fn tell(&self, sighting: Sighting) {
        // Nobody listening is no fault.
        let _ = self.tell.send(sighting);
    }

    /// One stream, from its beginning to its end.
    async fn follow_once(&mut self, engine: &Engine, house: &House) -> Result<(), Refusal> {
        let client = engine.client().await?;
        let since = match self.since {
            Some(at) => at,
            None => engine_seconds(&client).await?,
        };
        within(LOOK, client.ping()).await?;
        let mut filters = house.filters(None);
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        let wanted = EventsOptions {
            since: Some((since - OVERLAP_SECONDS).to_string()),
            until: None,
            filters: Some(filters),
        };
        let mut events = std::pin::pin!(client.events(Some(wanted)));
        if self.since.replace(since).is_some() {
            // The engine may have been started anew, and remembers no event from before.
            let tell = self.tell.clone();
            self.doors.ask_again(move |id| {
                // Nobody listening is no fault.
                let _ = tell.send(Sighting::Changed(id));
            });
        }
        self.tell(Sighting::Found);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.take(event),
                Err(error) => return Err(super::engine::refusal(&error)),
            }
        }
        self.tell(Sighting::Missed);
        Ok(())
    }

    fn take(&mut self, event: EventMessage) {
        let (Some(action), Some(actor)) = (event.action, event.actor) else { return };
        let container = actor.id.unwrap_or_default();
        let nanos = event.time_nano.unwrap_or_default();
        self.since = self.since.max(event.time);
        if !self.known.is_new((nanos, container.clone(), action.clone())) {
            return;
        }
        let attributes = actor.attributes.unwrap_or_default();
        let Some(id) = tenant(&attributes) else { return };
        match action.as_str() {
            "oom" => {
                self.out_of_memory.insert(container);
            }
            "die" => {
                let code = attributes.get("exitCode").and_then(|c| c.parse().ok());
                let exit = Exit {
                    at: chrono::DateTime::from_timestamp_nanos(nanos),
                    code: code.unwrap_or(-1),
                    out_of_memory: self.out_of_memory.remove(&container),
                    was_ready: self.doors.ended(id, &container),
                };
                self.tell(Sighting::Died { id, container, exit });
            }
            "destroy" => {
                self.doors.gone(id, &container);
                self.tell(Sighting::Changed(id));
            }
            "create" | "start" | "stop" | "pause" | "unpause" | "rename" | "update" => {
                self.tell(Sighting::Changed(id));
            }
            _ => {}
        }
    }
}

fn tenant(attributes: &HashMap<String, String>) -> Option<TenantId> {
    attributes.get(labels::TENANT)?.parse().ok()
}

/// The engine's clock: its events are asked for by it, and it need not be ours.
async fn engine_seconds(client: &Client) -> Result<i64, Refusal> {
    let info = within(LOOK, client.info()).await?;
    let time = info.system_time.as_deref().unwrap_or_default();
    let at = chrono::DateTime::parse_from_rfc3339(time);
    Ok(at.map_or(0, |at| at.timestamp()))
}
