//! What a token must say, exactly.

use protocol::TenantId;
use serde::Deserialize;

use super::{Granted, Refused};
use crate::Seconds;

pub const ISSUER: &str = "cial";
/// How far ahead of ours the issuer's clock may be. A token's end has no leeway.
pub const LEEWAY: Seconds = 5;
pub const LONGEST_LIFE: Seconds = 60;

#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    iss: String,
    aud: String,
    sub: String,
    email: String,
    tenant: String,
    role: String,
    iat: Seconds,
    exp: Seconds,
    nbf: Option<Seconds>,
    jti: String,
}

impl Claims {
    pub(super) fn check(&self, tenant: TenantId, now: Seconds) -> Result<(), Refused> {
        let soon = now.saturating_add(LEEWAY);
        let rules: [(bool, &'static str, &'static str); 12] = [
            (self.iss == ISSUER, "iss", "is not the control plane"),
            (self.aud == tenant.to_string(), "aud", "is not this tenant"),
            (is_plain(&self.sub, 128), "sub", "must be 1 to 128 visible characters"),
            (is_plain(&self.email, 320), "email", "must be 1 to 320 visible characters"),
            (is_plain(&self.tenant, 128), "tenant", "must be 1 to 128 visible characters"),
            (is_plain(&self.role, 32), "role", "must be 1 to 32 visible characters"),
            (is_plain(&self.jti, 128), "jti", "must be 1 to 128 visible characters"),
            (self.iat <= soon, "iat", "is in the future"),
            (self.nbf.is_none_or(|nbf| nbf <= soon), "nbf", "is in the future"),
            (self.exp > self.iat, "exp", "is not after iat"),
            (self.exp.saturating_sub(self.iat) <= LONGEST_LIFE, "exp", "is over 60 s after iat"),
            (now < self.exp, "exp", "is in the past"),
        ];
        match rules.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, claim, broken)) => Err(Refused::Claim(claim, broken)),
            None => Ok(()),
        }
    }

    pub(super) fn into_granted(self) -> Granted {
        let Self { sub, email, role, jti, iat, exp, .. } = self;
        Granted { sub, email, role, jti, iat, exp }
    }
}

/// These texts travel in headers and stand on pages: no blanks at the ends, no control characters.
fn is_plain(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text.trim() == text
        && !text.chars().any(char::is_control)
}
