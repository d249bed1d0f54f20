//! The schema and the role of a tenant. Creating and dropping them is one transaction each, whose first statement claims
//! the tenant's row: `tenants.database` is set exactly while both exist.

use std::num::NonZeroU32;
use std::time::Duration;

use diesel::QueryableByName;
use diesel::migration::MigrationSource;
use diesel::pg::Pg;
use diesel::prelude::{
    BoolExpressionMethods as _, ExpressionMethods as _, QueryDsl as _, QueryResult,
};
use diesel::sql_types::{BigInt, Bool, Text};
use diesel_async::{
    AsyncConnection, AsyncMigrationHarness, RunQueryDsl as _, SimpleAsyncConnection as _,
    TransactionManager as _,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use protocol::spec::Desired;
use protocol::{TenantId, Timestamp};
use serde_json::Value;
use service::Secret;

use super::quote::{identifier, literal};
use super::schema::tenants::dsl;
use super::{Conn, audit_log};
use crate::audit::Entry;
use crate::database_proxy::MAX_SESSIONS;
use crate::tenant::database::{DatabaseNames, ProvisionedDatabase};

type Transactions = <Conn as AsyncConnection>::TransactionManager;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("tenant_migrations");

/// Connections of one tenant at once: those that the proxy admits, the one of a migration, and those of app-api's work.
const CONNECTION_LIMIT: u32 = MAX_SESSIONS + 3;
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
const WORK_MEM: &str = "4MB";
/// The time that a connection has to end after it was told to.
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Objects that one transaction of a removal drops. With indexes, types and constraints a table takes about six locks.
const DROP_BATCH: NonZeroU32 = NonZeroU32::new(200).expect("not zero");

/// Creates the schema and the role of a tenant, and runs the tenant migrations in the schema. Does nothing for a tenant
/// that has them, that is being deleted, or whose row is gone. `conn` is the provisioner's; on an error it is dropped, and
/// with it the transaction.
///
/// # Errors
/// Also when a schema or a role of this name exists: it belongs to something else.
pub async fn create(
    mut conn: Conn,
    tenant: TenantId,
    names: &DatabaseNames,
    password: &Secret,
    entry: &Entry,
    now: Timestamp,
) -> anyhow::Result<bool> {
    Transactions::begin_transaction(&mut conn).await?;
    let unclaimed = dsl::tenants
        .find(tenant.uuid())
        .filter(dsl::database.eq(Value::Null).and(dsl::desired.ne(Desired::Deleted.as_str())));
    let made = ProvisionedDatabase {
        user: names.user.clone(),
        version: latest_version()?,
        failure: None,
        excess: None,
    };
    let claim = dsl::database.eq(serde_json::to_value(made)?);
    if diesel::update(unclaimed).set(claim).execute(&mut conn).await? == 0 {
        return Ok(false);
    }
    for statement in creation(names, password) {
        conn.batch_execute(&statement).await?;
    }
    let mut conn = migrate(conn)?;
    conn.batch_execute("RESET ROLE").await?;
    conn.batch_execute("SET LOCAL search_path TO DEFAULT").await?;
    audit_log::append(&mut conn, entry, now).await?;
    Transactions::commit_transaction(&mut conn).await?;
    Ok(true)
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

/// The tables that the migrations make in a tenant's schema. They are listed by their whole names, because a tenant may have tables of its own whose
/// names begin with `cial_`.
pub const PLATFORM_TABLES: &[&str] = &[
    "__diesel_schema_migrations",
    "cial_executions",
    "cial_packages",
    "cial_package_pieces",
    "cial_paused_workflows",
    "cial_task_lines",
    "cial_tasks",
    "cial_workflows",
];

/// The tables, views and sequences of a schema: whoever reads all of them in one transaction holds a lock of each.
pub async fn count_relations(conn: &mut Conn, schema: &str) -> QueryResult<i64> {
    let count = "SELECT count(*) AS n FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident($1)) \
         AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')";
    let counted: Count = diesel::sql_query(count).bind::<Text, _>(schema).get_result(conn).await?;
    Ok(counted.n)
}

/// The statements up to the migrations, which run as the tenant's role.
fn creation(names: &DatabaseNames, password: &Secret) -> Vec<String> {
    let (schema, role) = (identifier(&names.schema), identifier(&names.user));
    let create = format!(
        "CREATE ROLE {role} NOSUPERUSER NOINHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
    );
    let after = [
        format!("CREATE SCHEMA {schema}"),
        format!("REVOKE ALL ON SCHEMA {schema} FROM PUBLIC"),
        // No ownership: the tenant cannot give rights on its schema to others.
        format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}"),
        // For the removal, and for the migrations: nothing here that the tenant made could run yet.
        format!("GRANT {role} TO CURRENT_USER"),
        format!("SET LOCAL search_path = {schema}"),
        format!("SET LOCAL ROLE {role}"),
    ];
    [create].into_iter().chain(role_settings(names, password)).chain(after).collect()
}

/// Returns the statements that set everything a role can change about itself.
fn role_settings(names: &DatabaseNames, password: &Secret) -> Vec<String> {
    let (schema, role) = (identifier(&names.schema), identifier(&names.user));
    // The server receives a verifier: statements of this kind stand in the logs of many installations.
    let verifier = postgres_protocol::password::scram_sha_256(password.reveal().as_bytes());
    let set = |name: &str, value: &str| format!("ALTER ROLE {role} SET {name} = {value}");
    vec![
        format!(
            "ALTER ROLE {role} LOGIN CONNECTION LIMIT {CONNECTION_LIMIT} PASSWORD '{verifier}'"
        ),
        format!("ALTER ROLE {role} RESET ALL"),
        // A setting of the role for this database takes precedence over its setting for all databases.
        format!(
            "DO $$ BEGIN EXECUTE format('ALTER ROLE %I IN DATABASE %I RESET ALL', {}, current_database()); END $$",
            literal(&names.user)
        ),
        set("search_path", &schema),
        set("statement_timeout", &STATEMENT_TIMEOUT.as_millis().to_string()),
        set(
            "idle_in_transaction_session_timeout",
            &IDLE_IN_TRANSACTION_TIMEOUT.as_millis().to_string(),
        ),
        set("work_mem", &literal(WORK_MEM)),
    ]
}

/// Undoes what a tenant changed about its role, such as the password. `conn` is the provisioner's.
///
/// # Errors
/// Also when the schema is closed or the tenant is being deleted: the role must not log in then.
pub async fn restore_role(
    conn: &mut Conn,
    tenant: TenantId,
    names: &DatabaseNames,
    password: &Secret,
) -> anyhow::Result<()> {
    let settings = role_settings(names, password).join(";\n");
    conn.transaction(async |conn| -> anyhow::Result<()> {
        // Held to the end: who closes the schema or deletes the tenant at this moment waits, and takes the right to log in
        // away afterwards.
        let row = dsl::tenants.find(tenant.uuid()).select((dsl::database, dsl::desired));
        let (database, desired): (Value, String) = row.for_share().first(conn).await?;
        anyhow::ensure!(desired != Desired::Deleted.as_str(), "the tenant is being deleted");
        anyhow::ensure!(database.get("excess").is_none(), "the schema is closed");
        Ok(conn.batch_execute(&settings).await?)
    })
    .await
}

/// Runs the tenant migrations in the schema of the search path: all in the transaction of the caller, or each in its own.
pub fn migrate(conn: Conn) -> anyhow::Result<Conn> {
    let mut harness = AsyncMigrationHarness::new(conn);
    match harness.run_pending_migrations(MIGRATIONS) {
        Ok(_) => Ok(harness.into_inner()),
        Err(error) => Err(anyhow::anyhow!("tenant migrations: {error}")),
    }
}

/// The version that a schema has after all tenant migrations.
pub fn latest_version() -> anyhow::Result<String> {
    let migrations = <EmbeddedMigrations as MigrationSource<Pg>>::migrations(&MIGRATIONS);
    let versions = migrations
        .map_err(|error| anyhow::anyhow!("tenant migrations: {error}"))?
        .iter()
        .map(|migration| migration.name().version().to_string())
        .max();
    versions.ok_or_else(|| anyhow::anyhow!("there are no tenant migrations"))
}

/// Replaces what is known about a tenant's database, unless another writer did.
pub async fn record(
    conn: &mut Conn,
    tenant: TenantId,
    read: &ProvisionedDatabase,
    next: &ProvisionedDatabase,
) -> QueryResult<usize> {
    let json = |database| serde_json::to_value(database).unwrap_or_default();
    let unchanged = dsl::tenants.find(tenant.uuid()).filter(dsl::database.eq(json(read)));
    diesel::update(unchanged).set(dsl::database.eq(json(next))).execute(conn).await
}

#[derive(QueryableByName)]
struct Ended {
    #[diesel(sql_type = Bool)]
    all: bool,
}

/// Refuses new connections of a tenant's role and ends those that exist. Idempotent.
///
/// # Errors
/// When a connection does not end in time.
pub async fn end_connections(conn: &mut Conn, user: &str) -> anyhow::Result<()> {
    if !role_exists(conn, user).await? {
        return Ok(());
    }
    conn.batch_execute(&format!("ALTER ROLE {} NOLOGIN", identifier(user))).await?;
    end_sessions(conn, user).await
}

/// Ends the sessions that a tenant's role has at this moment.
///
/// # Errors
/// When one does not end in time.
pub async fn end_sessions(conn: &mut Conn, user: &str) -> anyhow::Result<()> {
    let timeout = TERMINATION_TIMEOUT.as_millis();
    let end = format!(
        "SELECT coalesce(bool_and(pg_terminate_backend(pid, {timeout})), true) AS all \
         FROM pg_stat_activity WHERE usename = $1"
    );
    let ended: Ended = diesel::sql_query(end).bind::<Text, _>(user).get_result(conn).await?;
    anyhow::ensure!(ended.all, "a connection of {user} did not end");
    Ok(())
}

async fn role_exists(conn: &mut Conn, user: &str) -> QueryResult<bool> {
    let query = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1) AS all";
    let found: Ended = diesel::sql_query(query).bind::<Text, _>(user).get_result(conn).await?;
    Ok(found.all)
}

