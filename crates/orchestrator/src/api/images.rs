//! Images of apps over HTTP.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use futures_util::StreamExt as _;
use protocol::images::{PullStatus, PulledImageList, RemovedImage, is_digest, uploaded_image};
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

/// `?image=`: the name in the request that pulls it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PullQuery {
    image: String,
}

pub(super) async fn show_pull(
    State(operations): State<Arc<Operations>>,
    query: Result<Query<PullQuery>, QueryRejection>,
) -> Result<Json<PullStatus>, ApiError> {
    let Query(PullQuery { image }) =
        query.map_err(|rejection| ApiError::new(Code::InvalidQuery, rejection.body_text()))?;
    Ok(Json(PullStatus { progress: operations.pull_progress(&image) }))
}

/// Loads the tarball of `docker save` with this SHA-256, which the caller has checked. The image is then
/// [`uploaded_image`].
pub(super) async fn load(
    State(operations): State<Arc<Operations>>,
    digest: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let image = digest
        .ok()
        .and_then(|Path(digest)| uploaded_image(&digest))
        .ok_or_else(|| ApiError::new(Code::NotFound, "A digest is 64 hexadecimal digits."))?;
    let tar = body.into_data_stream().map(|piece| piece.map_err(io::Error::other)).boxed();
    operations.load_image(image, tar).await.map_err(driver_failure)?;
    Ok(StatusCode::NO_CONTENT)
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
