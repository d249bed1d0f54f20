//! Reads the whole audit log and checks its hash chain.

use super::chain::{Break, Verified, Verifier};
use super::query::AuditFilter;
use crate::db::audit_log::{self, Order};
use crate::db::{Conn, QueryResult};

const PAGE: i64 = 1_000;

/// Checks all entries up to the head of the log at this moment. The inner error is the first break.
///
/// # Errors
/// When the log cannot be read.
pub async fn verify(conn: &mut Conn) -> QueryResult<Result<Verified, Break>> {
    let (head, head_hash) = audit_log::head(conn).await?;
    let (mut verifier, mut last) = (Verifier::default(), 0);
    loop {
        let order = Order::OldestBetween(last, head);
        let rows = audit_log::list(conn, &AuditFilter::default(), order, PAGE).await?;
        for row in &rows {
            if let Err(found) = verifier.check(row.id, &row.record(), &row.hash) {
                return Ok(Err(found));
            }
        }
        match rows.last() {
            Some(row) => last = row.id,
            None => return Ok(verifier.finish(head, &head_hash)),
        }
    }
}
