//! The variables and secrets of a tenant's program, or of an app for all its tenants: a table without the secrets' values,
//! and a form that sets one.

use askama::Template;
use axum::extract::{RawPathParams, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use protocol::Problem;
use protocol::variables::Variables;
use serde::Deserialize;
use service::api_error::ApiError;

use super::choice::Choice;
use super::field::Field;
use super::{Layout, form_problem, page};
use crate::access::{AuthorizedTenant, Caller, Person};
use crate::api::variables::name_in;
use crate::app::App;
use crate::http::extract::{AppPath, Form};
use crate::tenant::Tenant;
use crate::variables::{Assignment, Kind, of_app, of_tenant};

#[derive(Template)]
#[template(path = "variables.html")]
struct VariablesPage {
    layout: Layout,
    owner: Owner,
    rows: Vec<Row>,
    name: Field,
    value: Field,
    kind: Choice,
    problem: Option<Problem>,
}

/// The tenant or the app that the page is of.
struct Owner {
    /// The list of its kind, and the address of the list.
    list: (&'static str, &'static str),
    slug: String,
    /// Which programs have the variables, and since when.
    lead: &'static str,
}

impl Owner {
    fn tenant(tenant: &Tenant) -> Self {
        Self {
            list: ("Tenants", "/admin"),
            slug: tenant.slug.to_string(),
            lead: "A change takes effect at the next start. A secret is never shown again.",
        }
    }

    fn app(slug: String) -> Self {
        Self {
            list: ("Apps", "/admin/apps"),
            slug,
            lead: "All tenants of the app have these, unless they have their own of the same name. A change takes effect at \
                   the next start of each tenant. A secret is never shown again.",
        }
    }

    /// The address of the owner's own page.
    fn path(&self) -> String {
        let kind = self.list.0.to_lowercase();
        format!("/admin/{kind}/{}", self.slug)
    }

    fn to_variables(&self) -> Redirect {
        Redirect::to(&format!("{}/variables", self.path()))
    }
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

impl VariableForm {
    fn assignment(&self) -> Assignment<'_> {
        let kind = if self.kind == "env" { Kind::Env } else { Kind::Secret };
        Assignment { kind, name: self.name.trim(), value: Some(&self.value) }
    }
}

const SECRET: &str = "secret";

fn variables_page(
    person: &Person,
    owner: Owner,
    (env, secrets): (Variables, Variables),
    form: &VariableForm,
    problem: Option<Problem>,
) -> VariablesPage {
    let env = env.into_iter();
    let env = env.map(|(name, variable)| Row { name, value: Some(variable.value) });
    let secrets = secrets.into_keys();
    let mut rows: Vec<_> = env.chain(secrets.map(|name| Row { name, value: None })).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let errors = problem.as_ref();
    let kind = if form.kind.is_empty() { SECRET } else { &form.kind };
    let kinds = [(SECRET, "Secret"), ("env", "Variable that this page shows")];
    VariablesPage {
        layout: Layout::signed_in(person, format!("Variables of {}", owner.slug)),
        owner,
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
    }
}

fn variables_of_tenant(app: &App, tenant: &Tenant) -> Result<(Variables, Variables), ApiError> {
    let list = |kind| of_tenant::list(app, tenant, kind);
    Ok((list(Kind::Env)?, list(Kind::Secret)?))
}

async fn variables_of_app(service: &App, slug: &str) -> Result<(Variables, Variables), ApiError> {
    let env = of_app::list(service, slug, Kind::Env).await?;
    Ok((env, of_app::list(service, slug, Kind::Secret).await?))
}

pub async fn show_variables(
    State(app): State<App>,
    person: Person,
    found: AuthorizedTenant,
) -> Result<Response, ApiError> {
    let (owner, form) = (Owner::tenant(&found.tenant), VariableForm::default());
    let variables = variables_of_tenant(&app, &found.tenant)?;
    page(StatusCode::OK, &variables_page(&person, owner, variables, &form, None))
}

pub async fn show_app_variables(
    State(service): State<App>,
    person: Person,
    AppPath(slug): AppPath,
) -> Result<Response, ApiError> {
    let variables = variables_of_app(&service, &slug).await?;
    let (owner, form) = (Owner::app(slug), VariableForm::default());
    page(StatusCode::OK, &variables_page(&person, owner, variables, &form, None))
}

pub async fn set_variable(
    State(app): State<App>,
    Caller(caller): Caller,
    person: Person,
    found: AuthorizedTenant,
    Form(form): Form<VariableForm>,
) -> Result<Response, ApiError> {
    let (owner, tenant) = (Owner::tenant(&found.tenant), found.tenant);
    match of_tenant::set(&app, &caller, tenant.clone(), form.assignment()).await {
        Ok(()) => Ok(owner.to_variables().into_response()),
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            let variables = variables_of_tenant(&app, &tenant)?;
            page(status, &variables_page(&person, owner, variables, &form, Some(problem)))
        }
    }
}

pub async fn set_app_variable(
    State(service): State<App>,
    Caller(caller): Caller,
    person: Person,
    AppPath(slug): AppPath,
    Form(form): Form<VariableForm>,
) -> Result<Response, ApiError> {
    match of_app::set(&service, &caller, &slug, form.assignment()).await {
        Ok(()) => Ok(Owner::app(slug).to_variables().into_response()),
        Err(failure) if failure.status() == StatusCode::NOT_FOUND => Err(failure),
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            let variables = variables_of_app(&service, &slug).await?;
            let owner = Owner::app(slug);
            page(status, &variables_page(&person, owner, variables, &form, Some(problem)))
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
    let (_, secrets) = variables_of_tenant(&app, &tenant)?;
    let owner = Owner::tenant(&tenant);
    of_tenant::set(&app, &caller, tenant, deletion(name, &secrets)).await?;
    Ok(owner.to_variables())
}

pub async fn delete_app_variable(
    State(service): State<App>,
    Caller(caller): Caller,
    AppPath(slug): AppPath,
    params: RawPathParams,
) -> Result<Redirect, ApiError> {
    let name = name_in(&params)?;
    let (_, secrets) = variables_of_app(&service, &slug).await?;
    of_app::set(&service, &caller, &slug, deletion(name, &secrets)).await?;
    Ok(Owner::app(slug).to_variables())
}

fn deletion<'a>(name: &'a str, secrets: &Variables) -> Assignment<'a> {
    let kind = if secrets.contains_key(name) { Kind::Secret } else { Kind::Env };
    Assignment { kind, name, value: None }
}
