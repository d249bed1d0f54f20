//! What every handler holds: the parts of this process, cheap to clone.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use protocol::control::EffectivePolicy;
use service::failure::Failure;
use service::forwarded::Trusted;

use crate::accounts::Passwords;
use crate::clock::Clock;
use crate::db::{Database, Pooled};
use crate::feed::Routes;
use crate::orchestrator::Orchestrator;
use crate::reconcile::Bell;
use crate::reconcile::sight::Sight;
use crate::settings::Addresses;
use crate::sso::Signer;
use crate::throttle::Throttle;

#[derive(Clone)]
pub struct App(Arc<Parts>);

pub struct Parts {
    pub addresses: Addresses,
    pub trusted: Trusted,
    /// The installation's.
    pub policy: EffectivePolicy,
    pub database: Database,
    /// Whether the database is migrated and known to be ours.
    pub opened: AtomicBool,
    pub orchestrator: Arc<dyn Orchestrator>,
    pub sight: Arc<Sight>,
    pub bell: Bell,
    pub routes: Routes,
    pub clock: Clock,
    pub passwords: Passwords,
    pub throttle: Throttle,
    pub signer: Signer,
}

impl App {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// A connection to a database that is ours, or 503.
    pub async fn conn(&self) -> Result<Pooled, Failure> {
        if !self.is_open() {
            return Err(database_unavailable());
        }
        self.database.conn().await.map_err(|error| database_unavailable().because(error))
    }

    pub fn is_open(&self) -> bool {
        self.opened.load(Ordering::Acquire)
    }
}

fn database_unavailable() -> Failure {
    let detail = "The database cannot be reached at the moment. Running tenants are not affected.";
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", detail)
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
