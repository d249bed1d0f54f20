//! The caller's current rights in the database. Read on every request: nothing is cached, so that a
//! revocation takes effect with the next request on every replica.

use axum::http::{HeaderMap, HeaderValue, header};
use protocol::api_keys::Role;
use protocol::people::MemberRole;
use protocol::problem::Code;
use service::api_error::ApiError;
use service::secret::constant_time_eq;

use super::principal::{Access, AccessError, Person, Principal};
use crate::api_keys;
use crate::app::App;
use crate::db::api_key::Lookup;
use crate::db::{self, Conn};
use crate::route::Surface;
use crate::sessions;
use crate::tenant::Tenant;
use crate::tenant_actions::no_such_tenant;

/// The tenant in the path, on which the caller has `role`. Handlers receive it from [`super::layer::check`], after the
/// caller was admitted.
#[derive(Clone, Debug)]
pub struct AuthorizedTenant {
    pub tenant: Tenant,
    pub role: Option<Role>,
}

impl AuthorizedTenant {
    /// The caller's role on the tenant. A caller without a membership is a viewer.
    pub fn member_role(&self) -> MemberRole {
        match self.role {
            Some(Role::Admin) => MemberRole::Admin,
            Some(Role::Write) => MemberRole::Member,
            Some(Role::Read) | None => MemberRole::Viewer,
        }
    }
}

/// The tenant in a path as the router extracted it; bytes that are no UTF-8 name no tenant.
#[derive(Clone, Debug)]
pub struct PathTenant(pub Option<String>);

/// A caller, and the cookie that the response must set, if any.
pub struct Authenticated {
    pub principal: Principal,
    pub cookie: Option<HeaderValue>,
}

/// Finds out who calls. A bearer key goes before a cookie; pages take no key.
///
/// # Errors
/// `invalid_key`; `database_unavailable`.
pub async fn authenticate(
    app: &App,
    surface: Surface,
    headers: &HeaderMap,
) -> Result<Option<Authenticated>, ApiError> {
    let without_cookie = |principal| Authenticated { principal, cookie: None };
    match (surface, bearer(headers)) {
        (Surface::Internal, token) => {
            let is_valid_token =
                constant_time_eq(token.unwrap_or_default(), app.routes_token.reveal());
            Ok(is_valid_token.then(|| without_cookie(Principal::Service)))
        }
        (Surface::Api, Some(key)) => {
            let key = api_keys::authenticate(app, key).await?;
            Ok(Some(without_cookie(Principal::Key(key))))
        }
        (Surface::Api, None) | (Surface::Page, _) => {
            let found = sessions::authenticate(app, headers).await?;
            Ok(found.map(|sessions::Authenticated { session, user, cookie }| {
                let principal = Principal::Session(Person { user, session });
                Authenticated { principal, cookie }
            }))
        }
    }
}

/// Finds out who calls, like [`authenticate`], without extending or replacing the session.
///
/// # Errors
/// `invalid_key`; `database_unavailable`.
pub async fn identify(
    app: &App,
    surface: Surface,
    headers: &HeaderMap,
) -> Result<Option<Principal>, ApiError> {
    if let (Surface::Api, Some(key)) = (surface, bearer(headers)) {
        return api_keys::authenticate(app, key).await.map(Principal::Key).map(Some);
    }
    let found = sessions::find(app, headers).await?;
    Ok(found.map(|(session, user)| Principal::Session(Person { user, session })))
}

/// Reads the caller again. `None` when the session or the key has ended. Neither extends the session nor records a use of the key.
///
/// # Errors
/// When the database cannot be read.
pub async fn reload_principal(
    app: &App,
    principal: &Principal,
) -> Result<Option<Principal>, ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    Ok(match principal {
        Principal::Session(person) => {
            let found = db::session::by_id(&mut conn, person.session.id, now).await?;
            found.map(|(session, user)| Principal::Session(Person { user, session }))
        }
        Principal::Key(key) => {
            let found = db::api_key::find_live(&mut conn, Lookup::Id(key.id), now).await?;
            found.map(Principal::Key)
        }
        Principal::Service => Some(Principal::Service),
    })
}

/// The token of the scheme `Bearer`, also an empty one or one that is no text: such a request names a key, if a wrong
/// one, and never falls back to a cookie.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) =
        value.split_at(value.iter().position(|b| *b == b' ').unwrap_or(value.len()));
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer");
    is_bearer.then(|| std::str::from_utf8(token).unwrap_or_default().trim())
}

/// Admits a caller to a route with this access, and reads the tenant in the path.
///
/// # Errors
/// `forbidden`, `insufficient_role`, `tenant_not_found`; `database_unavailable`.
pub async fn admit(
    app: &App,
    access: Access,
    principal: &Principal,
    tenant: Option<&PathTenant>,
) -> Result<Option<AuthorizedTenant>, ApiError> {
    let found = match tenant {
        Some(path) => Some(tenant_of(app, principal, path).await?),
        None => None,
    };
    access.admit(principal, found.as_ref().and_then(|found| found.role)).map_err(refused)?;
    Ok(found)
}

async fn tenant_of(
    app: &App,
    principal: &Principal,
    path: &PathTenant,
) -> Result<AuthorizedTenant, ApiError> {
    let scope = principal.scope();
    let slug = path.0.as_deref().unwrap_or_default();
    // Before any lookup: the response must not depend on whether the tenant exists.
    if scope.excludes(slug) {
        return Err(refused(AccessError::Forbidden));
    }
    let authority = authority_of(&mut *app.conn().await?, principal, slug).await?;
    match authority {
        Some(found) if found.role.is_some() || scope.knows_all_tenants() => Ok(found),
        None if scope.knows_all_tenants() => Err(no_such_tenant()),
        Some(_) | None => Err(refused(AccessError::Forbidden)),
    }
}

/// The tenant of this slug and the caller's role on it, in one query. `None` when there is no such tenant.
pub async fn authority_of(
    conn: &mut Conn,
    principal: &Principal,
    slug: &str,
) -> anyhow::Result<Option<AuthorizedTenant>> {
    // Postgres text cannot hold NUL, and no tenant has an empty slug.
    if slug.is_empty() || slug.contains('\0') {
        return Ok(None);
    }
    let found = db::tenant::by_slug_with_membership(conn, slug, principal.user_id()).await?;
    Ok(found.map(|(tenant, membership)| {
        let membership = membership.and_then(|role| role.parse().ok()).map(membership_role);
        AuthorizedTenant { tenant, role: principal.role_on_tenant(membership) }
    }))
}

/// The role on a tenant of a membership: `viewer`, `member` or `admin`.
pub fn membership_role(membership: MemberRole) -> Role {
    match membership {
        MemberRole::Viewer => Role::Read,
        MemberRole::Member => Role::Write,
        MemberRole::Admin => Role::Admin,
    }
}

/// Constant texts: the response must not reveal more than its code.
pub fn refused(error: AccessError) -> ApiError {
    match error {
        AccessError::Forbidden => {
            ApiError::new(Code::Forbidden, "You have no access here. Use another key or account.")
        }
        AccessError::InsufficientRole => {
            ApiError::new(Code::InsufficientRole, "Your role does not permit this.")
        }
    }
}

/// The refusal of a request without a live session or key.
pub fn unauthenticated() -> ApiError {
    ApiError::new(Code::Unauthenticated, "Sign in first, or send an API key.")
}
