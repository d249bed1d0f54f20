//! Inserts a new tenant, its idempotency key and its audit entry in one transaction.

use diesel::result::Error;
use diesel_async::AsyncConnection as _;
use protocol::control;

use super::idempotency::{self, StoredResponse};
use super::tenant::{self, NewTenant};
use super::{Conn, audit_log};
use crate::audit::Entry;
use crate::tenant::Tenant;

/// An idempotency key with the SHA-256 of the request body.
#[derive(Clone, Copy)]
pub struct IdempotencyKey<'a> {
    /// The user or the API key that sent the idempotency key.
    pub principal: uuid::Uuid,
    pub text: &'a str,
    pub body_hash: &'a [u8],
}

/// Returns `None` and writes nothing when the slug or the key is taken.
pub async fn create(
    conn: &mut Conn,
    new: &NewTenant<'_>,
    key: Option<IdempotencyKey<'_>>,
    view: impl Fn(&Tenant) -> control::Tenant + Send + Sync,
    entry: &Entry,
) -> anyhow::Result<Option<control::Tenant>> {
    let made = conn.transaction(async |conn| {
        let Some(tenant) = tenant::insert(conn, new).await? else { return Ok(None) };
        let response = view(&tenant);
        let Some(key) = key else {
            audit_log::append(conn, entry, new.now).await?;
            return Ok(Some(response));
        };
        let stored = StoredResponse {
            owner_id: key.principal,
            key: key.text.to_owned(),
            body_hash: key.body_hash.to_owned(),
            answer: serde_json::to_value(&response).unwrap_or_default(),
        };
        if !idempotency::insert(conn, &stored).await? {
            return Err(Error::RollbackTransaction);
        }
        audit_log::append(conn, entry, new.now).await?;
        Ok(Some(response))
    });
    match made.await {
        Err(Error::RollbackTransaction) => Ok(None),
        made => Ok(made?),
    }
}
