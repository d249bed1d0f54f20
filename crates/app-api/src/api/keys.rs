//! `/v1/auth/keys`, `/v1/tenants/{slug}/keys` and `/v1/users/me/keys`: list, create, revoke. `/v1/auth/whoami`: who calls.

use axum::Json as JsonResponse;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use protocol::api_keys::{CreatedKey, KeyList, NewKey, PrincipalKind, WhoAmI};
use service::api_error::ApiError;

use super::auth;
use crate::access::principal::CallerScope;
use crate::access::{Account, AuthorizedTenant, Caller, Principal};
use crate::api_keys::{self, Scope};
use crate::app::App;
use crate::db::api_key::ApiKey;
use crate::http::extract::{IdPath, Json, Query};
use crate::http::paging::{PageQuery, Window};
use crate::http::reply::{Created, NoContent};
use crate::views;

pub async fn show_caller(Caller(caller): Caller) -> Result<JsonResponse<WhoAmI>, ApiError> {
    let is_admin = caller.scope() == CallerScope::Platform;
    Ok(JsonResponse(match caller {
        Principal::Session(person) => WhoAmI {
            kind: PrincipalKind::Session,
            role: person.user.role.clone(),
            user: Some(views::user(&person.user)),
            key: None,
            tenant: None,
            is_admin,
        },
        Principal::Key(key) => {
            let user = key.person.as_ref().map(views::user);
            let key = views::api_key(&key);
            let (role, tenant) = (key.role.to_string(), key.tenant.clone());
            let kind = PrincipalKind::Key;
            WhoAmI { kind, user, key: Some(key), tenant, role, is_admin }
        }
        Principal::Service => return Err(ApiError::internal(anyhow::anyhow!("a service calls"))),
    }))
}

/// Ends the calling key, or the calling session.
pub async fn sign_out(
    State(app): State<App>,
    Caller(caller): Caller,
    headers: HeaderMap,
) -> Result<NoContent, ApiError> {
    match caller {
        Principal::Key(key) => {
            api_keys::revoke_own(&app, &key).await?;
            Ok(NoContent::default())
        }
        Principal::Session(_) | Principal::Service => auth::sign_out(State(app), headers).await,
    }
}

pub async fn list_keys(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<JsonResponse<KeyList>, ApiError> {
    list(&app, &Scope::AllTenants, &query).await
}

pub async fn list_tenant_keys(
    State(app): State<App>,
    found: AuthorizedTenant,
    Query(query): Query<PageQuery>,
) -> Result<JsonResponse<KeyList>, ApiError> {
    list(&app, &Scope::of(&found), &query).await
}

async fn list(
    app: &App,
    scope: &Scope,
    query: &PageQuery,
) -> Result<JsonResponse<KeyList>, ApiError> {
    let window = query.window()?;
    Ok(page(window, api_keys::list(app, scope, window).await?))
}

fn page(window: Window, mut keys: Vec<ApiKey>) -> JsonResponse<KeyList> {
    let next = window.next(&mut keys, |key| key.id);
    JsonResponse(KeyList { keys: keys.iter().map(views::api_key).collect(), next })
}

pub async fn list_own_keys(
    State(app): State<App>,
    Caller(caller): Caller,
    Account(user): Account,
    Query(query): Query<PageQuery>,
) -> Result<JsonResponse<KeyList>, ApiError> {
    let window = query.window()?;
    Ok(page(window, api_keys::list_of_person(&app, &caller, &user, window).await?))
}

pub async fn revoke_own_key(
    State(app): State<App>,
    Caller(caller): Caller,
    Account(user): Account,
    IdPath(id): IdPath,
) -> Result<NoContent, ApiError> {
    api_keys::revoke_of_person(&app, &caller, &user, id).await?;
    Ok(NoContent::default())
}

pub async fn create_key(
    State(app): State<App>,
    Caller(caller): Caller,
    body: Json<NewKey>,
) -> Result<Created<CreatedKey>, ApiError> {
    let created = api_keys::create(&app, &caller, &Scope::AllTenants, &body.value).await?;
    let location = format!("/v1/auth/keys/{}", created.id);
    Ok(Created::new(created).with_text(header::LOCATION, &location)?)
}

pub async fn create_tenant_key(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    body: Json<NewKey>,
) -> Result<Created<CreatedKey>, ApiError> {
    let created = api_keys::create(&app, &caller, &Scope::of(&found), &body.value).await?;
    let location = format!("/v1/tenants/{}/keys/{}", found.tenant.slug, created.id);
    Ok(Created::new(created).with_text(header::LOCATION, &location)?)
}

pub async fn revoke_key(
    State(app): State<App>,
    Caller(caller): Caller,
    IdPath(id): IdPath,
) -> Result<NoContent, ApiError> {
    api_keys::revoke(&app, &caller, &Scope::AllTenants, id).await?;
    Ok(NoContent::default())
}

pub async fn revoke_tenant_key(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    IdPath(id): IdPath,
) -> Result<NoContent, ApiError> {
    api_keys::revoke(&app, &caller, &Scope::of(&found), id).await?;
    Ok(NoContent::default())
}
