//! Signed assertions of who is signed in, for programs that check a signature instead of believing a header.
//!
//! The key belongs to this tenant alone: made at the first start, kept on the data volume, and never sent anywhere. A
//! signature costs more than the rest of a session lookup, so an assertion serves all requests of a user for a while.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use protocol::people::MemberRole;
use serde::Serialize;

use crate::Seconds;
use crate::session_table::Session;
use crate::token::ISSUER;

/// How long an assertion is valid.
const LIFETIME: Seconds = 60;
/// How long an assertion is handed out again, so that every one has at least half of its life before it.
const REUSE: Seconds = 30;
const ALGORITHM: Algorithm = Algorithm::ES256;
const FILE: &str = "assertion-key.der";

/// Signs for one tenant.
pub(super) struct Assertions {
    tenant: String,
    key: EncodingKey,
    header: Header,
    key_set: JwkSet,
    issued: Mutex<HashMap<Subject, Issued>>,
}

/// The claims about a person: a change of any part makes another assertion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    sub: String,
    email: String,
    name: String,
    role: &'static str,
}

struct Issued {
    at: Seconds,
    assertion: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    email: &'a str,
    name: &'a str,
    role: MemberRole,
    iat: Seconds,
    exp: Seconds,
}

impl Assertions {
    /// Reads the tenant's key, or makes one where there is none that can be used.
    ///
    /// # Errors
    /// No key can be made.
    pub(super) fn open(dir: &Path, tenant: &str) -> io::Result<Self> {
        let key = EncodingKey::from_ec_der(&read_or_make_key(dir)?);
        let mut public = Jwk::from_encoding_key(&key, ALGORITHM).map_err(io::Error::other)?;
        let id = public.thumbprint(ThumbprintHash::SHA256).map_err(io::Error::other)?;
        public.common.key_id = Some(id.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        let header = Header { kid: Some(id), ..Header::new(ALGORITHM) };
        let key_set = JwkSet { keys: vec![public] };
        Ok(Self { tenant: tenant.to_owned(), key, header, key_set, issued: Mutex::default() })
    }

    /// The public keys, by which programs check assertions (RFC 7517).
    pub(super) fn key_set(&self) -> &JwkSet {
        &self.key_set
    }

    /// An assertion about the user of a session.
    ///
    /// # Errors
    /// The signature fails.
    pub(super) fn issue(&self, session: &Session, now: Seconds) -> io::Result<String> {
        let subject = Subject {
            sub: session.sub.clone(),
            email: session.email.clone(),
            name: session.name.clone(),
            role: session.role.as_str(),
        };
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back must not keep an old assertion alive.
        let is_fresh = |issued: &Issued| (issued.at..issued.at + REUSE).contains(&now);
        if let Some(known) = issued.get(&subject).filter(|known| is_fresh(known)) {
            return Ok(known.assertion.clone());
        }
        // Bounds the table by the people who were here within the last seconds.
        issued.retain(|_, known| is_fresh(known));
        let claims = Claims {
            iss: ISSUER,
            aud: &self.tenant,
            sub: &session.sub,
            email: &session.email,
            name: &session.name,
            role: session.role,
            iat: now,
            exp: now + LIFETIME,
        };
        let assertion = jsonwebtoken::encode(&self.header, &claims, &self.key);
        let assertion = assertion.map_err(io::Error::other)?;
        issued.insert(subject, Issued { at: now, assertion: assertion.clone() });
        Ok(assertion)
    }
}

fn read_or_make_key(dir: &Path) -> io::Result<Vec<u8>> {
    if let Ok(key) = fs::read(dir.join(FILE))
        && EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key).is_ok()
    {
        return Ok(key);
    }
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    let key = made.map_err(|_| io::Error::other("no key could be made"))?;
    // A full disk must not keep the tenant from starting: its next start has another key.
    if let Err(error) = keep_key(dir, key.as_ref()) {
        eprintln!("assertion key not kept: error={error}");
    }
    Ok(key.as_ref().to_vec())
}

