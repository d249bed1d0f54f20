//! Sends deliveries that are due. Every replica does; a claim keeps two from sending one at the same time.

use std::time::Duration;

use axum::body::Bytes;
use futures_util::future::join_all;
use service::keys;

use super::client::WebhookClient;
use super::schedule::retry_delay;
use super::signature::sign;
use crate::app::App;
use crate::db::webhook::{self, Claimed, Outcome};
use crate::jitter::random_fraction;

/// A delivery is due for at most this long before it is claimed.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// After an error of the database.
const ERROR_DELAY: Duration = Duration::from_secs(5);
/// Claimed at once, by one replica.
const BATCH: i64 = 16;
/// A replica that died keeps its claims for this long. Longer than any attempt takes.
const CLAIM_LIFETIME: Duration = Duration::from_secs(60);
const MAX_ERROR_CHARS: usize = 300;

/// Delivers until the process stops.
pub async fn run(app: App, client: WebhookClient) {
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
        loop {
            match deliver_due(&app, &client).await {
                // A full batch: more may be due.
                Ok(BATCH) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "webhook deliveries failed");
                    ticks.reset_after(ERROR_DELAY);
                    break;
                }
            }
        }
    }
}

/// Sends one batch; returns its size.
async fn deliver_due(app: &App, client: &WebhookClient) -> anyhow::Result<i64> {
    let now = app.clock.now();
    let mut conn = app.database.conn().await?;
    let claimed = webhook::claim(&mut conn, now, now + CLAIM_LIFETIME, BATCH).await?;
    // No connection is held while receivers take their time.
    drop(conn);
    let count = i64::try_from(claimed.len())?;
    let outcomes = join_all(claimed.iter().map(|delivery| attempt(app, client, delivery))).await;
    if count > 0 {
        let mut conn = app.database.conn().await?;
        for (delivery, outcome) in claimed.iter().zip(outcomes) {
            webhook::finish(&mut conn, delivery, &outcome, app.clock.now()).await?;
        }
    }
    Ok(count)
}

/// Any status of the 2xx class counts as delivered.
async fn attempt(app: &App, client: &WebhookClient, delivery: &Claimed) -> Outcome {
    let body = Bytes::from(delivery.payload.to_string());
    let secret = keys::webhook_secret(&app.device_key, delivery.webhook_id);
    let signed = sign(&secret, app.clock.now(), &body);
    let event = (delivery.id, delivery.event.as_str());
    let sent = client.post(&delivery.url, event, signed, body).await;
    let (status, error) = match sent {
        Ok(status) if status.is_success() => {
            return Outcome::Delivered { status: i32::from(status.as_u16()) };
        }
        Ok(status) => (Some(i32::from(status.as_u16())), format!("the response was {status}")),
        Err(error) => (None, format!("{error:#}")),
    };
    let error: String = error.chars().take(MAX_ERROR_CHARS).collect();
    let failed = u32::try_from(delivery.attempts).unwrap_or(u32::MAX);
    let retry_at = retry_delay(failed, random_fraction()).map(|delay| app.clock.now() + delay);
    tracing::info!(delivery = %delivery.id, error, attempts = failed, "webhook delivery failed");
    Outcome::Failed { status, error, retry_at }
}
