//! `invitations`: open invitations by the hash of their token.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use protocol::{TenantId, Timestamp};
use uuid::Uuid;

use super::Conn;
use super::schema::invitations::{self, dsl};
use super::schema::tenants;
use crate::http::paging::Window;

#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = invitations, check_for_backend(diesel::pg::Pg))]
pub struct Invitation {
    pub id: Uuid,
    pub token_hash: Vec<u8>,
    pub email: String,
    pub role: String,
    /// `None`: to the platform.
    pub tenant_id: Option<Uuid>,
    pub invited_by: String,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub inviter_user: Option<Uuid>,
    pub inviter_key: Option<Uuid>,
}

impl Invitation {
    pub fn tenant(&self) -> Option<TenantId> {
        self.tenant_id.map(TenantId::new)
    }
}

type OfTenant = diesel::dsl::IsNotDistinctFrom<invitations::tenant_id, Option<Uuid>>;

/// The invitations to this tenant, or to the platform for `None`.
fn to(tenant: Option<TenantId>) -> OfTenant {
    dsl::tenant_id.is_not_distinct_from(tenant.map(|tenant| tenant.uuid()))
}

/// Inserts an invitation and deletes the earlier one of the same person to the same place; `false` when another such
/// invitation was inserted at the same time.
pub async fn replace(conn: &mut Conn, new: &Invitation) -> QueryResult<bool> {
    let earlier = dsl::invitations.filter(to(new.tenant())).filter(dsl::email.eq(&new.email));
    diesel::delete(earlier).execute(conn).await?;
    let insert = diesel::insert_into(dsl::invitations).values(new).on_conflict_do_nothing();
    Ok(insert.execute(conn).await? == 1)
}

/// The open invitations, the newest first.
pub async fn open(
    conn: &mut Conn,
    tenant: Option<TenantId>,
    now: Timestamp,
    window: Window,
) -> QueryResult<Vec<Invitation>> {
    let open = dsl::invitations.filter(to(tenant)).filter(dsl::expires_at.gt(now));
    let mut page = open.order(dsl::id.desc()).limit(window.rows()).into_boxed();
    if let Some(before) = window.before {
        page = page.filter(dsl::id.lt(before));
    }
    page.select(Invitation::as_select()).load(conn).await
}

/// Finds an open invitation, with the name of its tenant.
pub async fn by_token_hash(
    conn: &mut Conn,
    hash: &[u8],
    now: Timestamp,
) -> QueryResult<Option<(Invitation, Option<String>)>> {
    dsl::invitations
        .left_join(tenants::table)
        .filter(dsl::token_hash.eq(hash).and(dsl::expires_at.gt(now)))
        .select((Invitation::as_select(), tenants::name.nullable()))
        .first(conn)
        .await
        .optional()
}

/// Consumes an open invitation. Of two concurrent calls, one succeeds.
pub async fn take(conn: &mut Conn, hash: &[u8], now: Timestamp) -> QueryResult<Option<Invitation>> {
    let open = dsl::invitations.filter(dsl::token_hash.eq(hash).and(dsl::expires_at.gt(now)));
    diesel::delete(open).returning(Invitation::as_returning()).get_result(conn).await.optional()
}

/// Deletes an invitation to this tenant or, for `None`, to the platform.
pub async fn delete(
    conn: &mut Conn,
    tenant: Option<TenantId>,
    id: Uuid,
) -> QueryResult<Option<Invitation>> {
    let named = dsl::invitations.filter(to(tenant)).filter(dsl::id.eq(id));
    diesel::delete(named).returning(Invitation::as_returning()).get_result(conn).await.optional()
}

pub async fn delete_expired(conn: &mut Conn, now: Timestamp) -> QueryResult<usize> {
    diesel::delete(dsl::invitations.filter(dsl::expires_at.le(now))).execute(conn).await
}
