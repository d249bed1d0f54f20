//! Sends the mails that are due. Every replica does; a claim keeps two from sending one at the same time.

use std::time::Duration;

use futures_util::future::join_all;
use protocol::Timestamp;
use service::sealing_keys::SealingError;

use super::message::Message;
use super::smtp::{Mailer, SendError};
use super::{Mail, unseal};
use crate::accounts;
use crate::app::App;
use crate::db::mail::{self, CLAIM_LIFETIME, Claimed};
use crate::jitter::random_fraction;
use crate::webhooks::schedule::retry_delay;

/// A mail is due for at most this long before it is claimed.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// After an error of the database.
const ERROR_DELAY: Duration = Duration::from_secs(5);
/// Sent at once by one replica.
const MAX_CONCURRENT: i64 = 4;

/// Sends until the process stops. An attempt under way at that moment is made again later.
pub async fn run(app: App, mailer: Mailer) {
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if !app.is_database_ready() {
            continue;
        }
        let sent = tokio::select! {
            () = app.stop.cancelled() => return,
            sent = send_due(&app, &mailer) => sent,
        };
        if let Err(error) = sent {
            tracing::warn!(error = format!("{error:#}"), "sending mails failed");
            ticks.reset_after(ERROR_DELAY);
        }
    }
}

/// Sends what is due, and records what became of it.
async fn send_due(app: &App, mailer: &Mailer) -> anyhow::Result<()> {
    let now = app.clock.now();
    let mut conn = app.database.conn().await?;
    let claimed = mail::claim(&mut conn, now, now + CLAIM_LIFETIME, MAX_CONCURRENT).await?;
    drop(conn);
    let attempts = claimed.iter().map(|claimed| attempt(app, mailer, claimed));
    for (claimed, outcome) in claimed.iter().zip(join_all(attempts).await) {
        let mut conn = app.database.conn().await?;
        let (id, kind, attempts) = (claimed.id, &claimed.kind, claimed.attempts);
        match next(&outcome, claimed, app.clock.now(), random_fraction()) {
            Next::Delete => mail::delete(&mut conn, id).await?,
            Next::RetryAt(at) => {
                let error = outcome.as_ref().err().map(ToString::to_string);
                let error = shown_reason(&error.unwrap_or_default());
                mail::retry(&mut conn, id, at, &error).await?
            }
        };
        match outcome {
            Ok(true) => tracing::info!(mail = %id, kind, attempts, "mail sent"),
            Ok(false) => {}
            Err(error) => tracing::warn!(mail = %id, kind, attempts, %error, "mail failed"),
        }
    }
    Ok(())
}

/// `Ok(false)`: there is nobody to send to.
async fn attempt(app: &App, mailer: &Mailer, claimed: &Claimed) -> Result<bool, SendError> {
    let now = app.clock.now();
    if claimed.expires_at <= now {
        return Err(SendError::Undeliverable("it waited for too long".to_owned()));
    }
    let mail = unseal(&app.sealing, &claimed.content);
    let mail = mail.map_err(|error| unreadable(&error))?;
    let reset_link = match &mail {
        Mail::PasswordReset => match accounts::reset_link(app, &claimed.recipient).await {
            Ok(None) => return Ok(false),
            Ok(link) => link,
            Err(error) => return Err(SendError::Temporary(format!("{error:#}"))),
        },
        Mail::Invitation { .. } | Mail::SignIn { .. } => None,
    };
    let message = Message::new(&mail, &app.addresses.admin_origin(), reset_link);
    mailer.send(claimed.id, &claimed.recipient, &message, now).await.map(|()| true)
}

