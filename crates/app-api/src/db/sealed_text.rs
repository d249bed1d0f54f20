//! The columns that hold sealed texts, and `retired_sealing_keys`.

use std::fmt;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection as _};
use protocol::Timestamp;
use protocol::spec::Desired;

use super::schema::retired_sealing_keys::dsl as retired;
use super::schema::tenants::dsl as tenants;
use super::{Conn, audit_log};
use crate::audit::Entry;

/// Key of the advisory lock under which one process rotates the keys; no other use of this database may take it.
const ROTATION_LOCK: i64 = 0x6369_616f;

/// A column, or a part of one, that holds sealed texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedColumn {
    AppEnv,
    TenantEnv,
    /// A copy of [`Self::AppEnv`] in the row of each tenant of the app.
    TenantAppEnv,
    Registry,
    SecondFactor,
    Model,
    Mail,
}

/// The parts of the SQL for the texts of a column.
struct Parts {
    table: &'static str,
    /// The column that identifies a row.
    id: &'static str,
    /// The column that names a row to people.
    name: &'static str,
    /// The id of which the purpose of the text consists.
    scope: &'static str,
    text: &'static str,
    /// Writes the text `$1`.
    assign: &'static str,
}

impl SealedColumn {
    /// An app stands before the copies of its record.
    pub const ALL: [Self; 7] = [
        Self::AppEnv,
        Self::TenantEnv,
        Self::TenantAppEnv,
        Self::Registry,
        Self::SecondFactor,
        Self::Model,
        Self::Mail,
    ];

    const fn parts(self) -> Parts {
        match self {
            Self::AppEnv => Parts {
                table: "apps",
                id: "id::text",
                name: "slug",
                scope: "id::text",
                text: "sealed_env",
                assign: "sealed_env = $1",
            },
            // Like a change of the variables, the text must reach the orchestrator, which keeps it for the next start.
            Self::TenantEnv => Parts {
                table: "tenants",
                id: "id::text",
                name: "slug",
                scope: "id::text",
                text: "app ->> 'sealed_env'",
                assign: "app = jsonb_set(app, '{sealed_env}', to_jsonb($1)), changes_asked = changes_asked + 1",
            },
            Self::TenantAppEnv => Parts {
                table: "tenants",
                id: "id::text",
                name: "slug",
                scope: "app #>> '{app_env,app}'",
                text: "app #>> '{app_env,sealed}'",
                assign: "app = jsonb_set(app, '{app_env,sealed}', to_jsonb($1)), changes_asked = changes_asked + 1",
            },
            Self::Registry => Parts {
                table: "registries",
                id: "host",
                name: "host",
                scope: "host",
                text: "sealed_login",
                assign: "sealed_login = $1",
            },
            Self::SecondFactor => Parts {
                table: "second_factors",
                id: "user_id::text",
                name: "user_id::text",
                scope: "user_id::text",
                text: "sealed_secret",
                assign: "sealed_secret = $1",
            },
            Self::Model => Parts {
                table: "model_endpoint",
                id: "only_one::text",
                name: "model",
                scope: "''",
                text: "sealed_key",
                assign: "sealed_key = $1",
            },
            Self::Mail => Parts {
                table: "mails",
                id: "id::text",
                name: "id::text",
                scope: "''",
                text: "content",
                assign: "content = $1",
            },
        }
    }
}

/// As people read it.
impl fmt::Display for SealedColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AppEnv => "variables of app",
            Self::TenantEnv => "variables of tenant",
            Self::TenantAppEnv => "its app's variables of tenant",
            Self::Registry => "account of registry",
            Self::SecondFactor => "second factor of user",
            Self::Model => "key of model",
            Self::Mail => "waiting mail",
        })
    }
}

#[derive(Clone, Debug, QueryableByName)]
pub struct SealedText {
    #[diesel(sql_type = Text)]
    pub id: String,
    #[diesel(sql_type = Text)]
    pub name: String,
    #[diesel(sql_type = Text)]
    pub scope: String,
    #[diesel(sql_type = Text)]
    pub text: String,
}

