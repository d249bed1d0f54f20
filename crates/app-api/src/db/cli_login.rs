//! `cli_logins`: sign-ins of the command line, from their beginning until the key is fetched.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use protocol::Timestamp;
use uuid::Uuid;

use super::Conn;
use super::schema::cli_logins::{self, dsl};

#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = cli_logins, check_for_backend(diesel::pg::Pg))]
pub struct CliLogin {
    pub id: Uuid,
    pub user_code: String,
    pub challenge: Vec<u8>,
    pub device: String,
    /// The address from which the sign-in began.
    pub address: String,
    /// `None`: the person types the user code in.
    pub redirect: Option<String>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    /// The session that confirmed the sign-in.
    pub session_id: Option<Uuid>,
    /// `None`: a key of all tenants.
    pub tenant_id: Option<Uuid>,
    pub code_hash: Option<Vec<u8>>,
}

/// Returns `false` when the user code is taken.
pub async fn insert(conn: &mut Conn, new: &CliLogin) -> QueryResult<bool> {
    let insert = diesel::insert_into(dsl::cli_logins).values(new);
    Ok(insert.on_conflict(dsl::user_code).do_nothing().execute(conn).await? == 1)
}

/// Names a sign-in that waits for its confirmation.
#[derive(Clone, Copy, Debug)]
pub enum Name<'a> {
    Id(Uuid),
    /// The user code of a sign-in without a redirect.
    UserCode(&'a str),
}

/// Finds a sign-in that waits for its confirmation.
pub async fn find_open(
    conn: &mut Conn,
    name: Name<'_>,
    now: Timestamp,
) -> QueryResult<Option<CliLogin>> {
    let open = dsl::cli_logins
        .filter(dsl::session_id.is_null().and(dsl::expires_at.gt(now)))
        .select(CliLogin::as_select());
    let found = match name {
        Name::Id(id) => open.filter(dsl::id.eq(id)).first(conn).await,
        Name::UserCode(code) => {
            let typed = open.filter(dsl::user_code.eq(code).and(dsl::redirect.is_null()));
            typed.first(conn).await
        }
    };
    found.optional()
}

/// The confirmation of a sign-in.
#[derive(AsChangeset)]
#[diesel(table_name = cli_logins)]
pub struct Confirmation<'a> {
    pub session_id: Uuid,
    pub tenant_id: Option<Uuid>,
    pub code_hash: Option<&'a [u8]>,
}

/// Returns `false` when the sign-in does not wait any more. Of two concurrent calls, one succeeds.
pub async fn confirm(
    conn: &mut Conn,
    id: Uuid,
    confirmation: &Confirmation<'_>,
    now: Timestamp,
) -> QueryResult<bool> {
    let open = dsl::cli_logins.find(id).filter(dsl::session_id.is_null());
    let open = diesel::update(open.filter(dsl::expires_at.gt(now)));
    Ok(open.set(confirmation).execute(conn).await? == 1)
}

/// Deletes a sign-in that waits for its confirmation.
pub async fn refuse(conn: &mut Conn, id: Uuid) -> QueryResult<bool> {
    let open = dsl::cli_logins.find(id).filter(dsl::session_id.is_null());
    Ok(diesel::delete(open).execute(conn).await? == 1)
}

/// The proof by which the command that began a sign-in fetches the key.
#[derive(Clone, Copy, Debug)]
pub struct Proof<'a> {
    pub id: Uuid,
    pub challenge: &'a [u8],
    /// `None` for a sign-in without a redirect.
    pub code_hash: Option<&'a [u8]>,
}

/// Finds a confirmed sign-in.
pub async fn find_confirmed(
    conn: &mut Conn,
    proof: &Proof<'_>,
    now: Timestamp,
) -> QueryResult<Option<CliLogin>> {
    let confirmed = dsl::cli_logins
        .find(proof.id)
        .filter(dsl::challenge.eq(proof.challenge).and(dsl::session_id.is_not_null()))
        .filter(dsl::code_hash.is_not_distinct_from(proof.code_hash).and(dsl::expires_at.gt(now)));
    confirmed.select(CliLogin::as_select()).first(conn).await.optional()
}

/// Deletes a sign-in. Of two concurrent calls, one returns `true`.
pub async fn take(conn: &mut Conn, id: Uuid) -> QueryResult<bool> {
    Ok(diesel::delete(dsl::cli_logins.find(id)).execute(conn).await? == 1)
}

pub async fn delete_expired(conn: &mut Conn, now: Timestamp) -> QueryResult<usize> {
    diesel::delete(dsl::cli_logins.filter(dsl::expires_at.le(now))).execute(conn).await
}
