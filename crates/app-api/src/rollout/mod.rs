//! Rollouts: the tenants of an app move to another release, wave by wave.
//!
//! A rollout is rows of the database. [`progress`] decides, [`drive`] acts; a person starts, pauses and ends a rollout here.

pub mod drive;
pub mod progress;
pub mod waves;
pub mod window;

use std::ops::RangeInclusive;

use protocol::problem::{Code, FieldCode};
use protocol::rollouts::{
    DEFAULT_WATCH_SECONDS, MAX_WATCH_SECONDS, NewRollout, RolloutState, Waves,
};
use protocol::spec::Desired;
use serde_json::json;
use service::api_error::ApiError;
use uuid::Uuid;

use crate::access::Principal;
use crate::app::App;
use crate::apps::{self, release_name, release_number};
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::rollout::{self, Member, NewMember, Rollout};
use crate::db::{Conn, Transaction as _, app as db_app, audit_log, tenant};
use crate::tenant::TenantApp;
use crate::validation::refused_field;
use window::Window;

const WATCH_SECONDS: RangeInclusive<i32> =
    DEFAULT_WATCH_SECONDS.cast_signed()..=MAX_WATCH_SECONDS.cast_signed();
/// The most rollouts that a list shows.
const MAX_LISTED: i64 = 10;

/// A rollout with its tenants.
#[derive(Clone, Debug)]
pub struct Details {
    pub app: db_app::App,
    pub rollout: Rollout,
    pub members: Vec<Member>,
}

/// Starts a rollout to all tenants of an app that follow another release and are not pinned.
///
/// # Errors
/// `resource_not_found`; `invalid_fields`; `rollout_active` while another rollout of the app is.
pub async fn start(
    app: &App,
    caller: &Principal,
    slug: &str,
    new: &NewRollout,
) -> Result<Details, ApiError> {
    let waves = check_waves(new.waves.unwrap_or_default())?;
    Window::parse(new.window.as_deref()).map_err(|rule| {
        let detail = format!("The window {rule}.");
        refused_field(Code::InvalidFields, "window", FieldCode::Invalid, detail)
    })?;
    let max_failures = check_number("max_failures", new.max_failures, 0..=i32::MAX)?;
    let max_error_percent = check_number("max_error_percent", new.max_error_percent, 1..=100)?;
    let watch_seconds = check_number("watch_seconds", new.watch_seconds, WATCH_SECONDS)?;
    let (mut conn, now, id) = (app.conn().await?, app.clock.now(), Uuid::now_v7());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        let found = apps::find_in(conn, slug).await?;
        // The lock orders two starts: the second sees the rollout of the first.
        db_app::lock(conn, found.id).await?;
        let followed = apps::followed(conn, slug, Some(&new.release)).await?;
        if let Some(active) = rollout::active_of(conn, found.id).await? {
            return Err(already_active(&active));
        }
        let mut tenants = tenant::of_app(conn, found.id).await?;
        tenants.retain(|tenant| {
            let moves = |app: &TenantApp| !app.pinned && !app.is_same_release(&followed.tenant_app);
            tenant.desired != Desired::Deleted && tenant.app.as_ref().is_some_and(moves)
        });
        tenants.sort_by_key(|tenant| waves::place(tenant.state, tenant.has_untried_variables()));
        let sizes = waves::sizes(waves, tenants.len());
        let numbers =
            sizes.iter().zip(1..).flat_map(|(size, wave)| std::iter::repeat_n(wave, *size));
        let members = tenants.iter().zip(numbers).map(|(tenant, wave)| NewMember {
            rollout_id: id,
            tenant_id: tenant.id,
            wave,
            state: protocol::rollouts::MemberState::Waiting.as_str(),
            from_number: tenant
                .app
                .as_ref()
                .and_then(|app| release_number(&app.release))
                .unwrap_or(0),
            changed_at: now,
        });
        let members: Vec<_> = members.collect();
        let actor = Actor::from(caller);
        let row = rollout::NewRollout {
            id,
            app_id: found.id,
            release_id: followed.release.id,
            window: new.window.as_deref(),
            max_failures,
            max_error_percent,
            watch_seconds,
            created_by: &actor.name,
            now,
        };
        rollout::insert(conn, &row, &members).await?;
        let entry = Entry::new(actor, Action::RolloutStart, resource(&found)).after(json!({
            "id": id, "release": new.release, "waves": waves, "window": new.window,
            "max_failures": max_failures, "max_error_percent": max_error_percent,
            "watch_seconds": watch_seconds, "tenants": members.len(),
        }));
        audit_log::append(conn, &entry, now).await?;
        find(conn, found, id).await
    })
    .await
}

