//! `second_factors`: the sealed secret that a person's authenticator app shares with the server, with `recovery_codes`.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use protocol::Timestamp;
use uuid::Uuid;

use super::schema::{recovery_codes, second_factors};
use super::{Conn, user};

#[derive(Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = second_factors, check_for_backend(diesel::pg::Pg))]
pub struct SecondFactor {
    pub user_id: Uuid,
    pub sealed_secret: String,
    /// `None`: not in effect yet.
    pub confirmed_at: Option<Timestamp>,
    /// The latest time step whose code was accepted.
    pub last_step: i64,
    pub created_at: Timestamp,
}

pub async fn of_user(conn: &mut Conn, user: Uuid) -> QueryResult<Option<SecondFactor>> {
    let found = second_factors::table.find(user).select(SecondFactor::as_select());
    found.first(conn).await.optional()
}

/// Whether the person signs in with a second factor.
pub async fn is_on(conn: &mut Conn, user: Uuid) -> QueryResult<bool> {
    Ok(of_user(conn, user).await?.is_some_and(|factor| factor.confirmed_at.is_some()))
}

/// Replaces a secret that is not in effect. Returns `false` when one is in effect. Call within a transaction.
pub async fn begin(conn: &mut Conn, new: &SecondFactor) -> QueryResult<bool> {
    // Every change locks the account before the rows that refer to it, as a deletion of the account does.
    user::lock(conn, new.user_id).await?;
    let unconfirmed = second_factors::table.find(new.user_id);
    let unconfirmed = unconfirmed.filter(second_factors::confirmed_at.is_null());
    diesel::delete(unconfirmed).execute(conn).await?;
    let insert = diesel::insert_into(second_factors::table).values(new).on_conflict_do_nothing();
    Ok(insert.execute(conn).await? == 1)
}

/// Puts this secret into effect, with its recovery codes. Returns `false` when another secret has replaced it. Of two
/// concurrent calls, one succeeds. Call within a transaction.
pub async fn confirm(
    conn: &mut Conn,
    user: Uuid,
    sealed_secret: &str,
    recovery_hashes: &[Vec<u8>],
    now: Timestamp,
) -> QueryResult<bool> {
    user::lock(conn, user).await?;
    let unconfirmed = second_factors::table.find(user);
    let unconfirmed = unconfirmed.filter(second_factors::confirmed_at.is_null());
    let target = unconfirmed.filter(second_factors::sealed_secret.eq(sealed_secret));
    let confirmed = diesel::update(target).set(second_factors::confirmed_at.eq(now));
    if confirmed.execute(conn).await? == 0 {
        return Ok(false);
    }
    let rows: Vec<_> = recovery_hashes
        .iter()
        .map(|hash| (recovery_codes::code_hash.eq(hash), recovery_codes::user_id.eq(user)))
        .collect();
    diesel::insert_into(recovery_codes::table).values(rows).execute(conn).await?;
    Ok(true)
}

/// Records the time step of an accepted code. Returns `false` for a step that is not later than the last one: of two
/// concurrent uses of a code, one succeeds.
pub async fn advance(conn: &mut Conn, user: Uuid, step: i64) -> QueryResult<bool> {
    let earlier = second_factors::table.find(user).filter(second_factors::last_step.lt(step));
    let update = diesel::update(earlier).set(second_factors::last_step.eq(step));
    Ok(update.execute(conn).await? == 1)
}

/// Consumes a recovery code. Of two concurrent calls, one succeeds.
pub async fn take_recovery_code(conn: &mut Conn, user: Uuid, hash: &[u8]) -> QueryResult<bool> {
    let code = recovery_codes::table.find(hash).filter(recovery_codes::user_id.eq(user));
    Ok(diesel::delete(code).execute(conn).await? == 1)
}

pub async fn recovery_codes_left(conn: &mut Conn, user: Uuid) -> QueryResult<i64> {
    let own = recovery_codes::table.filter(recovery_codes::user_id.eq(user));
    own.count().get_result(conn).await
}

/// Returns `false` when no second factor of the person is in effect. Call within a transaction.
pub async fn delete(conn: &mut Conn, user: Uuid) -> QueryResult<bool> {
    user::lock(conn, user).await?;
    let in_effect =
        second_factors::table.find(user).filter(second_factors::confirmed_at.is_not_null());
    Ok(diesel::delete(in_effect).execute(conn).await? == 1)
}
