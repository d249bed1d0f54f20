//! `open`: sends an owner into a tenant, signed in.

use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::State as TenantState;
use protocol::spec::Desired;
use service::failure::Failure;
use uuid::Uuid;

use crate::access::Owner;
use crate::app::App;
use crate::extract::Path;
use crate::sso::Claims;
use crate::tenants;

pub async fn open_tenant(
    State(app): State<App>,
    owner: Owner,
    method: Method,
    headers: HeaderMap,
    Path(slug): Path,
) -> Result<Response, Failure> {
    // A link on another site must not sign anyone in anywhere. Other methods are judged before they come here.
    let site = headers.get("sec-fetch-site").map(|v| v.as_bytes());
    if method != Method::POST && !matches!(site, None | Some(b"same-origin" | b"none")) {
        let detail = "Open a tenant from the admin itself.";
        return Err(Failure::new(StatusCode::FORBIDDEN, "cross_site", detail));
    }
    // A token is for somebody who goes there now.
    let mut purposes = ["sec-purpose", "purpose"].into_iter().filter_map(|name| headers.get(name));
    let is_ahead = purposes.any(|value| value.as_bytes().starts_with(b"prefetch"));
    if method == Method::HEAD || is_ahead {
        let detail = "Opening a tenant signs somebody in: it is done by going there.";
        return Err(Failure::new(StatusCode::FORBIDDEN, "not_a_visit", detail));
    }
    let tenant = tenants::find(&app, &owner, &slug).await?;
    if !can_open(tenant.desired, tenant.state) {
        let detail = "The tenant does not run. Start it first.";
        return Err(Failure::new(StatusCode::CONFLICT, "tenant_not_running", detail));
    }
    let place = (tenant.tenant_id(), &tenant.slug);
    let claims = Claims::new(place, &owner.user, Uuid::new_v4(), app.clock.now());
    let token = app.signer.sign(&claims)?;
    let there = format!("{}/.cial/sso?token={token}", app.addresses.tenant(&tenant.slug));
    tracing::info!(tenant = %tenant.id, user = %owner.user.id, "opened");
    let head = [(header::LOCATION, there), (header::REFERRER_POLICY, "no-referrer".to_owned())];
    Ok((StatusCode::SEE_OTHER, head).into_response())
}

/// Whether there is something that takes a visitor in, or will within the minute that a token counts.
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
    fn what_serves_or_soon_will_is_opened() {
        let opened = |desired| {
            let states = TenantState::ALL.into_iter().filter(|state| can_open(desired, *state));
            states.map(|state| state.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(opened(Desired::Running), ["starting", "running", "frozen", "sleeping"]);
        assert_eq!(opened(Desired::Stopped), Vec::<String>::new());
        assert_eq!(opened(Desired::Deleted), Vec::<String>::new());
    }
}
