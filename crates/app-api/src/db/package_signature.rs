//! `package_signatures`: the key to which each signed package is pinned.

use diesel::prelude::*;
use diesel::sql_types::{Bool, Bytea, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use protocol::Timestamp;
use uuid::Uuid;

use super::Conn;
use super::schema::package_signatures::dsl;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackagePin {
    pub package_id: Uuid,
    pub tenant_id: Uuid,
    pub public_key: [u8; 32],
    pub sha256: Vec<u8>,
    pub signature: [u8; 64],
    pub pinned_at: Timestamp,
}

/// The signature of a package, with the name of the key while it is trusted.
#[derive(Clone, Debug, QueryableByName)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct PinnedKey {
    #[diesel(sql_type = SqlUuid)]
    pub package_id: Uuid,
    #[diesel(sql_type = Bytea)]
    pub public_key: Vec<u8>,
    #[diesel(sql_type = Nullable<Text>)]
    pub key: Option<String>,
}

/// Pins a package to its key; `false` when the key is not trusted at this moment.
pub async fn insert(conn: &mut Conn, pin: &PackagePin) -> QueryResult<bool> {
    let inserted = diesel::sql_query(
        "INSERT INTO package_signatures (package_id, tenant_id, public_key, sha256, signature, pinned_at) \
         SELECT $1, $2, public_key, $4, $5, $6 FROM package_keys WHERE public_key = $3 FOR SHARE",
    )
    .bind::<SqlUuid, _>(pin.package_id)
    .bind::<SqlUuid, _>(pin.tenant_id)
    .bind::<Bytea, _>(pin.public_key.as_slice())
    .bind::<Bytea, _>(&pin.sha256)
    .bind::<Bytea, _>(pin.signature.as_slice())
    .bind::<Timestamptz, _>(pin.pinned_at)
    .execute(conn)
    .await?;
    Ok(inserted == 1)
}

/// The signatures of a tenant's packages.
pub async fn of_tenant(conn: &mut Conn, tenant: Uuid) -> QueryResult<Vec<PinnedKey>> {
    let query = "SELECT s.package_id, s.public_key, k.name AS key \
         FROM package_signatures s LEFT JOIN package_keys k USING (public_key) WHERE s.tenant_id = $1";
    diesel::sql_query(query).bind::<SqlUuid, _>(tenant).load(conn).await
}

/// Whether a package of the tenant is pinned to a key that is trusted.
pub async fn is_trusted(conn: &mut Conn, tenant: Uuid, package: Uuid) -> QueryResult<bool> {
    #[derive(QueryableByName)]
    struct Trusted {
        #[diesel(sql_type = Bool)]
        trusted: bool,
    }
    let query = "SELECT EXISTS (SELECT FROM package_signatures JOIN package_keys USING (public_key) \
         WHERE package_id = $1 AND tenant_id = $2) AS trusted";
    let query = diesel::sql_query(query).bind::<SqlUuid, _>(package).bind::<SqlUuid, _>(tenant);
    let found: Trusted = query.get_result(conn).await?;
    Ok(found.trusted)
}

pub async fn delete(conn: &mut Conn, tenant: Uuid, package: Uuid) -> QueryResult<usize> {
    let own = dsl::package_signatures.find(package).filter(dsl::tenant_id.eq(tenant));
    diesel::delete(own).execute(conn).await
}
