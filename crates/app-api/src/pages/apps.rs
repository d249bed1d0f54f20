//! The apps, and the page of one app: its releases, its rollouts wave by wave, and the form that starts one.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use protocol::rollouts::{
    DEFAULT_MAX_ERROR_PERCENT, DEFAULT_WATCH_SECONDS, NewRollout, Rollout, RolloutState, Wave,
    WaveState, WaveTenant, Waves,
};
use protocol::{Problem, Timestamp};
use serde::Deserialize;
use service::api_error::ApiError;
use uuid::Uuid;

use super::choice::Choice;
use super::field::{Field, field_error};
use super::format::ago;
use super::{Layout, form_problem, page};
use crate::access::{AuthorizedTenant, Caller, Person, Principal};
use crate::api::rollouts::view;
use crate::app::App;
use crate::apps::{self, release_name};
use crate::db::app::Release;
use crate::http::extract::{AppPath, Form, IdPath};
use crate::rollout::{self, Request};
use crate::tenant::change::Change;
use crate::{tenant_actions, views};

#[derive(Template)]
#[template(path = "apps.html")]
struct AppsPage {
    layout: Layout,
    rows: Vec<AppRow>,
}

struct AppRow {
    slug: String,
    name: String,
    latest: String,
}

pub async fn list_apps(State(app): State<App>, person: Person) -> Result<Response, ApiError> {
    let rows = apps::list(&app).await?.into_iter().map(|(row, latest)| AppRow {
        slug: row.slug.to_string(),
        name: row.name,
        latest: latest.map_or_else(|| "none".to_owned(), release_name),
    });
    let layout = Layout::signed_in(&person, "Apps");
    page(StatusCode::OK, &AppsPage { layout, rows: rows.collect() })
}

#[derive(Template)]
#[template(path = "app.html")]
struct AppPage {
    layout: Layout,
    slug: String,
    name: String,
    releases: Vec<ReleaseRow>,
    /// The latest rollout, with its waves.
    rollout: Option<Rollout>,
    started_ago: String,
    wave_rows: Vec<WaveRow>,
    /// The person may pause, resume and abort the latest rollout.
    can_change: bool,
    can_start: bool,
    earlier: Vec<Rollout>,
    release: Choice,
    waves: Choice,
    number: Field,
    window: Field,
    max_failures: Field,
    max_error_percent: Field,
    watch_seconds: Field,
    problem: Option<Problem>,
}

struct ReleaseRow {
    name: String,
    image: String,
    created: String,
    created_ago: String,
}

struct WaveRow {
    number: usize,
    state: WaveState,
    /// Like "3 moved, 1 waiting".
    summary: String,
    /// Tenants that failed or were skipped, each with the reason.
    notes: Vec<(String, String)>,
}

fn wave_row(number: usize, wave: &Wave) -> WaveRow {
    use protocol::rollouts::MemberState as S;
    let states = [S::Moved, S::Moving, S::Waiting, S::Failed, S::RolledBack, S::Skipped];
    let counts = states.into_iter().filter_map(|state| {
        let count = wave.tenants.iter().filter(|tenant| tenant.state == state).count();
        (count > 0).then(|| format!("{count} {}", state.as_str().replace('_', " ")))
    });
    let Wave { responses, server_errors, .. } = wave;
    let responses = (*responses > 0)
        .then(|| format!("{server_errors} of {responses} responses with a status of 5xx"));
    let note =
        |tenant: &WaveTenant| Some((tenant.slug.to_string(), tenant.reason.as_ref()?.clone()));
    WaveRow {
        number,
        state: wave.state,
        summary: counts.chain(responses).collect::<Vec<_>>().join(", "),
        notes: wave.tenants.iter().filter_map(note).collect(),
    }
}

