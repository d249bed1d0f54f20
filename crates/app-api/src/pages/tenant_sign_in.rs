//! The middle of a sign-in at a tenant: gives a member's browser, which the tenant sent here, a token for the tenant.

use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use protocol::problem::Code;
use protocol::sign_in::{END_PATH, is_nonce_hash, is_return_path};
use protocol::site::Site;
use serde::Deserialize;
use service::api_error::ApiError;

use crate::access::authority::unauthenticated;
use crate::access::{AuthorizedTenant, Person};
use crate::api::open::check_can_open;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::auth::sso::{Browser, Claims, MAX_TENANT_SESSION};
use crate::db::{QueryResult, Transaction as _, audit_log, sso_grant};
use crate::http::extract::Query;

#[derive(Deserialize)]
pub struct SignInQuery {
    /// The hash of the nonce that the browser keeps in a cookie of the tenant.
    #[serde(default)]
    nonce: String,
    /// The site on which the sign-in began.
    #[serde(default)]
    site: Site,
    /// Where the tenant sends the browser afterwards.
    to: Option<String>,
}

pub async fn sign_in(
    State(app): State<App>,
    person: Person,
    method: Method,
    headers: HeaderMap,
    found: AuthorizedTenant,
    Query(query): Query<SignInQuery>,
) -> Result<Response, ApiError> {
    // A prefetch must not consume a token: the person does not visit the tenant yet.
    let mut purposes = ["sec-purpose", "purpose"].into_iter().filter_map(|name| headers.get(name));
    let is_prefetch = purposes.any(|value| value.as_bytes().starts_with(b"prefetch"));
    if method == Method::HEAD || is_prefetch {
        let detail = "This address signs somebody in at a tenant: it is done by going there.";
        return Err(ApiError::new(Code::NotAVisit, detail));
    }
    if !is_nonce_hash(&query.nonce) {
        let detail = "A sign-in begins at the tenant. Open the tenant instead of this address.";
        return Err(ApiError::new(Code::InvalidQuery, detail));
    }
    check_can_open(&found.tenant)?;
    let to = query.to.as_deref().filter(|to| is_return_path(to));
    let browser = Browser { nonce: &query.nonce, site: query.site, to };
    let claims = Claims::new(&found, &person, browser, app.clock.now());
    record_grant(&app, &person, &found).await?;
    let tenant = &found.tenant;
    let token = app.signer.sign(&claims)?;
    let url = app.addresses.site_url(&tenant.slug, query.site);
    let location = format!("{url}{END_PATH}?token={token}");
    tracing::info!(tenant = %tenant.id, user = %person.user.id, "tenant opened");
    let head = [(header::LOCATION, location), (header::REFERRER_POLICY, "no-referrer".to_owned())];
    Ok((StatusCode::SEE_OTHER, head).into_response())
}

/// Records that the session of the admin gets a session at the tenant, which ends with it.
async fn record_grant(
    app: &App,
    person: &Person,
    found: &AuthorizedTenant,
) -> Result<(), ApiError> {
    let (tenant, now) = (&found.tenant, app.clock.now());
    let mut conn = app.conn().await?;
    sso_grant::delete_expired(&mut conn, now).await?;
    let actor = Actor::user(&person.user, Some(person.session.id));
    let entry = Entry::new(actor, Action::TenantOpen, Resource::tenant(&tenant.slug));
    let expires_at = now + MAX_TENANT_SESSION;
    let granted = conn
        .transaction(async |conn| {
            let granted =
                sso_grant::insert(conn, &person.session, tenant.tenant_id(), expires_at).await?;
            if granted {
                audit_log::append(conn, &entry, now).await?;
            }
            QueryResult::Ok(granted)
        })
        .await?;
    if granted { Ok(()) } else { Err(unauthenticated()) }
}
