//! Places of tenants: one tenant that takes all of its own leaves those of the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use protocol::TenantId;
use tokio::sync::Semaphore;

pub struct TenantPlaces {
    of_tenant: usize,
    /// The places of the tenants that have some, or wait for one.
    places: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
}

impl TenantPlaces {
    pub fn new(of_tenant: usize) -> Self {
        Self { of_tenant, places: Mutex::default() }
    }

    pub fn of(&self, tenant: TenantId) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, places| places.strong_count() > 0);
        if let Some(known) = places.get(&tenant).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(Semaphore::new(self.of_tenant));
        places.insert(tenant, Arc::downgrade(&new));
        new
    }
}
