//! Mails: invitations, links that reset a password, and alerts of sign-ins on new devices.
//!
//! The transaction of a change inserts the mail; [`outbox`] sends what waits. Without a mail server nothing is inserted, and
//! links are handed over by people. [`message`] and [`settings`] are pure.

pub mod message;
pub mod outbox;
pub mod settings;
pub mod smtp;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::{HeaderMap, header};
use protocol::Timestamp;
use serde::{Deserialize, Serialize};
use service::sealing_keys::{Purpose, SealingKeys};

use crate::app::App;
use crate::auth::throttle::Attempt;
use crate::db::mail::{self, NewMail};
use crate::db::user::User;
use crate::db::{Conn, QueryResult};
use crate::sessions::user_agent;

/// How long a mail without a link of its own is worth sending.
const LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// A mail, with what its reader must learn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Mail {
    Invitation {
        url: String,
        invited_by: String,
        role: String,
        /// The name of the tenant; `None`: to the platform.
        tenant: Option<String>,
        expires_at: Timestamp,
    },
    /// The link is made when the mail is sent, if the recipient has an account.
    PasswordReset,
    SignIn {
        at: Timestamp,
        device: String,
        address: String,
    },
}

impl Mail {
    fn kind(&self) -> &'static str {
        match self {
            Self::Invitation { .. } => "invitation",
            Self::PasswordReset => "password_reset",
            Self::SignIn { .. } => "sign_in",
        }
    }

    fn expires_at(&self, now: Timestamp) -> Timestamp {
        match self {
            Self::Invitation { expires_at, .. } => *expires_at,
            Self::PasswordReset | Self::SignIn { .. } => now + LIFETIME,
        }
    }
}

/// A mail that is ready for its table.
pub struct Prepared(NewMail);

impl Prepared {
    /// # Errors
    /// The system gives no random bytes.
    pub fn new(
        keys: &SealingKeys,
        recipient: &str,
        content: &Mail,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let plain = serde_json::to_vec(content)?;
        Ok(Self(NewMail {
            id: uuid::Uuid::now_v7(),
            kind: content.kind(),
            recipient: recipient.to_owned(),
            content: keys.seal(&Purpose::Mail, &plain)?,
            next_attempt_at: now,
            expires_at: content.expires_at(now),
        }))
    }

    /// Counts the mail against the limit of its recipient. Returns `false` when the recipient got as many of this kind as one
    /// mailbox gets in a window.
    pub fn is_within_limit(&self, app: &App, now: Timestamp) -> bool {
        let attempt = Attempt::Mail { kind: self.0.kind, recipient: &self.0.recipient };
        app.throttle.attempt(attempt, now).is_ok()
    }

    pub async fn insert(&self, conn: &mut Conn) -> QueryResult<usize> {
        mail::insert(conn, &self.0).await
    }
}

/// # Errors
/// The installation has another secret than when the mail was inserted.
fn unseal(keys: &SealingKeys, content: &str) -> anyhow::Result<Mail> {
    let plain = keys.open(&Purpose::Mail, content)?;
    serde_json::from_slice(&plain).context("a mail of another release")
}

/// Alerts a person of a sign-in on a device that is not known. Nothing is inserted while an earlier alert waits, or after as
/// many as one mailbox gets in a window.
///
/// # Errors
/// The database.
pub async fn alert_of_sign_in(
    app: &App,
    user: &User,
    headers: &HeaderMap,
    client: IpAddr,
) -> Result<(), service::api_error::ApiError> {
    if !app.sends_mail {
        return Ok(());
    }
    let now = app.clock.now();
    let user_agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let device = user_agent::summarize(&user_agent::stored(user_agent));
    let alert = Mail::SignIn { at: now, device, address: client.to_string() };
    let alert = Prepared::new(&app.sealing, &user.email, &alert, now)?;
    if alert.is_within_limit(app, now) {
        alert.insert(&mut *app.conn().await?).await?;
    } else {
        tracing::warn!(user = %user.id, "alert of a sign-in skipped");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::Secret;

    /// A copy of the database holds no link.
    #[test]
    fn a_waiting_mail_is_sealed() {
        let keys = |master: &str| SealingKeys::new(Secret::new(master), None);
        let (own, now) = (keys("8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa"), Timestamp::MIN_UTC);
        let invitation = Mail::Invitation {
            url: "http://localhost:3100/admin/invitations/token".to_owned(),
            invited_by: "ada@example.com".to_owned(),
            role: "member".to_owned(),
            tenant: Some("Acme".to_owned()),
            expires_at: now,
        };
        let Prepared(row) = Prepared::new(&own, "bob@example.com", &invitation, now).unwrap();
        assert!(!row.content.contains("invitations"), "{}", row.content);
        assert_eq!(unseal(&own, &row.content).unwrap(), invitation);
        assert!(unseal(&keys("another"), &row.content).is_err());
    }
}
