//! A new tenant and the memory of its creation, in one transaction.

use diesel::result::Error;
use diesel_async::AsyncConnection as _;
use protocol::control;

use super::Conn;
use super::idempotency::{self, Remembered};
use super::tenant::{self, NewTenant, Tenant};

/// An idempotency key with the hash of the body that came with it.
#[derive(Clone, Copy)]
pub struct Memo<'a> {
    pub key: &'a str,
    pub body_hash: &'a [u8],
}

/// `None` when the slug or the key is taken; nothing is written then.
pub async fn create(
    conn: &mut Conn,
    new: &NewTenant<'_>,
    memo: Option<Memo<'_>>,
    view: impl Fn(&Tenant) -> control::Tenant + Send + Sync,
) -> anyhow::Result<Option<control::Tenant>> {
    let made = conn.transaction(async |conn| {
        let Some(tenant) = tenant::insert(conn, new).await? else { return Ok(None) };
        let answer = view(&tenant);
        let Some(memo) = memo else { return Ok(Some(answer)) };
        let answered = Remembered {
            owner_id: new.owner_id,
            key: memo.key.to_owned(),
            body_hash: memo.body_hash.to_owned(),
            answer: serde_json::to_value(&answer).unwrap_or_default(),
        };
        match idempotency::remember(conn, &answered).await? {
            true => Ok(Some(answer)),
            false => Err(Error::RollbackTransaction),
        }
    });
    match made.await {
        Err(Error::RollbackTransaction) => Ok(None),
        made => Ok(made?),
    }
}
