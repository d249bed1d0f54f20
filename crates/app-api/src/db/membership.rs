//! `memberships`: the role of each person on each tenant.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use protocol::people::MemberRole;
use protocol::{Slug, TenantId, Timestamp};
use uuid::Uuid;

use super::Conn;
use super::columns::TextColumn;
use super::schema::memberships::{self, dsl};
use super::schema::{tenants, users};
use super::user::User;
use crate::http::paging::Window;

/// A person with a role on a tenant.
#[derive(Clone, Debug)]
pub struct Member {
    pub user: User,
    pub role: MemberRole,
    pub since: Timestamp,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = memberships)]
struct RoleRow {
    #[diesel(deserialize_as = TextColumn<MemberRole>)]
    role: MemberRole,
    created_at: Timestamp,
}

/// A membership of one person.
#[derive(Clone, Debug)]
pub struct OwnMembership {
    pub id: TenantId,
    pub slug: Slug,
    pub role: MemberRole,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = tenants)]
struct TenantName {
    id: Uuid,
    #[diesel(deserialize_as = TextColumn<Slug>)]
    slug: Slug,
}

/// The members of a tenant, the newest account first.
pub async fn of_tenant(
    conn: &mut Conn,
    tenant: TenantId,
    window: Window,
) -> QueryResult<Vec<Member>> {
    let mut page = dsl::memberships
        .inner_join(users::table)
        .filter(dsl::tenant_id.eq(tenant.uuid()))
        .order(dsl::user_id.desc())
        .limit(window.rows())
        .select((User::as_select(), RoleRow::as_select()))
        .into_boxed();
    if let Some(before) = window.before {
        page = page.filter(dsl::user_id.lt(before));
    }
    let rows: Vec<(User, RoleRow)> = page.load(conn).await?;
    Ok(rows.into_iter().map(member).collect())
}

/// The membership of one person, with the person.
pub async fn of_person(
    conn: &mut Conn,
    tenant: TenantId,
    user: Uuid,
) -> QueryResult<Option<Member>> {
    let found: Option<(User, RoleRow)> = dsl::memberships
        .find((tenant.uuid(), user))
        .inner_join(users::table)
        .select((User::as_select(), RoleRow::as_select()))
        .first(conn)
        .await
        .optional()?;
    Ok(found.map(member))
}

fn member((user, row): (User, RoleRow)) -> Member {
    Member { user, role: row.role, since: row.created_at }
}

/// The memberships of a person by slug.
pub async fn of_user(conn: &mut Conn, user: Uuid) -> QueryResult<Vec<OwnMembership>> {
    let rows: Vec<(TenantName, RoleRow)> = dsl::memberships
        .inner_join(tenants::table)
        .filter(dsl::user_id.eq(user))
        .order(tenants::slug)
        .select((TenantName::as_select(), RoleRow::as_select()))
        .load(conn)
        .await?;
    let own = |(tenant, row): (TenantName, RoleRow)| OwnMembership {
        id: TenantId::new(tenant.id),
        slug: tenant.slug,
        role: row.role,
    };
    Ok(rows.into_iter().map(own).collect())
}

/// Returns the role, and locks the membership until the transaction ends.
pub async fn lock_role(
    conn: &mut Conn,
    tenant: TenantId,
    user: Uuid,
) -> QueryResult<Option<MemberRole>> {
    let row =
        dsl::memberships.find((tenant.uuid(), user)).select(RoleRow::as_select()).for_update();
    Ok(row.first(conn).await.optional()?.map(|row: RoleRow| row.role))
}

pub async fn set(
    conn: &mut Conn,
    tenant: TenantId,
    user: Uuid,
    role: MemberRole,
    now: Timestamp,
) -> QueryResult<usize> {
    let row = (
        dsl::tenant_id.eq(tenant.uuid()),
        dsl::user_id.eq(user),
        dsl::role.eq(role.as_str()),
        dsl::created_at.eq(now),
    );
    diesel::insert_into(dsl::memberships)
        .values(row)
        .on_conflict((dsl::tenant_id, dsl::user_id))
        .do_update()
        .set(dsl::role.eq(role.as_str()))
        .execute(conn)
        .await
}

pub async fn remove(conn: &mut Conn, tenant: TenantId, user: Uuid) -> QueryResult<usize> {
    diesel::delete(dsl::memberships.find((tenant.uuid(), user))).execute(conn).await
}
