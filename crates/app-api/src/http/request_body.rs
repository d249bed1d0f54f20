//! Reads the body of a request, within bounds of size and time.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use protocol::problem::Code;
use service::api_error::ApiError;
use tokio::time::timeout;

/// The most bytes of a request body.
pub const BODY_LIMIT: usize = 64 << 10;
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// # Errors
/// `body_too_large`; `request_timed_out`.
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    let read = timeout(BODY_TIMEOUT, to_bytes(body, BODY_LIMIT)).await;
    read.map_err(|_| too_slow())?.map_err(|_| too_large())
}

fn too_slow() -> ApiError {
    let detail = format!("The body did not arrive within {BODY_TIMEOUT:?}.");
    ApiError::new(Code::RequestTimedOut, detail)
}

pub fn too_large() -> ApiError {
    let detail = format!("The body is larger than {BODY_LIMIT} bytes.");
    ApiError::new(Code::BodyTooLarge, detail)
}
