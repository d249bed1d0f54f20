//! The second factor of a person: a code of an authenticator app beside the password.

use serde::{Deserialize, Serialize};

/// Whether a person signs in with a second factor.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondFactorStatus {
    pub is_on: bool,
    /// Each recovery code works once.
    pub recovery_codes_left: i64,
}

/// The proof that a person may begin an enrolment.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeginSecondFactor {
    pub password: String,
}

/// A secret that takes effect once a code confirms it. Nothing shows it again.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Serialize, Deserialize)]
pub struct NewSecondFactor {
    /// Base32 in groups of four, for people who type it into the app.
    pub secret: String,
    /// `otpauth://totp/…`, for the app.
    pub url: String,
}

/// The proof that a person may change their second factor.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfirmSecondFactor {
    pub password: String,
    /// A code of the authenticator app, or a recovery code.
    pub code: String,
}

/// The recovery codes of a new second factor, which nothing shows again.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Serialize, Deserialize)]
pub struct RecoveryCodes {
    pub recovery_codes: Vec<String>,
}
