//! orchestrator → core-back: ended admin sessions, whose derived tenant sessions must end.
//!
//! `POST /sessions/revoke` on [`ORCHESTRATOR_SOCKET`](crate::inside::ORCHESTRATOR_SOCKET), [`RevokeSessions`] → 204. The call is
//! idempotent, so the orchestrator repeats the full list at each start of the tenant. No other socket serves it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The admin sessions that have ended: values of the claim `sid` of SSO tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeSessions {
    pub sessions: Vec<Uuid>,
}
