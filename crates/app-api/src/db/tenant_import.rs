//! `tenant_imports`: the tenants whose data are being imported. A tenant in it does not start.

use std::time::Duration;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use protocol::Timestamp;
use protocol::spec::Desired;
use uuid::Uuid;

use super::Conn;
use super::schema::{tenant_imports as imports, tenants};

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

/// Returns `false` when the tenant is being deleted.
pub async fn finish(conn: &mut Conn, tenant: Uuid) -> QueryResult<bool> {
    let living = tenants::table
        .filter(tenants::id.eq(tenant))
        .filter(tenants::desired.ne(Desired::Deleted.as_str()))
        .select(tenants::id);
    let of_living = imports::table.filter(imports::tenant_id.eq_any(living));
    Ok(diesel::delete(of_living).execute(conn).await? == 1)
}

/// The tenants whose import nobody continues, and which are not being deleted yet.
pub async fn overdue(conn: &mut Conn, now: Timestamp) -> QueryResult<Vec<Uuid>> {
    let late = imports::table
        .inner_join(tenants::table)
        .filter(imports::alive_until.lt(now))
        .filter(tenants::desired.ne(Desired::Deleted.as_str()));
    late.select(imports::tenant_id).load(conn).await
}
