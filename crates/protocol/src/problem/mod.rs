//! Errors on the wire: RFC 9457, in the same shape from every service.

mod code;

use serde::{Deserialize, Serialize};

pub use code::{Code, reason_phrase};

pub const CONTENT_TYPE: &str = "application/problem+json";

/// The body of an error response. A 5xx does not reveal its cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A URN made from the code. It is a name, not an address.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// A sentence for the caller.
    pub detail: String,
    /// The word of a [`Code`]. The type is a string, because a service of another release may send
    /// an unknown word.
    pub code: String,
    pub request_id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// The error of one field of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    pub field: String,
    pub code: String,
    pub message: String,
}

impl Problem {
    /// A problem with the usual status and title of `code`. The service fills in `request_id` when
    /// it responds.
    pub fn of_code(code: Code, detail: impl Into<String>) -> Self {
        Self::new(code.status(), code.as_str(), code.title(), detail)
    }

    /// The service fills in `request_id` when it responds.
    pub fn new(status: u16, code: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:cial:problem:{code}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            code: code.to_owned(),
            request_id: String::new(),
            errors: Vec::new(),
        }
    }

    /// Adds the error of one field.
    #[must_use]
    pub fn field(mut self, field: &str, code: &str, message: impl Into<String>) -> Self {
        self.errors.push(FieldError {
            field: field.into(),
            code: code.into(),
            message: message.into(),
        });
        self
    }
}
