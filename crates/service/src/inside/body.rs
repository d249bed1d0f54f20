//! Bodies that are read into memory: JSON, with a bound.

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::answer::{Answer, Asker};

/// Why a body is of no use.
#[derive(Debug, Error)]
pub enum Unread {
    #[error("the body is over {0} bytes")]
    TooLarge(usize),
    #[error("the body broke off")]
    Broken,
    #[error("the body is not the JSON that is served here: {0}")]
    NotJson(#[from] serde_json::Error),
}

/// The whole body, of at most `most` bytes.
pub async fn json<T: DeserializeOwned>(body: Incoming, most: usize) -> Result<T, Unread> {
    let read = Limited::new(body, most).collect().await;
    let read = read.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Unread::TooLarge(most),
        None => Unread::Broken,
    })?;
    Ok(crate::object::from_slice(&read.to_bytes())?)
}

impl Asker {
    /// The problem of a body that is of no use.
    pub fn unread(&self, why: &Unread) -> Answer {
        let (status, code) = match why {
            Unread::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Unread::Broken | Unread::NotJson(_) => (StatusCode::BAD_REQUEST, "invalid_json"),
        };
        self.problem(status, code, &why.to_string())
    }
}
