//! The pages of API keys: those of all tenants at `/admin/keys`, those of one tenant at its `keys`. A new key is shown
//! once.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{Redirect, Response};
use protocol::api_keys::{NewKey, Role};
use protocol::problem::FieldCode;
use protocol::{Problem, Timestamp};
use serde::Deserialize;
use service::api_error::ApiError;
use uuid::Uuid;

use super::choice::Choice;
use super::field::Field;
use super::format::ago;
use super::{Layout, form_problem, page};
use crate::access::{AuthorizedTenant, Person, Principal};
use crate::api_keys::{self, Scope};
use crate::app::App;
use crate::db::api_key::ApiKey;
use crate::http::extract::{Form, IdPath};
use crate::http::paging::Window;
use crate::validation::{FieldError, invalid_fields};
use crate::views;

/// The choice of a key that may do everything, among the roles.
const EVERYTHING: &str = "everything";

#[derive(Template)]
#[template(path = "keys.html")]
struct KeysPage {
    layout: Layout,
    /// `/admin/keys`, or the path of a tenant's keys; the forms post below it.
    base: String,
    /// The tenant's slug and name; `None` for keys of all tenants.
    tenant: Option<(String, String)>,
    rows: Vec<KeyRow>,
    name: Field,
    role: Choice,
    lifetime: Choice,
    /// The text of the key that was just created.
    key: Option<String>,
    problem: Option<Problem>,
}

pub(super) struct KeyRow {
    pub(super) id: Uuid,
    pub(super) name: String,
    /// The address of the person to whom the key belongs.
    pub(super) person: Option<String>,
    pub(super) role: String,
    /// The time of the last use, exact and for people.
    pub(super) used: Option<(String, String)>,
    pub(super) expires: Option<String>,
    pub(super) state: &'static str,
}

/// The state of a key that works.
pub(super) const LIVE: &str = "live";

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct KeyForm {
    name: String,
    role: String,
    expires_in_days: String,
}

impl KeyForm {
    /// # Errors
    /// `invalid_fields`.
    fn parse(&self) -> Result<NewKey, ApiError> {
        let is_admin = self.role == EVERYTHING;
        let role = if is_admin { Ok(Role::Admin) } else { self.role.parse() };
        let role = role.map_err(|_| FieldError {
            code: FieldCode::InvalidRole,
            message: "Choose one of the roles.",
        });
        let days = self.expires_in_days.parse::<u32>().map_err(|_| FieldError {
            code: FieldCode::OutOfBounds,
            message: "Choose one of the lifetimes.",
        });
        match (role, days) {
            (Ok(role), Ok(days)) => {
                Ok(NewKey { name: self.name.clone(), role, is_admin, expires_in_days: Some(days) })
            }
            (role, days) => {
                Err(invalid_fields(&[("role", role.err()), ("expires_in_days", days.err())]))
            }
        }
    }
}

/// The group of keys that a page shows.
#[derive(Clone, Copy)]
enum Place<'a> {
    AllTenants,
    Tenant(&'a AuthorizedTenant),
}

impl Place<'_> {
    fn scope(self) -> Scope {
        match self {
            Self::AllTenants => Scope::AllTenants,
            Self::Tenant(found) => Scope::of(found),
        }
    }

    fn base(self) -> String {
        match self {
            Self::AllTenants => "/admin/keys".to_owned(),
            Self::Tenant(found) => format!("/admin/tenants/{}/keys", found.tenant.slug),
        }
    }
}

pub(super) fn key_row(key: ApiKey, now: Timestamp) -> KeyRow {
    let is_expired = key.expires_at.is_some_and(|at| at <= now);
    KeyRow {
        id: key.id,
        name: key.name,
        person: key.person.map(|person| person.email),
        role: if key.is_admin { EVERYTHING.to_owned() } else { key.role.to_string() },
        used: key.last_used_at.map(|at| (views::time(at), ago(at, now))),
        expires: key.expires_at.map(views::time),
        state: match (key.revoked, is_expired) {
            (true, _) => "revoked",
            (false, true) => "expired",
            (false, false) => LIVE,
        },
    }
}