fn release_row(release: &Release, now: Timestamp) -> ReleaseRow {
    ReleaseRow {
        name: release_name(release.number),
        image: release.image.clone(),
        created: views::time(release.created_at),
        created_ago: ago(release.created_at, now),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct RolloutForm {
    release: String,
    waves: String,
    number: String,
    window: String,
    max_failures: String,
    max_error_percent: String,
    watch_seconds: String,
}

impl RolloutForm {
    /// A number that is none becomes 0, which every kind of wave, the share of errors and the time refuse, and which
    /// tolerates no failure.
    fn request(&self) -> NewRollout {
        let number = self.number.trim().parse().unwrap_or_default();
        let waves = match self.waves.as_str() {
            "percent" => Waves::Percent(number),
            "size" => Waves::Size(number),
            _ => Waves::Canary(number),
        };
        let window = Some(self.window.trim().to_owned()).filter(|window| !window.is_empty());
        let max_failures = self.max_failures.trim().parse().unwrap_or_default();
        let or_default = |text: &str, default: u32| match text.trim() {
            "" => default,
            text => text.parse().unwrap_or_default(),
        };
        NewRollout {
            release: self.release.clone(),
            waves: Some(waves),
            window,
            max_failures,
            max_error_percent: or_default(&self.max_error_percent, DEFAULT_MAX_ERROR_PERCENT),
            watch_seconds: or_default(&self.watch_seconds, DEFAULT_WATCH_SECONDS),
        }
    }
}

async fn app_page(
    app: &App,
    person: &Person,
    slug: &str,
    form: &RolloutForm,
    problem: Option<Problem>,
) -> Result<AppPage, ApiError> {
    let (found, releases) = apps::list_releases(app, slug).await?;
    let mut rollouts = rollout::list(app, slug).await?.into_iter().map(view);
    let (latest, now) = (rollouts.next(), app.clock.now());
    let mut layout = Layout::signed_in(person, found.name.clone());
    layout.refresh = latest.as_ref().is_some_and(|rollout| {
        matches!(rollout.state, RolloutState::Running | RolloutState::RollingBack)
    }) && problem.is_none();
    let names: Vec<_> = releases.iter().map(|release| release_name(release.number)).collect();
    let chosen = if form.release.is_empty() {
        names.first().cloned().unwrap_or_default()
    } else {
        form.release.clone()
    };
    let kinds = [
        ("canary", "First some tenants, then all others"),
        ("size", "A number of tenants in each wave"),
        ("percent", "A share of the tenants in each wave, in percent"),
    ];
    let kind = if form.waves.is_empty() { "canary" } else { &form.waves };
    let number = if form.number.is_empty() { "1" } else { &form.number };
    let mut number = Field::new("number", "Number", "text").value(number);
    number.error = field_error(problem.as_ref(), "waves");
    let is_operator = layout.is_operator;
    Ok(AppPage {
        layout,
        slug: found.slug.to_string(),
        name: found.name,
        started_ago: latest.as_ref().map_or_else(String::new, |rollout| {
            rollout.created_at.parse().map_or_else(|_| String::new(), |at| ago(at, now))
        }),
        wave_rows: latest
            .iter()
            .flat_map(|rollout| (1..).zip(&rollout.waves))
            .map(|(number, wave)| wave_row(number, wave))
            .collect(),
        can_change: is_operator
            && latest.as_ref().is_some_and(|rollout| {
                matches!(rollout.state, RolloutState::Running | RolloutState::Paused)
            }),
        can_start: is_operator
            && !names.is_empty()
            && latest.as_ref().is_none_or(|rollout| !rollout.state.is_active()),
        rollout: latest,
        earlier: rollouts.collect(),
        release: Choice::new("release", "Release", chosen, names.into_iter().map(|n| (n.clone(), n)))
            .with_problem(problem.as_ref()),
        waves: Choice::new(
            "waves",
            "Waves",
            kind.to_owned(),
            kinds.map(|(value, label)| (value.to_owned(), label.to_owned())),
        ),
        number,
        window: Field::new("window", "Window", "text")
            .optional()
            .value(&form.window)
            .hint("When running tenants are replaced: times in UTC like 02:00-04:00, or idle for never. Empty: at once.")
            .with_problem(problem.as_ref()),
        max_failures: Field::new("max_failures", "Tolerated failures", "text")
            .value(if form.max_failures.is_empty() { "0" } else { &form.max_failures })
            .hint("The number of tenants that may fail, and move back alone, before the rollout stops.")
            .with_problem(problem.as_ref()),
        max_error_percent: Field::new("max_error_percent", "Tolerated errors in percent", "text")
            .optional()
            .value(&form.max_error_percent)
            .hint("A wave moves back once more than this share of at least 20 responses has a status of 5xx. Empty: 10.")
            .with_problem(problem.as_ref()),
        watch_seconds: Field::new("watch_seconds", "Seconds between waves", "text")
            .optional()
            .value(&form.watch_seconds)
            .hint("How long a tenant must run on the release before the next wave begins. Empty: 5.")
            .with_problem(problem.as_ref()),
        releases: releases.iter().map(|release| release_row(release, now)).collect(),
        problem,
    })
}

pub async fn show_app(
    State(app): State<App>,
    person: Person,
    AppPath(slug): AppPath,
) -> Result<Response, ApiError> {
    page(StatusCode::OK, &app_page(&app, &person, &slug, &RolloutForm::default(), None).await?)
}

pub async fn start_rollout(
    State(app): State<App>,
    Caller(caller): Caller,
    person: Person,
    AppPath(slug): AppPath,
    Form(form): Form<RolloutForm>,
) -> Result<Response, ApiError> {
    match rollout::start(&app, &caller, &slug, &form.request()).await {
        Ok(_) => Ok(to_app(&slug).into_response()),
        Err(failure) if failure.status() == StatusCode::NOT_FOUND => Err(failure),
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            page(status, &app_page(&app, &person, &slug, &form, Some(problem)).await?)
        }
    }
}

pub async fn pause_rollout(
    State(app): State<App>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    IdPath(id): IdPath,
) -> Result<Redirect, ApiError> {
    change(&app, &caller, (&slug, id), Request::Pause).await
}

pub async fn resume_rollout(
    State(app): State<App>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    IdPath(id): IdPath,
) -> Result<Redirect, ApiError> {
    change(&app, &caller, (&slug, id), Request::Resume).await
}

pub async fn abort_rollout(
    State(app): State<App>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    IdPath(id): IdPath,
) -> Result<Redirect, ApiError> {
    change(&app, &caller, (&slug, id), Request::Abort).await
}

async fn change(
    app: &App,
    caller: &Principal,
    named: (&str, Uuid),
    request: Request,
) -> Result<Redirect, ApiError> {
    rollout::change(app, caller, named, request).await?;
    Ok(to_app(named.0))
}

/// The slug was found in the database, so it needs no escape.
fn to_app(slug: &str) -> Redirect {
    Redirect::to(&format!("/admin/apps/{slug}"))
}

pub async fn pin_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
) -> Result<Redirect, ApiError> {
    set_pinned(&app, &caller, found, true).await
}

pub async fn unpin_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
) -> Result<Redirect, ApiError> {
    set_pinned(&app, &caller, found, false).await
}

async fn set_pinned(
    app: &App,
    caller: &Principal,
    found: AuthorizedTenant,
    is_pinned: bool,
) -> Result<Redirect, ApiError> {
    let change = Change { pinned: Some(is_pinned.into()), ..Change::default() };
    let tenant = tenant_actions::change(app, caller, found.tenant, &change, None).await?;
    Ok(Redirect::to(&format!("/admin/tenants/{}", tenant.slug)))
}
