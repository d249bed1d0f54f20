//! `reset_links`: one-time password reset links, by the hash of their token.

use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use protocol::{TenantId, Timestamp};
use uuid::Uuid;

use super::Conn;
use super::schema::reset_links::dsl;
use super::user::User;
use super::{session, sso_grant, user};

/// Inserts a link and deletes the earlier links of the user.
pub async fn replace(
    conn: &mut Conn,
    user: Uuid,
    token_hash: &[u8],
    expires_at: Timestamp,
) -> QueryResult<usize> {
    diesel::delete(dsl::reset_links.filter(dsl::user_id.eq(user))).execute(conn).await?;
    let link =
        (dsl::token_hash.eq(token_hash), dsl::user_id.eq(user), dsl::expires_at.eq(expires_at));
    diesel::insert_into(dsl::reset_links).values(link).execute(conn).await
}

pub async fn is_live(conn: &mut Conn, token_hash: &[u8], now: Timestamp) -> QueryResult<bool> {
    let live = dsl::reset_links.find(token_hash).filter(dsl::expires_at.gt(now));
    diesel::select(diesel::dsl::exists(live)).get_result(conn).await
}

/// Consumes a link: sets the password, ends every session and the tenant sessions that they opened. Returns the user
/// and the tenants; `None` when the link is not live. Of two concurrent calls, one succeeds.
pub async fn consume(
    conn: &mut Conn,
    token_hash: &[u8],
    now: Timestamp,
    password_hash: &str,
) -> QueryResult<Option<(User, Vec<TenantId>)>> {
    conn.transaction(async |conn| {
        let Some(user) = take(conn, token_hash, now).await? else { return Ok(None) };
        // Before the sessions, like in every change of an account.
        user::lock(conn, user).await?;
        session::delete_of_user(conn, user).await?;
        let tenants = sso_grant::revoke_user(conn, user).await?;
        let user = user::set_password(conn, user, password_hash).await?;
        Ok(Some((user, tenants)))
    })
    .await
}

async fn take(conn: &mut Conn, token_hash: &[u8], now: Timestamp) -> QueryResult<Option<Uuid>> {
    let live = dsl::reset_links.filter(dsl::token_hash.eq(token_hash).and(dsl::expires_at.gt(now)));
    diesel::delete(live).returning(dsl::user_id).get_result(conn).await.optional()
}
