//! The secrets that the router and one tenant show each other.

use protocol::TenantId;
use service::{Secret, keys};

/// Derived once per tenant, so that no request pays for the derivation.
pub(crate) struct TenantKeys {
    /// Proves to the tenant that a request comes through the router.
    pub(crate) route_token: String,
    /// Proves to the router that a response comes from this tenant.
    pub(crate) route_proof: String,
}

impl TenantKeys {
    /// `master` is the installation's route secret.
    pub(crate) fn derive(master: &Secret, tenant: TenantId) -> Self {
        Self {
            route_token: keys::route_token(master, tenant),
            route_proof: keys::route_proof(master, tenant),
        }
    }
}
