//! Why tenants are awake or asleep, and an owner's hand that wakes one.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use protocol::orchestrator::{ObservedTenant, Phase};
use protocol::sleep::{SleepStatus, SleepStatusList};
use service::failure::Failure;

use super::input::Id;
use super::{App, leases, refused};

pub(super) async fn show(State(keeper): App, Id(id): Id) -> Result<Json<SleepStatus>, Failure> {
    Ok(Json(keeper.sleep_of(id).map_err(refused)?))
}

pub(super) async fn list(State(keeper): App) -> Result<Json<SleepStatusList>, Failure> {
    Ok(Json(SleepStatusList { tenants: keeper.sleeps().map_err(refused)? }))
}

/// 200 when it is awake, 202 while it is being woken: what comes of it is told by the watch.
pub(super) async fn wake(
    State(keeper): App,
    Id(id): Id,
) -> Result<(StatusCode, Json<ObservedTenant>), Failure> {
    let seen = keeper.wake(id).await.map_err(leases::refused)?;
    let status = if seen.phase == Phase::Ready { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(seen)))
}
