//! `sessions`: the hash of each session token; the token itself is only in the cookie. Deleting a row ends the session.

use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use protocol::{TenantId, Timestamp};
use uuid::Uuid;

use super::schema::sessions::{self, dsl};
use super::schema::users;
use super::user::User;
use super::{Conn, sso_grant};
use crate::sessions::lifetime::Lifetime;

#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = sessions, check_for_backend(diesel::pg::Pg))]
pub struct Session {
    pub id: Uuid,
    pub token_hash: Vec<u8>,
    pub user_id: Uuid,
    pub created_at: Timestamp,
    pub last_seen_at: Timestamp,
    pub expires_at: Timestamp,
    /// The address from which the session began.
    pub address: String,
    pub user_agent: String,
    pub must_rotate: bool,
    pub previous_token_hash: Option<Vec<u8>>,
    pub rotated_at: Option<Timestamp>,
}

impl Session {
    /// The data that decides whether a request with this token is accepted.
    pub fn lifetime(&self, token_hash: &[u8]) -> Lifetime {
        Lifetime {
            created_at: self.created_at,
            expires_at: self.expires_at,
            last_seen_at: self.last_seen_at,
            must_rotate: self.must_rotate,
            replaced_at: self.rotated_at.filter(|_| self.token_hash != token_hash),
        }
    }
}

pub async fn insert(conn: &mut Conn, session: &Session) -> QueryResult<usize> {
    diesel::insert_into(dsl::sessions).values(session).execute(conn).await
}

/// Finds a session by its current or by its previous token.
pub async fn by_token_hash(conn: &mut Conn, hash: &[u8]) -> QueryResult<Option<(Session, User)>> {
    dsl::sessions
        .inner_join(users::table)
        .filter(dsl::token_hash.eq(hash).or(dsl::previous_token_hash.eq(hash)))
        .select((Session::as_select(), User::as_select()))
        .first(conn)
        .await
        .optional()
}

/// The most sessions that a list shows.
const MAX_LISTED: i64 = 200;

/// The sessions of a user that are live at `now`, the latest first.
pub async fn of_user(conn: &mut Conn, user: Uuid, now: Timestamp) -> QueryResult<Vec<Session>> {
    let live = dsl::sessions.filter(dsl::user_id.eq(user).and(dsl::expires_at.gt(now)));
    let latest = live.order(dsl::last_seen_at.desc()).limit(MAX_LISTED);
    latest.select(Session::as_select()).load(conn).await
}

/// The session of this id with its user, if it is live at `now`.
pub async fn by_id(
    conn: &mut Conn,
    id: Uuid,
    now: Timestamp,
) -> QueryResult<Option<(Session, User)>> {
    dsl::sessions
        .inner_join(users::table)
        .filter(dsl::id.eq(id).and(dsl::expires_at.gt(now)))
        .select((Session::as_select(), User::as_select()))
        .first(conn)
        .await
        .optional()
}

pub async fn touch(conn: &mut Conn, id: Uuid, now: Timestamp) -> QueryResult<usize> {
    let session = diesel::update(dsl::sessions.find(id));
    session.set(dsl::last_seen_at.eq(now)).execute(conn).await
}

pub async fn renew(
    conn: &mut Conn,
    id: Uuid,
    now: Timestamp,
    expires_at: Timestamp,
) -> QueryResult<usize> {
    let session = diesel::update(dsl::sessions.find(id));
    session.set((dsl::last_seen_at.eq(now), dsl::expires_at.eq(expires_at))).execute(conn).await
}

/// The new identity of a session.
pub struct Rotation {
    pub id: Uuid,
    pub token_hash: Vec<u8>,
    pub expires_at: Timestamp,
    pub now: Timestamp,
}

