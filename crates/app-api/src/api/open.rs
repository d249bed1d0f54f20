//! `open`: redirects an owner into a tenant with an SSO token.

use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::State as TenantState;
use protocol::problem::Code;
use protocol::spec::Desired;
use service::api_error::ApiError;
use uuid::Uuid;

use crate::access::authority::unauthenticated;
use crate::access::{AuthorizedTenant, Person};
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::auth::sso::{Claims, MAX_TENANT_SESSION};
use crate::db::{QueryResult, Transaction as _, audit_log, sso_grant};
use crate::http::describe::{Call, DescribeOutput};

/// A redirect into the tenant, with a token for one minute.
pub struct IntoTenant(Response);

impl IntoResponse for IntoTenant {
    fn into_response(self) -> Response {
        self.0
    }
}

impl DescribeOutput for IntoTenant {
    fn describe(call: &mut Call) {
        call.empty_response(303);
    }
}

pub async fn open_tenant(
    State(app): State<App>,
    person: Person,
    method: Method,
    headers: HeaderMap,
    found: AuthorizedTenant,
) -> Result<IntoTenant, ApiError> {
    // A link on another site must not sign a visitor in. The security layer checks POST before this
    // handler.
    let site = headers.get("sec-fetch-site").map(|v| v.as_bytes());
    if method != Method::POST && !matches!(site, None | Some(b"same-origin" | b"none")) {
        let detail = "Open a tenant from the admin itself.";
        return Err(ApiError::new(Code::CrossSite, detail));
    }
    // A prefetch must not consume a token: the owner does not visit the tenant yet.
    let mut purposes = ["sec-purpose", "purpose"].into_iter().filter_map(|name| headers.get(name));
    let is_prefetch = purposes.any(|value| value.as_bytes().starts_with(b"prefetch"));
    if method == Method::HEAD || is_prefetch {
        let detail = "Opening a tenant signs somebody in: it is done by going there.";
        return Err(ApiError::new(Code::NotAVisit, detail));
    }
    let tenant = found.tenant;
    if !can_open(tenant.desired, tenant.state) {
        let detail = "The tenant does not run. Start it first.";
        return Err(ApiError::new(Code::TenantNotRunning, detail));
    }
    let target = (tenant.tenant_id(), &tenant.slug);
    let now = app.clock.now();
    let mut conn = app.conn().await?;
    sso_grant::delete_expired(&mut conn, now).await?;
    let expires_at = now + MAX_TENANT_SESSION;
    let actor = Actor::user(&person.user, Some(person.session.id));
    let entry = Entry::new(actor, Action::TenantOpen, Resource::tenant(&tenant.slug));
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
    if !granted {
        return Err(unauthenticated());
    }
    let ids = (Uuid::new_v4(), person.session.id);
    let claims = Claims::new(target, &person.user, ids, now);
    let token = app.signer.sign(&claims)?;
    let location = format!("{}/.cial/sso?token={token}", app.addresses.tenant_url(&tenant.slug));
    tracing::info!(tenant = %tenant.id, user = %person.user.id, "tenant opened");
    let head = [(header::LOCATION, location), (header::REFERRER_POLICY, "no-referrer".to_owned())];
    Ok(IntoTenant((StatusCode::SEE_OTHER, head).into_response()))
}

/// Whether the tenant serves a visitor now or within the lifetime of a token.
fn can_open(desired: Desired, state: TenantState) -> bool {
    let serves = match state {
        TenantState::Running
        | TenantState::Starting
        | TenantState::Frozen
        | TenantState::Sleeping => true,
        TenantState::Provisioning
        | TenantState::Stopped
        | TenantState::Deleting
        | TenantState::Error => false,
    };
    serves && desired == Desired::Running
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_serving_or_starting_tenants_can_be_opened() {
        let opened = |desired| {
            let states = TenantState::ALL.into_iter().filter(|state| can_open(desired, *state));
            states.map(|state| state.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(opened(Desired::Running), ["starting", "running", "frozen", "sleeping"]);
        assert_eq!(opened(Desired::Stopped), Vec::<String>::new());
        assert_eq!(opened(Desired::Deleted), Vec::<String>::new());
    }
}
