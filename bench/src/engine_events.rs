//! Operations of the engine, counted and timed by its own events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::{StreamExt as _, TryStreamExt as _};

/// Counts events from its creation until it is dropped.
pub(super) struct EngineEvents {
    counts: Arc<Mutex<Counts>>,
    task: tokio::task::JoinHandle<()>,
}

/// Counts by action and container.
type Counts = HashMap<(String, String), usize>;

impl EngineEvents {
    /// Watches the containers of one installation.
    pub(super) fn watch(docker: &Docker, install: &str) -> Self {
        let filters = HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("label".to_owned(), vec![format!("cial.install={install}")]),
        ]);
        // From now on, even if the subscription takes a while: the engine keeps recent events.
        let since = timestamp(testkit::clock::unix_time());
        let options = EventsOptionsBuilder::default().since(&since).filters(&filters).build();
        let (counts, docker) = (Arc::<Mutex<Counts>>::default(), docker.clone());
        let shared = counts.clone();
        let task = tokio::spawn(async move {
            let mut events = docker.events(Some(options));
            while let Some(Ok(event)) = events.next().await {
                let id = event.actor.and_then(|actor| actor.id);
                if let (Some(action), Some(id)) = (event.action, id) {
                    let mut counts = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    *counts.entry((action, id)).or_default() += 1;
                }
            }
        });
        Self { counts, task }
    }

    /// Returns how often `action` happened, to one container or to all.
    pub(super) fn count(&self, action: &str, container: Option<&str>) -> usize {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |(did, to): &&(String, String)| {
            did == action && container.is_none_or(|container| to == container)
        };
        counts.iter().filter(|(key, _)| is_it(key)).map(|(_, count)| count).sum()
    }
}

impl Drop for EngineEvents {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One event of the engine, or another moment beside them.
pub(super) struct EngineStep {
    /// Since 1970.
    pub(super) at: Duration,
    pub(super) what: String,
}

/// Lists the events between two times since 1970, both in the past, about objects whose names hold `name`.
///
/// # Errors
/// The engine does not list its events.
pub(super) async fn between(
    docker: &Docker,
    since: Duration,
    until: Duration,
    name: &str,
) -> Result<Vec<EngineStep>> {
    let (since, until) = (timestamp(since), timestamp(until));
    let options = EventsOptionsBuilder::default().since(&since).until(&until).build();
    let events: Vec<_> = docker.events(Some(options)).try_collect().await?;
    Ok(events.into_iter().filter_map(|event| step(event, name)).collect())
}

fn step(event: EventMessage, name: &str) -> Option<EngineStep> {
    let actor = event.actor?;
    // Volumes have their name for an id.
    let named = actor.attributes.unwrap_or_default().remove("name").or(actor.id)?;
    let nanoseconds = u64::try_from(event.time_nano?).ok()?;
    let kind = event.typ.map(|kind| kind.to_string()).unwrap_or_default();
    let what = format!("{kind} {}", event.action.unwrap_or_default());
    named.contains(name).then_some(EngineStep { at: Duration::from_nanos(nanoseconds), what })
}

/// A time since 1970 as the engine reads it.
fn timestamp(time: Duration) -> String {
    format!("{}.{:09}", time.as_secs(), time.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_step_is_an_event_about_an_object_of_that_name() {
        let read = |event: serde_json::Value| {
            let step = step(serde_json::from_value(event).unwrap(), "0192f0c1")?;
            Some((step.at.as_nanos(), step.what))
        };
        let attributes = json!({ "name": "cial-tenant-0192f0c1" });
        let event = json!({
            "Type": "container", "Action": "start", "timeNano": 7,
            "Actor": { "ID": "abc", "Attributes": attributes },
        });
        assert_eq!(read(event), Some((7, "container start".to_owned())));
        let volume = json!({
            "Type": "volume", "Action": "create", "timeNano": 5,
            "Actor": { "ID": "cial-tenant-0192f0c1-data", "Attributes": { "driver": "local" } },
        });
        assert_eq!(read(volume), Some((5, "volume create".to_owned())));
        let other = json!({
            "Type": "container", "Action": "start", "timeNano": 7,
            "Actor": { "ID": "abc", "Attributes": { "name": "cial-tenant-0192f0c2" } },
        });
        assert_eq!(read(other), None);
    }
}
