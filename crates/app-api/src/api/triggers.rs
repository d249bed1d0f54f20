//! `/v1/tenants/{slug}/triggers`: list, create, show, pause, resume, fire, delete; and the calls of their webhooks.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use protocol::executions::{ExecutionState, ScheduledExecution};
use protocol::triggers::{CalledTrigger, NewTrigger, Trigger, TriggerKind, TriggerList};
use service::api_error::ApiError;
use utoipa::openapi::Required;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::request_body::RequestBodyBuilder;

use super::packages::part;
use super::workflows::scheduled;
use crate::access::{AuthorizedTenant, Caller};
use crate::app::App;
use crate::db::trigger::TriggerRow;
use crate::http::describe::{Call, DescribeInput};
use crate::http::extract::{ClientAddress, Json, path_part};
use crate::http::reply::{Accepted, Created, NoContent};
use crate::http::request_body;
use crate::views::time;
use crate::work::triggers::{self, calls};

/// The parts of the path that name a webhook. A part that is no text names nothing.
pub struct WebhookPath {
    trigger: Option<String>,
    token: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for WebhookPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state).await.ok();
        let part = |name| params.as_ref().and_then(|params| path_part(params, name));
        Ok(Self { trigger: part("id").map(str::to_owned), token: part("token").map(str::to_owned) })
    }
}

/// Parameters of the path follow from the path.
impl DescribeInput for WebhookPath {}

/// A body of any type, not read yet.
pub struct AnyBody(Body);

impl<S: Sync> FromRequest<S> for AnyBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        Ok(Self(request.into_body()))
    }
}

impl DescribeInput for AnyBody {
    fn describe(call: &mut Call) {
        let any = || ContentBuilder::new().build();
        let body = RequestBodyBuilder::new().required(Some(Required::False));
        let body = body.content("application/json", any()).content("text/plain", any());
        call.request_body = Some(body.build());
    }
}

pub async fn list_triggers(
    State(app): State<App>,
    found: AuthorizedTenant,
) -> Result<axum::Json<TriggerList>, ApiError> {
    let rows = triggers::list(&app, &found.tenant).await?;
    let items: Vec<_> =
        rows.into_iter().map(|row| Trigger { context: None, ..view(row) }).collect();
    Ok(axum::Json(TriggerList { total: items.len(), items, next: None }))
}

pub async fn create_trigger(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    body: Json<NewTrigger>,
) -> Result<Created<Trigger>, ApiError> {
    let row = triggers::create(&app, &caller, &found.tenant, body.value).await?;
    let location = format!("/v1/tenants/{}/triggers/{}", found.tenant.slug, row.name);
    let url = (row.kind == TriggerKind::Webhook).then(|| calls::url(&app, row.id));
    Ok(Created::new(Trigger { url, ..view(row) }).with_text("location", &location)?)
}

pub async fn show_trigger(
    State(app): State<App>,
    found: AuthorizedTenant,
    params: RawPathParams,
) -> Result<axum::Json<Trigger>, ApiError> {
    let name = part(&params, "name")?;
    Ok(axum::Json(view(triggers::show(&app, &found.tenant, name).await?)))
}

pub async fn pause_trigger(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
) -> Result<axum::Json<Trigger>, ApiError> {
    let name = part(&params, "name")?;
    Ok(axum::Json(view(triggers::set_paused(&app, &caller, &found.tenant, name, true).await?)))
}

pub async fn resume_trigger(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
) -> Result<axum::Json<Trigger>, ApiError> {
    let name = part(&params, "name")?;
    Ok(axum::Json(view(triggers::set_paused(&app, &caller, &found.tenant, name, false).await?)))
}

pub async fn fire_trigger(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
) -> Result<Accepted<ScheduledExecution>, ApiError> {
    let name = part(&params, "name")?;
    let row = triggers::fire(&app, &caller, &found.tenant, name).await?;
    scheduled(&found.tenant, row)
}

pub async fn delete_trigger(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
) -> Result<NoContent, ApiError> {
    triggers::delete(&app, &caller, &found.tenant, part(&params, "name")?).await?;
    Ok(NoContent::default())
}

/// The address is checked before the body is read.
pub async fn call_trigger(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    path: WebhookPath,
    AnyBody(body): AnyBody,
) -> Result<Accepted<CalledTrigger>, ApiError> {
    let named = (path.trigger.as_deref(), path.token.as_deref());
    let call = calls::check(&app, client, named).await?;
    let body = request_body::read(body).await?;
    let execution = calls::fire(&app, call, &body).await?;
    let status = ExecutionState::Scheduled;
    Ok(Accepted::new(CalledTrigger { execution_id: execution.id, status }))
}

fn view(row: TriggerRow) -> Trigger {
    Trigger {
        id: row.id,
        name: row.name,
        workflow: row.workflow,
        kind: row.kind,
        catch_up: (row.kind == TriggerKind::Cron).then_some(row.catch_up),
        cron: row.cron,
        time_zone: row.time_zone,
        context: Some(row.context),
        paused: row.paused,
        next_fire_at: row.next_fire_at.map(time),
        last_fire_at: row.last_fire_at.map(time),
        last_execution_id: row.last_execution_id,
        last_failure: row.last_failure,
        created_by: row.created_by,
        created_at: time(row.created_at),
        url: None,
    }
}
