//! The engine's events as hints. The stream sometimes ends silently. The follower resumes a little
//! before its end and notifies readers that they must list again.

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

use super::engine::{Engine, INSPECT_TIMEOUT, with_timeout};
use super::template::ContainerTemplate;
use crate::driver::{DriverError, DriverErrorCode, EngineEvent};
use crate::readiness::ReadinessProbes;

/// The next stream begins this long before the end of the previous one.
const OVERLAP_SECONDS: i64 = 2;
/// More events than the overlap can contain.
const MAX_REMEMBERED_EVENTS: usize = 4_096;
const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(200);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(5);

/// Follows the events forever.
pub(super) async fn follow(
    engine: Arc<Engine>,
    template: ContainerTemplate,
    probes: Arc<ReadinessProbes>,
    events: Sender<EngineEvent>,
) {
    let mut reader = EventReader::new(probes, events);
    let mut pause = MIN_RECONNECT_DELAY;
    loop {
        match reader.follow_once(&engine, &template).await {
            // The stream lasted for a while, so the next failure is a new one.
            Ok(()) => pause = MIN_RECONNECT_DELAY,
            Err(error) => {
                // A newer or older engine may respond next.
                engine.forget();
                // An error of this process is no evidence about the engine.
                if error.code != DriverErrorCode::OutOfResources {
                    reader.publish(EngineEvent::Disconnected(error.detail));
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_RECONNECT_DELAY);
    }
}

struct EventReader {
    probes: Arc<ReadinessProbes>,
    events: Sender<EngineEvent>,
    /// The start of the next stream, in seconds of the engine's clock.
    since: Option<i64>,
    known: RecentEvents,
    out_of_memory: HashSet<String>,
}

/// The events seen so far, because an overlap repeats some.
#[derive(Default)]
struct RecentEvents {
    order: VecDeque<(i64, String, String)>,
    set: HashSet<(i64, String, String)>,
}

impl RecentEvents {
    fn is_new(&mut self, event: (i64, String, String)) -> bool {
        if !self.set.insert(event.clone()) {
            return false;
        }
        self.order.push_back(event);
        if self.order.len() > MAX_REMEMBERED_EVENTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}

impl EventReader {
    fn new(probes: Arc<ReadinessProbes>, events: Sender<EngineEvent>) -> Self {
        Self {
            probes,
            events,
            since: None,
            known: RecentEvents::default(),
            out_of_memory: HashSet::default(),
        }
    }

    fn publish(&self, event: EngineEvent) {
        // An event without a reader is no error.
        let _ = self.events.send(event);
    }

    /// Follows one stream from its beginning to its end.
    async fn follow_once(
        &mut self,
        engine: &Engine,
        template: &ContainerTemplate,
    ) -> Result<(), DriverError> {
        let client = engine.client().await?;
        let since = match self.since {
            Some(at) => at,
            None => engine_seconds(&client).await?,
        };
        with_timeout(INSPECT_TIMEOUT, client.ping()).await?;
        let mut filters = template.filters(None);
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        let wanted = EventsOptions {
            since: Some((since - OVERLAP_SECONDS).to_string()),
            until: None,
            filters: Some(filters),
        };
        let mut events = std::pin::pin!(client.events(Some(wanted)));
        if self.since.replace(since).is_some() {
            // The engine may have restarted, and a restarted engine remembers no earlier event.
            let events = self.events.clone();
            self.probes.recheck_ready(move |id| {
                // An event without a reader is no error.
                let _ = events.send(EngineEvent::Changed(id));
            });
        }
        self.publish(EngineEvent::Reconnected);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.take(event),
                Err(error) => return Err(super::engine::driver_error(&error)),
            }
        }
        self.publish(EngineEvent::EventsMissed);
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
                    was_ready: self.probes.on_exit(id, &container),
                };
                self.publish(EngineEvent::Died { id, container, exit });
            }
            "destroy" => {
                self.probes.on_removed(id, &container);
                self.publish(EngineEvent::Changed(id));
            }
            "create" | "start" | "stop" | "pause" | "unpause" | "rename" | "update" => {
                self.publish(EngineEvent::Changed(id));
            }
            _ => {}
        }
    }
}

fn tenant(attributes: &HashMap<String, String>) -> Option<TenantId> {
    attributes.get(labels::TENANT)?.parse().ok()
}

/// Reads the engine's clock, which selects events and may differ from ours.
async fn engine_seconds(client: &Client) -> Result<i64, DriverError> {
    let info = with_timeout(INSPECT_TIMEOUT, client.info()).await?;
    let time = info.system_time.as_deref().unwrap_or_default();
    let at = chrono::DateTime::parse_from_rfc3339(time);
    Ok(at.map_or(0, |at| at.timestamp()))
}
