//! Operations on tenants over HTTP.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use protocol::orchestrator::{
    DiskUse, DiskUseList, ObservedTenant, ObservedTenantList, TenantAtRevision,
};
use protocol::problem::Code;
use protocol::summaries::SummaryReport;
use serde::Deserialize;
use service::api_error::ApiError;

use super::driver_failure;
use super::input::{self, LogsQuery, TenantPath};
use crate::allowed_images::AllowedImages;
use crate::driver::{DriverError, ResourceUsage};
use crate::operations::Operations;
use crate::tenants::TenantStore;

pub(super) async fn list(
    State(store): State<Arc<TenantStore>>,
) -> Result<Json<ObservedTenantList>, ApiError> {
    let mut tenants = store.feed().map_err(driver_failure)?.list();
    tenants.sort_by_key(|t| t.id);
    Ok(Json(ObservedTenantList { tenants }))
}

pub(super) async fn watch(State(store): State<Arc<TenantStore>>) -> Result<Response, ApiError> {
    Ok(store.feed().map_err(driver_failure)?.watch_response())
}

pub(super) async fn apply(
    State(operations): State<Arc<Operations>>,
    State(store): State<Arc<TenantStore>>,
    State(images): State<Arc<AllowedImages>>,
    TenantPath(id): TenantPath,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<TenantAtRevision>, ApiError> {
    let apply = input::parse_apply(id, body, &images).map_err(|f| *f)?;
    operations.apply(apply).await.map_err(driver_failure)?;
    let applied = store.at_revision(id).ok_or_else(|| DriverError::no_such_tenant(id));
    Ok(Json(applied.map_err(driver_failure)?))
}

pub(super) async fn prepare(
    State(operations): State<Arc<Operations>>,
    State(images): State<Arc<AllowedImages>>,
    TenantPath(id): TenantPath,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, ApiError> {
    let spec = input::parse_spec(id, body, &images).map_err(|f| *f)?;
    operations.prepare(spec).await.map_err(driver_failure)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn stop(
    State(operations): State<Arc<Operations>>,
    TenantPath(id): TenantPath,
) -> Result<Json<ObservedTenant>, ApiError> {
    Ok(Json(operations.stop(id).await.map_err(driver_failure)?))
}

pub(super) async fn remove(
    State(operations): State<Arc<Operations>>,
    TenantPath(id): TenantPath,
) -> Result<StatusCode, ApiError> {
    operations.delete(id).await.map_err(driver_failure)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn logs(
    State(operations): State<Arc<Operations>>,
    TenantPath(id): TenantPath,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|rejection| {
        ApiError::with_status(
            Code::InvalidQuery,
            StatusCode::UNPROCESSABLE_ENTITY,
            rejection.body_text(),
        )
    })?;
    let wanted = input::parse_logs_query(&query).map_err(|f| *f)?;
    let lines = operations.logs(id, wanted).await.map_err(driver_failure)?;
    let mut response = Body::from_stream(lines).into_response();
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

pub(super) async fn stats(
    State(operations): State<Arc<Operations>>,
    TenantPath(id): TenantPath,
) -> Result<Json<ResourceUsage>, ApiError> {
    Ok(Json(operations.resource_usage(id).await.map_err(driver_failure)?))
}

/// `?after=`: the position up to which the caller has the summaries.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SummariesQuery {
    after: i64,
}

pub(super) async fn summaries(
    State(operations): State<Arc<Operations>>,
    TenantPath(id): TenantPath,
    query: Result<Query<SummariesQuery>, QueryRejection>,
) -> Result<Json<SummaryReport>, ApiError> {
    let Query(SummariesQuery { after }) =
        query.map_err(|rejection| ApiError::new(Code::InvalidQuery, rejection.body_text()))?;
    let report = operations.fetch_summaries(id, after).await.map_err(|error| match error {
        None => ApiError::new(Code::TenantNotRunning, "The tenant does not run."),
        Some(error) => ApiError::new(Code::UpstreamUnreachable, error.to_string()),
    })?;
    Ok(Json(report))
}

pub(super) async fn show_disk_use(
    State(operations): State<Arc<Operations>>,
    TenantPath(id): TenantPath,
) -> Result<Json<DiskUse>, ApiError> {
    Ok(Json(operations.disk_use(id).map_err(driver_failure)?))
}

pub(super) async fn list_disk_use(
    State(operations): State<Arc<Operations>>,
) -> Result<Json<DiskUseList>, ApiError> {
    Ok(Json(DiskUseList { tenants: operations.list_disk_use().map_err(driver_failure)? }))
}
