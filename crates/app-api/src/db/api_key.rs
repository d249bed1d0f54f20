//! `api_keys`: the hash of each key; the key itself is shown once, when it is created. Rows are revoked, not deleted.

use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use protocol::api_keys::Role;
use protocol::spec::Desired;
use protocol::{Slug, TenantId, Timestamp};
use uuid::Uuid;

use super::columns::TextColumn;
use super::schema::api_keys::{self, dsl};
use super::schema::{memberships, tenants, users};
use super::user::User;
use super::{Conn, audit_log};
use crate::audit::Entry;
use crate::http::paging::Window;

/// The only tenant of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTenant {
    pub id: TenantId,
    pub slug: Slug,
}

#[derive(Clone, Debug)]
pub struct ApiKey {
    pub id: Uuid,
    pub name: String,
    pub role: Role,
    pub is_admin: bool,
    /// `None`: a key of all tenants.
    pub tenant: Option<KeyTenant>,
    /// The person to whom the key belongs: the key has at most the person's rights. `None`: a key of a program.
    pub person: Option<User>,
    /// The key that created this one.
    pub created_by_key: Option<Uuid>,
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
    person_id: Option<Uuid>,
    created_by_key: Option<Uuid>,
}

impl ApiKey {
    /// Whether a person got the key by `cial login`.
    pub fn is_of_login(&self) -> bool {
        self.person.is_some() && self.created_by_key.is_none()
    }
}

/// A key with the slug of its tenant and with its person.
type JoinedRow = (KeyRow, Option<TextColumn<Slug>>, Option<User>);

