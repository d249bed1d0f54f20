//! `/v1/apps/{app}/rollouts`: start, list, show, pause, resume, abort.

use axum::extract::State;
use axum::http::header;
use protocol::rollouts::{
    MemberState, NewRollout, Rollout, RolloutList, Wave, WaveState, WaveTenant,
};
use service::api_error::ApiError;
use uuid::Uuid;

use crate::access::{Caller, Principal};
use crate::app::App;
use crate::apps::release_name;
use crate::db::rollout::Member;
use crate::http::extract::{AppPath, IdPath, Json};
use crate::http::reply::Accepted;
use crate::rollout::{self, Details, Request};
use crate::views;

pub async fn list_rollouts(
    State(app): State<App>,
    AppPath(slug): AppPath,
) -> Result<axum::Json<RolloutList>, ApiError> {
    let rollouts = rollout::list(&app, &slug).await?.into_iter().map(view).collect();
    Ok(axum::Json(RolloutList { rollouts }))
}

pub async fn start_rollout(
    State(app): State<App>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    body: Json<NewRollout>,
) -> Result<Accepted<Rollout>, ApiError> {
    let started = view(rollout::start(&app, &caller, &slug, &body.value).await?);
    let location = format!("/v1/apps/{}/rollouts/{}", started.app, started.id);
    Ok(Accepted::new(started).with_text(header::LOCATION, &location)?)
}

pub async fn show_rollout(
    State(app): State<App>,
    AppPath(slug): AppPath,
    IdPath(id): IdPath,
) -> Result<axum::Json<Rollout>, ApiError> {
    Ok(axum::Json(view(rollout::show(&app, &slug, id).await?)))
}

pub async fn pause_rollout(
    State(app): State<App>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    IdPath(id): IdPath,
) -> Result<Accepted<Rollout>, ApiError> {
    change(&app, &caller, (&slug, id), Request::Pause).await
}

pub async fn resume_rollout(
    State(app): State<App>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    IdPath(id): IdPath,
) -> Result<Accepted<Rollout>, ApiError> {
    change(&app, &caller, (&slug, id), Request::Resume).await
}

pub async fn abort_rollout(
    State(app): State<App>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    IdPath(id): IdPath,
) -> Result<Accepted<Rollout>, ApiError> {
    change(&app, &caller, (&slug, id), Request::Abort).await
}

async fn change(
    app: &App,
    caller: &Principal,
    rollout_path: (&str, Uuid),
    request: Request,
) -> Result<Accepted<Rollout>, ApiError> {
    Ok(Accepted::new(view(rollout::change(app, caller, rollout_path, request).await?)))
}

pub fn view(details: Details) -> Rollout {
    let Details { app, rollout, members } = details;
    let moved = members.iter().filter(|member| member.state == MemberState::Moved).count();
    let tenants = members.len();
    let waves = members.chunk_by(|a, b| a.wave == b.wave).map(|members| {
        let tenants = members.iter().map(|member| WaveTenant {
            slug: member.slug.clone(),
            from: release_name(member.from_number),
            state: member.state,
            reason: member.reason.clone(),
        });
        let tenants: Vec<_> = tenants.collect();
        let sum = |count: fn(&Member) -> i64| members.iter().map(count).sum::<i64>();
        Wave {
            state: wave_state(&tenants),
            responses: sum(|member| member.responses).unsigned_abs(),
            server_errors: sum(|member| member.server_errors).unsigned_abs(),
            tenants,
        }
    });
    Rollout {
        id: rollout.id,
        app: app.slug,
        release: release_name(rollout.release),
        state: rollout.state,
        window: rollout.window,
        max_failures: rollout.max_failures.unsigned_abs(),
        max_error_percent: rollout.max_error_percent.unsigned_abs(),
        watch_seconds: rollout.watch_seconds.unsigned_abs(),
        tenants,
        moved,
        waves: waves.collect(),
        reason: rollout.reason,
        log: rollout.log,
        created_by: rollout.created_by,
        created_at: views::time(rollout.created_at),
        finished_at: rollout.finished_at.map(views::time),
    }
}

fn wave_state(tenants: &[WaveTenant]) -> WaveState {
    let any = |state| tenants.iter().any(|tenant| tenant.state == state);
    let all_wait = tenants.iter().all(|tenant| tenant.state == MemberState::Waiting);
    if any(MemberState::Failed) || any(MemberState::RolledBack) {
        WaveState::Failed
    } else if all_wait {
        WaveState::Waiting
    } else if any(MemberState::Waiting) || any(MemberState::Moving) {
        WaveState::Moving
    } else {
        WaveState::Done
    }
}
