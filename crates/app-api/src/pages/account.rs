//! The page of one's own account: the sessions, the passkeys and the keys of `cial login`, each with a button that ends it.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{Redirect, Response};
use protocol::Slug;
use protocol::passkey::PasskeyChange;
use service::api_error::ApiError;
use uuid::Uuid;

use super::field::Field;
use super::format::ago;
use super::keys::{KeyRow, LIVE, key_row};
use super::{Layout, assets, page};
use crate::access::{Account, Caller, Person, Principal};
use crate::api::sessions::no_such_session;
use crate::app::App;
use crate::db::passkey::Passkey;
use crate::http::extract::{Form, IdPath};
use crate::http::paging::Window;
use crate::sessions::user_agent::summarize;
use crate::{api_keys, passkeys, second_factor, sessions, views};

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage {
    layout: Layout,
    name: String,
    email: String,
    role: String,
    has_second_factor: bool,
    rows: Vec<SessionRow>,
    passkeys: Vec<PasskeyRow>,
    passkey_name: Field,
    passkey_password: Field,
    passkey_code: Option<Field>,
    script: &'static str,
    keys: Vec<OwnKeyRow>,
}

struct PasskeyRow {
    id: Uuid,
    name: String,
    used: Option<(String, String)>,
    added: String,
    added_ago: String,
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
    let passkey_row = |row: Passkey| PasskeyRow {
        id: row.id,
        name: row.name,
        used: row.last_used_at.map(|at| (views::time(at), ago(at, now))),
        added: views::time(row.created_at),
        added_ago: ago(row.created_at, now),
    };
    let passkeys = passkeys::list(&app, &person.user).await?;
    let caller = Principal::Session(person.clone());
    let keys =
        api_keys::list_of_person(&app, &caller, &person.user, Window::NEWEST).await?.into_iter();
    let keys = keys.map(|key| OwnKeyRow {
        tenant: key.tenant.as_ref().map(|tenant| tenant.slug.clone()),
        key: key_row(key, now),
    });
    let has_second_factor = second_factor::status(&app, &person.user).await?.is_on;
    let code = Field::new("passkey_code", "Code", "text").autocomplete("one-time-code");
    let code = code.hint("Six digits of your authenticator app, or a recovery code.");
    let shown = AccountPage {
        layout: Layout::signed_in(&person, "Account"),
        name: person.user.name.clone(),
        email: person.user.email.clone(),
        role: person.user.role.clone(),
        has_second_factor,
        rows,
        passkeys: passkeys.into_iter().map(passkey_row).collect(),
        passkey_name: Field::new("passkey_name", "Name of the passkey", "text")
            .hint("Like the device that holds it."),
        passkey_password: Field::new("passkey_password", "Your password", "password")
            .autocomplete("current-password"),
        passkey_code: has_second_factor.then_some(code),
        script: assets::passkey_script_path(),
        keys: keys.filter(|own| own.key.state == LIVE).collect(),
    };
    page(StatusCode::OK, &shown)
}

/// Ending the session of the request itself leads to the sign-in page.
pub async fn revoke_session(
    State(app): State<App>,
    Caller(caller): Caller,
    Account(user): Account,
    IdPath(id): IdPath,
) -> Result<Redirect, ApiError> {
    if sessions::revoke(&app, &caller, &user, id).await? {
        Ok(Redirect::to("/admin/account"))
    } else {
        Err(no_such_session())
    }
}

pub async fn rename_passkey(
    State(app): State<App>,
    person: Person,
    IdPath(id): IdPath,
    Form(change): Form<PasskeyChange>,
) -> Result<Redirect, ApiError> {
    passkeys::rename(&app, &person, id, &change).await?;
    Ok(Redirect::to("/admin/account"))
}

pub async fn remove_passkey(
    State(app): State<App>,
    person: Person,
    IdPath(id): IdPath,
) -> Result<Redirect, ApiError> {
    passkeys::remove(&app, &person, id).await?;
    Ok(Redirect::to("/admin/account"))
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
    Caller(caller): Caller,
    Account(user): Account,
) -> Result<Redirect, ApiError> {
    sessions::revoke_others(&app, &caller, &user).await?;
    Ok(Redirect::to("/admin/account"))
}
