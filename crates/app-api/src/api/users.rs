//! `/v1/users`: the caller; every account, its name and role, its end.

use axum::extract::State;
use protocol::control::User;
use protocol::people::{ChangeUser, Me, OwnMembership, PlatformRole, UserList};
use service::api_error::ApiError;

use crate::access::{Caller, Person};
use crate::app::App;
use crate::db::membership;
use crate::http::extract::{IdPath, Json, Query};
use crate::http::paging::PageQuery;
use crate::http::reply::NoContent;
use crate::people::users;
use crate::views;

pub async fn show_me(State(app): State<App>, person: Person) -> Result<axum::Json<Me>, ApiError> {
    let tenants = membership::of_user(&mut *app.conn().await?, person.user.id).await?;
    let own = |own: membership::OwnMembership| OwnMembership {
        id: own.id,
        slug: own.slug,
        role: own.role,
    };
    Ok(axum::Json(Me {
        platform_admin: PlatformRole::from_stored(&person.user.role) >= PlatformRole::Admin,
        user: views::user(&person.user),
        tenants: tenants.into_iter().map(own).collect(),
    }))
}

pub async fn list_users(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<UserList>, ApiError> {
    let window = query.window()?;
    let mut users = users::list(&app, window).await?;
    let next = window.next(&mut users, |user| user.id);
    Ok(axum::Json(UserList { users: users.iter().map(views::user).collect(), next }))
}

pub async fn show_user(
    State(app): State<App>,
    IdPath(id): IdPath,
) -> Result<axum::Json<User>, ApiError> {
    Ok(axum::Json(views::user(&users::find(&app, id).await?)))
}

pub async fn change_user(
    State(app): State<App>,
    Caller(caller): Caller,
    IdPath(id): IdPath,
    body: Json<ChangeUser>,
) -> Result<axum::Json<User>, ApiError> {
    let changed = users::change(&app, &caller, id, &body.value).await?;
    Ok(axum::Json(views::user(&changed)))
}

pub async fn delete_user(
    State(app): State<App>,
    Caller(caller): Caller,
    IdPath(id): IdPath,
) -> Result<NoContent, ApiError> {
    users::delete(&app, &caller, id).await?;
    Ok(NoContent::default())
}
