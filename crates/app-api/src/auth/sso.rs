//! Signs the SSO token with which a person enters one tenant. Valid for 60 seconds, never logged.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use protocol::people::MemberRole;
use protocol::site::Site;
use protocol::{Slug, TenantId, Timestamp};
use serde::Serialize;
use service::Secret;
use uuid::Uuid;

use crate::access::{AuthorizedTenant, Person};

/// The lifetime of a token, in seconds.
const LIFETIME_SECONDS: i64 = 60;
/// The longest life of a tenant's session, with that of its token.
pub const MAX_TENANT_SESSION: Duration = Duration::from_secs(12 * 3_600 + 60);

#[derive(Clone)]
pub enum Signer {
    /// HS256 with a key per tenant: a tenant that leaks its key cannot forge tokens for another.
    Derived(Secret),
    /// RS256: tenants hold only the public key.
    Rsa(Arc<EncodingKey>),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Derived(_) => "Derived(…)",
            Self::Rsa(_) => "Rsa(…)",
        })
    }
}

/// The claims of an SSO token.
#[derive(Debug, Serialize)]
pub struct Claims<'a> {
    iss: &'static str,
    aud: TenantId,
    sub: Uuid,
    email: &'a str,
    name: &'a str,
    tenant: &'a Slug,
    /// The role on the tenant.
    role: MemberRole,
    iat: i64,
    exp: i64,
    jti: Uuid,
    /// The admin session: its end ends the tenant's session.
    sid: Uuid,
    #[serde(flatten)]
    browser: Browser<'a>,
}

/// The browser that began a sign-in.
#[derive(Debug, Serialize)]
pub struct Browser<'a> {
    /// The hash of the nonce in its cookie: the token counts in no other browser.
    pub nonce: &'a str,
    /// The site to which the cookie belongs: the token counts on no other site.
    pub site: Site,
    /// The path at which the person continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<&'a str>,
}

impl<'a> Claims<'a> {
    /// The claims for `person` at a tenant.
    pub fn new(
        found: &'a AuthorizedTenant,
        person: &'a Person,
        browser: Browser<'a>,
        now: Timestamp,
    ) -> Self {
        let (user, iat) = (&person.user, now.timestamp());
        Self {
            iss: "cial",
            aud: found.tenant.tenant_id(),
            sub: user.id,
            email: &user.email,
            name: &user.name,
            tenant: &found.tenant.slug,
            role: found.member_role(),
            iat,
            exp: iat + LIFETIME_SECONDS,
            jti: Uuid::new_v4(),
            sid: person.session.id,
            browser,
        }
    }
}

impl Signer {
    pub fn derived(master: Secret) -> Self {
        Self::Derived(master)
    }

    pub fn rsa(pem: &[u8]) -> jsonwebtoken::errors::Result<Self> {
        Ok(Self::Rsa(Arc::new(EncodingKey::from_rsa_pem(pem)?)))
    }

    pub fn sign(&self, claims: &Claims<'_>) -> jsonwebtoken::errors::Result<String> {
        match self {
            Self::Derived(master) => {
                let key = EncodingKey::from_secret(&service::keys::sso_key(master, claims.aud));
                jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key)
            }
            Self::Rsa(key) => jsonwebtoken::encode(&Header::new(Algorithm::RS256), claims, key),
        }
    }
}
