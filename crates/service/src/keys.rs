//! Keys derived for each tenant: a leaked key of one tenant is of no use against another.

use crate::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::TenantId;
use protocol::images::RegistryHost;

/// The HS256 key of one tenant: HKDF-SHA256 of `CIAL_SSO_SECRET`, no salt, info `sso/v1/{uuid}`.
pub fn sso_key(master: &Secret, tenant: TenantId) -> [u8; 32] {
    derive(master, &format!("sso/v1/{tenant}"))
}

/// The token that the router shows to this tenant: HKDF of `CIAL_ROUTE_SECRET`, info `route/v1/{uuid}`, base64url.
pub fn route_token(master: &Secret, tenant: TenantId) -> String {
    URL_SAFE_NO_PAD.encode(derive(master, &format!("route/v1/{tenant}")))
}

/// The proof that this tenant shows the router in return: HKDF of `CIAL_ROUTE_SECRET`, info `proof/v1/{uuid}`, base64url.
pub fn route_proof(master: &Secret, tenant: TenantId) -> String {
    URL_SAFE_NO_PAD.encode(derive(master, &format!("proof/v1/{tenant}")))
}

/// The key that encrypts the variables and secrets of one tenant: HKDF of `CIAL_SSO_SECRET`, info `env/v1/{uuid}`.
pub fn env_key(master: &Secret, tenant: TenantId) -> [u8; 32] {
    derive(master, &format!("env/v1/{tenant}"))
}

/// The key that encrypts the variables and secrets of one app: HKDF of `CIAL_SSO_SECRET`, info `app-env/v1/{uuid}`.
pub fn app_env_key(master: &Secret, app: uuid::Uuid) -> [u8; 32] {
    derive(master, &format!("app-env/v1/{app}"))
}

/// The key that encrypts the credentials of one registry: HKDF of `CIAL_SSO_SECRET`, info `registry/v1/{host}`.
pub fn registry_key(master: &Secret, host: &RegistryHost) -> [u8; 32] {
    derive(master, &format!("registry/v1/{host}"))
}

/// The key that encrypts what an authenticator app of this person knows: HKDF, info `second-factor/v1/{user}`.
pub fn second_factor_key(master: &Secret, user: uuid::Uuid) -> [u8; 32] {
    derive(master, &format!("second-factor/v1/{user}"))
}

/// Proves that somebody knew the password with this hash shortly before `expires_at`, in seconds of Unix time: HKDF, info
/// `sign-in/v1/{user}/{expires_at}/{password_hash}`, base64url.
pub fn pending_sign_in_proof(
    master: &Secret,
    user: uuid::Uuid,
    password_hash: &str,
    expires_at: i64,
) -> String {
    let info = format!("sign-in/v1/{user}/{expires_at}/{password_hash}");
    URL_SAFE_NO_PAD.encode(derive(master, &info))
}

/// The token by which this tenant's core calls the model of the installation: the tenant's id, a dot, and HKDF of `CIAL_SSO_SECRET`
/// with the info `model-token/v1/{uuid}` as base64url.
pub fn model_token(master: &Secret, tenant: TenantId) -> String {
    let proof = URL_SAFE_NO_PAD.encode(derive(master, &format!("model-token/v1/{tenant}")));
    format!("{tenant}.{proof}")
}

/// The key that encrypts the key of the model's endpoint: HKDF of `CIAL_SSO_SECRET`, info `model/v1`.
pub fn model_key(master: &Secret) -> [u8; 32] {
    derive(master, "model/v1")
}

/// The key that encrypts mails until they are sent: HKDF of `CIAL_SSO_SECRET`, info `mail/v1`.
pub fn mail_key(master: &Secret) -> [u8; 32] {
    derive(master, "mail/v1")
}

