//! The history of a tenant: what the core's API under `/.cial/api/v1` receives and sends. Times are RFC 3339, UTC, with
//! milliseconds.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One page of a list, newest first.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The `cursor` of the next page, or `null` after the last one.
    pub next: Option<String>,
}

/// A place in the tenant's tree of work: an agent, or a team of them.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Made by the server.
    pub id: Uuid,
    pub name: String,
    pub parent_id: Option<Uuid>,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateWorkspace {
    pub name: String,
    #[serde(default)]
    pub parent_id: Option<Uuid>,
    /// Accepted and ignored, because older clients send one: the server makes the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Makes a workspace known to its peers, or changes what they read about it.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    pub workspace_id: Uuid,
    /// Its task in a few words.
    #[serde(default)]
    pub role: Option<String>,
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    pub workspace_id: Uuid,
}

/// A registered workspace.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    pub workspace_id: Uuid,
    pub name: String,
    pub role: Option<String>,
    pub parent_id: Option<Uuid>,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub registered_at: String,
    /// The time of the last registration or heartbeat.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub last_seen_at: String,
}

/// The registered workspaces that one workspace may contact.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    pub items: Vec<Peer>,
    /// Says why the list is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnostic: Option<String>,
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub relation: Relation,
    #[serde(flatten)]
    pub registration: Registration,
}

/// How a peer stands to the workspace whose peers are listed.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    Parent,
    Child,
    /// Both have the same parent, or both have none.
    Sibling,
}

/// Something that happened in a workspace.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Grows with every entry of the tenant.
    pub id: i64,
    pub workspace_id: Uuid,
    /// A name such as `a2a_receive`.
    #[serde(rename = "type")]
    pub kind: String,
    pub source_id: Option<Uuid>,
    pub target_id: Option<Uuid>,
    pub method: Option<String>,
    pub summary: Option<String>,
    pub status: Option<String>,
    pub duration_ms: Option<u32>,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendActivity {
    pub workspace_id: Uuid,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub source_id: Option<Uuid>,
    #[serde(default)]
    pub target_id: Option<Uuid>,
    #[serde(default)]
    pub method: Option<String>,
    #[serde(default)]
    pub summary: Option<String>,
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default)]
    pub duration_ms: Option<u32>,
    /// When it happened, for what is recorded later. Never in the future; without it, now.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: Option<String>,
}

/// A message to the tenant's app.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendMessage {
    pub message: String,
    /// Without it, a conversation begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Uuid>,
}

/// The app's reply, as the history has it.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatReply {
    pub conversation: Uuid,
    /// The id of the stored reply.
    pub message: i64,
    pub reply: String,
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    /// Made by the server.
    pub id: Uuid,
    /// The person who began it.
    pub user_id: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Grows with every message of the tenant.
    pub id: i64,
    pub author: Author,
    /// The person who wrote the message, or to whom the app replies.
    pub user_id: String,
    pub text: String,
    /// As the app reports them for a reply, otherwise 0.
    pub tokens: u32,
    /// Whether the app finished the reply.
    pub is_complete: bool,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
}

/// The author of a message.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Author {
    User,
    App,
}

impl Author {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::App => "app",
        }
    }
}

/// A message of a channel as its sender wrote it. Nothing in it is believed.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelMessage {
    pub content: String,
    #[serde(default)]
    pub peer_id: String,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub method: String,
}

/// A message of a channel as an agent receives it.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelEnvelope {
    pub content: String,
    pub meta: ChannelMeta,
}

/// The facts about a message. They become attributes of the agent's prompt, so each is free of markup.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelMeta {
    /// The sender, or empty when the message named no UUID.
    pub peer_id: String,
    pub kind: String,
    pub method: String,
    /// Where the sender's registration is read. Absent without a valid `peer_id`, like the two fields below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_card_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_role: Option<String>,
}
