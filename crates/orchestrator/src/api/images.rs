//! Images of apps over HTTP.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use protocol::process::PreparedImage;
use service::api_error::ApiError;

use super::driver_failure;
use super::input;
use crate::operations::Operations;

pub(super) async fn prepare(
    State(operations): State<Arc<Operations>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<PreparedImage>, ApiError> {
    let request = input::parse_prepare(body).map_err(|f| *f)?;
    Ok(Json(operations.prepare_image(request).await.map_err(driver_failure)?))
}
