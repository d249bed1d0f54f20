//! Sleep status over HTTP, and the owner's wake.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use protocol::orchestrator::{ObservedTenant, Phase};
use protocol::sleep::{SleepStatus, SleepStatusList};
use service::api_error::ApiError;

use super::input::TenantPath;
use super::{driver_failure, leases};
use crate::sleep::SleepController;

pub(super) async fn show(
    State(sleep): State<Arc<SleepController>>,
    TenantPath(id): TenantPath,
) -> Result<Json<SleepStatus>, ApiError> {
    Ok(Json(sleep.status(id).map_err(driver_failure)?))
}

pub(super) async fn list(
    State(sleep): State<Arc<SleepController>>,
) -> Result<Json<SleepStatusList>, ApiError> {
    Ok(Json(SleepStatusList { tenants: sleep.list_status().map_err(driver_failure)? }))
}

/// Responds 200 when the tenant is awake, 202 while a wake is under way; the watch reports its result.
pub(super) async fn wake(
    State(sleep): State<Arc<SleepController>>,
    TenantPath(id): TenantPath,
) -> Result<(StatusCode, Json<ObservedTenant>), ApiError> {
    let tenant = sleep.wake(id).await.map_err(leases::lease_failure)?;
    let status = if tenant.phase == Phase::Ready { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(tenant)))
}
