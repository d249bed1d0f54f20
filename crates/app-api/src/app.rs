//! The shared parts of this process that every handler receives. Cheap to clone.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures_util::StreamExt as _;
use protocol::control::EffectivePolicy;
use protocol::problem::Code;
use service::Secret;
use service::api_error::ApiError;
use service::connections::Connections;
use service::forwarded::TrustedProxies;
use service::sealing_keys::SealingKeys;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::auth::passwords::Passwords;
use crate::auth::sso::Signer;
use crate::auth::throttle::Throttle;
use crate::backups::Backups;
use crate::clock::Clock;
use crate::db::{Database, Pooled};
use crate::events::Events;
use crate::image_uploads;
use crate::model::gateway::Gateway;
use crate::orchestrator::Orchestrator;
use crate::outbound::target::Targets;
use crate::reconcile::Notifier;
use crate::reconcile::observed_cache::ObservedCache;
use crate::route_feed::RouteFeed;
use crate::settings::{Addresses, DevLogin, PackageSignatures};
use crate::tenant::database::RolePrefix;
use crate::tenant_databases::TenantDatabases;
use crate::transfer::Exports;

#[derive(Clone)]
pub struct App(Arc<Parts>);

pub struct Parts {
    pub addresses: Addresses,
    pub trusted: TrustedProxies,
    /// The policy of the installation, for tenants that set none.
    pub policy: EffectivePolicy,
    pub database: Database,
    /// Whether the database is migrated and belongs to this installation.
    pub database_ready: AtomicBool,
    pub orchestrator: Arc<dyn Orchestrator>,
    pub observed: Arc<ObservedCache>,
    pub reconcile: Notifier,
    pub routes: RouteFeed,
    pub events: Events,
    pub webhook_targets: Targets,
    /// The way of tenants to the model of the installation.
    pub model: Gateway,
    pub package_signatures: PackageSignatures,
    pub dev_login: DevLogin,
    /// Whether there is a mail server.
    pub sends_mail: bool,
    /// Cancelled when the process stops.
    pub stop: CancellationToken,
    pub clock: Clock,
    pub public_connections: Arc<Connections>,
    pub internal_connections: Arc<Connections>,
    pub passwords: Passwords,
    pub throttle: Throttle,
    pub signer: Signer,
    /// The token by which services of the installation call the internal listener.
    pub routes_token: Secret,
    /// The description of the API, set when the public service is built.
    pub description: OnceLock<Bytes>,
    /// Held by the check of the audit log that runs.
    pub audit_check: Semaphore,
    pub role_prefix: RolePrefix,
    pub tenant_databases: Arc<TenantDatabases>,
    pub exports: Exports,
    pub image_uploads: Arc<image_uploads::store::Store>,
    /// Held while a large package lies in memory.
    pub uploads: Arc<Semaphore>,
    /// Notified when releases were deleted.
    pub releases_deleted: Notify,
    /// Notified when a tenant has something to run.
    pub work: Notify,
    /// Held while a package is sent into a tenant.
    pub task_starts: Arc<Semaphore>,
    /// `None`: the installation has no store for backups.
    pub backups: Option<Backups>,
    /// Derives the proofs of known devices.
    pub device_key: Secret,
    /// Encrypt secrets at rest.
    pub sealing: SealingKeys,
}

impl App {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Returns a pooled connection.
    ///
    /// # Errors
    /// `database_unavailable` before the database is ready and while Postgres cannot be reached.
    pub async fn conn(&self) -> Result<Pooled, ApiError> {
        if !self.is_database_ready() {
            return Err(database_unavailable());
        }
        self.database.conn().await.map_err(|error| database_unavailable().with_cause(error))
    }

    /// Ends a streaming response when the process stops, so that the drain waits only for requests that end.
    pub fn until_stop(&self, response: Response) -> Response {
        let stop = self.stop.clone().cancelled_owned();
        response.map(|body| Body::from_stream(body.into_data_stream().take_until(stop)))
    }

    pub fn is_database_ready(&self) -> bool {
        self.database_ready.load(Ordering::Acquire)
    }
}

/// The error of a request that needs Postgres while Postgres does not reply.
pub(crate) fn database_unavailable() -> ApiError {
    let detail = "The database cannot be reached at the moment. Running tenants are not affected.";
    ApiError::new(Code::DatabaseUnavailable, detail)
}

/// The error of a change that Postgres cannot store.
pub(crate) fn database_disk_full() -> ApiError {
    let detail =
        "The database's disk is full, and nothing was changed. Free space on it, then try again.";
    ApiError::new(Code::DiskFull, detail)
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
