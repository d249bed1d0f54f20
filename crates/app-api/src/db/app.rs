//! `apps` and `releases`.

use std::collections::BTreeMap;

use diesel::dsl::max;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use protocol::process::AppSpec;
use protocol::variables::SealedAppEnv;
use protocol::{Slug, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use super::Conn;
use super::columns::{JsonColumn, TextColumn};
use super::schema::{apps, releases, tenants};

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = apps, check_for_backend(diesel::pg::Pg))]
pub struct App {
    pub id: Uuid,
    #[diesel(deserialize_as = TextColumn<Slug>)]
    pub slug: Slug,
    pub name: String,
    pub created_at: Timestamp,
    /// The variables and secrets of the app, encrypted. The rows of its tenants hold a copy.
    pub sealed_env: Option<String>,
}

impl App {
    /// The variables as the rows of tenants hold them.
    pub fn app_env(&self) -> Option<SealedAppEnv> {
        let sealed = self.sealed_env.clone()?;
        Some(SealedAppEnv { app: self.id, sealed })
    }
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = releases, check_for_backend(diesel::pg::Pg))]
pub struct Release {
    pub id: Uuid,
    pub number: i32,
    pub image: String,
    pub image_id: String,
    #[diesel(deserialize_as = JsonColumn<AppSpec>)]
    pub process: AppSpec,
    #[diesel(deserialize_as = JsonColumn<BTreeMap<String, String>>)]
    pub env: BTreeMap<String, String>,
    pub created_at: Timestamp,
    pub repository_digest: Option<String>,
}

/// Returns `false` when the slug is taken.
pub async fn insert(conn: &mut Conn, app: &App) -> QueryResult<bool> {
    let row = (
        apps::id.eq(app.id),
        apps::slug.eq(app.slug.as_str()),
        apps::name.eq(&app.name),
        apps::created_at.eq(app.created_at),
    );
    let inserted = diesel::insert_into(apps::table).values(row).on_conflict(apps::slug);
    Ok(inserted.do_nothing().execute(conn).await? == 1)
}

/// All apps by slug, each with the number of its latest release.
pub async fn all(conn: &mut Conn) -> QueryResult<Vec<(App, Option<i32>)>> {
    let apps: Vec<App> = apps::table.order(apps::slug).select(App::as_select()).load(conn).await?;
    let latest: Vec<(Uuid, Option<i32>)> = releases::table
        .group_by(releases::app_id)
        .select((releases::app_id, max(releases::number)))
        .load(conn)
        .await?;
    let latest: BTreeMap<_, _> = latest.into_iter().collect();
    Ok(apps
        .into_iter()
        .map(|app| (latest.get(&app.id).copied().flatten(), app))
        .map(swap)
        .collect())
}

fn swap<A, B>((a, b): (A, B)) -> (B, A) {
    (b, a)
}

pub async fn by_slug(conn: &mut Conn, slug: &str) -> QueryResult<Option<App>> {
    let query = apps::table.filter(apps::slug.eq(slug)).select(App::as_select());
    query.first(conn).await.optional()
}

pub async fn by_id(conn: &mut Conn, id: Uuid) -> QueryResult<Option<App>> {
    apps::table.find(id).select(App::as_select()).first(conn).await.optional()
}

/// Reads an app and holds its row until the transaction ends, so that its releases are numbered one
/// after the other.
pub async fn lock(conn: &mut Conn, id: Uuid) -> QueryResult<Option<App>> {
    let query = apps::table.find(id).select(App::as_select()).for_update();
    query.first(conn).await.optional()
}

/// Reads the variables of an app and keeps them from changing until the transaction ends, so that a row that begins to
/// follow the app has the latest.
pub async fn hold_env(conn: &mut Conn, id: Uuid) -> QueryResult<Option<SealedAppEnv>> {
    let query = apps::table.find(id).select(App::as_select()).for_share();
    let app: Option<App> = query.first(conn).await.optional()?;
    Ok(app.and_then(|app| app.app_env()))
}

/// Writes the encrypted variables of an app. The caller holds its row.
pub async fn set_sealed_env(conn: &mut Conn, id: Uuid, sealed: Option<&str>) -> QueryResult<usize> {
    diesel::update(apps::table.find(id)).set(apps::sealed_env.eq(sealed)).execute(conn).await
}

/// Deletes an app with its releases; fails while a tenant follows one of them.
pub async fn delete(conn: &mut Conn, id: Uuid) -> QueryResult<usize> {
    diesel::delete(apps::table.find(id)).execute(conn).await
}

/// The slugs of tenants that follow the app.
pub async fn followers(conn: &mut Conn, id: Uuid) -> QueryResult<Vec<String>> {
    tenants::table
        .inner_join(releases::table.on(tenants::release_id.eq(releases::id.nullable())))
        .filter(releases::app_id.eq(id))
        .order(tenants::slug)
        .select(tenants::slug)
        .load(conn)
        .await
}

pub async fn insert_release(conn: &mut Conn, app: Uuid, release: &Release) -> QueryResult<usize> {
    let json = |value| serde_json::to_value(value).unwrap_or_default();
    let row = (
        releases::id.eq(release.id),
        releases::app_id.eq(app),
        releases::number.eq(release.number),
        releases::image.eq(&release.image),
        releases::image_id.eq(&release.image_id),
        releases::process.eq(serde_json::to_value(&release.process).unwrap_or_default()),
        releases::env.eq::<Value>(json(&release.env)),
        releases::created_at.eq(release.created_at),
        releases::repository_digest.eq(&release.repository_digest),
    );
    diesel::insert_into(releases::table).values(row).execute(conn).await
}

/// Those of these images that a release has.
pub async fn images_of_releases(conn: &mut Conn, images: &[String]) -> QueryResult<Vec<String>> {
    releases::table
        .filter(releases::image_id.eq_any(images))
        .select(releases::image_id)
        .distinct()
        .load(conn)
        .await
}

/// The releases of an app, the latest first.
pub async fn releases(conn: &mut Conn, app: Uuid) -> QueryResult<Vec<Release>> {
    releases::table
        .filter(releases::app_id.eq(app))
        .order(releases::number.desc())
        .select(Release::as_select())
        .load(conn)
        .await
}

/// The release of this number, or the latest.
pub async fn release(
    conn: &mut Conn,
    app: Uuid,
    number: Option<i32>,
) -> QueryResult<Option<Release>> {
    let mut query = releases::table.filter(releases::app_id.eq(app)).into_boxed();
    if let Some(number) = number {
        query = query.filter(releases::number.eq(number));
    }
    let query = query.order(releases::number.desc()).select(Release::as_select());
    query.first(conn).await.optional()
}
