//! Summaries of the conversations in a tenant: counts and times, never text.
//!
//! The core counts; app-api collects through the orchestrator, which asks the tenant over its own socket.
//!
//! | call | response |
//! |---|---|
//! | orchestrator → core-back: `GET /summaries?after=` | 200 [`SummaryReport`] |
//! | app-api → orchestrator: `GET /v1/tenants/{id}/summaries?after=` | 200 [`SummaryReport`]; 409 for a tenant that does not run |

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Timestamp;

/// The most summaries of one report.
pub const MAX_SUMMARIES: u32 = 200;
/// The largest count: the largest whole number that every reader of JSON keeps exactly.
pub const MAX_COUNT: u64 = (1 << 53) - 1;

/// One person's part in one conversation.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConversationSummary {
    pub user_id: Uuid,
    pub conversation: Uuid,
    /// The person's messages and the replies to them.
    pub messages: u64,
    /// As the app reports them.
    pub tokens: u64,
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub last_activity_at: Timestamp,
}

/// The summaries that changed after a position, the longest unchanged first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryReport {
    pub summaries: Vec<ConversationSummary>,
    /// Where the next report begins: the position of the last summary, or the requested one.
    pub position: i64,
}

/// The summaries of a tenant, as the control plane has them.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryList {
    pub total: SummaryTotal,
    /// The latest first, at most [`MAX_SUMMARIES`].
    pub summaries: Vec<ConversationSummary>,
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryTotal {
    pub conversations: i64,
    pub messages: i64,
    pub tokens: i64,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub last_activity_at: Option<Timestamp>,
}
