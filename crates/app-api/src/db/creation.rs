//! Inserts a new tenant and its idempotency key in one transaction.

use diesel::result::Error;
use diesel_async::AsyncConnection as _;
use protocol::control;

use super::Conn;
use super::idempotency::{self, StoredResponse};
use super::tenant::{self, NewTenant};
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
) -> anyhow::Result<Option<control::Tenant>> {
    let made = conn.transaction(async |conn| {
        let Some(tenant) = tenant::insert(conn, new).await? else { return Ok(None) };
        let response = view(&tenant);
        let Some(key) = key else { return Ok(Some(response)) };
        let stored = StoredResponse {
            owner_id: key.principal,
            key: key.text.to_owned(),
            body_hash: key.body_hash.to_owned(),
            answer: serde_json::to_value(&response).unwrap_or_default(),
        };
        match idempotency::insert(conn, &stored).await? {
            true => Ok(Some(response)),
            false => Err(Error::RollbackTransaction),
        }
    });
    match made.await {
        Err(Error::RollbackTransaction) => Ok(None),
        made => Ok(made?),
    }
}
