//! The page of one's own account: the sessions and the keys of `cial login`, each with a button that ends it.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{Redirect, Response};
use protocol::Slug;
use service::api_error::ApiError;
use uuid::Uuid;

use super::format::ago;
use super::keys::{KeyRow, LIVE, key_row};
use super::{Layout, page};
use crate::access::{Account, Caller, Person, Principal};
use crate::api::sessions::no_such_session;
use crate::app::App;
use crate::http::extract::IdPath;
use crate::http::paging::Window;
use crate::sessions::user_agent::summarize;
use crate::{api_keys, second_factor, sessions, views};

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage {
    layout: Layout,
    name: String,
    email: String,
    role: String,
    has_second_factor: bool,
    rows: Vec<SessionRow>,
    keys: Vec<OwnKeyRow>,
}

/// A live key.
struct OwnKeyRow {
    tenant: Option<Slug>,
    key: KeyRow,
}

struct SessionRow {
    id: Uuid,
    device: String,
    address: String,
    last_seen: String,
    last_seen_ago: String,
    began: String,
    began_ago: String,
    is_current: bool,
}

pub async fn show_account(State(app): State<App>, person: Person) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let row = |row: crate::db::session::Session| SessionRow {
        id: row.id,
        device: summarize(&row.user_agent),
        address: row.address,
        last_seen: views::time(row.last_seen_at),
        last_seen_ago: ago(row.last_seen_at, now),
        began: views::time(row.created_at),
        began_ago: ago(row.created_at, now),
        is_current: row.id == person.session.id,
    };
    let rows = sessions::list(&app, person.user.id).await?.into_iter().map(row).collect();
    let caller = Principal::Session(person.clone());
    let keys =
        api_keys::list_of_person(&app, &caller, &person.user, Window::NEWEST).await?.into_iter();
    let keys = keys.map(|key| OwnKeyRow {
        tenant: key.tenant.as_ref().map(|tenant| tenant.slug.clone()),
        key: key_row(key, now),
    });
    let shown = AccountPage {
        layout: Layout::signed_in(&person, "Account"),
        name: person.user.name.clone(),
        email: person.user.email.clone(),
        role: person.user.role.clone(),
        has_second_factor: second_factor::status(&app, &person.user).await?.is_on,
        rows,
        keys: keys.filter(|own| own.key.state == LIVE).collect(),
    };
    page(StatusCode::OK, &shown)
}

/// Ending the session of the request itself leads to the sign-in page.
pub async fn revoke_session(
    State(app): State<App>,
    person: Person,
    IdPath(id): IdPath,
) -> Result<Redirect, ApiError> {
    if sessions::revoke(&app, &person.user, person.session.id, id).await? {
        Ok(Redirect::to("/admin/account"))
    } else {
        Err(no_such_session())
    }
}

pub async fn revoke_key(
    State(app): State<App>,
    Caller(caller): Caller,
    Account(user): Account,
    IdPath(id): IdPath,
) -> Result<Redirect, ApiError> {
    api_keys::revoke_of_person(&app, &caller, &user, id).await?;
    Ok(Redirect::to("/admin/account"))
}

pub async fn revoke_other_sessions(
    State(app): State<App>,
    person: Person,
) -> Result<Redirect, ApiError> {
    sessions::revoke_others(&app, &person.user, person.session.id).await?;
    Ok(Redirect::to("/admin/account"))
}
