//! `tenant_imports`: the tenants whose data are being imported. A tenant in it does not start.

use std::time::Duration;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use protocol::Timestamp;
use protocol::spec::Desired;
use uuid::Uuid;

use super::schema::{tenant_imports as imports, tenants};
use super::{Conn, Transaction as _};

/// How long an import lives on after the last sign of its process.
pub const LIFETIME: Duration = Duration::from_secs(60);
pub const RENEWAL_INTERVAL: Duration = Duration::from_secs(10);

pub async fn begin(conn: &mut Conn, tenant: Uuid, alive_until: Timestamp) -> QueryResult<usize> {
    let row = (imports::tenant_id.eq(tenant), imports::alive_until.eq(alive_until));
    diesel::insert_into(imports::table).values(row).execute(conn).await
}

pub async fn is_open(conn: &mut Conn, tenant: Uuid) -> QueryResult<bool> {
    diesel::select(diesel::dsl::exists(imports::table.find(tenant))).get_result(conn).await
}

/// Returns `false` when the tenant is being deleted.
pub async fn renew(conn: &mut Conn, tenant: Uuid, alive_until: Timestamp) -> QueryResult<bool> {
    let living = tenants::table
        .filter(tenants::id.eq(tenant))
        .filter(tenants::desired.ne(Desired::Deleted.as_str()))
        .select(tenants::id);
    let of_living = imports::table.filter(imports::tenant_id.eq_any(living));
    let renewed =
        diesel::update(of_living).set(imports::alive_until.eq(alive_until)).execute(conn).await?;
    Ok(renewed == 1)
}

/// Returns `false` when the tenant is being deleted. The lock of the tenant's row lets a delete and this see each other.
pub async fn finish(conn: &mut Conn, tenant: Uuid) -> QueryResult<bool> {
    let finished = conn.transaction(async |conn| {
        let living = tenants::table
            .filter(tenants::id.eq(tenant))
            .filter(tenants::desired.ne(Desired::Deleted.as_str()))
            .select(tenants::id)
            .for_update();
        if living.get_result::<Uuid>(conn).await.optional()?.is_none() {
            return QueryResult::Ok(false);
        }
        Ok(diesel::delete(imports::table.find(tenant)).execute(conn).await? == 1)
    });
    finished.await
}

/// Whether the import of a tenant is open, and overdue at a time if one is named.
pub async fn may_be_abandoned(
    conn: &mut Conn,
    tenant: Uuid,
    overdue_at: Option<Timestamp>,
) -> QueryResult<bool> {
    let alive_until = imports::table.find(tenant).select(imports::alive_until);
    let alive_until: Option<Timestamp> = alive_until.get_result(conn).await.optional()?;
    Ok(alive_until.is_some_and(|until| overdue_at.is_none_or(|now| until < now)))
}

/// The tenants whose import nobody continues, and which are not being deleted yet.
pub async fn overdue(conn: &mut Conn, now: Timestamp) -> QueryResult<Vec<Uuid>> {
    let late = imports::table
        .inner_join(tenants::table)
        .filter(imports::alive_until.lt(now))
        .filter(tenants::desired.ne(Desired::Deleted.as_str()));
    late.select(imports::tenant_id).load(conn).await
}
