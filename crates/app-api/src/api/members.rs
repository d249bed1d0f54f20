//! `/v1/tenants/{slug}/members`: the people of a tenant.

use axum::extract::State;
use protocol::TenantId;
use protocol::people::{Member, MemberList, SetMember};
use service::api_error::ApiError;

use crate::access::{AuthorizedTenant, Caller, Person, Principal};
use crate::app::App;
use crate::db::{membership, tenant};
use crate::http::extract::{IdPath, Json, Query};
use crate::http::paging::PageQuery;
use crate::http::reply::NoContent;
use crate::people::members;
use crate::views;

pub async fn list_members(
    State(app): State<App>,
    found: AuthorizedTenant,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<MemberList>, ApiError> {
    let window = query.window()?;
    let mut members = members::list(&app, &found.tenant, window).await?;
    let next = window.next(&mut members, |member| member.user.id);
    Ok(axum::Json(MemberList { members: members.into_iter().map(view).collect(), next }))
}

pub async fn set_member(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    IdPath(user): IdPath,
    body: Json<SetMember>,
) -> Result<axum::Json<Member>, ApiError> {
    let set = members::set(&app, &caller, &found.tenant, user, body.value.role).await?;
    Ok(axum::Json(view(set)))
}

fn view(member: membership::Member) -> Member {
    Member {
        user_id: member.user.id,
        email: member.user.email,
        name: member.user.name,
        role: member.role,
        since: views::time(member.since),
    }
}

pub async fn remove_member(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    IdPath(user): IdPath,
) -> Result<NoContent, ApiError> {
    members::remove(&app, &caller, &found.tenant, user).await?;
    Ok(NoContent::default())
}

/// Ends the caller's own membership of the tenant with this id, which needs no admin.
pub async fn leave(
    State(app): State<App>,
    person: Person,
    IdPath(tenant): IdPath,
) -> Result<NoContent, ApiError> {
    let tenant = tenant::by_id(&mut *app.conn().await?, TenantId::new(tenant)).await?;
    let tenant = tenant.ok_or_else(members::no_such_member)?;
    let user = person.user.id;
    members::remove(&app, &Principal::Session(person), &tenant, user).await?;
    Ok(NoContent::default())
}
