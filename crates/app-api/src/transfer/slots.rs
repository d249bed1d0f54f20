//! The bounds of exports. Each export holds a session and a snapshot of the database server and a file on the disk until a slow reader
//! has taken the last byte.

use std::sync::Arc;
use std::time::Duration;

use protocol::TenantId;
use protocol::problem::Code;
use service::api_error::ApiError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::dump::DumpSettings;
use crate::tenant_places::TenantPlaces;

/// The orchestrator permits as many transfers at once.
const MAX_EXPORTS: usize = 2;
/// How long an export waits for the end of one of the same tenant, whose reader may have just left.
const OWN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an export waits for exports of other tenants.
const TURN_TIMEOUT: Duration = Duration::from_secs(600);

/// The timeouts of an export.
#[derive(Clone, Copy, Debug)]
pub struct ExportTimes {
    /// How long an export waits for its dump before its head. A failure until then becomes a response with a reason. Below the time
    /// after which the orchestrator lets a tenant go whose volumes nobody reads.
    pub head_start: Duration,
    /// How often something is sent while the dump is written.
    pub keep_alive: Duration,
    /// How long a reader may take nothing.
    pub stall: Duration,
    pub whole: Duration,
}

impl Default for ExportTimes {
    fn default() -> Self {
        Self {
            head_start: Duration::from_secs(45),
            keep_alive: Duration::from_secs(10),
            stall: Duration::from_secs(60),
            whole: Duration::from_secs(6 * 3_600),
        }
    }
}

/// The settings and the slots that all exports share.
pub struct Exports {
    pub(super) dumps: DumpSettings,
    pub(super) times: ExportTimes,
    slots: Arc<Semaphore>,
    of_tenants: TenantPlaces,
}

/// Held until the last byte of an export is taken, or its reader is given up.
pub(super) struct ExportSlot {
    _permits: [OwnedSemaphorePermit; 2],
}

impl Exports {
    pub fn new(dumps: DumpSettings, times: ExportTimes) -> Self {
        let slots = Arc::new(Semaphore::new(MAX_EXPORTS));
        Self { dumps, times, slots, of_tenants: TenantPlaces::new(1) }
    }

    /// # Errors
    /// `orchestrator_unavailable` while the tenant is exported, and when others take too long.
    pub(super) async fn enter(&self, tenant: TenantId) -> Result<ExportSlot, ApiError> {
        let own = timeout(OWN_TIMEOUT, self.of_tenants.of(tenant).acquire_owned()).await;
        let own = own.map_err(|_| {
            busy("Another export of this tenant is under way, and its reader has not taken all of it.")
        })??;
        let slot = timeout(TURN_TIMEOUT, self.slots.clone().acquire_owned()).await;
        let slot =
            slot.map_err(|_| busy("As many exports as may run at once are under way."))??;
        Ok(ExportSlot { _permits: [own, slot] })
    }
}

fn busy(detail: &str) -> ApiError {
    ApiError::new(Code::OrchestratorUnavailable, detail)
}
