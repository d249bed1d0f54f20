//! `/v1/tenants/{slug}/env` and `…/secrets`: list, set, delete. No call returns a secret.

use axum::extract::{RawPathParams, State};
use protocol::problem::Code;
use protocol::variables::{EnvList, EnvVariable, SecretList, SecretName, SetVariable};
use service::api_error::ApiError;

use crate::access::{AuthorizedTenant, Caller};
use crate::app::App;
use crate::http::extract::{Json, path_part};
use crate::http::reply::NoContent;
use crate::variables::{self, Kind};

pub async fn list_env(
    State(app): State<App>,
    found: AuthorizedTenant,
) -> Result<axum::Json<EnvList>, ApiError> {
    let env = variables::list(&app, &found.tenant, Kind::Env)?.into_iter();
    let env = env.map(|(name, variable)| EnvVariable { name, value: variable.value }).collect();
    Ok(axum::Json(EnvList { env }))
}

pub async fn list_secrets(
    State(app): State<App>,
    found: AuthorizedTenant,
) -> Result<axum::Json<SecretList>, ApiError> {
    let names = variables::list(&app, &found.tenant, Kind::Secret)?.into_keys();
    Ok(axum::Json(SecretList { secrets: names.map(|name| SecretName { name }).collect() }))
}

pub async fn set_env(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
    body: Json<SetVariable>,
) -> Result<NoContent, ApiError> {
    let (named, value) = ((Kind::Env, name_in(&params)?), Some(body.value.value.as_str()));
    variables::set(&app, &caller, found.tenant, named, value).await?;
    Ok(NoContent::default())
}

pub async fn delete_env(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
) -> Result<NoContent, ApiError> {
    let named = (Kind::Env, name_in(&params)?);
    variables::set(&app, &caller, found.tenant, named, None).await?;
    Ok(NoContent::default())
}

pub async fn set_secret(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
    body: Json<SetVariable>,
) -> Result<NoContent, ApiError> {
    let (named, value) = ((Kind::Secret, name_in(&params)?), Some(body.value.value.as_str()));
    variables::set(&app, &caller, found.tenant, named, value).await?;
    Ok(NoContent::default())
}

pub async fn delete_secret(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
) -> Result<NoContent, ApiError> {
    let named = (Kind::Secret, name_in(&params)?);
    variables::set(&app, &caller, found.tenant, named, None).await?;
    Ok(NoContent::default())
}

/// The name in the path.
///
/// # Errors
/// `not_found`.
pub fn name_in(params: &RawPathParams) -> Result<&str, ApiError> {
    path_part(params, "name")
        .ok_or_else(|| ApiError::new(Code::NotFound, "There is nothing of this name."))
}
