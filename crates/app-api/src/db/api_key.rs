//! `api_keys`: the hash of each key; the key itself is shown once, when it is created. Rows are revoked, not deleted.

use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use protocol::api_keys::Role;
use protocol::{Slug, TenantId, Timestamp};
use uuid::Uuid;

use super::columns::TextColumn;
use super::schema::api_keys::{self, dsl};
use super::schema::tenants;
use super::{Conn, audit_log};
use crate::audit::Entry;
use crate::http::paging::Window;

/// The only tenant of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTenant {
    pub id: TenantId,
    pub slug: Slug,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    pub id: Uuid,
    pub name: String,
    pub role: Role,
    pub is_admin: bool,
    /// `None`: a key of all tenants.
    pub tenant: Option<KeyTenant>,
    pub created_at: Timestamp,
    /// `None`: never.
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub revoked: bool,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = api_keys)]
struct KeyRow {
    id: Uuid,
    name: String,
    #[diesel(deserialize_as = TextColumn<Role>)]
    role: Role,
    is_admin: bool,
    tenant_id: Option<Uuid>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    revoked: bool,
}

impl KeyRow {
    /// `None` for a key whose tenant is gone.
    fn with_tenant(self, slug: Option<TextColumn<Slug>>) -> Option<ApiKey> {
        let tenant = match self.tenant_id {
            Some(id) => Some(KeyTenant { id: TenantId::new(id), slug: slug?.into() }),
            None => None,
        };
        Some(ApiKey {
            id: self.id,
            name: self.name,
            role: self.role,
            is_admin: self.is_admin,
            tenant,
            created_at: self.created_at,
            expires_at: self.expires_at,
            last_used_at: self.last_used_at,
            revoked: self.revoked,
        })
    }
}

#[derive(Insertable)]
#[diesel(table_name = api_keys)]
pub struct NewApiKey<'a> {
    pub id: Uuid,
    pub key_hash: &'a [u8],
    pub name: &'a str,
    pub role: &'static str,
    pub is_admin: bool,
    pub tenant_id: Option<Uuid>,
    pub created_by_user: Option<Uuid>,
    pub created_by_key: Option<Uuid>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// Returns `false` and inserts nothing when the tenant of the key is gone.
pub async fn insert(conn: &mut Conn, key: &NewApiKey<'_>) -> QueryResult<bool> {
    conn.transaction(async |conn| {
        if let Some(tenant) = key.tenant_id {
            // The lock makes a concurrent end of the tenant wait and then revoke this key, too.
            let locked = tenants::table.find(tenant).select(tenants::id).for_share();
            if locked.first::<Uuid>(conn).await.optional()?.is_none() {
                return Ok(false);
            }
        }
        diesel::insert_into(dsl::api_keys).values(key).execute(conn).await?;
        Ok(true)
    })
    .await
}

/// How a key is looked up.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'a> {
    Hash(&'a [u8]),
    Id(Uuid),
}

/// The key that is neither revoked nor expired at `now`, and whose tenant exists.
pub async fn find_live(
    conn: &mut Conn,
    lookup: Lookup<'_>,
    now: Timestamp,
) -> QueryResult<Option<ApiKey>> {
    let mut query = dsl::api_keys
        .left_join(tenants::table.on(dsl::tenant_id.eq(tenants::id.nullable())))
        .filter(dsl::revoked.eq(false))
        .into_boxed();
    query = match lookup {
        Lookup::Hash(hash) => query.filter(dsl::key_hash.eq(hash)),
        Lookup::Id(id) => query.filter(dsl::id.eq(id)),
    };
    let found = query
        .select((KeyRow::as_select(), tenants::slug.nullable()))
        .first::<(KeyRow, Option<TextColumn<Slug>>)>(conn)
        .await
        .optional()?;
    let key = found.and_then(|(row, slug)| row.with_tenant(slug));
    Ok(key.filter(|key| key.expires_at.is_none_or(|at| now < at)))
}

