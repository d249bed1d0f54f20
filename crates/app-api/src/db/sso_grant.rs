//! `sso_grants`: the tenants that each admin session opened, and whether the session has ended since.

use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use protocol::{TenantId, Timestamp};
use uuid::Uuid;

use super::Conn;
use super::schema::sessions;
use super::schema::sso_grants::dsl;
use super::session::{self, Session};

/// Records that `session` opened `tenant`; returns `false` when the session has ended or the person's
/// rights have changed. Must be written before the
/// token leaves: the lock on the session makes a concurrent end wait and then revoke this grant, too.
pub async fn insert(
    conn: &mut Conn,
    session: &Session,
    tenant: TenantId,
    expires_at: Timestamp,
) -> QueryResult<bool> {
    conn.transaction(async |conn| {
        // A change of rights that the lock waited for has marked the session: the caller's rights are to be read again.
        let unchanged = sessions::table.find(session.id).filter(sessions::must_rotate.eq(false));
        let locked = unchanged.select(sessions::id).for_share();
        if locked.first::<Uuid>(conn).await.optional()?.is_none() {
            return Ok(false);
        }
        let row = (
            dsl::session_id.eq(session.id),
            dsl::tenant_id.eq(tenant.uuid()),
            dsl::user_id.eq(session.user_id),
            dsl::expires_at.eq(expires_at),
        );
        diesel::insert_into(dsl::sso_grants)
            .values(row)
            .on_conflict((dsl::session_id, dsl::tenant_id))
            .do_update()
            .set(dsl::expires_at.eq(expires_at))
            .execute(conn)
            .await?;
        Ok(true)
    })
    .await
}

pub async fn delete_expired(conn: &mut Conn, now: Timestamp) -> QueryResult<usize> {
    diesel::delete(dsl::sso_grants.filter(dsl::expires_at.lt(now))).execute(conn).await
}

/// Revokes the grants of a session; returns its tenants.
pub async fn revoke_session(conn: &mut Conn, session: Uuid) -> QueryResult<Vec<TenantId>> {
    revoke_sessions(conn, &[session]).await
}

/// Revokes the grants of these sessions; returns their tenants.
pub async fn revoke_sessions(conn: &mut Conn, sessions: &[Uuid]) -> QueryResult<Vec<TenantId>> {
    let live = dsl::sso_grants.filter(dsl::session_id.eq_any(sessions).and(dsl::revoked.eq(false)));
    let revoked = diesel::update(live).set(dsl::revoked.eq(true)).returning(dsl::tenant_id);
    Ok(revoked.get_results(conn).await?.into_iter().map(TenantId::new).collect())
}

/// Revokes all grants of a user; returns the tenants. Locks the sessions first: every other path locks a session before
/// its grants.
pub async fn revoke_user(conn: &mut Conn, user: Uuid) -> QueryResult<Vec<TenantId>> {
    session::lock_of_user(conn, user).await?;
    let live = dsl::sso_grants.filter(dsl::user_id.eq(user).and(dsl::revoked.eq(false)));
    let revoked = diesel::update(live).set(dsl::revoked.eq(true)).returning(dsl::tenant_id);
    Ok(revoked.get_results(conn).await?.into_iter().map(TenantId::new).collect())
}

/// The ended admin sessions whose tenant sessions could still be alive.
pub async fn revoked_sessions(
    conn: &mut Conn,
    tenant: TenantId,
    now: Timestamp,
) -> QueryResult<Vec<Uuid>> {
    let of_tenant = dsl::tenant_id.eq(tenant.uuid()).and(dsl::revoked.eq(true));
    let alive = dsl::sso_grants.filter(of_tenant.and(dsl::expires_at.gt(now)));
    alive.order(dsl::session_id).select(dsl::session_id).load(conn).await
}
