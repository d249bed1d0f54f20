//! `users`: the accounts of people, with their platform role.

use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use protocol::people::PlatformRole;
use uuid::Uuid;

use super::Conn;
use super::schema::users::{self, dsl};
use crate::http::paging::Window;

#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = users, check_for_backend(diesel::pg::Pg))]
pub struct User {
    pub id: Uuid,
    pub email: String,
    pub name: String,
    pub role: String,
    pub password_hash: String,
}

pub async fn owner_exists(conn: &mut Conn) -> QueryResult<bool> {
    diesel::select(diesel::dsl::exists(dsl::users.filter(dsl::role.eq("owner"))))
        .get_result(conn)
        .await
}

/// Key of the advisory lock under which the first owner is made; no other use of this database may take it.
const FIRST_OWNER_LOCK: i64 = 0x6369_616d;

/// Returns `false` when there is an owner already, or an account with this address. Of any number of concurrent calls
/// one succeeds.
pub async fn insert_first_owner(conn: &mut Conn, user: &User) -> QueryResult<bool> {
    conn.transaction(async |conn| {
        diesel::sql_query("SELECT pg_advisory_xact_lock($1)")
            .bind::<diesel::sql_types::BigInt, _>(FIRST_OWNER_LOCK)
            .execute(conn)
            .await?;
        Ok(!owner_exists(conn).await? && insert(conn, user).await?)
    })
    .await
}

/// Returns `false` when the address is taken.
pub async fn insert(conn: &mut Conn, user: &User) -> QueryResult<bool> {
    // The creator of an account with a role confirms the account's address.
    let row = (user, dsl::vouched_role.eq(&user.role));
    let insert = diesel::insert_into(dsl::users).values(row).on_conflict(dsl::email).do_nothing();
    Ok(insert.execute(conn).await? == 1)
}

pub async fn by_email(conn: &mut Conn, email: &str) -> QueryResult<Option<User>> {
    let query = dsl::users.filter(dsl::email.eq(email)).select(User::as_select());
    query.first(conn).await.optional()
}

pub async fn set_password(conn: &mut Conn, id: Uuid, hash: &str) -> QueryResult<User> {
    let user = diesel::update(dsl::users.find(id)).set(dsl::password_hash.eq(hash));
    user.returning(User::as_returning()).get_result(conn).await
}

/// The accounts, the newest first.
pub async fn list(conn: &mut Conn, window: Window) -> QueryResult<Vec<User>> {
    let mut page = dsl::users.order(dsl::id.desc()).limit(window.rows()).into_boxed();
    if let Some(before) = window.before {
        page = page.filter(dsl::id.lt(before));
    }
    page.select(User::as_select()).load(conn).await
}

pub async fn by_id(conn: &mut Conn, id: Uuid) -> QueryResult<Option<User>> {
    dsl::users.find(id).select(User::as_select()).first(conn).await.optional()
}

/// Returns an account, and keeps others from changing it until the transaction ends.
pub async fn lock(conn: &mut Conn, id: Uuid) -> QueryResult<Option<User>> {
    let user = dsl::users.find(id).select(User::as_select()).for_no_key_update();
    user.first(conn).await.optional()
}

/// Whether the account still has the password that it had when `read` was read. Keeps others from changing it until the
/// transaction ends.
pub async fn is_unchanged(conn: &mut Conn, read: &User) -> QueryResult<bool> {
    let hash = dsl::users.find(read.id).select(dsl::password_hash).for_share();
    let hash: Option<String> = hash.first(conn).await.optional()?;
    Ok(hash.is_some_and(|hash| hash == read.password_hash))
}

/// Returns the owners, and keeps others from becoming or ceasing to be one until the transaction ends: of two owners
/// who remove each other at once, one stays.
pub async fn lock_owners(conn: &mut Conn) -> QueryResult<Vec<Uuid>> {
    let owners = dsl::users.filter(dsl::role.eq("owner")).order(dsl::id).select(dsl::id);
    owners.for_no_key_update().load(conn).await
}

pub async fn set_role(conn: &mut Conn, id: Uuid, role: PlatformRole) -> QueryResult<User> {
    let user = diesel::update(dsl::users.find(id)).set(dsl::role.eq(role.as_str()));
    user.returning(User::as_returning()).get_result(conn).await
}

pub async fn set_name(conn: &mut Conn, id: Uuid, name: &str) -> QueryResult<User> {
    let user = diesel::update(dsl::users.find(id)).set(dsl::name.eq(name));
    user.returning(User::as_returning()).get_result(conn).await
}

/// The highest platform role that any sender of an accepted link to this person could grant: the column `vouched_role`. Such a
/// sender confirms that the address is the person's.
pub async fn confirmed_role(conn: &mut Conn, id: Uuid) -> QueryResult<PlatformRole> {
    let role: String = dsl::users.find(id).select(dsl::vouched_role).first(conn).await?;
    Ok(PlatformRole::from_stored(&role))
}

/// Records that somebody who can grant `role` confirms the person's address.
pub async fn confirm_address(conn: &mut Conn, id: Uuid, role: PlatformRole) -> QueryResult<usize> {
    if confirmed_role(conn, id).await? >= role {
        return Ok(0);
    }
    let user = diesel::update(dsl::users.find(id));
    user.set(dsl::vouched_role.eq(role.as_str())).execute(conn).await
}

/// Deletes an account with its sessions and memberships.
pub async fn delete(conn: &mut Conn, id: Uuid) -> QueryResult<usize> {
    diesel::delete(dsl::users.find(id)).execute(conn).await
}