/// Writes the key as PKCS #8. A crash leaves no key or the whole key.
fn keep_key(dir: &Path, key: &[u8]) -> io::Result<()> {
    let fresh = dir.join(format!("{FILE}.new"));
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(key)?;
    file.sync_all()?;
    fs::rename(&fresh, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod examples;

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
    use protocol::site::Site;
    use serde_json::{Value, json};

    use super::*;

    const NOW: Seconds = 2_000_000_000;

    pub(super) fn session(role: MemberRole) -> Session {
        Session {
            sub: "u-1".to_owned(),
            email: "owner@example.com".to_owned(),
            name: "Olivia".to_owned(),
            role,
            sid: None,
            site: Site::Tenant,
            created_at: NOW,
            last_used_at: NOW,
        }
    }

    /// Checks an assertion as a program does that knows the key set.
    fn check(assertions: &Assertions, assertion: &str, audience: &str) -> Option<Value> {
        let id = decode_header(assertion).unwrap().kid.unwrap();
        let key = DecodingKey::from_jwk(assertions.key_set().find(&id)?).unwrap();
        let mut rules = Validation::new(ALGORITHM);
        rules.set_audience(&[audience]);
        rules.set_issuer(&[ISSUER]);
        decode::<Value>(assertion, &key, &rules).ok().map(|token| token.claims)
    }

    #[test]
    fn a_program_can_check_who_is_signed_in_and_no_other_tenant_is_believed() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let assertions = Assertions::open(dir.path(), "acme").unwrap();
        let assertion = assertions.issue(&session(MemberRole::Admin), NOW).unwrap();
        let claims = check(&assertions, &assertion, "acme").unwrap();
        let expected = json!({
            "iss": "cial", "aud": "acme", "sub": "u-1", "email": "owner@example.com", "name": "Olivia",
            "role": "admin", "iat": NOW, "exp": NOW + 60,
        });
        assert_eq!(claims, expected);
        assert_eq!(check(&assertions, &assertion, "globex"), None, "another audience");
        let globex = Assertions::open(other.path(), "acme").unwrap();
        assert_eq!(check(&globex, &assertion, "acme"), None, "another tenant's key");

        let again = Assertions::open(dir.path(), "acme").unwrap();
        assert!(check(&again, &assertion, "acme").is_some(), "the key outlives a restart");
        let keys = serde_json::to_value(again.key_set()).unwrap();
        let key = keys["keys"][0].as_object().unwrap();
        let mut members: Vec<_> = key.keys().map(String::as_str).collect();
        members.sort_unstable();
        assert_eq!(members, ["alg", "crv", "kid", "kty", "use", "x", "y"], "nothing private");
    }

    #[test]
    fn an_assertion_is_handed_out_again_for_half_of_its_life_and_never_after_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let assertions = Assertions::open(dir.path(), "acme").unwrap();
        let issue = |role, now| assertions.issue(&session(role), now).unwrap();
        let first = issue(MemberRole::Member, NOW);
        assert_eq!(issue(MemberRole::Member, NOW + REUSE - 1), first);
        assert_ne!(issue(MemberRole::Admin, NOW + 1), first, "a role that changed counts at once");
        assert_ne!(issue(MemberRole::Member, NOW + REUSE), first);
        assert_ne!(issue(MemberRole::Member, NOW - 1), first, "the clock was set back");
        assert_eq!(assertions.issued.lock().unwrap().len(), 1, "the table holds fresh ones only");
    }

    #[test]
    fn neither_a_damaged_key_nor_a_full_disk_keeps_the_tenant_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "half a k").unwrap();
        let assertions = Assertions::open(dir.path(), "acme").unwrap();
        let assertion = assertions.issue(&session(MemberRole::Admin), NOW).unwrap();
        let again = Assertions::open(dir.path(), "acme").unwrap();
        assert!(check(&again, &assertion, "acme").is_some(), "the damaged key was replaced");
        let nowhere = Assertions::open(&dir.path().join("missing"), "acme").unwrap();
        assert!(nowhere.issue(&session(MemberRole::Admin), NOW).is_ok());
    }

    #[test]
    fn the_key_is_readable_for_the_core_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        Assertions::open(dir.path(), "acme").unwrap();
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
