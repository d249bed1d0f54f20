//! Mails that wait to be sent. What they hold is never shown: a link of theirs may be worth a role.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A mail that waits. Times are RFC 3339, UTC, with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WaitingMail {
    /// Also the first part of the `Message-ID`.
    pub id: Uuid,
    /// `invitation`, `password_reset` or `sign_in`.
    pub kind: String,
    pub recipient: String,
    /// The attempts so far, the one under way included.
    pub attempts: i32,
    /// Why the last attempt failed; null before the first failure.
    pub last_error: Option<String>,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub queued_at: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub next_attempt_at: String,
    /// The mail is given up then.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub expires_at: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MailList {
    /// The newest first.
    pub mails: Vec<WaitingMail>,
    /// The `?cursor=` value for the next page; null on the last page.
    pub next: Option<Uuid>,
}