/// The texts of a column that another key than `primary` sealed, of rows after `after`, by row. `CIAL_SSO_SECRET` seals without an
/// id, so with `None` every text with an id counts.
pub async fn sealed_by_others(
    conn: &mut Conn,
    column: SealedColumn,
    primary: Option<&str>,
    after: &str,
    limit: i64,
) -> QueryResult<Vec<SealedText>> {
    let Parts { table, id, name, scope, text, .. } = column.parts();
    let query = format!(
        "SELECT {id} AS id, {name} AS name, {scope} AS scope, {text} AS text FROM {table}
         WHERE {text} IS NOT NULL AND {id} > $1
           AND CASE WHEN $2 = '' THEN strpos({text}, ':') > 0 ELSE NOT starts_with({text}, $2 || ':') END
         ORDER BY {id} LIMIT $3"
    );
    sql_query(query)
        .bind::<Text, _>(after)
        .bind::<Text, _>(primary.unwrap_or_default())
        .bind::<BigInt, _>(limit)
        .load(conn)
        .await
}

/// Replaces a text; `false` when another writer changed it first.
pub async fn replace(
    conn: &mut Conn,
    column: SealedColumn,
    read: &SealedText,
    text: &str,
) -> QueryResult<bool> {
    let Parts { table, id, text: current, assign, .. } = column.parts();
    let query = format!("UPDATE {table} SET {assign} WHERE {id} = $2 AND {current} = $3");
    let query = sql_query(query)
        .bind::<Text, _>(text)
        .bind::<Text, _>(&read.id)
        .bind::<Text, _>(&read.text);
    Ok(query.execute(conn).await? == 1)
}

/// Keeps other rotations from beginning until the connection ends. Returns `false` while another connection does.
pub async fn try_lock_rotation(conn: &mut Conn) -> QueryResult<bool> {
    let lock = diesel::select(
        sql::<Bool>("pg_try_advisory_lock(").bind::<BigInt, _>(ROTATION_LOCK).sql(")"),
    );
    lock.get_result(conn).await
}

/// Keeps every sealed text as it is until the transaction ends, and waits for those who write one.
///
/// # Errors
/// Where a writer takes longer than a moment ([`is_lock_timeout`]): the locks of this transaction and of a change can wait for each
/// other, and Postgres would end either after a second.
pub async fn lock_sealed_tables(conn: &mut Conn) -> QueryResult<()> {
    conn.batch_execute("SET LOCAL lock_timeout = '300ms'").await?;
    let mut tables: Vec<_> = SealedColumn::ALL.iter().map(|column| column.parts().table).collect();
    tables.dedup();
    conn.batch_execute(&format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", tables.join(", ")))
        .await
}

/// Returns whether a lock was not free in time.
pub fn is_lock_timeout(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<diesel::result::Error>() {
        Some(diesel::result::Error::DatabaseError(_, info)) => {
            info.message().contains("lock timeout")
        }
        _ => false,
    }
}

/// The slugs of the tenants whose latest change has not reached the orchestrator, which may start them with the text before it.
pub async fn tenants_behind(conn: &mut Conn) -> QueryResult<Vec<String>> {
    tenants::tenants
        .filter(tenants::changes_done.lt(tenants::changes_asked))
        .filter(tenants::desired.ne(Desired::Deleted.as_str()))
        .order(tenants::slug)
        .select(tenants::slug)
        .load(conn)
        .await
}

/// Notes that keys were removed, with an audit entry. Returns `false` when all of them were noted before.
pub async fn retire(
    conn: &mut Conn,
    ids: &[&str],
    entry: &Entry,
    now: Timestamp,
) -> QueryResult<bool> {
    let rows: Vec<_> =
        ids.iter().map(|id| (retired::id.eq(*id), retired::retired_at.eq(now))).collect();
    let insert = diesel::insert_into(retired::retired_sealing_keys).values(rows);
    let noted = insert.on_conflict_do_nothing().execute(conn).await? > 0;
    if noted {
        audit_log::append(conn, entry, now).await?;
    }
    Ok(noted)
}
