//! `/v1/model`: the endpoint of the model, for operators; and `/v1/tenants/{slug}/model-usage`. No call returns the endpoint's key.

use axum::extract::State;
use protocol::model::{ModelEndpoint, ModelUsage, SetModel};
use service::api_error::ApiError;

use crate::access::{AuthorizedTenant, Caller};
use crate::app::App;
use crate::http::extract::Json;
use crate::http::reply::NoContent;
use crate::model;

pub async fn show_model(State(app): State<App>) -> Result<axum::Json<ModelEndpoint>, ApiError> {
    Ok(axum::Json(model::show(&app).await?))
}

pub async fn set_model(
    State(app): State<App>,
    Caller(caller): Caller,
    body: Json<SetModel>,
) -> Result<axum::Json<ModelEndpoint>, ApiError> {
    Ok(axum::Json(model::set(&app, &caller, &body.value).await?))
}

pub async fn unset_model(
    State(app): State<App>,
    Caller(caller): Caller,
) -> Result<NoContent, ApiError> {
    model::unset(&app, &caller).await?;
    Ok(NoContent::default())
}

pub async fn show_usage(
    State(app): State<App>,
    found: AuthorizedTenant,
) -> Result<axum::Json<ModelUsage>, ApiError> {
    Ok(axum::Json(model::usage(&app, &found.tenant).await?))
}