/// The id of a sealing key, which reveals nothing of it: 12 hex digits of HKDF, info `sealing-key-id/v1`.
pub fn sealing_key_id(key: &Secret) -> String {
    derive(key, "sealing-key-id/v1")[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Identifies a secret without revealing it: HKDF, info `fingerprint/v1`, base64url.
pub fn fingerprint(master: &Secret) -> String {
    URL_SAFE_NO_PAD.encode(derive(master, "fingerprint/v1"))
}

/// Proves that an account signed in on a device before: HKDF, info `device/v1/{device}/{account}`, base64url.
pub fn device_proof(master: &Secret, device: uuid::Uuid, account: &str) -> String {
    URL_SAFE_NO_PAD.encode(derive(master, &format!("device/v1/{device}/{account}")))
}

/// The label of the tenant of a person whom a client of the development profile names by `user_id`, in any case:
/// `app-` and 12 hex digits of HKDF, info `tenant-name/v1/{user_id}`.
pub fn tenant_name(master: &Secret, user_id: &str) -> String {
    let bytes = derive(master, &format!("tenant-name/v1/{}", user_id.to_lowercase()));
    let digits = bytes[..6].iter().map(|byte| format!("{byte:02x}"));
    format!("app-{}", digits.collect::<String>())
}

/// The key of a webhook's signatures: HKDF, info `webhook/v1/{webhook}`, base64url after `whsec_`.
pub fn webhook_secret(master: &Secret, webhook: uuid::Uuid) -> String {
    format!("whsec_{}", URL_SAFE_NO_PAD.encode(derive(master, &format!("webhook/v1/{webhook}"))))
}

/// The secret in the address of a trigger's webhook: HKDF of `CIAL_SSO_SECRET`, info `trigger/v1/{trigger}`, base64url.
pub fn trigger_token(master: &Secret, trigger: uuid::Uuid) -> String {
    URL_SAFE_NO_PAD.encode(derive(master, &format!("trigger/v1/{trigger}")))
}

/// The password of the database role as which app-api serves: HKDF of the owner's password, info `database/service/v1`,
/// base64url.
pub fn database_service_password(owner: &Secret) -> Secret {
    Secret::new(URL_SAFE_NO_PAD.encode(derive(owner, "database/service/v1")))
}

/// The password of the role that creates and drops tenants' schemas: HKDF of the owner's password, info
/// `database/provisioner/v1`, base64url.
pub fn database_provisioner_password(owner: &Secret) -> Secret {
    Secret::new(URL_SAFE_NO_PAD.encode(derive(owner, "database/provisioner/v1")))
}

/// The password of a tenant's own database role: HKDF of `CIAL_SSO_SECRET`, info `tenant-database/v1/{uuid}`, base64url.
pub fn tenant_database_password(master: &Secret, tenant: TenantId) -> Secret {
    Secret::new(URL_SAFE_NO_PAD.encode(derive(master, &format!("tenant-database/v1/{tenant}"))))
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
        let a: TenantId = "0192f0c1-2345-7abc-8def-0123456789ab".parse().unwrap();
        let b: TenantId = "0192f0c1-2345-7abc-8def-0123456789ac".parse().unwrap();
        assert_ne!(sso_key(&master, a), sso_key(&master, b));
        assert_ne!(route_token(&master, a), route_token(&master, b));
        assert_ne!(env_key(&master, a), env_key(&master, b));
        assert_ne!(env_key(&master, a), sso_key(&master, a));
        assert_ne!(env_key(&master, a), app_env_key(&master, a.uuid()));
        assert_ne!(app_env_key(&master, a.uuid()), app_env_key(&master, b.uuid()));
        assert_ne!(route_token(&master, a), route_proof(&master, a));
        let proof = |tenant| model_token(&master, tenant).split_once('.').unwrap().1.to_owned();
        assert_ne!(proof(a), proof(b));
        assert_eq!(route_token(&master, a), route_token(&master, a));
    }

    #[test]
    fn a_persons_tenant_has_the_same_name_in_any_case_and_another_in_another_installation() {
        let master = Secret::new("8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa");
        let name = tenant_name(&master, "user_123");
        assert_eq!((name.len(), name.starts_with("app-")), (16, true), "{name}");
        assert_eq!(tenant_name(&master, "USER_123"), name);
        assert_ne!(tenant_name(&master, "user_124"), name);
        assert_ne!(tenant_name(&Secret::new("another"), "user_123"), name);
    }
}
