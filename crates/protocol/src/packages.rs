//! Packages of one tenant, the workflows in them, and the keys that sign them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The response to an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UploadedPackage {
    pub package_id: Uuid,
    pub tenant_id: Uuid,
    pub name: String,
    pub version: String,
    /// The names of its workflows.
    pub workflows: Vec<String>,
}

/// A package. Times are RFC 3339, UTC, with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Package {
    pub id: Uuid,
    pub name: String,
    pub version: String,
    pub about: String,
    /// The size of the archive as it was uploaded.
    pub bytes: i64,
    /// The checksum of the uploaded archive, in hexadecimal.
    pub sha256: String,
    /// Null for a package without a signature.
    #[serde(default)]
    pub signed_by: Option<SignedBy>,
    /// The names of its workflows.
    pub workflows: Vec<String>,
    /// The uploader: an e-mail address or the name of a key.
    pub created_by: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
}

/// All packages of a tenant, the latest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PackageList {
    pub items: Vec<Package>,
    pub total: usize,
    /// Always null: the list has one page.
    pub next: Option<Uuid>,
}

/// The key to which the signature of a package pins it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignedBy {
    /// A key of Ed25519, in hexadecimal.
    pub public_key: String,
    /// The name of the key; null once the installation trusts it no more.
    pub key: Option<String>,
}

/// `POST /v1/package-keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewPackageKey {
    /// `^[a-z][a-z0-9_-]{0,62}$`, unique in the installation.
    pub name: String,
    /// A key of Ed25519: PEM (`BEGIN PUBLIC KEY`), or 64 hexadecimal digits.
    pub public_key: String,
}

/// A key whose signatures of packages the installation trusts. Times are RFC 3339, UTC, with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PackageKey {
    pub name: String,
    /// A key of Ed25519, in hexadecimal.
    pub public_key: String,
    /// The packages of all tenants that it signed.
    pub packages: i64,
    pub created_by: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PackageKeyList {
    /// By name.
    pub keys: Vec<PackageKey>,
}

const ALGORITHM: &str = "ed25519";
const PUBLIC_KEY_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;

/// A detached signature: `ed25519:{public key}:{signature}`, both in hexadecimal. The key signed the SHA-256 of the archive, 32
/// bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackageSignature {
    pub public_key: [u8; PUBLIC_KEY_BYTES],
    pub signature: [u8; SIGNATURE_BYTES],
}

/// Why a text is no [`PackageSignature`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidSignature;

impl fmt::Display for InvalidSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be ed25519:, 64 hexadecimal digits, a colon, and 128 hexadecimal digits")
    }
}

impl std::error::Error for InvalidSignature {}

impl FromStr for PackageSignature {
    type Err = InvalidSignature;

    /// Blanks and line breaks around the text do not count.
    fn from_str(text: &str) -> Result<Self, InvalidSignature> {
        let mut parts = text.trim().split(':');
        let read = (parts.next(), parts.next(), parts.next(), parts.next());
        let (Some(ALGORITHM), Some(public_key), Some(signature), None) = read else {
            return Err(InvalidSignature);
        };
        let public_key = from_hex(public_key).ok_or(InvalidSignature)?;
        let signature = from_hex(signature).ok_or(InvalidSignature)?;
        Ok(Self { public_key, signature })
    }
}

impl fmt::Display for PackageSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}:{}:{}", to_hex(&self.public_key), to_hex(&self.signature))
    }
}

/// Lower case.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads exactly `N` bytes; `None` for any other text.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = *pair else { return None };
        *byte = (digit(high)? << 4) | digit(low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_has_one_form() {
        let signature = PackageSignature { public_key: [0x1a; 32], signature: [0xff; 64] };
        let text = signature.to_string();
        assert_eq!(text, format!("ed25519:{}:{}", "1a".repeat(32), "ff".repeat(64)));
        assert_eq!(format!(" {text}\n").parse(), Ok(signature));
        let upper = format!("ed25519:{}:{}", "1A".repeat(32), "FF".repeat(64));
        assert_eq!(upper.parse(), Ok(signature));
        for other in [
            "",
            "ed25519",
            "ed25519::",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}0"),
            &format!("{text}:"),
            &text.replace("1a", "1g"),
            &text.replace("1a", "+a"),
            &text.replace("1a", "ä"),
            &text.replace("ed25519", "rsa"),
            &text.replace(':', " "),
        ] {
            assert_eq!(other.parse::<PackageSignature>(), Err(InvalidSignature), "{other}");
        }
    }
}
