//! The executions of a tenant, in the tenant's own schema and as its own role. Like [`tenant_packages`](super::tenant_packages),
//! nothing here is trusted: texts are cut, records over their bound read as null, lists have a limit.

use diesel::QueryableByName;
use diesel::prelude::{OptionalExtension as _, QueryResult};
use diesel::sql_types::{
    Array, BigInt, Bool, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl as _;
use protocol::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::Conn;
pub use super::tenant_rows::{MAX_DEFINITION_BYTES, MAX_OUTPUT_BYTES, printed_len};
use super::tenant_rows::{TenantJson, bounded_json, bounded_time, time_in_bounds};

/// The most lines of output that are read, and the most bytes of them.
const MAX_LINES: i64 = 10_000;
const MAX_LINES_BYTES: i64 = 4 << 20;
/// Lines that one statement deletes, and such statements in a row.
const PRUNED_LINES: usize = 20_000;
const MAX_PRUNE_STEPS: usize = 10;

#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct ExecutionRow {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    pub package_id: Uuid,
    #[diesel(sql_type = Text)]
    pub package: String,
    #[diesel(sql_type = Text)]
    pub workflow: String,
    #[diesel(sql_type = Nullable<Jsonb>, deserialize_as = TenantJson)]
    pub definition: Option<Value>,
    #[diesel(sql_type = Nullable<Jsonb>, deserialize_as = TenantJson)]
    pub context: Option<Value>,
    #[diesel(sql_type = Text)]
    pub state: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub reason: Option<String>,
    #[diesel(sql_type = Bool)]
    pub cancel_requested: bool,
    #[diesel(sql_type = Text)]
    pub created_by: String,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: Timestamp,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub started_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub finished_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct TaskRow {
    #[diesel(sql_type = Text)]
    pub name: String,
    #[diesel(sql_type = Text)]
    pub state: String,
    #[diesel(sql_type = Integer)]
    pub attempts: i32,
    #[diesel(sql_type = Timestamptz)]
    pub next_attempt_at: Timestamp,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub not_started_since: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Text>)]
    pub reason: Option<String>,
    #[diesel(sql_type = Nullable<Jsonb>, deserialize_as = TenantJson)]
    pub output: Option<Value>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub started_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub finished_at: Option<Timestamp>,
}

/// A line that a task wrote.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct LineRow {
    #[diesel(sql_type = Text)]
    pub task: String,
    #[diesel(sql_type = Integer)]
    pub attempt: i32,
    #[diesel(sql_type = Text)]
    pub output: String,
    #[diesel(sql_type = Timestamptz)]
    pub at: Timestamp,
    #[diesel(sql_type = Text)]
    pub text: String,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

fn execution_columns() -> String {
    columns(MAX_DEFINITION_BYTES)
}

/// Definition and context read as null above `max_bytes`.
fn columns(max_bytes: usize) -> String {
    format!(
        "id, package_id, pg_catalog.left(package, 127) AS package, pg_catalog.left(workflow, 63) AS workflow, {}, {}, \
         pg_catalog.left(state, 20) AS state, pg_catalog.left(reason, 500) AS reason, cancel_requested, \
         pg_catalog.left(created_by, 300) AS created_by, \
         COALESCE({}, pg_catalog.to_timestamp(0)) AS created_at, {}, {}",
        bounded_json("definition", max_bytes),
        bounded_json("context", max_bytes),
        time_in_bounds("created_at"),
        bounded_time("started_at"),
        bounded_time("finished_at"),
    )
}

/// Excludes other runs of the tenant until the end of the transaction.
pub async fn lock(conn: &mut Conn) -> QueryResult<usize> {
    diesel::sql_query("LOCK TABLE cial_executions IN SHARE ROW EXCLUSIVE MODE").execute(conn).await
}

pub async fn count_open(conn: &mut Conn) -> QueryResult<i64> {
    let query = "SELECT pg_catalog.count(*) AS count FROM cial_executions WHERE state IN ('scheduled', 'running')";
    Ok(diesel::sql_query(query).get_result::<Count>(conn).await?.count)
}

pub async fn count(conn: &mut Conn) -> QueryResult<i64> {
    let query = "SELECT pg_catalog.count(*) AS count FROM cial_executions";
    Ok(diesel::sql_query(query).get_result::<Count>(conn).await?.count)
}

/// The trigger that an execution is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fire {
    pub trigger: Uuid,
    /// The time of the trigger's schedule, which has one execution; `None`: it was fired otherwise.
    pub at: Option<Timestamp>,
}

