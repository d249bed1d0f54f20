//! Sends deliveries that are due. Every replica does; a claim keeps two from sending one at the same time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use axum::body::Bytes;
use protocol::Timestamp;
use service::keys;
use tokio::task::{JoinError, JoinSet};
use uuid::Uuid;

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
/// Sent to one webhook at once, by one replica. Others are not delayed: each webhook has attempts of its own.
const MAX_PER_WEBHOOK: i64 = 4;
/// A replica that died keeps its claims for this long. Longer than any attempt takes.
const CLAIM_LIFETIME: Duration = Duration::from_secs(60);
const MAX_ERROR_CHARS: usize = 300;
const PRUNE_INTERVAL: Duration = Duration::from_secs(3_600);
/// The age at which a finished delivery is deleted.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3_600);
/// The most finished deliveries of one webhook.
const MAX_KEPT: i64 = 1_000;

/// Delivers until the process stops. An attempt under way at that moment is made again later.
pub async fn run(app: App, client: WebhookClient) {
    let mut deliverer = Deliverer::new(app.clone(), client);
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let ended = tokio::select! {
            () = app.stop.cancelled() => return,
            _ = ticks.tick() => None,
            Some(ended) = deliverer.attempts.join_next() => Some(ended),
        };
        if !app.is_database_ready() {
            continue;
        }
        if let Err(error) = deliverer.work(ended).await {
            tracing::warn!(error = format!("{error:#}"), "webhook deliveries failed");
            ticks.reset_after(ERROR_DELAY);
        }
    }
}

/// A delivery with the outcome of an attempt.
type Ended = Result<(Claimed, Outcome), JoinError>;

struct Deliverer {
    app: App,
    client: WebhookClient,
    attempts: JoinSet<(Claimed, Outcome)>,
    /// The number of attempts under way of each webhook that has any.
    under_way: HashMap<Uuid, usize>,
    pruned_at: Option<Timestamp>,
}

impl Deliverer {
    fn new(app: App, client: WebhookClient) -> Self {
        let (attempts, under_way) = (JoinSet::new(), HashMap::new());
        Self { app, client, attempts, under_way, pruned_at: None }
    }

    /// Records what ended, then claims what is due of every webhook without an attempt under way, and starts it.
    async fn work(&mut self, ended: Option<Ended>) -> anyhow::Result<()> {
        let mut ended = ended;
        while let Some(attempt) = ended {
            let (delivery, outcome) = attempt?;
            self.count_end(delivery.webhook_id);
            let mut conn = self.app.database.conn().await?;
            webhook::finish(&mut conn, &delivery, &outcome, self.app.clock.now()).await?;
            ended = self.attempts.try_join_next();
        }
        let now = self.app.clock.now();
        let busy: Vec<_> = self.under_way.keys().copied().collect();
        let mut conn = self.app.database.conn().await?;
        let until = now + CLAIM_LIFETIME;
        for delivery in webhook::claim(&mut conn, now, until, MAX_PER_WEBHOOK, &busy).await? {
            *self.under_way.entry(delivery.webhook_id).or_default() += 1;
            let (app, client) = (self.app.clone(), self.client.clone());
            self.attempts.spawn(async move {
                let outcome = attempt(&app, &client, &delivery).await;
                (delivery, outcome)
            });
        }
        if self.pruned_at.is_none_or(|at| at + PRUNE_INTERVAL <= now) {
            webhook::prune(&mut conn, now - MAX_AGE, MAX_KEPT).await?;
            self.pruned_at = Some(now);
        }
        Ok(())
    }

    fn count_end(&mut self, webhook: Uuid) {
        if let Entry::Occupied(mut count) = self.under_way.entry(webhook) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
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
