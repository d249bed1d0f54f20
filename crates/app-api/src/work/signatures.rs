//! Signatures of packages: the keys that the installation trusts, and the check of a signature.
//!
//! A signature is checked once, at the upload, before the archive is unpacked. The control plane then keeps to which key the package
//! is pinned: the tables of the tenant prove nothing, because the tenant can write them.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use protocol::packages::{NewPackageKey, PackageSignature, from_hex, to_hex};
use protocol::problem::{Code, FieldCode};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use service::api_error::ApiError;
use uuid::Uuid;

use crate::access::Principal;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::package_key::{self, PackageKeyRow, UsedKey};
use crate::db::{Transaction as _, audit_log, package_signature};
use crate::settings::PackageSignatures;
use crate::tenant::Tenant;
use crate::validation::refused_field;

const MAX_KEYS: i64 = 100;
/// The beginning of every public key of Ed25519 as `SubjectPublicKeyInfo` (RFC 8410, section 4): the 32 bytes of the key follow.
const ED25519_INFO: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Reads the signature that came with an archive.
///
/// # Errors
/// `package_signature_invalid` for another text; `package_unsigned` where there must be one.
pub(super) fn read(
    rule: PackageSignatures,
    text: Option<&str>,
) -> Result<Option<PackageSignature>, ApiError> {
    match (text, rule) {
        (Some(text), _) => text.parse::<PackageSignature>().map(Some).map_err(|error| {
            ApiError::new(Code::PackageSignatureInvalid, format!("The signature {error}."))
        }),
        (None, PackageSignatures::Optional) => Ok(None),
        (None, PackageSignatures::Required) => {
            let detail =
                "This installation takes signed packages only. Send a signature with the file.";
            Err(ApiError::new(Code::PackageUnsigned, detail))
        }
    }
}

/// # Errors
/// `package_key_unknown`.
pub(super) async fn check_key(app: &App, signature: &PackageSignature) -> Result<(), ApiError> {
    let known = package_key::is_known(&mut *app.conn().await?, &signature.public_key).await?;
    if known { Ok(()) } else { Err(unknown_key(signature)) }
}

pub(super) fn unknown_key(signature: &PackageSignature) -> ApiError {
    let key = to_hex(&signature.public_key);
    let detail =
        format!("This installation does not trust the key {key}, which signed the package.");
    ApiError::new(Code::PackageKeyUnknown, detail)
}

/// Whether the key that the signature names signed this digest.
pub(super) fn is_genuine(signature: &PackageSignature, digest: &[u8]) -> bool {
    let key = UnparsedPublicKey::new(&ED25519, signature.public_key);
    key.verify(digest, &signature.signature).is_ok()
}

pub(super) fn not_genuine() -> ApiError {
    let detail = "The key did not sign this archive: another file was signed, or the file has changed since.";
    ApiError::new(Code::PackageSignatureInvalid, detail)
}

/// Whether the workflows of a package may run.
pub(super) async fn may_run(app: &App, tenant: &Tenant, package: Uuid) -> Result<bool, ApiError> {
    match app.package_signatures {
        PackageSignatures::Optional => Ok(true),
        PackageSignatures::Required => {
            let mut conn = app.conn().await?;
            Ok(package_signature::is_trusted(&mut conn, tenant.id, package).await?)
        }
    }
}

/// Why the workflows of a package do not run.
pub(super) fn untrusted(package: &str) -> String {
    format!("Package {package} has no signature of a key that this installation trusts.")
}

/// All keys, by name.
pub async fn keys(app: &App) -> Result<Vec<UsedKey>, ApiError> {
    Ok(package_key::all(&mut *app.conn().await?).await?)
}

/// Trusts the signatures of a key from now on, those of packages that it signed earlier included.
///
/// # Errors
/// `invalid_fields`; `package_key_exists`.
pub async fn add_key(
    app: &App,
    caller: &Principal,
    new: &NewPackageKey,
) -> Result<PackageKeyRow, ApiError> {
    let public_key = checked_key(new)?;
    let (actor, now) = (Actor::from(caller), app.clock.now());
    let row = PackageKeyRow {
        public_key: public_key.to_vec(),
        name: new.name.clone(),
        created_by: actor.name.clone(),
        created_at: now,
    };
    let entry = Entry::new(actor, Action::PackageKeyAdd, resource(&row.name))
        .after(json!({ "public_key": to_hex(&public_key) }));
    let mut conn = app.conn().await?;
    conn.transaction(async |conn| -> Result<_, ApiError> {
        if !package_key::insert(conn, &row).await? {
            let detail = "There is a key of this name, or this key under another name.";
            return Err(ApiError::new(Code::PackageKeyExists, detail));
        }
        audit_log::append(conn, &entry, now).await?;
        // Under the lock of the audit log: of two at once, the second counts the first.
        if package_key::count(conn).await? > MAX_KEYS {
            let detail = format!("There are {MAX_KEYS} keys already. Delete one first.");
            return Err(refused_field(Code::InvalidFields, "name", FieldCode::OutOfBounds, detail));
        }
        Ok(())
    })
    .await?;
    tracing::info!(key = row.name, %caller, "key of packages trusted");
    Ok(row)
}

