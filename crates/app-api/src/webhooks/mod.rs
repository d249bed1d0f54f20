//! Webhooks: tenant and membership events as signed requests to addresses of the operator.
//!
//! The transaction of a change inserts a delivery for each webhook; [`deliver`] sends what is due, at least once.
//! [`schedule`] and [`signature`] are pure.

pub mod client;
pub mod deliver;
pub mod schedule;
pub mod signature;

use protocol::problem::{Code, FieldCode};
use serde_json::json;
use service::api_error::ApiError;
use service::keys;
use url::Url;
use uuid::Uuid;

use crate::access::Principal;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::webhook::{self, Delivery, Webhook};
use crate::db::{Transaction as _, audit_log};
use crate::outbound::target;
use crate::validation::{FieldError, invalid_fields};

/// The most deliveries that a list shows.
const MAX_LISTED: i64 = 100;
/// Each webhook has attempts of its own under way, so the number of webhooks bounds them all.
const MAX_WEBHOOKS: i64 = 100;

/// Creates a webhook; returns it with the secret of its signatures.
///
/// # Errors
/// `invalid_fields`; `too_many_webhooks`.
pub async fn create(
    app: &App,
    caller: &Principal,
    url: &str,
) -> Result<(Webhook, String), ApiError> {
    let checked = target::check_url(url, app.webhook_targets);
    let url = checked.map_err(|message| {
        invalid_fields(&[("url", Some(FieldError { code: FieldCode::InvalidUrl, message }))])
    })?;
    let (actor, now) = (Actor::from(caller), app.clock.now());
    let row = Webhook {
        id: Uuid::now_v7(),
        url: url.to_string(),
        created_by: actor.name.clone(),
        created_at: now,
    };
    let entry = Entry::new(actor, Action::WebhookCreate, Resource::new("webhook", row.id));
    let entry = entry.after(json!({ "url": origin(&row.url) }));
    let mut conn = app.conn().await?;
    conn.transaction(async |conn| -> Result<_, ApiError> {
        webhook::insert(conn, &row).await?;
        audit_log::append(conn, &entry, now).await?;
        // Under the lock of the audit log: of two at once, the second counts the first.
        if webhook::count(conn).await? > MAX_WEBHOOKS {
            let detail = format!("There are {MAX_WEBHOOKS} webhooks already. Delete one first.");
            return Err(ApiError::new(Code::TooManyWebhooks, detail));
        }
        Ok(())
    })
    .await?;
    let secret = keys::webhook_secret(&app.device_key, row.id);
    Ok((row, secret))
}

/// Scheme, host and port of a webhook's address. Its path and query often are the receiver's secret, and more people read the
/// audit log than webhooks.
fn origin(url: &str) -> String {
    Url::parse(url).map(|url| url.origin().ascii_serialization()).unwrap_or_default()
}

pub async fn list(app: &App) -> Result<Vec<Webhook>, ApiError> {
    Ok(webhook::all(&mut *app.conn().await?).await?)
}

/// Deletes a webhook with its deliveries.
///
/// # Errors
/// `resource_not_found`.
pub async fn delete(app: &App, caller: &Principal, id: Uuid) -> Result<(), ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        let found = webhook::by_id(conn, id).await?.ok_or_else(nothing)?;
        let resource = Resource::new("webhook", found.id);
        let entry = Entry::new(Actor::from(caller), Action::WebhookDelete, resource);
        // The entry comes first: a concurrent change holds the log's lock while it inserts a delivery of this webhook.
        audit_log::append(conn, &entry.before(json!({ "url": origin(&found.url) })), now).await?;
        if webhook::delete(conn, id).await? == 0 { Err(nothing()) } else { Ok(()) }
    })
    .await
}

/// A webhook with its latest deliveries.
///
/// # Errors
/// `resource_not_found`.
pub async fn deliveries(app: &App, id: Uuid) -> Result<(Webhook, Vec<Delivery>), ApiError> {
    let mut conn = app.conn().await?;
    let found = webhook::by_id(&mut conn, id).await?.ok_or_else(nothing)?;
    Ok((found, webhook::deliveries(&mut conn, id, MAX_LISTED).await?))
}

/// Sends a delivery again, whatever became of it.
///
/// # Errors
/// `resource_not_found`.
pub async fn replay(
    app: &App,
    caller: &Principal,
    webhook: Uuid,
    id: Uuid,
) -> Result<(), ApiError> {
    let entry =
        Entry::new(Actor::from(caller), Action::WebhookReplay, Resource::new("webhook", webhook));
    let entry = entry.after(json!({ "delivery": id }));
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        if !webhook::replay(conn, webhook, id, now).await? {
            return Err(nothing());
        }
        audit_log::append(conn, &entry, now).await?;
        Ok(())
    })
    .await
}

fn nothing() -> ApiError {
    ApiError::new(Code::ResourceNotFound, "There is no such webhook or delivery.")
}
