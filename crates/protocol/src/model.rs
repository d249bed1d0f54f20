//! The model of the installation: an endpoint of the OpenAI API that replies in the chat of tenants. The operator sets it; its key
//! never enters a tenant.
//!
//! A tenant's core calls app-api over [`MODELS_SOCKET`](crate::inside::MODELS_SOCKET), with the tenant's own token:
//!
//! | call | → response |
//! |---|---|
//! | `POST /v1/replies`, `Authorization: Bearer {token}`, [`ReplyRequest`] | → 200, the text of the reply as it arrives, with the trailers [`TOKENS`](crate::headers::TOKENS) and, for a reply that broke off, [`PROBLEM`](crate::headers::PROBLEM); or a problem |
//!
//! Trailers are sent to a caller with `TE: trailers` only.

use serde::{Deserialize, Serialize};

/// The path of the only call.
pub const REPLIES_PATH: &str = "/v1/replies";
/// The most messages of one request.
pub const MAX_MESSAGES: usize = 64;
/// The most bytes of all texts of one request.
pub const MAX_CONTENT_BYTES: usize = 256 << 10;
/// The longest reply, in bytes.
pub const MAX_REPLY_BYTES: usize = 1 << 20;

/// A conversation to which the model is to reply, the oldest message first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplyRequest {
    pub messages: Vec<ModelMessage>,
}

/// A message as the model reads it. Only the operator writes in the role `system`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelMessage {
    pub role: ModelRole,
    pub content: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelRole {
    User,
    Assistant,
}

/// The endpoint, as the operator sets it. What is absent has its default.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetModel {
    /// `http` or `https`; `/chat/completions` is added, as in `https://api.example.com/v1`.
    pub base_url: String,
    /// The name of the model at the endpoint.
    pub model: String,
    /// The key of the endpoint, which no call returns. Absent: the key stays, unless the address leads to another server. Empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Precedes every conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// The longest reply, sent to the endpoint as `max_tokens`; absent: the endpoint's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The limit of each tenant; 20 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// The limit of each tenant on a day of UTC; 200,000 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<u64>,
}

/// The endpoint, without its key.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelEndpoint {
    pub base_url: String,
    pub model: String,
    pub has_key: bool,
    pub system_prompt: Option<String>,
    pub max_tokens: Option<u32>,
    pub requests_per_minute: u32,
    pub tokens_per_day: u64,
    pub updated_by: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub updated_at: String,
}

/// The use of the model by a tenant.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUsage {
    /// `null` where the operator has set no model.
    pub requests_per_minute: Option<u32>,
    /// `null` where the operator has set no model.
    pub tokens_per_day: Option<u64>,
    /// The tokens that count against the quota of this day, those reserved by replies under way included.
    pub tokens_today: u64,
    /// The latest first, at most 30.
    pub days: Vec<ModelUsageDay>,
}

/// The use by a tenant on one day of UTC.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUsageDay {
    /// Like `2026-11-30`.
    pub day: String,
    pub requests: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}