/// Trusts a key no more. Packages that it signed stay, pinned to it.
///
/// # Errors
/// `resource_not_found`.
pub async fn delete_key(app: &App, caller: &Principal, name: &str) -> Result<(), ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        let Some(row) = package_key::delete(conn, name).await? else {
            let detail = "There is no key of this name.";
            return Err(ApiError::new(Code::ResourceNotFound, detail));
        };
        let entry = Entry::new(Actor::from(caller), Action::PackageKeyDelete, resource(name))
            .before(json!({ "public_key": to_hex(&row.public_key) }));
        audit_log::append(conn, &entry, now).await?;
        Ok(())
    })
    .await?;
    tracing::info!(key = name, %caller, "key of packages deleted");
    Ok(())
}

fn resource(name: &str) -> Resource {
    Resource::new("package_key", name)
}

fn checked_key(new: &NewPackageKey) -> Result<[u8; 32], ApiError> {
    let key = parse_public_key(&new.public_key);
    let is_name = package::is_name(&new.name);
    if let (Some(key), true) = (key, is_name) {
        return Ok(key);
    }
    let mut refused = ApiError::new(Code::InvalidFields, "Some fields need another value.");
    if !is_name {
        let rule = "Use a-z, 0-9, - and _, begin with a letter, and at most 63 characters.";
        refused = refused.with_field_error("name", FieldCode::Invalid, rule);
    }
    if key.is_none() {
        let rule =
            "Send a public key of Ed25519 as PEM (BEGIN PUBLIC KEY), or as 64 hexadecimal digits.";
        refused = refused.with_field_error("public_key", FieldCode::Invalid, rule);
    }
    Err(refused)
}

/// A public key as PEM, or in hexadecimal. `None` for a private key, and for one of another algorithm.
fn parse_public_key(text: &str) -> Option<[u8; 32]> {
    let text = text.trim();
    if let Some(key) = from_hex(text) {
        return Some(key);
    }
    let info = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).ok()?;
    info.strip_prefix(&ED25519_INFO)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    /// Printed by `openssl pkey -pubout` for the private key of RFC 8410, section 10.3.
    const PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    const HEX: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

    #[test]
    fn a_public_key_is_read_as_pem_and_in_hexadecimal() {
        let key = parse_public_key(PEM).unwrap();
        assert_eq!(to_hex(&key), HEX);
        assert_eq!(parse_public_key(HEX), Some(key));
        let private = PEM.replace("PUBLIC", "PRIVATE");
        let p256 = PEM.replace("MCowBQYDK2Vw", "MCowBQYDK2Vx");
        for other in ["", "key", &HEX[1..], &private, &p256, &PEM.replace("ZuE=", "Zg==")] {
            assert_eq!(parse_public_key(other), None, "{other}");
        }
    }

    #[test]
    fn only_the_signature_of_this_digest_by_this_key_is_genuine() {
        let [own, other] = [[1; 32], [2; 32]].map(|seed| {
            let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
            let signature = |digest: &[u8]| PackageSignature {
                public_key: pair.public_key().as_ref().try_into().unwrap(),
                signature: pair.sign(digest).as_ref().try_into().unwrap(),
            };
            (signature(&[7; 32]), signature(&[8; 32]))
        });
        assert!(is_genuine(&own.0, &[7; 32]));
        assert!(!is_genuine(&own.1, &[7; 32]));
        let forged = PackageSignature { public_key: own.0.public_key, ..other.0 };
        assert!(!is_genuine(&forged, &[7; 32]));
        for bit in 0..512 {
            let mut changed = own.0;
            changed.signature[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_genuine(&changed, &[7; 32]), "{bit}");
        }
    }

    #[test]
    fn a_signature_is_missed_only_where_it_is_required() {
        use PackageSignatures::{Optional, Required};
        let text = format!("ed25519:{HEX}:{}", "00".repeat(64));
        let code = |rule, text| read(rule, text).map_err(|error| error.problem.code.clone());
        assert_eq!(code(Optional, None), Ok(None));
        assert_eq!(code(Required, None), Err("package_unsigned".into()));
        for rule in [Optional, Required] {
            assert!(matches!(code(rule, Some(text.as_str())), Ok(Some(_))));
            assert_eq!(code(rule, Some("")), Err("package_signature_invalid".into()));
        }
    }
}