#[derive(Debug, PartialEq, Eq, QueryableByName)]
struct SchemaObject {
    #[diesel(sql_type = Text)]
    kind: String,
    /// With the schema, and quoted.
    #[diesel(sql_type = Text)]
    name: String,
}

/// Objects of a schema that can be dropped by themselves. First those whose dependents are few: views before what they
/// read, partitions before their table, newer before older. A sequence of an identity column goes with its table.
const SCHEMA_OBJECTS: &str = "
    WITH chosen AS MATERIALIZED (
        SELECT classid, objid, row_number() OVER (ORDER BY
            relkind IN ('v', 'm') DESC NULLS LAST,
            relispartition DESC NULLS LAST,
            relkind IN ('r', 'p', 'f') DESC NULLS LAST,
            objid DESC
        ) AS place
        FROM pg_depend d LEFT JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid
        WHERE refclassid = 'pg_namespace'::regclass
            AND refobjid = (SELECT oid FROM pg_namespace WHERE nspname = $1)
            AND deptype = 'n' AND objsubid = 0
            AND (
                relkind IN ('r', 'p', 'f', 'v', 'm', 'S')
                OR classid IN (
                    'pg_proc'::regclass, 'pg_type'::regclass, 'pg_operator'::regclass, 'pg_collation'::regclass,
                    'pg_conversion'::regclass, 'pg_ts_config'::regclass, 'pg_ts_dict'::regclass
                )
            )
            AND NOT EXISTS (
                SELECT FROM pg_depend i
                WHERE (i.classid, i.objid, i.objsubid, i.deptype) = (d.classid, d.objid, 0, 'i')
            )
        ORDER BY place LIMIT $2
    )
    SELECT type AS kind, identity AS name
    FROM chosen, pg_identify_object(classid, objid, 0) ORDER BY place";

