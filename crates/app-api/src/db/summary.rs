//! `conversation_summaries` and `summary_positions`: counts of the conversations in tenants, and how far they were
//! collected.

use std::collections::{HashMap, HashSet};

use diesel::prelude::*;
use diesel::sql_types;
use diesel_async::RunQueryDsl;
use protocol::summaries::{ConversationSummary, SummaryTotal};
use protocol::{TenantId, Timestamp};
use uuid::Uuid;

use super::Conn;
use super::schema::{conversation_summaries, summary_positions, users};

#[derive(Queryable, Selectable)]
#[diesel(table_name = conversation_summaries)]
struct Row {
    user_id: Uuid,
    conversation_id: Uuid,
    messages: i64,
    tokens: i64,
    last_activity_at: Timestamp,
}

#[derive(QueryableByName)]
struct TotalRow {
    #[diesel(sql_type = sql_types::BigInt)]
    conversations: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    messages: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    tokens: i64,
    #[diesel(sql_type = sql_types::Nullable<sql_types::Timestamptz>)]
    last_activity_at: Option<Timestamp>,
}

#[derive(AsChangeset, Insertable)]
#[diesel(table_name = conversation_summaries)]
struct Counts {
    messages: i64,
    tokens: i64,
    last_activity_at: Timestamp,
}

impl From<&ConversationSummary> for Counts {
    fn from(summary: &ConversationSummary) -> Self {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Self {
            messages: count(summary.messages),
            tokens: count(summary.tokens),
            last_activity_at: summary.last_activity_at,
        }
    }
}

/// Adds a summary, or replaces the one of the same person and conversation. Returns `true`.
///
/// # Errors
/// Also a violation of a foreign key, where the person is gone.
pub async fn upsert(
    conn: &mut Conn,
    tenant: TenantId,
    summary: &ConversationSummary,
) -> QueryResult<bool> {
    use conversation_summaries::dsl;

    let key = (
        dsl::tenant_id.eq(tenant.uuid()),
        dsl::user_id.eq(summary.user_id),
        dsl::conversation_id.eq(summary.conversation),
    );
    let insert = diesel::insert_into(conversation_summaries::table)
        .values((key, Counts::from(summary)))
        .on_conflict((dsl::tenant_id, dsl::user_id, dsl::conversation_id))
        .do_update()
        .set(Counts::from(summary));
    Ok(insert.execute(conn).await? == 1)
}

/// Replaces the summary of the same person and conversation; `false` when there is none.
pub async fn update(
    conn: &mut Conn,
    tenant: TenantId,
    summary: &ConversationSummary,
) -> QueryResult<bool> {
    use conversation_summaries::dsl;

    let key = (tenant.uuid(), summary.user_id, summary.conversation);
    let stored = diesel::update(dsl::conversation_summaries.find(key)).set(Counts::from(summary));
    Ok(stored.execute(conn).await? == 1)
}

/// Whether the tenant has `max` summaries.
pub async fn is_full(conn: &mut Conn, tenant: TenantId, max: i64) -> QueryResult<bool> {
    use conversation_summaries::dsl;

    let last = dsl::conversation_summaries.filter(dsl::tenant_id.eq(tenant.uuid())).offset(max - 1);
    let last = last.select(dsl::user_id).first::<Uuid>(conn).await.optional()?;
    Ok(last.is_some())
}

/// Returns those of `ids` that are people.
pub async fn people_among(conn: &mut Conn, ids: &[Uuid]) -> QueryResult<HashSet<Uuid>> {
    let known = users::table.filter(users::id.eq_any(ids)).select(users::id);
    Ok(known.load(conn).await?.into_iter().collect())
}

/// The latest summaries of a tenant.
pub async fn latest(
    conn: &mut Conn,
    tenant: TenantId,
    limit: i64,
) -> QueryResult<Vec<ConversationSummary>> {
    use conversation_summaries::dsl;

    let of_tenant = dsl::conversation_summaries.filter(dsl::tenant_id.eq(tenant.uuid()));
    let order = (dsl::last_activity_at.desc(), dsl::conversation_id, dsl::user_id);
    let rows: Vec<Row> =
        of_tenant.order(order).limit(limit).select(Row::as_select()).load(conn).await?;
    let count = |count: i64| u64::try_from(count).unwrap_or_default();
    let summary = |row: Row| ConversationSummary {
        user_id: row.user_id,
        conversation: row.conversation_id,
        messages: count(row.messages),
        tokens: count(row.tokens),
        last_activity_at: row.last_activity_at,
    };
    Ok(rows.into_iter().map(summary).collect())
}

/// All summaries of a tenant as one. A sum beyond what a column holds is the largest that it does.
pub async fn total(conn: &mut Conn, tenant: TenantId) -> QueryResult<SummaryTotal> {
    let query = "
        SELECT count(DISTINCT conversation_id) AS conversations,
            least(coalesce(sum(messages), 0), 9223372036854775807)::bigint AS messages,
            least(coalesce(sum(tokens), 0), 9223372036854775807)::bigint AS tokens,
            max(last_activity_at) AS last_activity_at
        FROM conversation_summaries WHERE tenant_id = $1";
    let row: TotalRow =
        diesel::sql_query(query).bind::<sql_types::Uuid, _>(tenant.uuid()).get_result(conn).await?;
    let TotalRow { conversations, messages, tokens, last_activity_at } = row;
    Ok(SummaryTotal { conversations, messages, tokens, last_activity_at })
}

/// How far the summaries of each tenant were collected.
pub async fn positions(conn: &mut Conn) -> QueryResult<HashMap<TenantId, i64>> {
    use summary_positions::dsl;

    let rows: Vec<(Uuid, i64)> =
        dsl::summary_positions.select((dsl::tenant_id, dsl::position)).load(conn).await?;
    Ok(rows.into_iter().map(|(id, position)| (TenantId::new(id), position)).collect())
}

pub async fn set_position(conn: &mut Conn, tenant: TenantId, position: i64) -> QueryResult<()> {
    use summary_positions::dsl;

    diesel::insert_into(summary_positions::table)
        .values((dsl::tenant_id.eq(tenant.uuid()), dsl::position.eq(position)))
        .on_conflict(dsl::tenant_id)
        .do_update()
        .set(dsl::position.eq(position))
        .execute(conn)
        .await?;
    Ok(())
}