/// Replaces the id and the token of a session; `None` when another request did so first. The tenant sessions under the
/// old id end: the result lists the tenants concerned.
pub async fn rotate(
    conn: &mut Conn,
    session: &Session,
    to: &Rotation,
) -> QueryResult<Option<(Session, Vec<TenantId>)>> {
    conn.transaction(async |conn| {
        let unrotated =
            dsl::sessions.find(session.id).filter(dsl::token_hash.eq(&session.token_hash));
        let columns = (
            dsl::id.eq(to.id),
            dsl::token_hash.eq(&to.token_hash),
            dsl::previous_token_hash.eq(&session.token_hash),
            dsl::rotated_at.eq(to.now),
            dsl::last_seen_at.eq(to.now),
            dsl::expires_at.eq(to.expires_at),
            dsl::must_rotate.eq(false),
        );
        let rotated = diesel::update(unrotated).set(columns).returning(Session::as_returning());
        let Some(rotated) = rotated.get_result(conn).await.optional()? else { return Ok(None) };
        Ok(Some((rotated, sso_grant::revoke_session(conn, session.id).await?)))
    })
    .await
}

/// A session that a call ended, and the tenants whose sessions end with it.
pub struct Ended {
    pub session: Session,
    pub user: User,
    pub tenants: Vec<TenantId>,
}

/// Ends a session and the tenant sessions that it opened; `None` when the token names no session.
pub async fn end(conn: &mut Conn, token_hash: &[u8]) -> QueryResult<Option<Ended>> {
    conn.transaction(async |conn| {
        let Some((session, user)) = by_token_hash(conn, token_hash).await? else { return Ok(None) };
        let tenants = end_by_id(conn, user.id, session.id).await?;
        Ok(tenants.map(|tenants| Ended { session, user, tenants }))
    })
    .await
}

/// Ends one session of `user` like [`end`]; `None` when the user has no such session.
pub async fn end_by_id(
    conn: &mut Conn,
    user: Uuid,
    id: Uuid,
) -> QueryResult<Option<Vec<TenantId>>> {
    conn.transaction(async |conn| {
        let session = dsl::sessions.find(id).filter(dsl::user_id.eq(user));
        match diesel::delete(session).execute(conn).await? {
            0 => Ok(None),
            _ => Ok(Some(sso_grant::revoke_session(conn, id).await?)),
        }
    })
    .await
}

/// Ends the sessions of `user` except `kept`, like [`end`]; returns how many, and the tenants.
pub async fn end_others(
    conn: &mut Conn,
    user: Uuid,
    kept: Uuid,
) -> QueryResult<(usize, Vec<TenantId>)> {
    conn.transaction(async |conn| {
        lock_of_user(conn, user).await?;
        let others = dsl::sessions.filter(dsl::user_id.eq(user).and(dsl::id.ne(kept)));
        let ended: Vec<Uuid> = diesel::delete(others).returning(dsl::id).get_results(conn).await?;
        Ok((ended.len(), sso_grant::revoke_sessions(conn, &ended).await?))
    })
    .await
}

/// Locks the sessions of `user` in the one order in which all changes lock them, by id: two orders could wait for each
/// other.
pub async fn lock_of_user(conn: &mut Conn, user: Uuid) -> QueryResult<()> {
    let own = dsl::sessions.filter(dsl::user_id.eq(user)).order(dsl::id);
    let _: Vec<Uuid> = own.select(dsl::id).for_update().load(conn).await?;
    Ok(())
}

/// Deletes an expired session. The tenant sessions that it opened live on: they expire by themselves.
pub async fn delete_expired(conn: &mut Conn, id: Uuid) -> QueryResult<usize> {
    diesel::delete(dsl::sessions.find(id)).execute(conn).await
}

pub async fn delete_of_user(conn: &mut Conn, user: Uuid) -> QueryResult<usize> {
    lock_of_user(conn, user).await?;
    diesel::delete(dsl::sessions.filter(dsl::user_id.eq(user))).execute(conn).await
}

/// Deletes the sessions that expired before `now`, except those that another transaction holds: waiting for them
/// could deadlock.
pub async fn delete_all_expired(conn: &mut Conn, now: Timestamp) -> QueryResult<usize> {
    let expired = dsl::sessions.filter(dsl::expires_at.le(now)).select(dsl::id);
    let free: Vec<Uuid> = expired.for_update().skip_locked().load(conn).await?;
    diesel::delete(dsl::sessions.filter(dsl::id.eq_any(free))).execute(conn).await
}
