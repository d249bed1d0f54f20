//! Errors on the wire: RFC 9457, in the same shape from every service.

mod code;
mod field_code;

use serde::{Deserialize, Serialize};

pub use code::{Code, reason_phrase};
pub use field_code::FieldCode;

pub const CONTENT_TYPE: &str = "application/problem+json";

/// The code of [`Problem::about_blank`], which no service sends.
const UNKNOWN_CODE: &str = "unknown";

/// The body of an error response. A 5xx does not reveal its cause.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A URN made from the code. It is a name, not an address.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// A sentence for the caller.
    pub detail: String,
    /// The name of a [`Code`]. The type is a string, because a service of another release may send
    /// an unknown name.
    pub code: String,
    pub request_id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// The error of one field of the request.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    pub field: String,
    /// The name of a [`FieldCode`], as a string like the code of a problem.
    pub code: String,
    pub message: String,
}

impl FieldError {
    pub fn new(field: &str, code: FieldCode, message: impl Into<String>) -> Self {
        Self { field: field.into(), code: code.as_str().into(), message: message.into() }
    }
}

impl Problem {
    /// A problem with the usual status of `code`. The service fills in `request_id` when it responds.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self::with_status(code, code.status(), detail)
    }

    /// A problem with another status of `code` than the usual one: one of [`Code::statuses`].
    pub fn with_status(code: Code, status: u16, detail: impl Into<String>) -> Self {
        debug_assert!(code.statuses().contains(&status), "{code} has no status {status}");
        Self {
            kind: format!("urn:cial:problem:{code}"),
            title: code.title().to_owned(),
            status,
            detail: detail.into(),
            code: code.as_str().to_owned(),
            request_id: String::new(),
            errors: Vec::new(),
        }
    }

    /// Stands for the problem that an error response of another server does not carry (RFC 9457, section 4.2.1).
    pub fn about_blank(status: u16) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: reason_phrase(status).to_owned(),
            status,
            detail: String::new(),
            code: UNKNOWN_CODE.to_owned(),
            request_id: String::new(),
            errors: Vec::new(),
        }
    }

    /// Adds the error of one field.
    #[must_use]
    pub fn field(
        mut self,
        field: &str,
        code: impl Into<FieldCode>,
        message: impl Into<String>,
    ) -> Self {
        self.errors.push(FieldError::new(field, code.into(), message));
        self
    }
}