/// Drops the objects of a schema, such as tables, functions and types, at most `batch` in one transaction: a transaction locks every
/// object that it drops, and the server has one table of locks for all. A batch that fails is tried with half of it, since
/// an object can have many dependents. Returns the number of transactions. `conn` is the provisioner's.
///
/// # Errors
/// When a single object cannot be dropped. Earlier batches stay dropped.
pub async fn drop_objects(
    conn: &mut Conn,
    schema: &str,
    batch: NonZeroU32,
) -> anyhow::Result<usize> {
    let mut batch = batch.get();
    let mut transactions = 0;
    let mut dropped: Vec<SchemaObject> = Vec::new();
    loop {
        let objects: Vec<SchemaObject> = diesel::sql_query(SCHEMA_OBJECTS)
            .bind::<Text, _>(schema)
            .bind::<BigInt, _>(i64::from(batch))
            .load(conn)
            .await?;
        // Objects that cannot be dropped by name go with the schema itself.
        if objects.is_empty() || objects == dropped {
            return Ok(transactions);
        }
        let statements: String = objects
            .iter()
            .map(|object| format!("DROP {} IF EXISTS {} CASCADE;\n", object.kind, object.name))
            .collect();
        // One message is one transaction.
        match conn.batch_execute(&statements).await {
            Ok(()) => {
                transactions += 1;
                dropped = objects;
            }
            Err(_) if batch > 1 => batch /= 2,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Drops the schema and the role of a tenant that is being deleted, with all that is in the schema. Does nothing for a
/// tenant that has none. What is in the schema goes first, in transactions of its own. `conn` is the provisioner's.
pub async fn drop(
    conn: &mut Conn,
    tenant: TenantId,
    names: &DatabaseNames,
    entry: &Entry,
    now: Timestamp,
) -> anyhow::Result<()> {
    let claimed = dsl::tenants
        .find(tenant.uuid())
        .filter(dsl::database.ne(Value::Null).and(dsl::desired.eq(Desired::Deleted.as_str())));
    if claimed.clone().count().get_result::<i64>(conn).await? == 0 {
        return Ok(());
    }
    drop_objects(conn, &names.schema, DROP_BATCH).await?;
    let (schema, role) = (identifier(&names.schema), identifier(&names.user));
    let dropped = conn.transaction(async |conn| {
        if diesel::update(claimed).set(dsl::database.eq(Value::Null)).execute(conn).await? == 0 {
            return Ok(());
        }
        conn.batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE")).await?;
        if role_exists(conn, &names.user).await? {
            // Default privileges and large objects belong to the role and to no schema.
            conn.batch_execute(&format!("DROP OWNED BY {role}")).await?;
            conn.batch_execute(&format!("DROP ROLE {role}")).await?;
        }
        audit_log::append(conn, entry, now).await?;
        QueryResult::Ok(())
    });
    Ok(dropped.await?)
}
