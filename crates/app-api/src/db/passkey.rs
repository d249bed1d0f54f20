//! `passkeys`: the public keys by which people sign in, and `passkey_challenges`: what waits for a browser's response.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use protocol::Timestamp;
use uuid::Uuid;

use super::Conn;
use super::schema::passkey_challenges::{self, dsl as waiting};
use super::schema::passkeys::{self, dsl};
use super::schema::users;
use super::user::User;

#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = passkeys, check_for_backend(diesel::pg::Pg))]
pub struct Passkey {
    pub id: Uuid,
    pub user_id: Uuid,
    /// The authenticator's name for the key.
    pub credential_id: Vec<u8>,
    /// See [`crate::auth::passkey::NewCredential`].
    pub static_state: Vec<u8>,
    /// See [`crate::auth::passkey::NewCredential`].
    pub dynamic_state: Vec<u8>,
    pub name: String,
    pub created_at: Timestamp,
    pub last_used_at: Option<Timestamp>,
}

/// The passkeys of a person, the newest first.
pub async fn of_user(conn: &mut Conn, user: Uuid) -> QueryResult<Vec<Passkey>> {
    let own = dsl::passkeys.filter(dsl::user_id.eq(user)).order(dsl::id.desc());
    own.select(Passkey::as_select()).load(conn).await
}

pub async fn by_credential(
    conn: &mut Conn,
    credential_id: &[u8],
) -> QueryResult<Option<(Passkey, User)>> {
    dsl::passkeys
        .inner_join(users::table)
        .filter(dsl::credential_id.eq(credential_id))
        .select((Passkey::as_select(), User::as_select()))
        .first(conn)
        .await
        .optional()
}

/// Inserts a passkey under the lock of its account, unless the person has `max` already or the credential is known.
pub async fn insert(conn: &mut Conn, new: &Passkey, max: i64) -> QueryResult<bool> {
    let own = dsl::passkeys.filter(dsl::user_id.eq(new.user_id));
    if own.count().get_result::<i64>(conn).await? >= max {
        return Ok(false);
    }
    let insert = diesel::insert_into(dsl::passkeys).values(new);
    Ok(insert.on_conflict(dsl::credential_id).do_nothing().execute(conn).await? == 1)
}

/// Records a sign-in. Returns `false` when another request changed the state since it was read: a counter goes up only.
pub async fn record_use(
    conn: &mut Conn,
    read: &Passkey,
    dynamic_state: &[u8],
    now: Timestamp,
) -> QueryResult<bool> {
    let unchanged = dsl::passkeys.find(read.id).filter(dsl::dynamic_state.eq(&read.dynamic_state));
    let used = (dsl::dynamic_state.eq(dynamic_state), dsl::last_used_at.eq(now));
    Ok(diesel::update(unchanged).set(used).execute(conn).await? == 1)
}

/// Returns the renamed passkey and its old name; `None` when the person has none of this id.
pub async fn rename(
    conn: &mut Conn,
    user: Uuid,
    id: Uuid,
    name: &str,
) -> QueryResult<Option<(Passkey, String)>> {
    let own = dsl::passkeys.find(id).filter(dsl::user_id.eq(user)).select(dsl::name).for_update();
    let Some(old) = own.first::<String>(conn).await.optional()? else { return Ok(None) };
    let renamed = diesel::update(dsl::passkeys.find(id)).set(dsl::name.eq(name));
    let renamed = renamed.returning(Passkey::as_returning()).get_result(conn).await?;
    Ok(Some((renamed, old)))
}

/// Returns the name of the deleted passkey; `None` when the person has none of this id.
pub async fn delete(conn: &mut Conn, user: Uuid, id: Uuid) -> QueryResult<Option<String>> {
    let own = diesel::delete(dsl::passkeys.find(id).filter(dsl::user_id.eq(user)));
    own.returning(dsl::name).get_result(conn).await.optional()
}

/// A challenge that waits for a browser's response.
#[derive(Insertable)]
#[diesel(table_name = passkey_challenges)]
pub struct Challenge {
    pub challenge: Vec<u8>,
    /// The challenge and the rules that a response is checked against, in the encoding of `webauthn_rp`.
    pub state: Vec<u8>,
    /// The person who registers a passkey; `None` for a sign-in.
    pub user_id: Option<Uuid>,
    pub expires_at: Timestamp,
}

/// Inserts a challenge, and deletes those that expired.
pub async fn insert_challenge(
    conn: &mut Conn,
    new: &Challenge,
    now: Timestamp,
) -> QueryResult<usize> {
    let expired = waiting::passkey_challenges.filter(waiting::expires_at.le(now));
    let expired = expired.select(waiting::challenge).for_update().skip_locked();
    let expired: Vec<Vec<u8>> = expired.load(conn).await?;
    let expired = waiting::passkey_challenges.filter(waiting::challenge.eq_any(expired));
    diesel::delete(expired).execute(conn).await?;
    diesel::insert_into(passkey_challenges::table).values(new).execute(conn).await
}

/// Consumes a challenge, and returns what its response must fulfil. Of two concurrent calls, one gets it.
pub async fn take_challenge(
    conn: &mut Conn,
    challenge: &[u8],
    user: Option<Uuid>,
    now: Timestamp,
) -> QueryResult<Option<Vec<u8>>> {
    let live = waiting::passkey_challenges
        .find(challenge)
        .filter(waiting::user_id.is_not_distinct_from(user).and(waiting::expires_at.gt(now)));
    diesel::delete(live).returning(waiting::state).get_result(conn).await.optional()
}
