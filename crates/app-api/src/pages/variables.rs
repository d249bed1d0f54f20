//! The variables and secrets of a tenant's program: a table without the secrets' values, and a form that sets one.

use askama::Template;
use axum::extract::{RawPathParams, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use protocol::Problem;
use serde::Deserialize;
use service::api_error::ApiError;

use super::choice::Choice;
use super::field::Field;
use super::{Layout, form_problem, page};
use crate::access::{AuthorizedTenant, Caller, Person};
use crate::api::variables::name_in;
use crate::app::App;
use crate::http::extract::Form;
use crate::tenant::Tenant;
use crate::variables::{self, Kind};

#[derive(Template)]
#[template(path = "variables.html")]
struct VariablesPage {
    layout: Layout,
    slug: String,
    rows: Vec<Row>,
    name: Field,
    value: Field,
    kind: Choice,
    problem: Option<Problem>,
}

struct Row {
    name: String,
    /// `None` is a secret.
    value: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct VariableForm {
    name: String,
    value: String,
    kind: String,
}

const SECRET: &str = "secret";

fn variables_page(
    app: &App,
    person: &Person,
    tenant: &Tenant,
    form: &VariableForm,
    problem: Option<Problem>,
) -> Result<VariablesPage, ApiError> {
    let env = variables::list(app, tenant, Kind::Env)?.into_iter();
    let env = env.map(|(name, variable)| Row { name, value: Some(variable.value) });
    let secrets = variables::list(app, tenant, Kind::Secret)?.into_keys();
    let mut rows: Vec<_> = env.chain(secrets.map(|name| Row { name, value: None })).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let errors = problem.as_ref();
    let kind = if form.kind.is_empty() { SECRET } else { &form.kind };
    let kinds = [(SECRET, "Secret"), ("env", "Variable that this page shows")];
    Ok(VariablesPage {
        layout: Layout::signed_in(person, format!("Variables of {}", tenant.slug)),
        slug: tenant.slug.to_string(),
        rows,
        name: Field::new("name", "Name", "text").value(&form.name).with_problem(errors),
        // The type password keeps a page from repeating the value.
        value: Field::new("value", "Value", "password")
            .autocomplete("new-password")
            .optional()
            .with_problem(errors),
        kind: Choice::new(
            "kind",
            "Kind",
            kind.to_owned(),
            kinds.map(|(value, label)| (value.to_owned(), label.to_owned())),
        ),
        problem,
    })
}

pub async fn show_variables(
    State(app): State<App>,
    person: Person,
    found: AuthorizedTenant,
) -> Result<Response, ApiError> {
    let form = VariableForm::default();
    page(StatusCode::OK, &variables_page(&app, &person, &found.tenant, &form, None)?)
}

pub async fn set_variable(
    State(app): State<App>,
    Caller(caller): Caller,
    person: Person,
    found: AuthorizedTenant,
    Form(form): Form<VariableForm>,
) -> Result<Response, ApiError> {
    let kind = if form.kind == "env" { Kind::Env } else { Kind::Secret };
    let (tenant, named) = (found.tenant, (kind, form.name.trim()));
    match variables::set(&app, &caller, tenant.clone(), named, Some(&form.value)).await {
        Ok(()) => Ok(to_variables(&tenant).into_response()),
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            page(status, &variables_page(&app, &person, &tenant, &form, Some(problem))?)
        }
    }
}

pub async fn delete_variable(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
) -> Result<Redirect, ApiError> {
    let (tenant, name) = (found.tenant, name_in(&params)?);
    let is_secret = variables::list(&app, &tenant, Kind::Secret)?.contains_key(name);
    let kind = if is_secret { Kind::Secret } else { Kind::Env };
    variables::set(&app, &caller, tenant.clone(), (kind, name), None).await?;
    Ok(to_variables(&tenant))
}

fn to_variables(tenant: &Tenant) -> Redirect {
    Redirect::to(&format!("/admin/tenants/{}/variables", tenant.slug))
}
