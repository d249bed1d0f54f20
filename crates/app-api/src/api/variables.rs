//! `/v1/tenants/{slug}/env` and `…/secrets`, and the same of an app: list, set, delete. No call returns a secret.

use axum::extract::{RawPathParams, State};
use protocol::problem::Code;
use protocol::variables::{EnvList, EnvVariable, SecretList, SecretName, SetVariable, Variables};
use service::api_error::ApiError;

use crate::access::{AuthorizedTenant, Caller};
use crate::app::App;
use crate::http::extract::{AppPath, Json, path_part};
use crate::http::reply::NoContent;
use crate::variables::{Assignment, Kind, of_app, of_tenant};

pub async fn list_env(
    State(app): State<App>,
    found: AuthorizedTenant,
) -> Result<axum::Json<EnvList>, ApiError> {
    Ok(env_list(of_tenant::list(&app, &found.tenant, Kind::Env)?))
}

pub async fn list_secrets(
    State(app): State<App>,
    found: AuthorizedTenant,
) -> Result<axum::Json<SecretList>, ApiError> {
    Ok(secret_list(of_tenant::list(&app, &found.tenant, Kind::Secret)?))
}

pub async fn list_app_env(
    State(service): State<App>,
    AppPath(slug): AppPath,
) -> Result<axum::Json<EnvList>, ApiError> {
    Ok(env_list(of_app::list(&service, &slug, Kind::Env).await?))
}

pub async fn list_app_secrets(
    State(service): State<App>,
    AppPath(slug): AppPath,
) -> Result<axum::Json<SecretList>, ApiError> {
    Ok(secret_list(of_app::list(&service, &slug, Kind::Secret).await?))
}

fn env_list(variables: Variables) -> axum::Json<EnvList> {
    let env = variables.into_iter();
    let env = env.map(|(name, variable)| EnvVariable { name, value: variable.value }).collect();
    axum::Json(EnvList { env })
}

fn secret_list(variables: Variables) -> axum::Json<SecretList> {
    let names = variables.into_keys();
    axum::Json(SecretList { secrets: names.map(|name| SecretName { name }).collect() })
}

pub async fn set_env(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
    body: Json<SetVariable>,
) -> Result<NoContent, ApiError> {
    let assignment = setting(Kind::Env, &params, &body.value)?;
    of_tenant::set(&app, &caller, found.tenant, assignment).await?;
    Ok(NoContent::default())
}

pub async fn delete_env(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
) -> Result<NoContent, ApiError> {
    of_tenant::set(&app, &caller, found.tenant, deletion(Kind::Env, &params)?).await?;
    Ok(NoContent::default())
}

pub async fn set_secret(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
    body: Json<SetVariable>,
) -> Result<NoContent, ApiError> {
    let assignment = setting(Kind::Secret, &params, &body.value)?;
    of_tenant::set(&app, &caller, found.tenant, assignment).await?;
    Ok(NoContent::default())
}

pub async fn delete_secret(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
) -> Result<NoContent, ApiError> {
    of_tenant::set(&app, &caller, found.tenant, deletion(Kind::Secret, &params)?).await?;
    Ok(NoContent::default())
}

pub async fn set_app_env(
    State(service): State<App>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    params: RawPathParams,
    body: Json<SetVariable>,
) -> Result<NoContent, ApiError> {
    of_app::set(&service, &caller, &slug, setting(Kind::Env, &params, &body.value)?).await?;
    Ok(NoContent::default())
}

pub async fn delete_app_env(
    State(service): State<App>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    params: RawPathParams,
) -> Result<NoContent, ApiError> {
    of_app::set(&service, &caller, &slug, deletion(Kind::Env, &params)?).await?;
    Ok(NoContent::default())
}

pub async fn set_app_secret(
    State(service): State<App>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    params: RawPathParams,
    body: Json<SetVariable>,
) -> Result<NoContent, ApiError> {
    of_app::set(&service, &caller, &slug, setting(Kind::Secret, &params, &body.value)?).await?;
    Ok(NoContent::default())
}

pub async fn delete_app_secret(
    State(service): State<App>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    params: RawPathParams,
) -> Result<NoContent, ApiError> {
    of_app::set(&service, &caller, &slug, deletion(Kind::Secret, &params)?).await?;
    Ok(NoContent::default())
}

fn setting<'a>(
    kind: Kind,
    params: &'a RawPathParams,
    body: &'a SetVariable,
) -> Result<Assignment<'a>, ApiError> {
    Ok(Assignment { kind, name: name_in(params)?, value: Some(&body.value) })
}

fn deletion(kind: Kind, params: &RawPathParams) -> Result<Assignment<'_>, ApiError> {
    Ok(Assignment { kind, name: name_in(params)?, value: None })
}

/// The name in the path.
///
/// # Errors
/// `not_found`.
pub fn name_in(params: &RawPathParams) -> Result<&str, ApiError> {
    path_part(params, "name")
        .ok_or_else(|| ApiError::new(Code::NotFound, "There is nothing of this name."))
}
