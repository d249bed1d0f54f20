//! `sessions`: the hash of each session token; the token itself is only in the cookie. Deleting a row ends the session.

use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use protocol::{TenantId, Timestamp};
use uuid::Uuid;

use super::schema::sessions::{self, dsl};
use super::schema::users;
use super::user::User;
use super::{Conn, sso_grant};

#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = sessions, check_for_backend(diesel::pg::Pg))]
pub struct Session {
    pub id: Uuid,
    pub token_hash: Vec<u8>,
    pub user_id: Uuid,
    pub created_at: Timestamp,
    pub last_seen_at: Timestamp,
}

pub async fn insert(conn: &mut Conn, session: &Session) -> QueryResult<usize> {
    diesel::insert_into(dsl::sessions).values(session).execute(conn).await
}

pub async fn by_token_hash(conn: &mut Conn, hash: &[u8]) -> QueryResult<Option<(Session, User)>> {
    dsl::sessions
        .inner_join(users::table)
        .filter(dsl::token_hash.eq(hash))
        .select((Session::as_select(), User::as_select()))
        .first(conn)
        .await
        .optional()
}

pub async fn touch(conn: &mut Conn, id: Uuid, now: Timestamp) -> QueryResult<usize> {
    let session = diesel::update(dsl::sessions.find(id));
    session.set(dsl::last_seen_at.eq(now)).execute(conn).await
}

/// Ends a session and the tenant sessions that it opened; returns their tenants.
pub async fn end(conn: &mut Conn, token_hash: &[u8]) -> QueryResult<Vec<TenantId>> {
    conn.transaction(async |conn| {
        let session = diesel::delete(dsl::sessions.filter(dsl::token_hash.eq(token_hash)));
        let ended: Option<Uuid> = session.returning(dsl::id).get_result(conn).await.optional()?;
        match ended {
            Some(id) => sso_grant::revoke_session(conn, id).await,
            None => Ok(Vec::new()),
        }
    })
    .await
}

/// Deletes an expired session. The tenant sessions that it opened live on: they expire by themselves.
pub async fn delete_expired(conn: &mut Conn, id: Uuid) -> QueryResult<usize> {
    diesel::delete(dsl::sessions.find(id)).execute(conn).await
}

pub async fn delete_of_user(conn: &mut Conn, user: Uuid) -> QueryResult<usize> {
    diesel::delete(dsl::sessions.filter(dsl::user_id.eq(user))).execute(conn).await
}

/// Deletes the sessions that are expired by either limit.
pub async fn delete_all_expired(
    conn: &mut Conn,
    last_seen_before: Timestamp,
    created_before: Timestamp,
) -> QueryResult<usize> {
    let ended = dsl::last_seen_at.lt(last_seen_before).or(dsl::created_at.lt(created_before));
    diesel::delete(dsl::sessions.filter(ended)).execute(conn).await
}