/// The execution of a time of a trigger.
pub async fn of_fire(conn: &mut Conn, fire: Fire) -> QueryResult<Option<ExecutionRow>> {
    let query = format!(
        "SELECT {} FROM cial_executions WHERE trigger_id = $1 AND fire_at = $2 LIMIT 1",
        columns(0)
    );
    diesel::sql_query(query)
        .bind::<SqlUuid, _>(fire.trigger)
        .bind::<Nullable<Timestamptz>, _>(fire.at)
        .get_result(conn)
        .await
        .optional()
}

/// Inserts an execution and its tasks, in this order.
pub async fn insert(
    conn: &mut Conn,
    execution: &ExecutionRow,
    tasks: &[String],
    fire: Option<Fire>,
) -> QueryResult<()> {
    diesel::sql_query(
        "INSERT INTO cial_executions (id, package_id, package, workflow, definition, context, state, created_by, \
             created_at, trigger_id, fire_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind::<SqlUuid, _>(execution.id)
    .bind::<SqlUuid, _>(execution.package_id)
    .bind::<Text, _>(&execution.package)
    .bind::<Text, _>(&execution.workflow)
    .bind::<Nullable<Jsonb>, _>(&execution.definition)
    .bind::<Nullable<Jsonb>, _>(&execution.context)
    .bind::<Text, _>(&execution.state)
    .bind::<Text, _>(&execution.created_by)
    .bind::<Timestamptz, _>(execution.created_at)
    .bind::<Nullable<SqlUuid>, _>(fire.map(|fire| fire.trigger))
    .bind::<Nullable<Timestamptz>, _>(fire.and_then(|fire| fire.at))
    .execute(conn)
    .await?;
    diesel::sql_query(
        "INSERT INTO cial_tasks (execution_id, place, name, state, attempts, next_attempt_at) \
         SELECT $1, place, name, 'waiting', 0, $3 FROM pg_catalog.unnest($2) WITH ORDINALITY AS t (name, place)",
    )
    .bind::<SqlUuid, _>(execution.id)
    .bind::<Array<Text>, _>(tasks)
    .bind::<Timestamptz, _>(execution.created_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes finished executions, except the latest `kept`. Of much output only a part: the rest follows with the next call.
pub async fn prune(conn: &mut Conn, kept: i64) -> QueryResult<usize> {
    const OLD: &str = "state NOT IN ('scheduled', 'running') AND id <= ( \
        SELECT id FROM cial_executions ORDER BY id DESC OFFSET $1 LIMIT 1)";
    let lines = format!(
        "DELETE FROM cial_task_lines WHERE (execution_id, number) IN ( \
             SELECT l.execution_id, l.number FROM cial_task_lines l \
             WHERE l.execution_id IN (SELECT id FROM cial_executions WHERE {OLD}) LIMIT {PRUNED_LINES} \
         )"
    );
    // Each statement is bounded in time, and so is a call.
    for _ in 0..MAX_PRUNE_STEPS {
        let deleted = diesel::sql_query(&lines).bind::<BigInt, _>(kept).execute(conn).await?;
        if deleted < PRUNED_LINES {
            break;
        }
    }
    let executions = format!(
        "DELETE FROM cial_executions e WHERE {OLD} \
             AND NOT EXISTS (SELECT 1 FROM cial_task_lines l WHERE l.execution_id = e.id)"
    );
    diesel::sql_query(executions).bind::<BigInt, _>(kept).execute(conn).await
}

/// The executions before a cursor, the latest first, without definitions and contexts: hundreds of them would take much
/// memory.
pub async fn list(
    conn: &mut Conn,
    before: Option<Uuid>,
    limit: i64,
) -> QueryResult<Vec<ExecutionRow>> {
    let query = format!(
        "SELECT {} FROM cial_executions WHERE $1 IS NULL OR id < $1 ORDER BY id DESC LIMIT $2",
        columns(0)
    );
    diesel::sql_query(query)
        .bind::<Nullable<SqlUuid>, _>(before)
        .bind::<BigInt, _>(limit)
        .load(conn)
        .await
}

pub async fn by_id(conn: &mut Conn, id: Uuid) -> QueryResult<Option<ExecutionRow>> {
    let query =
        format!("SELECT {} FROM cial_executions WHERE id = $1 LIMIT 1", execution_columns());
    diesel::sql_query(query).bind::<SqlUuid, _>(id).get_result(conn).await.optional()
}

/// The execution that has waited longest. Of a paused workflow only one that is cancelled, or whose task began.
pub async fn first_open(conn: &mut Conn) -> QueryResult<Option<ExecutionRow>> {
    let query = format!(
        "SELECT {} FROM cial_executions e WHERE state IN ('scheduled', 'running') AND (cancel_requested \
             OR NOT EXISTS (SELECT 1 FROM cial_paused_workflows p WHERE p.name = e.workflow) \
             OR EXISTS (SELECT 1 FROM cial_tasks t WHERE t.execution_id = e.id AND t.state = 'running')) \
         ORDER BY id LIMIT 1",
        execution_columns()
    );
    diesel::sql_query(query).get_result(conn).await.optional()
}

/// The tasks without their results, in their order.
pub async fn tasks(conn: &mut Conn, execution: Uuid) -> QueryResult<Vec<TaskRow>> {
    task_rows(conn, execution, "NULL::jsonb AS output").await
}

/// The tasks with their results.
pub async fn tasks_with_results(conn: &mut Conn, execution: Uuid) -> QueryResult<Vec<TaskRow>> {
    task_rows(conn, execution, &bounded_json("output", MAX_OUTPUT_BYTES)).await
}

async fn task_rows(conn: &mut Conn, execution: Uuid, output: &str) -> QueryResult<Vec<TaskRow>> {
    let query = format!(
        "SELECT pg_catalog.left(name, 63) AS name, pg_catalog.left(state, 20) AS state, attempts, \
             COALESCE({}, pg_catalog.to_timestamp(0)) AS next_attempt_at, {}, \
             pg_catalog.left(reason, 500) AS reason, {output}, {}, {} \
         FROM cial_tasks WHERE execution_id = $1 ORDER BY place LIMIT 101",
        time_in_bounds("next_attempt_at"),
        bounded_time("not_started_since"),
        bounded_time("started_at"),
        bounded_time("finished_at"),
    );
    diesel::sql_query(query).bind::<SqlUuid, _>(execution).load(conn).await
}

/// The results of tasks by their names; `None` when one of them is larger than any that was recorded, or cannot be read.
pub async fn results(
    conn: &mut Conn,
    execution: Uuid,
    tasks: &[String],
) -> QueryResult<Option<Vec<(String, Option<Value>)>>> {
    #[derive(QueryableByName)]
    struct ResultRow {
        #[diesel(sql_type = Text)]
        name: String,
        #[diesel(sql_type = Nullable<Jsonb>)]
        output: TenantJson,
        #[diesel(sql_type = Bool)]
        is_too_large: bool,
    }
    let query = format!(
        "SELECT pg_catalog.left(name, 63) AS name, {}, \
             COALESCE(pg_catalog.octet_length(output::text) > {MAX_OUTPUT_BYTES}, false) AS is_too_large \
         FROM cial_tasks WHERE execution_id = $1 AND name = ANY ($2) LIMIT 32",
        bounded_json("output", MAX_OUTPUT_BYTES)
    );
    let query = diesel::sql_query(query).bind::<SqlUuid, _>(execution);
    let rows: Vec<ResultRow> = query.bind::<Array<Text>, _>(tasks).load(conn).await?;
    let is_sound =
        |row: &ResultRow| !row.is_too_large && !matches!(row.output, TenantJson::Unreadable);
    let are_sound = rows.iter().all(is_sound);
    Ok(are_sound.then(|| rows.into_iter().map(|row| (row.name, row.output.into())).collect()))
}

/// The end of an execution's output, the earliest line first.
pub async fn lines(conn: &mut Conn, execution: Uuid) -> QueryResult<Vec<LineRow>> {
    let query = format!(
        "SELECT task, attempt, output, at, text FROM ( \
             SELECT *, pg_catalog.sum(pg_catalog.octet_length(text)) OVER (ORDER BY number DESC) AS bytes FROM ( \
                 SELECT number, pg_catalog.left(task, 63) AS task, attempt, pg_catalog.left(output, 10) AS output, \
                     COALESCE({}, pg_catalog.to_timestamp(0)) AS at, pg_catalog.left(text, 4096) AS text \
                 FROM cial_task_lines WHERE execution_id = $1 ORDER BY number DESC LIMIT {MAX_LINES} \
             ) AS latest \
         ) AS counted WHERE bytes <= {MAX_LINES_BYTES} ORDER BY number",
        time_in_bounds("at")
    );
    diesel::sql_query(query).bind::<SqlUuid, _>(execution).load(conn).await
}

/// Adds lines of one attempt.
pub async fn add_lines(
    conn: &mut Conn,
    execution: Uuid,
    (task, attempt): (&str, i32),
    at: Timestamp,
    lines: &[(&str, &str)],
) -> QueryResult<usize> {
    let (outputs, texts): (Vec<_>, Vec<_>) = lines.iter().copied().unzip();
    diesel::sql_query(
        "INSERT INTO cial_task_lines (execution_id, task, attempt, output, at, text) \
         SELECT $1, $2, $3, output, $4, text \
         FROM ROWS FROM (pg_catalog.unnest($5), pg_catalog.unnest($6)) AS t (output, text)",
    )
    .bind::<SqlUuid, _>(execution)
    .bind::<Text, _>(task)
    .bind::<Integer, _>(attempt)
    .bind::<Timestamptz, _>(at)
    .bind::<Array<Text>, _>(outputs)
    .bind::<Array<Text>, _>(texts)
    .execute(conn)
    .await
}

/// Requests the end of an open execution; `false` when there is none of this id. One whose tasks wait ends at once, whatever
/// runs before it.
pub async fn request_cancel(conn: &mut Conn, id: Uuid, now: Timestamp) -> QueryResult<bool> {
    let waiting = diesel::sql_query(
        "UPDATE cial_executions SET cancel_requested = true, state = 'cancelled', finished_at = $2 \
         WHERE id = $1 AND state = 'scheduled'",
    )
    .bind::<SqlUuid, _>(id)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .await?;
    if waiting == 1 {
        cancel_tasks(conn, id, now).await?;
        return Ok(true);
    }
    let changed = diesel::sql_query(
        "UPDATE cial_executions SET cancel_requested = true WHERE id = $1 AND state IN ('scheduled', 'running')",
    )
    .bind::<SqlUuid, _>(id)
    .execute(conn)
    .await?;
    Ok(changed == 1)
}

/// Notes that an attempt begins, before it does; `false` when the task does not wait any more.
pub async fn begin_attempt(
    conn: &mut Conn,
    execution: Uuid,
    task: &str,
    attempt: i32,
    now: Timestamp,
) -> QueryResult<bool> {
    // First: a cancellation may have ended it, and an attempt that is recorded as begun counts.
    let open = diesel::sql_query(
        "UPDATE cial_executions SET state = 'running', started_at = COALESCE(started_at, $2) \
         WHERE id = $1 AND state IN ('scheduled', 'running')",
    )
    .bind::<SqlUuid, _>(execution)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .await?;
    if open == 0 {
        return Ok(false);
    }
    let begun = diesel::sql_query(
        "UPDATE cial_tasks SET state = 'running', attempts = $3, started_at = COALESCE(started_at, $4), reason = NULL \
         WHERE execution_id = $1 AND name = $2 AND state = 'waiting' AND attempts = $3 - 1",
    )
    .bind::<SqlUuid, _>(execution)
    .bind::<Text, _>(task)
    .bind::<Integer, _>(attempt)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .await?;
    Ok(begun == 1)
}

/// The columns of a task after one of its attempts.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptEnd {
    /// `waiting` for another attempt, or a final state.
    pub state: &'static str,
    /// The attempts that count from now on.
    pub attempts: i32,
    pub next_attempt_at: Timestamp,
    pub not_started_since: Option<Timestamp>,
    pub reason: Option<String>,
    pub output: Option<Value>,
    pub at: Timestamp,
}

/// Records the end of the attempt `attempt`, unless its end is recorded already.
pub async fn end_attempt(
    conn: &mut Conn,
    execution: Uuid,
    (task, attempt): (&str, i32),
    end: &AttemptEnd,
) -> QueryResult<usize> {
    let finished_at = (end.state != "waiting").then_some(end.at);
    diesel::sql_query(
        "UPDATE cial_tasks SET state = $4, attempts = $5, next_attempt_at = $6, reason = $7, output = $8, finished_at = $9, \
             not_started_since = $10 \
         WHERE execution_id = $1 AND name = $2 AND state = 'running' AND attempts = $3",
    )
    .bind::<SqlUuid, _>(execution)
    .bind::<Text, _>(task)
    .bind::<Integer, _>(attempt)
    .bind::<Text, _>(end.state)
    .bind::<Integer, _>(end.attempts)
    .bind::<Timestamptz, _>(end.next_attempt_at)
    .bind::<Nullable<Text>, _>(&end.reason)
    .bind::<Nullable<Jsonb>, _>(&end.output)
    .bind::<Nullable<Timestamptz>, _>(finished_at)
    .bind::<Nullable<Timestamptz>, _>(end.not_started_since)
    .execute(conn)
    .await
}

async fn cancel_tasks(conn: &mut Conn, execution: Uuid, now: Timestamp) -> QueryResult<usize> {
    diesel::sql_query(
        "UPDATE cial_tasks SET state = 'cancelled', finished_at = $2 \
         WHERE execution_id = $1 AND state IN ('waiting', 'running')",
    )
    .bind::<SqlUuid, _>(execution)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .await
}

/// Ends an open execution; tasks that did not end have the state `cancelled`.
pub async fn finish(
    conn: &mut Conn,
    id: Uuid,
    state: &str,
    reason: Option<&str>,
    now: Timestamp,
) -> QueryResult<usize> {
    cancel_tasks(conn, id, now).await?;
    diesel::sql_query(
        "UPDATE cial_executions SET state = $2, reason = $3, finished_at = $4 \
         WHERE id = $1 AND state IN ('scheduled', 'running')",
    )
    .bind::<SqlUuid, _>(id)
    .bind::<Text, _>(state)
    .bind::<Nullable<Text>, _>(reason)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .await
}