/// A missing key is put back by an operator; a text that its key does not open stays as it is.
fn unreadable(error: &anyhow::Error) -> SendError {
    let text = format!("{error:#}");
    match error.downcast_ref() {
        Some(SealingError::File(_) | SealingError::UnknownKey(_)) => SendError::Temporary(text),
        Some(SealingError::Unopenable { .. }) | None => SendError::Undeliverable(text),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Delete,
    RetryAt(Timestamp),
}

/// Decides whether a mail is deleted or tried again. A mail that would come too late is given up.
fn next(
    outcome: &Result<bool, SendError>,
    claimed: &Claimed,
    now: Timestamp,
    fraction: f64,
) -> Next {
    let Err(SendError::Temporary(_)) = outcome else { return Next::Delete };
    let failed = u32::try_from(claimed.attempts).unwrap_or(u32::MAX);
    let at = retry_delay(failed, fraction).map(|delay| now + delay);
    at.filter(|at| *at < claimed.expires_at).map_or(Next::Delete, Next::RetryAt)
}

/// The longest reason that lists show, in characters.
const MAX_REASON_CHARS: usize = 300;
/// The fewest characters in a row that may be the token of a link.
const MIN_TOKEN_CHARS: usize = 32;

/// The reason of a failure as lists show it. A mail server may repeat parts of the mail, and operators who only look on must
/// not find the link of an invitation in them.
fn shown_reason(text: &str) -> String {
    let is_token_part = |letter: char| letter.is_ascii_alphanumeric() || "-_%=".contains(letter);
    let is_secret = |word: &str| {
        let longest = word.split(|letter| !is_token_part(letter)).map(str::len).max();
        word.contains("://") || longest.is_some_and(|length| length >= MIN_TOKEN_CHARS)
    };
    let words: Vec<_> = text
        .split_whitespace()
        .map(|word| if is_secret(word) { "[hidden]" } else { word })
        .collect();
    words.join(" ").chars().take(MAX_REASON_CHARS).collect()
}

#[test]
fn a_reason_holds_no_link_and_no_token() {
    let token = "a-Zb_9".repeat(6);
    for (reason, shown) in [
        ("transient error (451): later", "transient error (451): later"),
        ("no\r\nroom", "no room"),
        ("see http://localhost:3100/admin/reset#x now", "see [hidden] now"),
        (format!("spam: </admin/invitations/{token}>").as_str(), "spam: [hidden]"),
        (format!("token={token}").as_str(), "[hidden]"),
        ("mailbox 0192b3c4-5d6e-7f80-9a1b-c2d3e4f5a6b7@example.com", "mailbox [hidden]"),
    ] {
        assert_eq!(shown_reason(reason), shown, "{reason:?}");
    }
    assert_eq!(shown_reason(&"ab ".repeat(500)).chars().count(), MAX_REASON_CHARS);
}

#[test]
fn a_mail_is_tried_again_while_it_is_of_use() {
    let now = Timestamp::from_timestamp(1_800_000_000, 0).unwrap_or_default();
    let claimed = |attempts, lifetime| Claimed {
        id: uuid::Uuid::nil(),
        kind: "invitation".to_owned(),
        recipient: "a@b.c".to_owned(),
        content: String::new(),
        attempts,
        expires_at: now + Duration::from_secs(lifetime),
    };
    let temporary = || Err(SendError::Temporary(String::new()));
    let refused = || Err(SendError::Refused(String::new()));
    let undeliverable = || Err(SendError::Undeliverable(String::new()));
    let after = |seconds| Next::RetryAt(now + Duration::from_secs(seconds));
    for (outcome, mail, expected) in [
        (Ok(true), claimed(1, 86_400), Next::Delete),
        (Ok(false), claimed(1, 86_400), Next::Delete),
        (refused(), claimed(1, 86_400), Next::Delete),
        (undeliverable(), claimed(1, 86_400), Next::Delete),
        (temporary(), claimed(1, 86_400), after(5)),
        (temporary(), claimed(2, 86_400), after(30)),
        (temporary(), claimed(2, 30), Next::Delete),
        (temporary(), claimed(10, 864_000), Next::Delete),
    ] {
        assert_eq!(next(&outcome, &mail, now, 0.0), expected, "{outcome:?} {mail:?}");
    }
}

#[test]
fn a_mail_waits_for_the_key_that_opens_it() {
    use service::Secret;
    use service::sealing_keys::{Purpose, SealingKeys};

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sealing-keys");
    let keys = |secret: &str| SealingKeys::new(Secret::new(secret), Some(path.clone()));
    let reason = |keys: &SealingKeys, text: &str| unreadable(&unseal(keys, text).unwrap_err());
    let of_another = keys("a").seal(&Purpose::Mail, b"{}").unwrap();
    let refused = reason(&keys("b"), &of_another);
    assert!(matches!(refused, SendError::Undeliverable(_)), "{refused}");
    std::fs::write(&path, "8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa").unwrap();
    let sealed = keys("a").seal(&Purpose::Mail, b"{}").unwrap();
    for content in ["Zt5h8vY2m0Qz1rKp7sXw3uBn6cEd9fGb", "short", ""] {
        std::fs::write(&path, content).unwrap();
        let refused = reason(&keys("a"), &sealed);
        assert!(matches!(refused, SendError::Temporary(_)), "{content}: {refused}");
    }
}