fn check_waves(waves: Waves) -> Result<Waves, ApiError> {
    let rule = match waves {
        Waves::Canary(0) => "waves.canary must be at least 1",
        Waves::Size(0) => "waves.size must be at least 1",
        Waves::Percent(percent) if !(1..=100).contains(&percent) => {
            "waves.percent must be 1 to 100"
        }
        Waves::Canary(_) | Waves::Size(_) | Waves::Percent(_) => return Ok(waves),
    };
    Err(refused_field(Code::InvalidFields, "waves", FieldCode::OutOfBounds, format!("{rule}.")))
}

/// Checks a number against its bounds.
fn check_number(field: &str, number: u32, bounds: RangeInclusive<i32>) -> Result<i32, ApiError> {
    let checked = i32::try_from(number).ok().filter(|number| bounds.contains(number));
    checked.ok_or_else(|| {
        let detail = format!("{field} must be {} to {}.", bounds.start(), bounds.end());
        refused_field(Code::InvalidFields, field, FieldCode::OutOfBounds, detail)
    })
}

fn already_active(active: &Rollout) -> ApiError {
    let detail = format!(
        "A rollout of this app to {} is {}. Wait for its end, or abort it.",
        release_name(active.release),
        active.state
    );
    ApiError::new(Code::RolloutActive, detail)
}

/// The latest rollouts of an app, the latest first.
///
/// # Errors
/// `resource_not_found`.
pub async fn list(app: &App, slug: &str) -> Result<Vec<Details>, ApiError> {
    let mut conn = app.conn().await?;
    let found = apps::find_in(&mut conn, slug).await?;
    let mut listed = Vec::new();
    for rollout in rollout::of_app(&mut conn, found.id, MAX_LISTED).await? {
        let members = rollout::members(&mut conn, rollout.id).await?;
        listed.push(Details { app: found.clone(), rollout, members });
    }
    Ok(listed)
}

/// # Errors
/// `resource_not_found`.
pub async fn show(app: &App, slug: &str, id: Uuid) -> Result<Details, ApiError> {
    let mut conn = app.conn().await?;
    let found = apps::find_in(&mut conn, slug).await?;
    find(&mut conn, found, id).await
}

async fn find(conn: &mut Conn, app: db_app::App, id: Uuid) -> Result<Details, ApiError> {
    let rollout = rollout::by_id(conn, app.id, id).await?.ok_or_else(|| {
        ApiError::new(Code::ResourceNotFound, "The app has no rollout of this id.")
    })?;
    let members = rollout::members(conn, id).await?;
    Ok(Details { app, rollout, members })
}

/// A request of a person for a rollout that is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Pause,
    Resume,
    /// Ends the rollout. Tenants that moved stay.
    Abort,
}

impl Request {
    /// The state after the request; `None` when the rollout does not permit the request.
    const fn apply_to(self, state: RolloutState) -> Option<RolloutState> {
        match (self, state) {
            (Self::Pause, RolloutState::Running | RolloutState::Paused) => {
                Some(RolloutState::Paused)
            }
            (Self::Resume, RolloutState::Running | RolloutState::Paused) => {
                Some(RolloutState::Running)
            }
            (Self::Abort, RolloutState::Running | RolloutState::Paused) => {
                Some(RolloutState::Aborted)
            }
            (
                _,
                RolloutState::RollingBack
                | RolloutState::Done
                | RolloutState::Failed
                | RolloutState::Aborted,
            ) => None,
        }
    }

    const fn action(self) -> Action {
        match self {
            Self::Pause => Action::RolloutPause,
            Self::Resume => Action::RolloutResume,
            Self::Abort => Action::RolloutAbort,
        }
    }
}

/// Pauses, resumes or aborts a rollout. Twice is like once.
///
/// # Errors
/// `resource_not_found`; `rollout_ended` when the rollout ended, or moves back.
pub async fn change(
    app: &App,
    caller: &Principal,
    (slug, id): (&str, Uuid),
    request: Request,
) -> Result<Details, ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        let found = apps::find_in(conn, slug).await?;
        let before = find(conn, found.clone(), id).await?.rollout;
        let state = rollout::lock(conn, id).await?.unwrap_or(before.state);
        let next = request.apply_to(state).ok_or_else(|| {
            let detail = format!("The rollout is {state}: it cannot be changed any more.");
            ApiError::new(Code::RolloutEnded, detail)
        })?;
        if next != state {
            rollout::set_state(conn, id, next, now).await?;
            let entry = Entry::new(Actor::from(caller), request.action(), resource(&found))
                .changed(json!({ "id": id, "state": state }), json!({ "id": id, "state": next }));
            audit_log::append(conn, &entry, now).await?;
        }
        find(conn, found, id).await
    })
    .await
}

fn resource(app: &db_app::App) -> Resource {
    Resource::new("app", &app.slug)
}
