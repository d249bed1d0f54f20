//! `departed`: the ids of deleted tenants. A trigger writes them.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use protocol::TenantId;

use super::Conn;
use super::schema::departed::dsl;

/// Returns those of `ids` that this database created and deleted.
pub async fn known_among(conn: &mut Conn, ids: &[TenantId]) -> QueryResult<HashSet<TenantId>> {
    let ids: Vec<_> = ids.iter().map(|id| id.uuid()).collect();
    let known = dsl::departed.filter(dsl::id.eq_any(ids)).select(dsl::id);
    Ok(known.load(conn).await?.into_iter().map(TenantId::new).collect())
}
