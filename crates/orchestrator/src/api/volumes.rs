//! The volumes of a tenant as a tar: see [`Operations::export_volumes`] and [`Operations::import_volumes`].

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use protocol::orchestrator::LastStart;
use protocol::problem::Code;
use serde::Deserialize;
use service::api_error::ApiError;

use super::driver_failure;
use super::input::TenantPath;
use crate::operations::Operations;

pub(super) async fn show_last_start(
    State(operations): State<Arc<Operations>>,
    TenantPath(id): TenantPath,
) -> Result<Json<LastStart>, ApiError> {
    Ok(Json(operations.last_start(id).await.map_err(driver_failure)?))
}

/// Nobody takes a stream that breaks off for a whole one: the response has no length, and its end is missing.
pub(super) async fn export(
    State(operations): State<Arc<Operations>>,
    TenantPath(id): TenantPath,
) -> Result<Response, ApiError> {
    let tar = operations.export_volumes(id).await.map_err(driver_failure)?;
    let mut response = Body::from_stream(tar).into_response();
    let content_type = HeaderValue::from_static("application/x-tar");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

/// `?limit_bytes=`: the disk limit of the tenant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportQuery {
    limit_bytes: u64,
}

pub(super) async fn import(
    State(operations): State<Arc<Operations>>,
    TenantPath(id): TenantPath,
    query: Result<Query<ImportQuery>, QueryRejection>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let Query(ImportQuery { limit_bytes }) =
        query.map_err(|rejection| ApiError::new(Code::InvalidQuery, rejection.body_text()))?;
    let tar = body.into_data_stream().map(|piece| piece.map_err(io::Error::other)).boxed();
    operations.import_volumes(id, limit_bytes, tar).await.map_err(driver_failure)?;
    Ok(StatusCode::NO_CONTENT)
}
