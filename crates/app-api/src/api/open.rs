//! `open`: sends a person to where a tenant begins a sign-in, which the admin then completes without a question.

use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::State as TenantState;
use protocol::problem::Code;
use protocol::sign_in::START_PATH;
use protocol::spec::Desired;
use service::api_error::ApiError;

use crate::access::AuthorizedTenant;
use crate::app::App;
use crate::http::describe::{Call, DescribeOutput};
use crate::tenant::Tenant;

/// A redirect to the tenant.
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
    method: Method,
    headers: HeaderMap,
    found: AuthorizedTenant,
) -> Result<IntoTenant, ApiError> {
    // The security layer checks POST before this handler.
    let site = headers.get("sec-fetch-site").map(|v| v.as_bytes());
    if method != Method::POST && !matches!(site, None | Some(b"same-origin" | b"none")) {
        let detail = "Open a tenant from the admin itself.";
        return Err(ApiError::new(Code::CrossSite, detail));
    }
    check_can_open(&found.tenant)?;
    let location = format!("{}{START_PATH}", app.addresses.tenant_url(&found.tenant.slug));
    let response = (StatusCode::SEE_OTHER, [(header::LOCATION, location)]);
    Ok(IntoTenant(response.into_response()))
}

/// Refuses for a tenant that serves no visitor now nor within the lifetime of a token.
///
/// # Errors
/// `tenant_not_running`
pub fn check_can_open(tenant: &Tenant) -> Result<(), ApiError> {
    if can_open(tenant.desired, tenant.state) {
        return Ok(());
    }
    Err(ApiError::new(Code::TenantNotRunning, "The tenant does not run. Start it first."))
}

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
