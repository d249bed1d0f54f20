//! Delivers the ended admin sessions to their tenants, where core-back ends the tenant sessions that derive from them.
//!
//! Delivery is level-triggered: the whole list goes to a tenant when the list changes, and each time the tenant becomes
//! ready. A tenant that is frozen or asleep receives the list after its wake. The call is idempotent.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protocol::TenantId;
use protocol::orchestrator::{ObservedTenant, Phase};
use protocol::sessions::RevokeSessions;
use protocol::watch::Message;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::core_back;
use crate::driver::Driver;
use crate::tenants::TenantStore;

/// A tenant that does not acknowledge within this time receives the request again.
pub const REVOKE_TIMEOUT: Duration = Duration::from_secs(1);
const DELIVERY_RETRY_DELAY: Duration = Duration::from_millis(250);
/// After this many attempts the next readiness delivers the list.
const MAX_ATTEMPTS: u32 = 40;

/// The reason why a tenant did not acknowledge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// The tenant's image does not serve the call, so that a retry is useless.
    #[error("the tenant's image cannot end sessions")]
    Unsupported,
    #[error("{0}")]
    NoResponse(String),
}

/// Sends the list over the tenant's unix socket at `socket`.
///
/// # Errors
/// [`RevokeError`], within [`REVOKE_TIMEOUT`].
pub async fn send(socket: &Path, revoked: &RevokeSessions) -> Result<(), RevokeError> {
    let no_response = |detail: String| RevokeError::NoResponse(detail);
    let body = serde_json::to_string(revoked).map_err(|error| no_response(error.to_string()))?;
    let request = format!(
        "POST /sessions/revoke HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    match tokio::time::timeout(REVOKE_TIMEOUT, core_back::exchange(socket, request.as_bytes()))
        .await
    {
        Ok(Ok(response)) => read_status(&response),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(RevokeError::Unsupported),
        Ok(Err(error)) => Err(no_response(error.to_string())),
        Err(_) => Err(no_response(format!("no response within {} ms", REVOKE_TIMEOUT.as_millis()))),
    }
}

fn read_status(response: &[u8]) -> Result<(), RevokeError> {
    match response.get(..12) {
        Some(b"HTTP/1.1 204") => Ok(()),
        Some(b"HTTP/1.1 404") => Err(RevokeError::Unsupported),
        Some(_) | None => {
            let line = response.split(|byte| *byte == b'\r').next().unwrap_or_default();
            Err(RevokeError::NoResponse(String::from_utf8_lossy(line).into_owned()))
        }
    }
}

/// Starts a delivery to each tenant that becomes ready, for as long as it is polled.
pub(crate) struct Revocations {
    driver: Arc<dyn Driver>,
    store: Arc<TenantStore>,
    changes: Receiver<Message<ObservedTenant>>,
    /// Tenants that were ready when they last changed.
    ready: HashSet<TenantId>,
}

impl Revocations {
    pub(crate) fn new(driver: Arc<dyn Driver>, store: Arc<TenantStore>) -> Self {
        let changes = store.changes();
        Self { driver, store, changes, ready: HashSet::new() }
    }

    /// Never ends while the store lives.
    pub(crate) async fn run(mut self) {
        loop {
            match self.changes.recv().await {
                Ok(Message::Changed { item, .. }) => self.on_changed(&item),
                Ok(Message::Gone { key, .. }) => {
                    self.ready.remove(&key);
                }
                Ok(Message::Snapshot { .. } | Message::Heartbeat { .. }) => {}
                // Changes were missed: each tenant that is ready receives its list once more.
                Err(RecvError::Lagged(_)) => {
                    self.ready.clear();
                    for id in self.store.ids() {
                        if let Some(item) = self.store.observed(id) {
                            self.on_changed(&item);
                        }
                    }
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn on_changed(&mut self, tenant: &ObservedTenant) {
        if tenant.phase != Phase::Ready {
            self.ready.remove(&tenant.id);
        } else if self.ready.insert(tenant.id) {
            deliver_later(&self.driver, &self.store, tenant.id);
        }
    }
}

/// Delivers the current list of a tenant, if it has one. Does not wait.
pub(crate) fn deliver_later(driver: &Arc<dyn Driver>, store: &Arc<TenantStore>, id: TenantId) {
    if !store.revoked_sessions(id).is_empty() {
        tokio::spawn(deliver(driver.clone(), store.clone(), id));
    }
}

async fn deliver(driver: Arc<dyn Driver>, store: Arc<TenantStore>, id: TenantId) {
    let sessions = store.revoked_sessions(id);
    let count = sessions.len();
    for attempt in 1..=MAX_ATTEMPTS {
        // A newer list has a delivery of its own, and so has the next readiness.
        if store.phase(id) != Some(Phase::Ready) || store.revoked_sessions(id) != sessions {
            return;
        }
        match driver.revoke_sessions(id, RevokeSessions { sessions: sessions.clone() }).await {
            Ok(()) => {
                tracing::info!(tenant = %id, count, attempt, "ended sessions delivered");
                return;
            }
            Err(error @ RevokeError::Unsupported) => {
                tracing::warn!(tenant = %id, %error, "ended sessions not delivered");
                return;
            }
            Err(error) => {
                tracing::debug!(tenant = %id, %error, attempt, "ended sessions not acknowledged");
            }
        }
        tokio::time::sleep(DELIVERY_RETRY_DELAY).await;
    }
    tracing::warn!(tenant = %id, count, "ended sessions not delivered before the next readiness");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_line_decides() {
        assert_eq!(read_status(b"HTTP/1.1 204 No Content\r\n\r\n"), Ok(()));
        assert_eq!(read_status(b"HTTP/1.1 404 Not Found\r\n\r\n"), Err(RevokeError::Unsupported));
        let busy = RevokeError::NoResponse("HTTP/1.1 500 Internal Server Error".to_owned());
        assert_eq!(read_status(b"HTTP/1.1 500 Internal Server Error\r\n\r\n"), Err(busy));
        assert_eq!(read_status(b"HTTP"), Err(RevokeError::NoResponse("HTTP".to_owned())));
    }
}
