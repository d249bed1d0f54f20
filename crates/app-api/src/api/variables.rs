//! `/v1/tenants/{slug}/env` and `…/secrets`, and the same of an app: list, set, delete. No call returns a secret.

use axum::extract::{RawPathParams, State};
use protocol::problem::Code;
use protocol::variables::{EnvList, EnvVariable, SecretList, SecretName, SetVariable, Variables};
use serde::Serialize;
use service::api_error::ApiError;
use utoipa::ToSchema;

use crate::access::{AuthorizedTenant, Caller};
use crate::app::App;
use crate::http::extract::{AppPath, Json, path_part};
use crate::http::reply::NoContent;
use crate::variables::{Assignment, Kind, of_app, of_tenant};

/// A kind of variables as a type: the table of routes names it, and its list is part of the API's description.
pub trait VariableKind {
    const KIND: Kind;
    type List: Serialize + ToSchema;

    fn list(variables: Variables) -> Self::List;
}

pub struct Env;
pub struct Secrets;

impl VariableKind for Env {
    const KIND: Kind = Kind::Env;
    type List = EnvList;

    fn list(variables: Variables) -> EnvList {
        let env = variables.into_iter();
        let env = env.map(|(name, variable)| EnvVariable { name, value: variable.value });
        EnvList { env: env.collect() }
    }
}

impl VariableKind for Secrets {
    const KIND: Kind = Kind::Secret;
    type List = SecretList;

    fn list(variables: Variables) -> SecretList {
        SecretList { secrets: variables.into_keys().map(|name| SecretName { name }).collect() }
    }
}

pub async fn list<K: VariableKind>(
    State(app): State<App>,
    found: AuthorizedTenant,
) -> Result<axum::Json<K::List>, ApiError> {
    Ok(axum::Json(K::list(of_tenant::list(&app, &found.tenant, K::KIND)?)))
}

pub async fn set<K: VariableKind>(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
    body: Json<SetVariable>,
) -> Result<NoContent, ApiError> {
    let assignment = assignment::<K>(&params, Some(&body.value))?;
    of_tenant::set(&app, &caller, found.tenant, assignment).await?;
    Ok(NoContent::default())
}

pub async fn delete<K: VariableKind>(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
) -> Result<NoContent, ApiError> {
    of_tenant::set(&app, &caller, found.tenant, assignment::<K>(&params, None)?).await?;
    Ok(NoContent::default())
}

pub async fn list_of_app<K: VariableKind>(
    State(service): State<App>,
    AppPath(slug): AppPath,
) -> Result<axum::Json<K::List>, ApiError> {
    Ok(axum::Json(K::list(of_app::list(&service, &slug, K::KIND).await?)))
}

pub async fn set_of_app<K: VariableKind>(
    State(service): State<App>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    params: RawPathParams,
    body: Json<SetVariable>,
) -> Result<NoContent, ApiError> {
    let assignment = assignment::<K>(&params, Some(&body.value))?;
    of_app::set(&service, &caller, &slug, assignment).await?;
    Ok(NoContent::default())
}

pub async fn delete_of_app<K: VariableKind>(
    State(service): State<App>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    params: RawPathParams,
) -> Result<NoContent, ApiError> {
    of_app::set(&service, &caller, &slug, assignment::<K>(&params, None)?).await?;
    Ok(NoContent::default())
}

/// Sets the variable of the path to a value, or deletes it.
fn assignment<'a, K: VariableKind>(
    params: &'a RawPathParams,
    value: Option<&'a SetVariable>,
) -> Result<Assignment<'a>, ApiError> {
    let value = value.map(|body| body.value.as_str());
    Ok(Assignment { kind: K::KIND, name: name_in(params)?, value })
}

/// The name in the path.
///
/// # Errors
/// `not_found`.
pub fn name_in(params: &RawPathParams) -> Result<&str, ApiError> {
    path_part(params, "name")
        .ok_or_else(|| ApiError::new(Code::NotFound, "There is nothing of this name."))
}