impl KeyRow {
    /// `None` for a key whose tenant is gone.
    fn with_tenant(self, slug: Option<TextColumn<Slug>>, person: Option<User>) -> Option<ApiKey> {
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
            person,
            created_by_key: self.created_by_key,
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
    /// See [`ApiKey::person`].
    pub person_id: Option<Uuid>,
    pub created_by_user: Option<Uuid>,
    pub created_by_key: Option<Uuid>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// Returns `false` and inserts nothing when the tenant of the key is gone or being deleted.
pub async fn insert(conn: &mut Conn, key: &NewApiKey<'_>) -> QueryResult<bool> {
    conn.transaction(async |conn| {
        // Before the tenant, in the order of the deletion of a person.
        if let Some(person) = key.created_by_user {
            let locked = users::table.find(person).select(users::id).for_key_share();
            locked.first::<Uuid>(conn).await.optional()?;
        }
        if let Some(tenant) = key.tenant_id {
            // The lock makes a concurrent deletion of the tenant wait and then revoke this key, too.
            let kept =
                tenants::table.find(tenant).filter(tenants::desired.ne(Desired::Deleted.as_str()));
            let locked = kept.select(tenants::id).for_share();
            if locked.first::<Uuid>(conn).await.optional()?.is_none() {
                return Ok(false);
            }
        }
        diesel::insert_into(dsl::api_keys).values(key).execute(conn).await?;
        Ok(true)
    })
    .await
}

/// Keeps a person's account, and their membership of `tenant`, as they are until the transaction ends. A change that ends
/// the person's keys waits, and then ends a key that was made meanwhile, too: the caller reads the rights after this call.
pub async fn lock_person(
    conn: &mut Conn,
    person: Uuid,
    tenant: Option<TenantId>,
) -> QueryResult<()> {
    let account = users::table.find(person).select(users::id).for_share();
    account.first::<Uuid>(conn).await.optional()?;
    if let Some(tenant) = tenant {
        let row = tenants::table.find(tenant.uuid()).select(tenants::id).for_share();
        row.first::<Uuid>(conn).await.optional()?;
        let membership = memberships::table.find((tenant.uuid(), person));
        let membership = membership.select(memberships::user_id).for_share();
        membership.first::<Uuid>(conn).await.optional()?;
    }
    Ok(())
}

/// How a key is looked up.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'a> {
    Hash(&'a [u8]),
    Id(Uuid),
}

/// The key that is neither revoked nor expired at `now`, and whose tenant and person exist.
pub async fn find_live(
    conn: &mut Conn,
    lookup: Lookup<'_>,
    now: Timestamp,
) -> QueryResult<Option<ApiKey>> {
    let mut query = dsl::api_keys
        .left_join(tenants::table.on(dsl::tenant_id.eq(tenants::id.nullable())))
        .left_join(users::table.on(dsl::person_id.eq(users::id.nullable())))
        .filter(dsl::revoked.eq(false))
        .into_boxed();
    query = match lookup {
        Lookup::Hash(hash) => query.filter(dsl::key_hash.eq(hash)),
        Lookup::Id(id) => query.filter(dsl::id.eq(id)),
    };
    let found = query
        .select((KeyRow::as_select(), tenants::slug.nullable(), Option::<User>::as_select()))
        .first::<JoinedRow>(conn)
        .await
        .optional()?;
    let found = found.filter(|(row, _, person)| row.person_id.is_some() == person.is_some());
    let key = found.and_then(|(row, slug, person)| row.with_tenant(slug, person));
    Ok(key.filter(|key| key.expires_at.is_none_or(|at| now < at)))
}

/// Returns a live key, and keeps others from revoking it until the transaction ends.
pub async fn lock_live(conn: &mut Conn, id: Uuid, now: Timestamp) -> QueryResult<Option<ApiKey>> {
    let locked = dsl::api_keys.find(id).select(dsl::id).for_share();
    locked.first::<Uuid>(conn).await.optional()?;
    find_live(conn, Lookup::Id(id), now).await
}

/// The keys that a list shows, and among which a key is revoked.
#[derive(Clone, Copy, Debug)]
pub enum KeySet {
    /// The keys of all tenants.
    AllTenants,
    /// The keys of one tenant.
    Tenant(TenantId),
    /// The keys that belong to a person: all, or those of one tenant.
    Person { id: Uuid, tenant: Option<TenantId> },
}

/// The keys of a set; the newest first.
pub async fn list(conn: &mut Conn, set: KeySet, window: Window) -> QueryResult<Vec<ApiKey>> {
    let mut query = dsl::api_keys
        .left_join(tenants::table.on(dsl::tenant_id.eq(tenants::id.nullable())))
        .left_join(users::table.on(dsl::person_id.eq(users::id.nullable())))
        .order(dsl::id.desc())
        .limit(window.rows())
        .select((KeyRow::as_select(), tenants::slug.nullable(), Option::<User>::as_select()))
        .into_boxed();
    query = match set {
        KeySet::AllTenants => query.filter(dsl::tenant_id.is_null()),
        KeySet::Tenant(id) => query.filter(dsl::tenant_id.eq(id.uuid())),
        // A key of a tenant that is gone has no name any more.
        KeySet::Person { id, tenant: None } => query
            .filter(dsl::person_id.eq(id))
            .filter(dsl::tenant_id.is_null().or(tenants::id.is_not_null())),
        KeySet::Person { id, tenant: Some(tenant) } => {
            query.filter(dsl::person_id.eq(id).and(dsl::tenant_id.eq(tenant.uuid())))
        }
    };
    if let Some(before) = window.before {
        query = query.filter(dsl::id.lt(before));
    }
    let rows: Vec<JoinedRow> = query.load(conn).await?;
    Ok(rows.into_iter().filter_map(|(row, slug, person)| row.with_tenant(slug, person)).collect())
}

/// Revokes a key of a set, and the keys of the same person that it created. Returns whether it is an `is_admin` key; `None`
/// when there is no such key. Call within a transaction.
pub async fn revoke(conn: &mut Conn, id: Uuid, set: KeySet) -> QueryResult<Option<bool>> {
    let key = diesel::update(dsl::api_keys.find(id)).set(dsl::revoked.eq(true)).into_boxed();
    let key = match set {
        KeySet::AllTenants => key.filter(dsl::tenant_id.is_null()),
        KeySet::Tenant(tenant) => key.filter(dsl::tenant_id.eq(tenant.uuid())),
        KeySet::Person { id, tenant: None } => key.filter(dsl::person_id.eq(id)),
        KeySet::Person { id, tenant: Some(tenant) } => {
            key.filter(dsl::person_id.eq(id).and(dsl::tenant_id.eq(tenant.uuid())))
        }
    };
    let is_admin: Option<bool> = key.returning(dsl::is_admin).get_result(conn).await.optional()?;
    if is_admin.is_some() {
        revoke_created(conn, id).await?;
    }
    Ok(is_admin)
}

/// Revokes the keys of a person that a key created, and the keys that those created. Keys of programs stay: they replace
/// each other.
async fn revoke_created(conn: &mut Conn, id: Uuid) -> QueryResult<usize> {
    diesel::sql_query(
        "WITH RECURSIVE created AS ( \
             SELECT id FROM api_keys WHERE created_by_key = $1 AND person_id IS NOT NULL \
             UNION \
             SELECT api_keys.id FROM api_keys JOIN created ON created_by_key = created.id \
             WHERE person_id IS NOT NULL) \
         UPDATE api_keys SET revoked = true \
         WHERE NOT revoked AND id IN (SELECT id FROM created)",
    )
    .bind::<diesel::sql_types::Uuid, _>(id)
    .execute(conn)
    .await
}

/// Revokes every key of a tenant.
pub async fn revoke_all(conn: &mut Conn, tenant: TenantId) -> QueryResult<usize> {
    let live = dsl::api_keys.filter(dsl::tenant_id.eq(tenant.uuid()).and(dsl::revoked.eq(false)));
    diesel::update(live).set(dsl::revoked.eq(true)).execute(conn).await
}

/// Records a use, and the expiry that the key has from now on.
pub async fn touch(
    conn: &mut Conn,
    id: Uuid,
    now: Timestamp,
    expires_at: Option<Timestamp>,
) -> QueryResult<usize> {
    let key = diesel::update(dsl::api_keys.find(id));
    key.set((dsl::last_used_at.eq(now), dsl::expires_at.eq(expires_at))).execute(conn).await
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
    KeyIsNotLive,
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
            return Ok(Bootstrap::KeyIsNotLive);
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
