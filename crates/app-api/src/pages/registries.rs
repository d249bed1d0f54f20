//! The registries whose images want credentials: a table without the passwords, and a form that sets one.

use askama::Template;
use axum::extract::{RawPathParams, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use protocol::images::SetRegistry;
use protocol::{Problem, Timestamp};
use serde::Deserialize;
use service::api_error::ApiError;

use super::field::Field;
use super::format::ago;
use super::{Layout, form_problem, page};
use crate::access::{Caller, Person};
use crate::api::registries::host_in;
use crate::app::App;
use crate::db::registry::Registry;
use crate::http::extract::Form;
use crate::{registries, views};

#[derive(Template)]
#[template(path = "registries.html")]
struct RegistriesPage {
    layout: Layout,
    rows: Vec<Row>,
    host: Field,
    username: Field,
    password: Field,
    problem: Option<Problem>,
}

struct Row {
    host: String,
    username: String,
    updated_by: String,
    updated: String,
    updated_ago: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct RegistryForm {
    host: String,
    username: String,
    password: String,
}

fn row(registry: Registry, now: Timestamp) -> Row {
    Row {
        host: registry.host,
        username: registry.username,
        updated_by: registry.updated_by,
        updated: views::time(registry.updated_at),
        updated_ago: ago(registry.updated_at, now),
    }
}

async fn registries_page(
    app: &App,
    person: &Person,
    form: &RegistryForm,
    problem: Option<Problem>,
) -> Result<RegistriesPage, ApiError> {
    let now = app.clock.now();
    let rows = registries::list(app).await?.into_iter().map(|found| row(found, now)).collect();
    let errors = problem.as_ref();
    Ok(RegistriesPage {
        layout: Layout::signed_in(person, "Registries"),
        rows,
        host: Field::new("host", "Registry", "text")
            .hint("A host, with its port unless that is the usual one: registry.example.com")
            .value(&form.host)
            .with_problem(errors),
        username: Field::new("username", "Account", "text")
            .value(&form.username)
            .with_problem(errors),
        // The type password keeps a page from repeating the value.
        password: Field::new("password", "Password or token", "password")
            .autocomplete("new-password")
            .with_problem(errors),
        problem,
    })
}

pub async fn show_registries(State(app): State<App>, person: Person) -> Result<Response, ApiError> {
    page(StatusCode::OK, &registries_page(&app, &person, &RegistryForm::default(), None).await?)
}

pub async fn set_registry(
    State(app): State<App>,
    Caller(caller): Caller,
    person: Person,
    Form(form): Form<RegistryForm>,
) -> Result<Response, ApiError> {
    let login = SetRegistry { username: form.username.clone(), password: form.password.clone() };
    match registries::set(&app, &caller, form.host.trim(), &login).await {
        Ok(()) => Ok(to_registries().into_response()),
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            page(status, &registries_page(&app, &person, &form, Some(problem)).await?)
        }
    }
}

pub async fn delete_registry(
    State(app): State<App>,
    Caller(caller): Caller,
    params: RawPathParams,
) -> Result<Redirect, ApiError> {
    registries::delete(&app, &caller, host_in(&params)).await?;
    Ok(to_registries())
}

fn to_registries() -> Redirect {
    Redirect::to("/admin/registries")
}
