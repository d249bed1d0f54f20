//! Images of apps over HTTP.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use protocol::images::{PulledImageList, RemovedImage, is_digest};
use protocol::problem::Code;
use protocol::process::PreparedImage;
use serde::Deserialize;
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

pub(super) async fn list(
    State(operations): State<Arc<Operations>>,
) -> Result<Json<PulledImageList>, ApiError> {
    let images = operations.list_pulled_images().await.map_err(driver_failure)?;
    Ok(Json(PulledImageList { images }))
}

/// `?preparations=`: see [`PulledImage::preparations`](protocol::images::PulledImage::preparations).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveQuery {
    preparations: u64,
}

pub(super) async fn remove(
    State(operations): State<Arc<Operations>>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<RemoveQuery>, QueryRejection>,
) -> Result<Json<RemovedImage>, ApiError> {
    let id =
        id.ok().map(|Path(id)| id).filter(|id| is_digest(id)).ok_or_else(|| {
            ApiError::new(Code::NotFound, "An image's id is sha256: and 64 digits.")
        })?;
    let Query(RemoveQuery { preparations }) =
        query.map_err(|rejection| ApiError::new(Code::InvalidQuery, rejection.body_text()))?;
    let removed =
        operations.remove_pulled_image(&id, preparations).await.map_err(driver_failure)?;
    Ok(Json(RemovedImage { removed }))
}
