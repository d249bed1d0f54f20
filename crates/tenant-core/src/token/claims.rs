//! The claims of an SSO token and the rule for each.

use protocol::TenantId;
use protocol::people::MemberRole;
use protocol::sign_in::{is_nonce_hash, is_return_path};
use protocol::site::Site;
use serde::Deserialize;

use super::{TokenError, VerifiedToken};
use crate::Seconds;

pub const ISSUER: &str = "cial";
/// How far the issuer's clock may be ahead. The end of a token has no leeway.
pub const LEEWAY: Seconds = 5;
pub const MAX_TOKEN_LIFETIME: Seconds = 60;

#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    iss: String,
    aud: String,
    sub: String,
    email: String,
    name: String,
    tenant: String,
    role: MemberRole,
    iat: Seconds,
    exp: Seconds,
    nbf: Option<Seconds>,
    jti: String,
    /// The admin session that minted the token. Optional: an older control plane does not send it.
    sid: Option<String>,
    /// The hash of the nonce of the browser that began the sign-in.
    nonce: String,
    /// The site on which the sign-in began. Optional: a control plane without the core's site does not send it.
    #[serde(default)]
    site: Site,
    /// Where the browser continues.
    to: Option<String>,
}

impl Claims {
    pub(super) fn check(&self, tenant: TenantId, now: Seconds) -> Result<(), TokenError> {
        let soon = now.saturating_add(LEEWAY);
        let rules: [(bool, &'static str, &'static str); 15] = [
            (self.iss == ISSUER, "iss", "is not the control plane"),
            (self.aud == tenant.to_string(), "aud", "is not this tenant"),
            (is_plain(&self.sub, 128), "sub", "must be 1 to 128 visible characters"),
            (is_plain(&self.email, 320), "email", "must be 1 to 320 visible characters"),
            (is_plain(&self.tenant, 128), "tenant", "must be 1 to 128 visible characters"),
            (is_plain(&self.name, 1024), "name", "must be 1 to 1024 visible characters"),
            (is_plain(&self.jti, 128), "jti", "must be 1 to 128 visible characters"),
            (
                self.sid.as_deref().is_none_or(|sid| is_plain(sid, 128)),
                "sid",
                "must be 1 to 128 visible characters",
            ),
            (is_nonce_hash(&self.nonce), "nonce", "must be 43 characters of base64url"),
            (self.to.as_deref().is_none_or(is_return_path), "to", "must be a path of this site"),
            (self.iat <= soon, "iat", "is in the future"),
            (self.nbf.is_none_or(|nbf| nbf <= soon), "nbf", "is in the future"),
            (self.exp > self.iat, "exp", "is not after iat"),
            (
                self.exp.saturating_sub(self.iat) <= MAX_TOKEN_LIFETIME,
                "exp",
                "is over 60 s after iat",
            ),
            (now < self.exp, "exp", "is in the past"),
        ];
        match rules.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, claim, broken)) => Err(TokenError::Claim(claim, broken)),
            None => Ok(()),
        }
    }

    pub(super) fn into_verified(self) -> VerifiedToken {
        let Self { sub, email, name, role, jti, sid, nonce, site, to, iat, exp, .. } = self;
        VerifiedToken { sub, email, name, role, jti, sid, nonce, site, to, iat, exp }
    }
}

/// These texts stand in headers and on pages: no spaces at the ends, no control characters.
fn is_plain(text: &str, max_bytes: usize) -> bool {
    (1..=max_bytes).contains(&text.len())
        && text.trim() == text
        && !text.chars().any(char::is_control)
}
