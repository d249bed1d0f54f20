//! `users`: the accounts; today there is one, the owner.

use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::Conn;
use super::schema::users::{self, dsl};

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

/// Returns `false` when a concurrent sign-up created the owner first.
pub async fn insert_owner(conn: &mut Conn, user: &User) -> QueryResult<bool> {
    match diesel::insert_into(dsl::users).values(user).execute(conn).await {
        Ok(_) => Ok(true),
        Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => Ok(false),
        Err(error) => Err(error),
    }
}

pub async fn by_email(conn: &mut Conn, email: &str) -> QueryResult<Option<User>> {
    let query = dsl::users.filter(dsl::email.eq(email)).select(User::as_select());
    query.first(conn).await.optional()
}

pub async fn set_password(conn: &mut Conn, id: Uuid, hash: &str) -> QueryResult<usize> {
    let user = diesel::update(dsl::users.find(id));
    user.set(dsl::password_hash.eq(hash)).execute(conn).await
}
