//! The observed tenants of the last orchestrator watch; empty while no watch is connected.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use protocol::TenantId;
use protocol::orchestrator::ObservedTenant;
use protocol::watch::{Keyed as _, Message};

use super::plan::Observation;

/// `None` inside means that no watch is connected.
#[derive(Debug, Default)]
pub struct ObservedCache(Mutex<Option<HashMap<TenantId, ObservedTenant>>>);

impl ObservedCache {
    /// Applies one message of the watch and returns the tenants that it concerns.
    pub fn apply_message(&self, message: Message<ObservedTenant>) -> Vec<TenantId> {
        self.with(|tenants| match message {
            Message::Snapshot { items, .. } => {
                let snapshot = tenants.insert(items.into_iter().map(|o| (o.key(), o)).collect());
                snapshot.keys().copied().collect()
            }
            Message::Changed { item, .. } => {
                let id = item.key();
                tenants.get_or_insert_default().insert(id, item);
                vec![id]
            }
            Message::Gone { key, .. } => {
                tenants.get_or_insert_default().remove(&key);
                vec![key]
            }
            Message::Heartbeat { .. } => Vec::new(),
        })
    }

    /// Stores an observation from a response, which may be newer than the watch.
    pub fn insert(&self, observed: ObservedTenant) {
        self.with(|tenants| {
            if let Some(tenants) = tenants {
                tenants.insert(observed.id, observed);
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
            Some(tenants) => tenants
                .get(&id)
                .map_or(Observation::Absent, |o| Observation::Present(Box::new(o.clone()))),
        })
    }

    pub fn ids(&self) -> Vec<TenantId> {
        self.with(|tenants| tenants.iter().flat_map(|map| map.keys().copied()).collect())
    }

    fn with<R>(&self, work: impl FnOnce(&mut Option<HashMap<TenantId, ObservedTenant>>) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
