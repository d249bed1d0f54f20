//! The observed tenants of the last orchestrator watch; empty while no watch is connected.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use protocol::TenantId;
use protocol::orchestrator::{ObservedTenant, TenantAtRevision};
use protocol::watch::{Keyed as _, Message};

use super::plan::Observation;

/// `None` inside means that no watch is connected.
#[derive(Debug, Default)]
pub struct ObservedCache(Mutex<Option<HashMap<TenantId, TenantAtRevision>>>);

impl ObservedCache {
    /// Applies one message of the watch and returns the tenants that it concerns.
    pub fn apply_message(&self, message: Message<ObservedTenant>) -> Vec<TenantId> {
        self.with(|tenants| match message {
            Message::Snapshot { revision, items } => {
                let at_revision = |tenant: ObservedTenant| TenantAtRevision { revision, tenant };
                let items = items.into_iter().map(|item| (item.key(), at_revision(item)));
                tenants.insert(items.collect()).keys().copied().collect()
            }
            Message::Changed { revision, item, .. } => {
                let id = item.key();
                let changed = TenantAtRevision { revision, tenant: item };
                insert_if_newer(tenants.get_or_insert_default(), changed);
                vec![id]
            }
            Message::Gone { key, .. } => {
                tenants.get_or_insert_default().remove(&key);
                vec![key]
            }
            Message::Heartbeat { .. } => Vec::new(),
        })
    }

    /// Stores the observation of a response, unless the watch has sent a newer one meanwhile. The response may also come
    /// before the messages of the watch that it includes.
    pub fn insert(&self, observed: TenantAtRevision) {
        self.with(|tenants| {
            if let Some(tenants) = tenants {
                insert_if_newer(tenants, observed);
            }
        });
    }

    /// Removes a tenant after a response that confirms its removal.
    pub fn remove(&self, id: TenantId) {
        self.with(|tenants| {
            if let Some(tenants) = tenants {
                tenants.remove(&id);
            }
        });
    }

    /// Forgets every observation: the watch ended, so all of them are out of date.
    pub fn disconnect(&self) {
        self.with(|tenants| *tenants = None);
    }

    pub fn is_connected(&self) -> bool {
        self.with(|tenants| tenants.is_some())
    }

    pub fn get(&self, id: TenantId) -> Observation {
        self.with(|tenants| match tenants {
            None => Observation::Unknown,
            Some(tenants) => tenants.get(&id).map_or(Observation::Absent, |observed| {
                Observation::Present(Box::new(observed.tenant.clone()))
            }),
        })
    }

    pub fn ids(&self) -> Vec<TenantId> {
        self.with(|tenants| tenants.iter().flat_map(|map| map.keys().copied()).collect())
    }

    fn with<R>(
        &self,
        work: impl FnOnce(&mut Option<HashMap<TenantId, TenantAtRevision>>) -> R,
    ) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn insert_if_newer(tenants: &mut HashMap<TenantId, TenantAtRevision>, observed: TenantAtRevision) {
    let id = observed.tenant.id;
    if tenants.get(&id).is_none_or(|known| known.revision <= observed.revision) {
        tenants.insert(id, observed);
    }
}

#[cfg(test)]
mod tests {
    use protocol::orchestrator::Phase;

    use super::*;
    use crate::reconcile::plan::tests::observed;

    fn at(revision: u64, phase: Phase) -> TenantAtRevision {
        TenantAtRevision { revision, tenant: observed(phase) }
    }

    fn changed(revision: u64, phase: Phase) -> Message<ObservedTenant> {
        Message::Changed { follows: revision - 1, revision, item: observed(phase) }
    }

    fn phase(cache: &ObservedCache) -> Option<Phase> {
        match cache.get(observed(Phase::Ready).id) {
            Observation::Present(observed) => Some(observed.phase),
            Observation::Absent | Observation::Unknown => None,
        }
    }

    fn watched(phase: Phase) -> ObservedCache {
        let cache = ObservedCache::default();
        cache.apply_message(Message::Snapshot { revision: 10, items: vec![observed(phase)] });
        cache
    }

    /// The response to a start says `starting`; the watch may have sent `ready` by then.
    #[test]
    fn a_response_replaces_nothing_newer_that_the_watch_has_sent() {
        let cache = watched(Phase::Stopped);
        cache.apply_message(changed(11, Phase::Starting));
        cache.apply_message(changed(12, Phase::Ready));
        cache.insert(at(11, Phase::Starting));
        assert_eq!(phase(&cache), Some(Phase::Ready));
    }

    #[test]
    fn a_response_comes_before_the_messages_that_it_includes() {
        let cache = watched(Phase::Stopped);
        cache.insert(at(12, Phase::Starting));
        assert_eq!(phase(&cache), Some(Phase::Starting));
        cache.apply_message(changed(11, Phase::Created));
        assert_eq!(phase(&cache), Some(Phase::Starting));
        cache.apply_message(changed(13, Phase::Ready));
        assert_eq!(phase(&cache), Some(Phase::Ready));
    }

    #[test]
    fn a_response_is_not_kept_without_a_watch() {
        let cache = watched(Phase::Ready);
        cache.disconnect();
        cache.insert(at(11, Phase::Ready));
        assert_eq!(phase(&cache), None);
        assert!(!cache.is_connected());
    }
}
