//! `/v1/apps`: apps and their releases.

use axum::extract::State;
use axum::http::header;
use protocol::apps::{App, AppList, NewApp, NewRelease, Release, ReleaseList};
use protocol::images::PullStatus;
use serde::Deserialize;
use service::api_error::ApiError;
use utoipa::IntoParams;

use crate::access::Caller;
use crate::app::App as Service;
use crate::apps::{self, CreatedRelease, release_name};
use crate::db::app;
use crate::http::extract::{AppPath, Json, Query};
use crate::http::reply::{Created, NoContent};
use crate::views;

pub async fn list_apps(State(service): State<Service>) -> Result<axum::Json<AppList>, ApiError> {
    let apps = apps::list(&service).await?.into_iter().map(|(app, latest)| view(app, latest));
    Ok(axum::Json(AppList { apps: apps.collect() }))
}

pub async fn create_app(
    State(service): State<Service>,
    Caller(caller): Caller,
    body: Json<NewApp>,
) -> Result<Created<App>, ApiError> {
    let created = apps::create(&service, &caller, &body.value).await?;
    let location = format!("/v1/apps/{}", created.slug);
    Ok(Created::new(view(created, None)).with_text(header::LOCATION, &location)?)
}

pub async fn show_app(
    State(service): State<Service>,
    AppPath(slug): AppPath,
) -> Result<axum::Json<App>, ApiError> {
    let (app, releases) = apps::list_releases(&service, &slug).await?;
    Ok(axum::Json(view(app, releases.first().map(|release| release.number))))
}

pub async fn delete_app(
    State(service): State<Service>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
) -> Result<NoContent, ApiError> {
    apps::delete(&service, &caller, &slug).await?;
    Ok(NoContent::default())
}

pub async fn list_releases(
    State(service): State<Service>,
    AppPath(slug): AppPath,
) -> Result<axum::Json<ReleaseList>, ApiError> {
    let (app, releases) = apps::list_releases(&service, &slug).await?;
    let releases: Result<Vec<_>, ApiError> =
        releases.into_iter().map(|release| release_view(&service, &app, release)).collect();
    Ok(axum::Json(ReleaseList { releases: releases? }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct PullQuery {
    /// The name of the image, as the new release has it.
    image: String,
}

pub async fn show_pull(
    State(service): State<Service>,
    Query(PullQuery { image }): Query<PullQuery>,
) -> Result<axum::Json<PullStatus>, ApiError> {
    Ok(axum::Json(apps::pull_status(&service, &image).await?))
}

pub async fn create_release(
    State(service): State<Service>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    body: Json<NewRelease>,
) -> Result<Created<Release>, ApiError> {
    let CreatedRelease { app, release, untried_because } =
        apps::create_release(&service, &caller, &slug, &body.value).await?;
    let location = format!("/v1/apps/{}/releases", app.slug);
    let view = Release { untried_because, ..release_view(&service, &app, release)? };
    Ok(Created::new(view).with_text(header::LOCATION, &location)?)
}

fn view(app: app::App, latest: Option<i32>) -> App {
    App {
        slug: app.slug,
        name: app.name,
        latest_release: latest.map(release_name),
        created_at: views::time(app.created_at),
    }
}

fn release_view(
    service: &Service,
    app: &app::App,
    release: app::Release,
) -> Result<Release, ApiError> {
    Ok(Release {
        app: app.slug.clone(),
        release: release_name(release.number),
        image: release.image,
        digest: release.image_id,
        repository_digest: release.repository_digest,
        command: release.process.command.unwrap_or_default(),
        port: release.process.port.unwrap_or_default(),
        health_path: release.process.health_path,
        public_paths: release.process.public_paths,
        database: release.process.database,
        chat: release.process.chat,
        hooks: release.process.hooks,
        missing_secrets: apps::missing_secrets(service, app, &release.process.secrets)?,
        secrets: release.process.secrets,
        untried_because: None,
        env: release.env,
        created_at: views::time(release.created_at),
    })
}
