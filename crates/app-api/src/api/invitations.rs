//! `/v1/invitations` and `/v1/tenants/{slug}/invitations`: invite, list, withdraw.

use axum::extract::State;
use protocol::people::{CreatedInvitation, Invitation, InvitationList, NewInvitation};
use service::api_error::ApiError;
use uuid::Uuid;

use crate::access::{AuthorizedTenant, Caller, Principal};
use crate::app::App;
use crate::db::invitation;
use crate::http::extract::{IdPath, Json, Query};
use crate::http::paging::PageQuery;
use crate::http::reply::{Created, NoContent};
use crate::people::invitations::{self, Target};
use crate::views;

pub async fn invite_operator(
    State(app): State<App>,
    Caller(caller): Caller,
    body: Json<NewInvitation>,
) -> Result<Created<CreatedInvitation>, ApiError> {
    invite(&app, &caller, Target::Platform, &body.value).await
}

pub async fn invite_member(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    body: Json<NewInvitation>,
) -> Result<Created<CreatedInvitation>, ApiError> {
    invite(&app, &caller, Target::Tenant(&found.tenant), &body.value).await
}

async fn invite(
    app: &App,
    caller: &Principal,
    target: Target<'_>,
    new: &NewInvitation,
) -> Result<Created<CreatedInvitation>, ApiError> {
    let created = invitations::create(app, caller, target, &new.email, &new.role).await?;
    let view = CreatedInvitation {
        id: created.id,
        url: created.url,
        expires_at: views::time(created.expires_at),
        mailed: created.is_mailed,
    };
    Ok(Created::new(view))
}

pub async fn list_operator_invitations(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<InvitationList>, ApiError> {
    list(&app, Target::Platform, &query).await
}

pub async fn list_member_invitations(
    State(app): State<App>,
    found: AuthorizedTenant,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<InvitationList>, ApiError> {
    list(&app, Target::Tenant(&found.tenant), &query).await
}

async fn list(
    app: &App,
    target: Target<'_>,
    query: &PageQuery,
) -> Result<axum::Json<InvitationList>, ApiError> {
    let window = query.window()?;
    let mut invitations = invitations::list(app, target, window).await?;
    let next = window.next(&mut invitations, |invitation| invitation.id);
    let view = |invitation: invitation::Invitation| Invitation {
        id: invitation.id,
        email: invitation.email,
        role: invitation.role,
        invited_by: invitation.invited_by,
        created_at: views::time(invitation.created_at),
        expires_at: views::time(invitation.expires_at),
    };
    Ok(axum::Json(InvitationList {
        invitations: invitations.into_iter().map(view).collect(),
        next,
    }))
}

pub async fn revoke_operator_invitation(
    State(app): State<App>,
    Caller(caller): Caller,
    IdPath(id): IdPath,
) -> Result<NoContent, ApiError> {
    revoke(&app, &caller, Target::Platform, id).await
}

pub async fn revoke_member_invitation(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    IdPath(id): IdPath,
) -> Result<NoContent, ApiError> {
    revoke(&app, &caller, Target::Tenant(&found.tenant), id).await
}

async fn revoke(
    app: &App,
    caller: &Principal,
    target: Target<'_>,
    id: Uuid,
) -> Result<NoContent, ApiError> {
    invitations::revoke(app, caller, target, id).await?;
    Ok(NoContent::default())
}
