//! The webhook pages: all webhooks, with a form for a new one whose secret is shown once; and the latest deliveries of
//! one, each with a button that sends it again.

use askama::Template;
use axum::extract::{RawPathParams, State};
use axum::http::StatusCode;
use axum::response::{Redirect, Response};
use protocol::{Problem, Timestamp};
use serde::Deserialize;
use service::api_error::ApiError;
use uuid::Uuid;

use super::field::Field;
use super::format::ago;
use super::{Layout, form_problem, page};
use crate::access::{Person, Principal};
use crate::api::webhooks::delivery_in;
use crate::app::App;
use crate::db::webhook::{Delivery, Webhook};
use crate::http::extract::{Form, IdPath};
use crate::{views, webhooks};

#[derive(Template)]
#[template(path = "webhooks.html")]
struct WebhooksPage {
    layout: Layout,
    rows: Vec<WebhookRow>,
    url: Field,
    /// The secret of the webhook that was just created.
    secret: Option<String>,
    problem: Option<Problem>,
}

struct WebhookRow {
    id: Uuid,
    url: String,
    created_by: String,
    created: String,
    created_ago: String,
}

#[derive(Template)]
#[template(path = "webhook.html")]
struct WebhookPage {
    layout: Layout,
    id: Uuid,
    url: String,
    rows: Vec<DeliveryRow>,
}

struct DeliveryRow {
    id: Uuid,
    event: String,
    state: String,
    attempts: i32,
    /// The last response or error; empty before the first attempt.
    result: String,
    created: String,
    created_ago: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct WebhookForm {
    url: String,
}

fn webhook_row(row: Webhook, now: Timestamp) -> WebhookRow {
    WebhookRow {
        id: row.id,
        url: row.url,
        created_by: row.created_by,
        created: views::time(row.created_at),
        created_ago: ago(row.created_at, now),
    }
}

fn delivery_row(row: Delivery, now: Timestamp) -> DeliveryRow {
    let status = row.last_status.map(|status| format!("HTTP {status}"));
    DeliveryRow {
        id: row.id,
        event: row.event,
        state: row.state,
        attempts: row.attempts,
        result: row.last_error.or(status).unwrap_or_default(),
        created: views::time(row.created_at),
        created_ago: ago(row.created_at, now),
    }
}

async fn webhooks_page(
    app: &App,
    person: &Person,
    url: &str,
    secret: Option<String>,
    problem: Option<Problem>,
) -> Result<WebhooksPage, ApiError> {
    let now = app.clock.now();
    let rows = webhooks::list(app).await?.into_iter().map(|row| webhook_row(row, now)).collect();
    let url = Field::new("url", "URL", "url")
        .hint("Receives each event as a signed POST.")
        .value(url)
        .with_problem(problem.as_ref());
    Ok(WebhooksPage { layout: Layout::signed_in(person, "Webhooks"), rows, url, secret, problem })
}

pub async fn show_webhooks(State(app): State<App>, person: Person) -> Result<Response, ApiError> {
    page(StatusCode::OK, &webhooks_page(&app, &person, "", None, None).await?)
}

pub async fn create_webhook(
    State(app): State<App>,
    person: Person,
    Form(form): Form<WebhookForm>,
) -> Result<Response, ApiError> {
    match webhooks::create(&app, &Principal::Session(person.clone()), &form.url).await {
        Ok((_, secret)) => {
            let shown = webhooks_page(&app, &person, "", Some(secret), None).await?;
            page(StatusCode::CREATED, &shown)
        }
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            page(status, &webhooks_page(&app, &person, &form.url, None, Some(problem)).await?)
        }
    }
}

pub async fn delete_webhook(
    State(app): State<App>,
    person: Person,
    IdPath(id): IdPath,
) -> Result<Redirect, ApiError> {
    webhooks::delete(&app, &Principal::Session(person), id).await?;
    Ok(Redirect::to("/admin/webhooks"))
}

pub async fn show_deliveries(
    State(app): State<App>,
    person: Person,
    IdPath(id): IdPath,
) -> Result<Response, ApiError> {
    let (webhook, deliveries) = webhooks::deliveries(&app, id).await?;
    let now = app.clock.now();
    let shown = WebhookPage {
        layout: Layout::signed_in(&person, "Webhook"),
        id,
        url: webhook.url,
        rows: deliveries.into_iter().map(|row| delivery_row(row, now)).collect(),
    };
    page(StatusCode::OK, &shown)
}

pub async fn replay_delivery(
    State(app): State<App>,
    person: Person,
    IdPath(id): IdPath,
    params: RawPathParams,
) -> Result<Redirect, ApiError> {
    webhooks::replay(&app, &Principal::Session(person), id, delivery_in(&params)?).await?;
    Ok(Redirect::to(&format!("/admin/webhooks/{id}")))
}
