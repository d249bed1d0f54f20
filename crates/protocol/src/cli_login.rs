//! The sign-in of the command line that a person confirms in the browser.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A request to begin a sign-in.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCliLogin {
    /// The name of the machine, for the person and for the key: 1 to 100 characters.
    pub device: String,
    /// The SHA-256 of the verifier, base64url without padding (RFC 7636, S256).
    pub challenge: String,
    /// The loopback address that the browser is sent to with the one-time code, like `http://127.0.0.1:49152/`. Absent:
    /// the person types the user code in, and the command asks for the key until then (RFC 8628).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<String>,
}

/// A sign-in that waits for its confirmation.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CliLogin {
    pub id: Uuid,
    /// The code for people, like `BCDF-GHJK`: the page shows the same one, or asks for it.
    pub user_code: String,
    /// The page on which a person confirms.
    #[cfg_attr(feature = "openapi", schema(format = "uri"))]
    pub url: String,
    pub expires_in_seconds: u32,
    /// How long the command waits before it asks for the key again.
    pub poll_seconds: u32,
}

/// A request for the key of a confirmed sign-in.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CliLoginProof {
    /// The text whose SHA-256 is the challenge.
    pub verifier: String,
    /// The one-time code that arrived at `redirect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}
