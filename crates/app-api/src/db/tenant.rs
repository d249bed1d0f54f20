//! `tenants`: the desired state and the status of each tenant. Each write is guarded by the row's `moves`.

use std::collections::BTreeMap;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Array, Bool, Jsonb, Nullable, Text};
use diesel_async::RunQueryDsl;
use protocol::orchestrator::Upstream;
use protocol::spec::{Desired, Limits, Policy};
use protocol::variables::SealedAppEnv;
use protocol::{Slug, State, TenantId, Timestamp};
use uuid::Uuid;

use super::columns::{JsonColumn, TextColumn};
use super::schema::tenants::{self, dsl};
use super::schema::{memberships, releases, tenant_imports as imports};
use super::{Conn, app};
use crate::apps::Followed;
use crate::tenant::change::Changeable;
use crate::tenant::crashes::Crashes;
use crate::tenant::database::ProvisionedDatabase;
use crate::tenant::status::{Fulfilled, TenantStatus};
use crate::tenant::{Tenant, TenantApp};

macro_rules! tenant_row {
    ($($(#[$attribute:meta])* $field:ident: $kind:ty,)*) => {
        /// A row as it is read; [`Tenant`] is the same without diesel.
        #[derive(Queryable, Selectable)]
        #[diesel(table_name = tenants)]
        struct TenantRow {
            $($(#[$attribute])* $field: $kind,)*
        }

        impl From<TenantRow> for Tenant {
            fn from(row: TenantRow) -> Self {
                Self { $($field: row.$field,)* }
            }
        }
    };
}

tenant_row! {
    id: Uuid,
    #[diesel(deserialize_as = TextColumn<Slug>)]
    slug: Slug,
    name: String,
    owner_id: Option<Uuid>,
    #[diesel(deserialize_as = TextColumn<Desired>)]
    desired: Desired,
    #[diesel(deserialize_as = TextColumn<State>)]
    state: State,
    state_since: Timestamp,
    state_reason: Option<String>,
    revision: i64,
    moves: i64,
    generation: i64,
    image: Option<String>,
    #[diesel(deserialize_as = JsonColumn<BTreeMap<String, String>>)]
    env: BTreeMap<String, String>,
    #[diesel(deserialize_as = JsonColumn<Limits>)]
    limits: Limits,
    #[diesel(deserialize_as = JsonColumn<Policy>)]
    policy: Policy,
    container_id: Option<String>,
    container_port: Option<i32>,
    #[diesel(deserialize_as = JsonColumn<Option<Upstream>>)]
    upstream: Option<Upstream>,
    restarts_asked: i64,
    restarts_done: i64,
    changes_asked: i64,
    changes_done: i64,
    wakes_asked: i64,
    wakes_done: i64,
    #[diesel(deserialize_as = JsonColumn<Crashes>)]
    crashes: Crashes,
    gave_up: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
    requested_at: Timestamp,
    #[diesel(deserialize_as = JsonColumn<Option<TenantApp>>)]
    app: Option<TenantApp>,
    #[diesel(deserialize_as = JsonColumn<Option<ProvisionedDatabase>>)]
    database: Option<ProvisionedDatabase>,
}

/// The columns of a [`TenantStatus`].
#[derive(AsChangeset)]
#[diesel(table_name = tenants, treat_none_as_null = true)]
struct StatusColumns {
    state: &'static str,
    state_since: Timestamp,
    state_reason: Option<String>,
    container_id: Option<String>,
    container_port: Option<i32>,
    upstream: serde_json::Value,
    crashes: serde_json::Value,
    gave_up: bool,
}

impl From<&TenantStatus> for StatusColumns {
    fn from(status: &TenantStatus) -> Self {
        Self {
            state: status.state.as_str(),
            state_since: status.since,
            state_reason: status.reason.clone(),
            container_id: status.container_id.clone(),
            container_port: status.container_port.map(i32::from),
            upstream: json(&status.upstream),
            crashes: json(&status.crashes),
            gave_up: status.gave_up,
        }
    }
}

fn json<T: serde::Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

pub struct NewTenant<'a> {
    pub id: Uuid,
    pub slug: &'a Slug,
    pub name: &'a str,
    pub owner_id: Option<Uuid>,
    /// `None` runs the built-in app.
    pub followed: Option<Followed>,
    /// `None` starts at once.
    pub imported: Option<Imported>,
    pub now: Timestamp,
}

/// The settings that an import copies from its archive. An imported tenant stays stopped until somebody starts it.
#[derive(Clone, Copy)]
pub struct Imported {
    pub limits: Limits,
    pub policy: Policy,
}

/// Returns `None` when the slug is taken. Runs within a transaction of the caller, like every write of a release: the
/// variables of the app do not change until the row exists.
pub async fn insert(conn: &mut Conn, new: &NewTenant<'_>) -> QueryResult<Option<Tenant>> {
    let followed = match &new.followed {
        Some(followed) => Some(followed_columns(conn, followed.clone()).await?),
        None => None,
    };
    let imported = new.imported;
    let desired = if imported.is_some() { Desired::Stopped } else { Desired::Running };
    let row = (
        dsl::id.eq(new.id),
        dsl::slug.eq(new.slug.as_str()),
        dsl::name.eq(new.name),
        dsl::owner_id.eq(new.owner_id),
        dsl::limits.eq(json(&imported.map(|imported| imported.limits).unwrap_or_default())),
        dsl::policy.eq(json(&imported.map(|imported| imported.policy).unwrap_or_default())),
        dsl::desired.eq(desired.as_str()),
        dsl::state_since.eq(new.now),
        dsl::created_at.eq(new.now),
        dsl::updated_at.eq(new.now),
        dsl::requested_at.eq(new.now),
    );
    let inserted = diesel::insert_into(dsl::tenants)
        .values((row, followed))
        .on_conflict(dsl::slug)
        .do_nothing()
        .returning(TenantRow::as_returning())
        .get_result(conn)
        .await
        .optional()?;
    Ok(inserted.map(Tenant::from))
}

/// The columns that say what a tenant runs, with the variables of the app.
async fn followed_columns(conn: &mut Conn, followed: Followed) -> QueryResult<FollowedColumns> {
    let Followed { app_id, release, tenant_app } = followed;
    let app_env = app::hold_env(conn, app_id).await?;
    Ok(FollowedColumns {
        release_id: Some(release.id),
        app: json(&TenantApp { app_env, ..tenant_app }),
        image: Some(release.image_id),
        env: json(&release.env),
    })
}

#[derive(Insertable, AsChangeset)]
#[diesel(table_name = tenants)]
struct FollowedColumns {
    release_id: Option<Uuid>,
    app: serde_json::Value,
    image: Option<String>,
    env: serde_json::Value,
}

/// Moves a tenant to another release; returns `None` when another writer changed the row first. Runs within a transaction.
pub async fn set_release(
    conn: &mut Conn,
    read: &Tenant,
    followed: &Followed,
    status: &TenantStatus,
) -> QueryResult<Option<Tenant>> {
    let unchanged_row = dsl::tenants.find(read.id).filter(dsl::moves.eq(read.moves));
    let mut followed = followed.clone();
    if let Some(app) = read.app.clone() {
        // These are the tenant's own, whatever release it follows.
        let TenantApp { pinned, sealed_env, untried_since, .. } = app;
        followed.tenant_app =
            TenantApp { pinned, sealed_env, untried_since, ..followed.tenant_app };
    }
    let columns = (
        followed_columns(conn, followed).await?,
        dsl::generation.eq(dsl::generation + 1),
        StatusColumns::from(status),
    );
    let moved = diesel::update(unchanged_row).set(columns).returning(TenantRow::as_returning());
    Ok(moved.get_result(conn).await.optional()?.map(Tenant::from))
}

pub async fn by_id(conn: &mut Conn, id: TenantId) -> QueryResult<Option<Tenant>> {
    let query = dsl::tenants.find(id.uuid()).select(TenantRow::as_select());
    Ok(query.first(conn).await.optional()?.map(Tenant::from))
}

/// The tenant of this slug, with the role of `user` on it by membership.
pub async fn by_slug_with_membership(
    conn: &mut Conn,
    slug: &str,
    user: Option<Uuid>,
) -> QueryResult<Option<(Tenant, Option<String>)>> {
    let of_user = memberships::tenant_id
        .eq(tenants::id)
        .and(memberships::user_id.eq(user.unwrap_or_default()));
    let found = dsl::tenants
        .left_join(memberships::table.on(of_user))
        .filter(dsl::slug.eq(slug))
        .select((TenantRow::as_select(), memberships::role.nullable()))
        .first::<(TenantRow, Option<String>)>(conn)
        .await
        .optional()?;
    Ok(found.map(|(row, role)| (Tenant::from(row), role)))
}

pub async fn all(conn: &mut Conn) -> QueryResult<Vec<Tenant>> {
    let rows: Vec<TenantRow> = dsl::tenants.select(TenantRow::as_select()).load(conn).await?;
    Ok(rows.into_iter().map(Tenant::from).collect())
}

/// The tenants whose schemas lack a migration up to `version`, and are not closed. Versions are ordered as texts.
pub async fn with_older_database(conn: &mut Conn, version: &str) -> QueryResult<Vec<Tenant>> {
    let is_older = sql::<Nullable<Bool>>("database ->> 'version' < ").bind::<Text, _>(version);
    let kept = dsl::desired.ne(Desired::Deleted.as_str());
    let is_open = sql::<Nullable<Bool>>("database ->> 'excess' IS NULL");
    let query = dsl::tenants.filter(kept.nullable().and(is_older).and(is_open));
    let rows: Vec<TenantRow> =
        query.order(dsl::slug).select(TenantRow::as_select()).load(conn).await?;
    Ok(rows.into_iter().map(Tenant::from).collect())
}

/// The tenants that have a database and are neither being deleted nor imported: all of them, or those whose role is one of `roles`
/// or whose database is closed. An import that is ended in the middle leaves nothing, and archives have a bound of their own.
pub async fn with_database(conn: &mut Conn, roles: Option<&[String]>) -> QueryResult<Vec<Tenant>> {
    let kept = dsl::desired.ne(Desired::Deleted.as_str());
    let has_database = sql::<Nullable<Bool>>("database ->> 'user' IS NOT NULL");
    let is_wanted = sql::<Nullable<Bool>>("(")
        .bind::<Bool, _>(roles.is_none())
        .sql(" OR database ->> 'user' = ANY (")
        .bind::<Array<Text>, _>(roles.unwrap_or_default())
        .sql(") OR database ->> 'excess' IS NOT NULL)");
    let is_imported = dsl::id.eq_any(imports::table.select(imports::tenant_id));
    let query = dsl::tenants
        .filter(kept.nullable().and(has_database).and(is_wanted))
        .filter(diesel::dsl::not(is_imported));
    let rows: Vec<TenantRow> =
        query.order(dsl::slug).select(TenantRow::as_select()).load(conn).await?;
    Ok(rows.into_iter().map(Tenant::from).collect())
}

/// The tenants that follow an app.
pub async fn of_app(conn: &mut Conn, app: Uuid) -> QueryResult<Vec<Tenant>> {
    let of_app = releases::table.filter(releases::app_id.eq(app)).select(releases::id.nullable());
    let query = dsl::tenants.filter(dsl::release_id.eq_any(of_app));
    let rows: Vec<TenantRow> =
        query.order(dsl::slug).select(TenantRow::as_select()).load(conn).await?;
    Ok(rows.into_iter().map(Tenant::from).collect())
}

/// The tenants that a caller may see.
#[derive(Clone, Copy, Debug)]
pub enum Visibility {
    All,
    /// Those with a membership of this user.
    MemberOf(Uuid),
}

/// Narrows a list of tenants.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub state: Option<State>,
    /// Part of the slug or of the name, in any case.
    pub text: Option<String>,
    /// Only slugs that sort after this slug.
    pub after: Option<String>,
    pub limit: i64,
}

pub async fn list(
    conn: &mut Conn,
    visibility: Visibility,
    filter: &Filter,
) -> QueryResult<Vec<Tenant>> {
    let mut query = dsl::tenants.into_boxed();
    if let Visibility::MemberOf(user) = visibility {
        let of_user = memberships::table.filter(memberships::user_id.eq(user));
        query = query.filter(dsl::id.eq_any(of_user.select(memberships::tenant_id)));
    }
    if let Some(state) = filter.state {
        query = query.filter(dsl::state.eq(state.as_str()));
    }
    if let Some(text) = &filter.text {
        let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        let like = format!("%{escaped}%");
        query = query.filter(dsl::slug.ilike(like.clone()).or(dsl::name.ilike(like)));
    }
    if let Some(after) = &filter.after {
        query = query.filter(dsl::slug.gt(after.clone()));
    }
    let query = query.order(dsl::slug).limit(filter.limit).select(TenantRow::as_select());
    Ok(query.load(conn).await?.into_iter().map(Tenant::from).collect())
}

/// Writes the status; returns `false` when another writer changed the row first.
pub async fn update_status(
    conn: &mut Conn,
    read: &Tenant,
    status: &TenantStatus,
) -> QueryResult<bool> {
    let unchanged_row = dsl::tenants.find(read.id).filter(dsl::moves.eq(read.moves));
    let tried = read.with_tried_variables(status).map(|app| dsl::app.eq(json(&app)));
    let columns = (StatusColumns::from(status), tried);
    Ok(diesel::update(unchanged_row).set(columns).execute(conn).await? == 1)
}

/// The columns that a request of the owner changes, beside the status.
#[derive(Clone, Copy, Debug)]
pub struct OwnerRequest {
    pub desired: Desired,
    pub restart: bool,
    pub wake: bool,
    pub at: Timestamp,
}

/// Records a request of the owner; returns `None` when another writer changed the row first.
pub async fn record_request(
    conn: &mut Conn,
    read: &Tenant,
    request: OwnerRequest,
    status: &TenantStatus,
) -> QueryResult<Option<Tenant>> {
    let unchanged_row = dsl::tenants.find(read.id).filter(dsl::moves.eq(read.moves));
    let columns = (
        dsl::desired.eq(request.desired.as_str()),
        dsl::restarts_asked.eq(read.restarts_asked + i64::from(request.restart)),
        dsl::wakes_asked.eq(read.wakes_asked + i64::from(request.wake)),
        dsl::requested_at.eq(request.at),
        StatusColumns::from(status),
    );
    let recorded = diesel::update(unchanged_row).set(columns).returning(TenantRow::as_returning());
    Ok(recorded.get_result(conn).await.optional()?.map(Tenant::from))
}

/// Writes an in-place change; returns `None` when another writer changed the row first.
pub async fn change(
    conn: &mut Conn,
    read: &Tenant,
    next: &Changeable,
) -> QueryResult<Option<Tenant>> {
    let unchanged_row = dsl::tenants.find(read.id).filter(dsl::moves.eq(read.moves));
    let columns = (
        dsl::name.eq(&next.name),
        dsl::limits.eq(json(&next.limits)),
        dsl::policy.eq(json(&next.policy)),
        dsl::app.eq(json(&read.app.clone().map(|app| TenantApp { pinned: next.pinned, ..app }))),
        dsl::changes_asked.eq(dsl::changes_asked + 1),
    );
    let changed = diesel::update(unchanged_row).set(columns).returning(TenantRow::as_returning());
    Ok(changed.get_result(conn).await.optional()?.map(Tenant::from))
}

/// Writes the encrypted variables, which reach the orchestrator like an in-place change; returns `false` when another
/// writer changed the row first.
pub async fn set_sealed_env(
    conn: &mut Conn,
    read: &Tenant,
    sealed: Option<String>,
    now: Timestamp,
) -> QueryResult<bool> {
    let unchanged_row = dsl::tenants.find(read.id).filter(dsl::moves.eq(read.moves));
    let app = read.app.clone().map(|app| TenantApp {
        sealed_env: sealed,
        untried_since: Some(now),
        ..app
    });
    let columns = (
        dsl::app.eq(json(&app)),
        dsl::changes_asked.eq(dsl::changes_asked + 1),
        StatusColumns::from(&read.status_with_other_variables(now)),
    );
    Ok(diesel::update(unchanged_row).set(columns).execute(conn).await? == 1)
}

/// Writes the encrypted variables of an app into the rows of its tenants, and returns their ids. They reach the
/// orchestrator like an in-place change. The caller holds the row of the app, so that no tenant begins to follow it.
pub async fn set_app_env(
    conn: &mut Conn,
    app: Uuid,
    env: Option<&SealedAppEnv>,
) -> QueryResult<Vec<Uuid>> {
    let of_app = releases::table.filter(releases::app_id.eq(app)).select(releases::id.nullable());
    let kept = dsl::desired.ne(Desired::Deleted.as_str());
    let followers = dsl::tenants.filter(dsl::release_id.eq_any(of_app)).filter(kept);
    let with_env =
        sql::<Jsonb>("jsonb_set(app, '{app_env}', ").bind::<Jsonb, _>(json(&env)).sql(")");
    diesel::update(followers)
        .set((dsl::app.eq(with_env), dsl::changes_asked.eq(dsl::changes_asked + 1)))
        .returning(dsl::id)
        .get_results(conn)
        .await
}

/// Marks the requests that `read` shows as done, as far as `fulfilled` lists them.
pub async fn mark_fulfilled(
    conn: &mut Conn,
    read: &Tenant,
    fulfilled: Fulfilled,
) -> QueryResult<usize> {
    let upto = |is_fulfilled, asked, done| if is_fulfilled { asked } else { done };
    let restarts = upto(fulfilled.restart, read.restarts_asked, read.restarts_done);
    let changes = upto(fulfilled.change, read.changes_asked, read.changes_done);
    let wakes = upto(fulfilled.wake, read.wakes_asked, read.wakes_done);
    let behind = dsl::restarts_done
        .lt(restarts)
        .or(dsl::changes_done.lt(changes))
        .or(dsl::wakes_done.lt(wakes));
    diesel::update(dsl::tenants.find(read.id).filter(behind))
        .set((
            dsl::restarts_done.eq(restarts),
            dsl::changes_done.eq(changes),
            dsl::wakes_done.eq(wakes),
        ))
        .execute(conn)
        .await
}

/// Deletes the row of a tenant whose container, volumes and database are gone. Its slug is free again.
pub async fn delete(conn: &mut Conn, id: TenantId) -> QueryResult<usize> {
    let is_gone =
        dsl::desired.eq(Desired::Deleted.as_str()).and(dsl::database.eq(serde_json::Value::Null));
    diesel::delete(dsl::tenants.find(id.uuid()).filter(is_gone)).execute(conn).await
}
