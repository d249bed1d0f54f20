//! `/v1/registries`: list, set, delete. No call returns a password.

use axum::extract::{RawPathParams, State};
use protocol::images::{Registry, RegistryList, SetRegistry};
use service::api_error::ApiError;

use crate::access::Caller;
use crate::app::App;
use crate::db::registry;
use crate::http::extract::{Json, path_part};
use crate::http::reply::NoContent;
use crate::{registries, views};

pub async fn list_registries(State(app): State<App>) -> Result<axum::Json<RegistryList>, ApiError> {
    let rows = registries::list(&app).await?.into_iter();
    Ok(axum::Json(RegistryList { registries: rows.filter_map(view).collect() }))
}

pub async fn set_registry(
    State(app): State<App>,
    Caller(caller): Caller,
    params: RawPathParams,
    body: Json<SetRegistry>,
) -> Result<NoContent, ApiError> {
    registries::set(&app, &caller, host_in(&params), &body.value).await?;
    Ok(NoContent::default())
}

pub async fn delete_registry(
    State(app): State<App>,
    Caller(caller): Caller,
    params: RawPathParams,
) -> Result<NoContent, ApiError> {
    registries::delete(&app, &caller, host_in(&params)).await?;
    Ok(NoContent::default())
}

/// The registry in the path, as text.
pub fn host_in(params: &RawPathParams) -> &str {
    path_part(params, "host").unwrap_or_default()
}

/// Every row was checked when it was written.
fn view(row: registry::Registry) -> Option<Registry> {
    Some(Registry {
        host: row.host.parse().ok()?,
        username: row.username,
        updated_by: row.updated_by,
        updated_at: views::time(row.updated_at),
    })
}