/// Returns a live key, and keeps others from revoking it until the transaction ends.
pub async fn lock_live(conn: &mut Conn, id: Uuid, now: Timestamp) -> QueryResult<Option<ApiKey>> {
    let locked = dsl::api_keys.find(id).select(dsl::id).for_share();
    locked.first::<Uuid>(conn).await.optional()?;
    find_live(conn, Lookup::Id(id), now).await
}

/// The keys of `tenant`, or those of all tenants for `None`; the newest first.
pub async fn list(
    conn: &mut Conn,
    tenant: Option<TenantId>,
    window: Window,
) -> QueryResult<Vec<ApiKey>> {
    let mut query = dsl::api_keys
        .left_join(tenants::table.on(dsl::tenant_id.eq(tenants::id.nullable())))
        .filter(dsl::tenant_id.is_not_distinct_from(tenant.map(TenantId::uuid)))
        .order(dsl::id.desc())
        .limit(window.rows())
        .select((KeyRow::as_select(), tenants::slug.nullable()))
        .into_boxed();
    if let Some(before) = window.before {
        query = query.filter(dsl::id.lt(before));
    }
    let rows: Vec<(KeyRow, Option<TextColumn<Slug>>)> = query.load(conn).await?;
    Ok(rows.into_iter().filter_map(|(row, slug)| row.with_tenant(slug)).collect())
}

/// Revokes a key of `tenant`, or one of all tenants for `None`. Returns whether it is an
/// `is_admin` key; `None` when there is no such key.
pub async fn revoke(
    conn: &mut Conn,
    id: Uuid,
    tenant: Option<TenantId>,
) -> QueryResult<Option<bool>> {
    let of_tenant = dsl::tenant_id.is_not_distinct_from(tenant.map(TenantId::uuid));
    let key = diesel::update(dsl::api_keys.find(id).filter(of_tenant));
    key.set(dsl::revoked.eq(true)).returning(dsl::is_admin).get_result(conn).await.optional()
}

/// Notes a use.
pub async fn touch(conn: &mut Conn, id: Uuid, now: Timestamp) -> QueryResult<usize> {
    let key = diesel::update(dsl::api_keys.find(id));
    key.set(dsl::last_used_at.eq(now)).execute(conn).await
}

/// Key of the advisory lock under which the first `is_admin` key is made; no other use of this database may take it.
const BOOTSTRAP_LOCK: i64 = 0x6369_616e;

/// The outcome of [`insert_bootstrap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// There is a live `is_admin` key: nothing was done.
    AdminKeyExists,
    Created,
    /// The table holds this key, revoked or expired: nothing was done.
    KeyIsDead,
}

/// Inserts `key` and its entry in the audit log if there is no live `is_admin` key, and calls `publish` before the commit. Of any number of
/// concurrent calls one inserts.
pub async fn insert_bootstrap(
    conn: &mut Conn,
    key: &NewApiKey<'_>,
    entry: &Entry,
    now: Timestamp,
    publish: impl FnOnce() -> anyhow::Result<()> + Send,
) -> anyhow::Result<Bootstrap> {
    conn.transaction(async |conn| {
        diesel::sql_query("SELECT pg_advisory_xact_lock($1)")
            .bind::<diesel::sql_types::BigInt, _>(BOOTSTRAP_LOCK)
            .execute(conn)
            .await?;
        if live_admin_exists(conn, now).await? {
            return Ok(Bootstrap::AdminKeyExists);
        }
        let insert = diesel::insert_into(dsl::api_keys).values(key);
        if insert.on_conflict(dsl::key_hash).do_nothing().execute(conn).await? == 0 {
            return Ok(Bootstrap::KeyIsDead);
        }
        audit_log::append(conn, entry, now).await?;
        publish()?;
        Ok(Bootstrap::Created)
    })
    .await
}

/// Whether an `is_admin` key is neither revoked nor expired.
pub async fn live_admin_exists(conn: &mut Conn, now: Timestamp) -> QueryResult<bool> {
    let live = dsl::api_keys.filter(dsl::is_admin.eq(true).and(dsl::revoked.eq(false)));
    let live = live.filter(dsl::expires_at.is_null().or(dsl::expires_at.gt(now)));
    diesel::select(diesel::dsl::exists(live)).get_result(conn).await
}
