//! `/v1/webhooks`: create, list, delete; their deliveries, and a replay.

use axum::extract::{RawPathParams, State};
use protocol::problem::Code;
use protocol::webhooks::{Delivery, DeliveryList, NewWebhook, Webhook, WebhookList};
use service::api_error::ApiError;
use uuid::Uuid;

use crate::access::Caller;
use crate::app::App;
use crate::db::webhook;
use crate::http::extract::{IdPath, Json, path_part};
use crate::http::reply::{Created, NoContent};
use crate::views;
use crate::webhooks;

pub async fn create_webhook(
    State(app): State<App>,
    Caller(caller): Caller,
    body: Json<NewWebhook>,
) -> Result<Created<Webhook>, ApiError> {
    let (created, secret) = webhooks::create(&app, &caller, &body.value.url).await?;
    let view = Webhook { secret: Some(secret), ..view(created) };
    Ok(Created::new(view))
}

pub async fn list_webhooks(State(app): State<App>) -> Result<axum::Json<WebhookList>, ApiError> {
    let webhooks = webhooks::list(&app).await?.into_iter().map(view).collect();
    Ok(axum::Json(WebhookList { webhooks }))
}

pub async fn delete_webhook(
    State(app): State<App>,
    Caller(caller): Caller,
    IdPath(id): IdPath,
) -> Result<NoContent, ApiError> {
    webhooks::delete(&app, &caller, id).await?;
    Ok(NoContent::default())
}

pub async fn list_deliveries(
    State(app): State<App>,
    IdPath(id): IdPath,
) -> Result<axum::Json<DeliveryList>, ApiError> {
    let (_, deliveries) = webhooks::deliveries(&app, id).await?;
    let deliveries = deliveries.into_iter().map(delivery).collect();
    Ok(axum::Json(DeliveryList { deliveries }))
}

pub async fn replay_delivery(
    State(app): State<App>,
    Caller(caller): Caller,
    IdPath(id): IdPath,
    params: RawPathParams,
) -> Result<NoContent, ApiError> {
    webhooks::replay(&app, &caller, id, delivery_in(&params)?).await?;
    Ok(NoContent::default())
}

/// The delivery in the path. A text that is no UUID names nothing.
///
/// # Errors
/// `not_found`.
pub fn delivery_in(params: &RawPathParams) -> Result<Uuid, ApiError> {
    let nothing = || ApiError::new(Code::NotFound, "There is nothing of this id.");
    path_part(params, "delivery").and_then(|text| text.parse().ok()).ok_or_else(nothing)
}

fn view(row: webhook::Webhook) -> Webhook {
    Webhook {
        id: row.id,
        url: row.url,
        created_by: row.created_by,
        created_at: views::time(row.created_at),
        secret: None,
    }
}

fn delivery(row: webhook::Delivery) -> Delivery {
    let is_pending = row.state == "pending";
    Delivery {
        id: row.id,
        event: row.event,
        state: row.state,
        attempts: row.attempts,
        next_attempt_at: is_pending.then(|| views::time(row.next_attempt_at)),
        last_status: row.last_status,
        last_error: row.last_error,
        created_at: views::time(row.created_at),
        finished_at: row.finished_at.map(views::time),
    }
}