async fn keys_page(
    app: &App,
    person: &Person,
    place: Place<'_>,
    form: KeyForm,
    key: Option<String>,
    problem: Option<Problem>,
) -> Result<KeysPage, ApiError> {
    let now = app.clock.now();
    let keys = api_keys::list(app, &place.scope(), Window::NEWEST).await?;
    let mut roles: Vec<_> =
        Role::ALL.iter().map(|role| (role.to_string(), role.to_string())).collect();
    let tenant = match place {
        Place::AllTenants => {
            roles.push((EVERYTHING.to_owned(), "everything (is_admin)".to_owned()));
            None
        }
        Place::Tenant(found) => Some((found.tenant.slug.to_string(), found.tenant.name.clone())),
    };
    let chosen =
        |value: String, default: &str| if value.is_empty() { default.to_owned() } else { value };
    let lifetimes = [("1", "1 day"), ("30", "30 days"), ("365", "1 year"), ("0", "never expires")];
    let lifetimes = lifetimes.map(|(days, label)| (days.to_owned(), label.to_owned()));
    Ok(KeysPage {
        layout: Layout::signed_in(person, "API keys"),
        base: place.base(),
        tenant,
        rows: keys.into_iter().map(|key| key_row(key, now)).collect(),
        name: Field::new("name", "Name", "text").value(&form.name).with_problem(problem.as_ref()),
        role: Choice::new("role", "Role", chosen(form.role, "read"), roles)
            .with_problem(problem.as_ref()),
        lifetime: Choice::new(
            "expires_in_days",
            "Expires after",
            chosen(form.expires_in_days, "30"),
            lifetimes,
        )
        .with_problem(problem.as_ref()),
        key,
        problem,
    })
}

async fn show(app: &App, person: &Person, place: Place<'_>) -> Result<Response, ApiError> {
    page(StatusCode::OK, &keys_page(app, person, place, KeyForm::default(), None, None).await?)
}

/// Shows the page with the new key, or with the reason for which there is none.
async fn create(
    app: &App,
    person: &Person,
    place: Place<'_>,
    form: KeyForm,
) -> Result<Response, ApiError> {
    let caller = Principal::Session(person.clone());
    let created = match form.parse() {
        Ok(new) => api_keys::create(app, &caller, &place.scope(), &new).await,
        Err(error) => Err(error),
    };
    match created {
        Ok(created) => {
            let form = KeyForm::default();
            let shown = keys_page(app, person, place, form, Some(created.key), None).await?;
            page(StatusCode::CREATED, &shown)
        }
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            page(status, &keys_page(app, person, place, form, None, Some(problem)).await?)
        }
    }
}

async fn revoke(
    app: &App,
    person: Person,
    place: Place<'_>,
    id: Uuid,
) -> Result<Redirect, ApiError> {
    api_keys::revoke(app, &Principal::Session(person), &place.scope(), id).await?;
    Ok(Redirect::to(&place.base()))
}

pub async fn show_keys(State(app): State<App>, person: Person) -> Result<Response, ApiError> {
    show(&app, &person, Place::AllTenants).await
}

pub async fn create_key(
    State(app): State<App>,
    person: Person,
    Form(form): Form<KeyForm>,
) -> Result<Response, ApiError> {
    create(&app, &person, Place::AllTenants, form).await
}

pub async fn revoke_key(
    State(app): State<App>,
    person: Person,
    IdPath(id): IdPath,
) -> Result<Redirect, ApiError> {
    revoke(&app, person, Place::AllTenants, id).await
}

pub async fn show_tenant_keys(
    State(app): State<App>,
    person: Person,
    found: AuthorizedTenant,
) -> Result<Response, ApiError> {
    show(&app, &person, Place::Tenant(&found)).await
}

pub async fn create_tenant_key(
    State(app): State<App>,
    person: Person,
    found: AuthorizedTenant,
    Form(form): Form<KeyForm>,
) -> Result<Response, ApiError> {
    create(&app, &person, Place::Tenant(&found), form).await
}

pub async fn revoke_tenant_key(
    State(app): State<App>,
    person: Person,
    found: AuthorizedTenant,
    IdPath(id): IdPath,
) -> Result<Redirect, ApiError> {
    revoke(&app, person, Place::Tenant(&found), id).await
}
