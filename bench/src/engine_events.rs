//! Operations of the engine, counted from its own events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bollard::Docker;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt as _;

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
        let now = testkit::clock::unix_time();
        let since = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
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
