//! `model_endpoint`, of which there is one row or none, and `model_usage`: what each tenant used on each day.

use chrono::{Days, NaiveDate};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Integer, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use protocol::{TenantId, Timestamp};

use super::Conn;
use super::schema::model_endpoint::{self, dsl as endpoint_dsl};
use super::schema::model_usage::{self, dsl as usage_dsl};

/// The days for which usage is kept.
const KEPT_DAYS: u64 = 400;

#[derive(Clone, Debug, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = model_endpoint, check_for_backend(diesel::pg::Pg), treat_none_as_null = true)]
pub struct Endpoint {
    pub base_url: String,
    pub model: String,
    pub sealed_key: Option<String>,
    pub system_prompt: Option<String>,
    pub max_tokens: Option<i32>,
    pub requests_per_minute: i32,
    pub tokens_per_day: i64,
    pub updated_by: String,
    pub updated_at: Timestamp,
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = model_usage, check_for_backend(diesel::pg::Pg))]
pub struct Usage {
    pub day: NaiveDate,
    pub requests: i64,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
    pub charged_tokens: i64,
}

/// A request that wants to be admitted.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub tenant: TenantId,
    pub day: NaiveDate,
    /// Since 1970.
    pub minute: i64,
    /// The tokens that the reply may take, until its own count is known.
    pub reserved: i64,
}

/// The tokens that a reply took, which replace its reservation.
#[derive(Clone, Copy, Debug)]
pub struct Settlement {
    pub reserved: i64,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
}

pub async fn endpoint(conn: &mut Conn) -> QueryResult<Option<Endpoint>> {
    endpoint_dsl::model_endpoint.select(Endpoint::as_select()).first(conn).await.optional()
}

pub async fn set_endpoint(conn: &mut Conn, endpoint: &Endpoint) -> QueryResult<()> {
    diesel::insert_into(endpoint_dsl::model_endpoint)
        .values(endpoint)
        .on_conflict(endpoint_dsl::only_one)
        .do_update()
        .set(endpoint)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn delete_endpoint(conn: &mut Conn) -> QueryResult<usize> {
    diesel::delete(endpoint_dsl::model_endpoint).execute(conn).await
}

/// Counts a request and reserves its tokens; `false` when the tenant's quota of the minute or of the day is used up. Requests at
/// the same moment wait for each other.
///
/// # Errors
/// Also a violation of a foreign key, where the tenant is gone.
pub async fn admit(conn: &mut Conn, request: Request, endpoint: &Endpoint) -> QueryResult<bool> {
    let query = "
        INSERT INTO model_usage AS used (tenant_id, day, requests, charged_tokens, minute, minute_requests)
        VALUES ($1, $2, 1, $3, $4, 1)
        ON CONFLICT (tenant_id, day) DO UPDATE SET
            requests = used.requests + 1,
            charged_tokens = used.charged_tokens + excluded.charged_tokens,
            minute = excluded.minute,
            minute_requests = CASE WHEN used.minute = excluded.minute THEN used.minute_requests + 1 ELSE 1 END
        WHERE used.charged_tokens < $5 AND (used.minute <> excluded.minute OR used.minute_requests < $6)";
    let counted = diesel::sql_query(query)
        .bind::<SqlUuid, _>(request.tenant.uuid())
        .bind::<Date, _>(request.day)
        .bind::<BigInt, _>(request.reserved)
        .bind::<BigInt, _>(request.minute)
        .bind::<BigInt, _>(endpoint.tokens_per_day)
        .bind::<Integer, _>(endpoint.requests_per_minute)
        .execute(conn)
        .await?;
    Ok(counted == 1)
}

/// Replaces the reservation of a reply by its tokens, and deletes old days.
pub async fn settle(
    conn: &mut Conn,
    tenant: TenantId,
    day: NaiveDate,
    settlement: Settlement,
) -> QueryResult<()> {
    let Settlement { reserved, prompt_tokens, completion_tokens } = settlement;
    let taken = prompt_tokens + completion_tokens;
    diesel::update(usage_dsl::model_usage.find((tenant.uuid(), day)))
        .set((
            usage_dsl::charged_tokens.eq(usage_dsl::charged_tokens - reserved + taken),
            usage_dsl::prompt_tokens.eq(usage_dsl::prompt_tokens + prompt_tokens),
            usage_dsl::completion_tokens.eq(usage_dsl::completion_tokens + completion_tokens),
        ))
        .execute(conn)
        .await?;
    let kept_since = day.checked_sub_days(Days::new(KEPT_DAYS)).unwrap_or(NaiveDate::MIN);
    diesel::delete(usage_dsl::model_usage)
        .filter(usage_dsl::tenant_id.eq(tenant.uuid()).and(usage_dsl::day.lt(kept_since)))
        .execute(conn)
        .await?;
    Ok(())
}

/// The days on which a tenant used the model, the latest first.
pub async fn usage(conn: &mut Conn, tenant: TenantId, limit: i64) -> QueryResult<Vec<Usage>> {
    usage_dsl::model_usage
        .filter(usage_dsl::tenant_id.eq(tenant.uuid()))
        .order(usage_dsl::day.desc())
        .limit(limit)
        .select(Usage::as_select())
        .load(conn)
        .await
}

/// A tenant's use of the model on one day.
pub async fn usage_on(
    conn: &mut Conn,
    tenant: TenantId,
    day: NaiveDate,
) -> QueryResult<Option<Usage>> {
    let found = usage_dsl::model_usage.find((tenant.uuid(), day));
    found.select(Usage::as_select()).first(conn).await.optional()
}
