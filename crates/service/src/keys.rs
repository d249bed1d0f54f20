//! Keys derived per tenant: a tenant that leaks its own can forge for nobody else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::TenantId;
use subtle::ConstantTimeEq;

use crate::Secret;

/// HS256 key of one tenant: HKDF-SHA256 of `CIAL_SSO_SECRET`, no salt, info `sso/v1/{uuid}`.
pub fn sso_key(master: &Secret, tenant: TenantId) -> [u8; 32] {
    derive(master, &format!("sso/v1/{tenant}"))
}

/// What the router must show to this tenant: HKDF of `CIAL_ROUTE_SECRET`, info `route/v1/{uuid}`, base64url.
pub fn route_token(master: &Secret, tenant: TenantId) -> String {
    URL_SAFE_NO_PAD.encode(derive(master, &format!("route/v1/{tenant}")))
}

/// What this tenant shows the router in return: HKDF of `CIAL_ROUTE_SECRET`, info `proof/v1/{uuid}`, base64url.
pub fn route_proof(master: &Secret, tenant: TenantId) -> String {
    URL_SAFE_NO_PAD.encode(derive(master, &format!("proof/v1/{tenant}")))
}

/// What tells installations' secrets apart and gives none away: HKDF, info `fingerprint/v1`, base64url.
pub fn fingerprint(master: &Secret) -> String {
    URL_SAFE_NO_PAD.encode(derive(master, "fingerprint/v1"))
}

/// Whether two texts are the same, in time that depends on their lengths alone.
pub fn same(left: &str, right: &str) -> bool {
    left.as_bytes().ct_eq(right.as_bytes()).into()
}

fn derive(master: &Secret, info: &str) -> [u8; 32] {
    let mut key = [0; 32];
    hkdf::Hkdf::<sha2::Sha256>::new(None, master.reveal().as_bytes())
        .expand(info.as_bytes(), &mut key)
        .expect("32 bytes are within HKDF's bound");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_purpose_and_tenant() {
        let master = Secret::new("8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa");
        let a = "0192f0c1-2345-7abc-8def-0123456789ab".parse().unwrap();
        let b = "0192f0c1-2345-7abc-8def-0123456789ac".parse().unwrap();
        assert_ne!(sso_key(&master, a), sso_key(&master, b));
        assert_ne!(route_token(&master, a), route_token(&master, b));
        assert_ne!(route_token(&master, a), route_proof(&master, a));
        assert_eq!(route_token(&master, a), route_token(&master, a));
    }
}
