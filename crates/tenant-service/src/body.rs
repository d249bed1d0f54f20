//! Request bodies that are read into memory: JSON, with a bound.

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use service::json_object;
use thiserror::Error;

use crate::{RequestBody, RequestContext, Response};
use protocol::problem::Code;

/// Why a request body cannot be used.
#[derive(Debug, Error)]
pub enum BodyError {
    #[error("the body is over {0} bytes")]
    TooLarge(usize),
    #[error("the body broke off")]
    Broken,
    #[error("the body is not the JSON that is served here: {0}")]
    NotJson(#[from] serde_json::Error),
}

/// Reads the whole body as a JSON object.
///
/// # Errors
/// [`BodyError`], also for a body over `max_bytes`.
pub async fn read_json<T: DeserializeOwned>(
    body: RequestBody,
    max_bytes: usize,
) -> Result<T, BodyError> {
    let read = Limited::new(body, max_bytes).collect().await;
    let read = read.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => BodyError::TooLarge(max_bytes),
        None => BodyError::Broken,
    })?;
    Ok(json_object::from_slice(&read.to_bytes())?)
}

impl RequestContext {
    /// The error response for a body that cannot be used.
    pub fn body_error(&self, error: &BodyError) -> Response {
        let code = match error {
            BodyError::TooLarge(_) => Code::BodyTooLarge,
            BodyError::Broken | BodyError::NotJson(_) => Code::InvalidJson,
        };
        self.problem(code, &error.to_string())
    }
}
