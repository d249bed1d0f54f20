//! What the orchestrator shows of all tenants; nothing at all while it is not heard.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use protocol::TenantId;
use protocol::orchestrator::ObservedTenant;
use protocol::watch::{Keyed as _, Message};

#[derive(Debug, Default)]
pub struct Sight(Mutex<Option<HashMap<TenantId, ObservedTenant>>>);

/// One tenant, as seen now.
#[derive(Clone, Debug, PartialEq)]
pub enum Glimpse {
    Unknown,
    Nothing,
    This(Box<ObservedTenant>),
}

impl Sight {
    /// Takes one message of the watch in; answers whom it is about.
    pub fn take(&self, message: Message<ObservedTenant>) -> Vec<TenantId> {
        self.with(|held| match message {
            Message::Snapshot { items, .. } => {
                let known = held.insert(items.into_iter().map(|o| (o.key(), o)).collect());
                known.keys().copied().collect()
            }
            Message::Changed { item, .. } => {
                let id = item.key();
                held.get_or_insert_default().insert(id, item);
                vec![id]
            }
            Message::Gone { key, .. } => {
                held.get_or_insert_default().remove(&key);
                vec![key]
            }
            Message::Heartbeat { .. } => Vec::new(),
        })
    }

    /// What an answer told, which may be ahead of the watch.
    pub fn learn(&self, observed: ObservedTenant) {
        self.with(|held| {
            if let Some(known) = held {
                known.insert(observed.id, observed);
            }
        });
    }

    /// What an answer told to be gone.
    pub fn forget(&self, id: TenantId) {
        self.with(|held| {
            if let Some(known) = held {
                known.remove(&id);
            }
        });
    }

    /// The watch ended: what was known is of yesterday.
    pub fn lose(&self) {
        self.with(|held| *held = None);
    }

    pub fn is_clear(&self) -> bool {
        self.with(|held| held.is_some())
    }

    pub fn of(&self, id: TenantId) -> Glimpse {
        self.with(|held| match held {
            None => Glimpse::Unknown,
            Some(known) => {
                known.get(&id).map_or(Glimpse::Nothing, |o| Glimpse::This(Box::new(o.clone())))
            }
        })
    }

    pub fn ids(&self) -> Vec<TenantId> {
        self.with(|held| held.iter().flat_map(|known| known.keys().copied()).collect())
    }

    fn with<R>(&self, work: impl FnOnce(&mut Option<HashMap<TenantId, ObservedTenant>>) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
