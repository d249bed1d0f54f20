//! The pages on which a person confirms a sign-in of the command line.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use protocol::Problem;
use serde::Deserialize;
use service::api_error::ApiError;
use uuid::Uuid;

use super::choice::Choice;
use super::field::Field;
use super::{Layout, form_problem, page};
use crate::access::{Person, Principal};
use crate::app::App;
use crate::cli_login::{self, redirect_url};
use crate::db::cli_login::CliLogin;
use crate::db::membership;
use crate::http::extract::{ClientAddress, Form, IdPath, Query};

#[derive(Template)]
#[template(path = "cli_login_code.html")]
struct CodePage {
    layout: Layout,
    code: Field,
}

#[derive(Template)]
#[template(path = "cli_login.html")]
struct ConfirmPage {
    layout: Layout,
    login: CliLogin,
    /// `None` for a person who has no role anywhere.
    scope: Option<Choice>,
}

#[derive(Template)]
#[template(path = "cli_login_done.html")]
struct DonePage {
    layout: Layout,
    device: String,
    is_confirmed: bool,
    /// Where the browser hands the outcome to the command.
    redirect: Option<String>,
}

#[derive(Deserialize)]
pub struct LoginQuery {
    id: Option<Uuid>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct CodeForm {
    code: String,
}

#[derive(Deserialize)]
pub struct DecisionForm {
    decision: Decision,
    /// The slug of a tenant; empty: all tenants.
    #[serde(default)]
    scope: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Decision {
    Confirm,
    Refuse,
}

fn code_page(person: &Person, typed: &str, problem: Option<&Problem>) -> CodePage {
    CodePage {
        layout: Layout::signed_in(person, "Sign in cial"),
        code: Field::new("code", "Code", "text")
            .value(typed)
            .hint("As cial login shows it, like BCDF-GHJK.")
            .autofocus()
            .with_problem(problem),
    }
}

/// A sign-in with a redirect is named by the address; any other by the code that the person types in.
pub async fn show(
    State(app): State<App>,
    person: Person,
    Query(query): Query<LoginQuery>,
) -> Result<Response, ApiError> {
    match query.id {
        Some(id) => confirm_page(&app, person, cli_login::find(&app, id).await?).await,
        None => page(StatusCode::OK, &code_page(&person, "", None)),
    }
}

pub async fn enter_code(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    person: Person,
    Form(form): Form<CodeForm>,
) -> Result<Response, ApiError> {
    match cli_login::find_by_user_code(&app, &form.code, client).await {
        Ok(login) => confirm_page(&app, person, login).await,
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            page(status, &code_page(&person, &form.code, Some(&problem)))
        }
    }
}

async fn confirm_page(app: &App, person: Person, login: CliLogin) -> Result<Response, ApiError> {
    let memberships = membership::of_user(&mut *app.conn().await?, person.user.id).await?;
    let mut options: Vec<_> = memberships
        .into_iter()
        .map(|own| (own.slug.to_string(), format!("{}, as {}", own.slug, own.role.as_str())))
        .collect();
    if Principal::Session(person.clone()).scope().role_on_tenant(None).is_some() {
        options.insert(0, (String::new(), format!("All tenants, as {}", person.user.role)));
    }
    let first = options.first().map(|(value, _)| value.clone());
    let scope = first.map(|first| {
        Choice::new("scope", "Access", first, options).hint(
            "The key does what you may do there, for 30 days. You can revoke it in your account.",
        )
    });
    let layout = Layout::signed_in(&person, "Sign in cial");
    page(StatusCode::OK, &ConfirmPage { layout, login, scope })
}

pub async fn decide(
    State(app): State<App>,
    person: Person,
    IdPath(id): IdPath,
    Form(form): Form<DecisionForm>,
) -> Result<Response, ApiError> {
    let slug = Some(form.scope.as_str()).filter(|slug| !slug.is_empty());
    let (login, is_confirmed, parameter, value) = match form.decision {
        Decision::Confirm => {
            let (login, code) = cli_login::confirm(&app, &person, id, slug).await?;
            (login, true, "code", code.reveal().to_owned())
        }
        Decision::Refuse => {
            let login = cli_login::refuse(&app, &person, id).await?;
            (login, false, "error", "access_denied".to_owned())
        }
    };
    let redirect = login.redirect.as_deref();
    let done = DonePage {
        layout: Layout::signed_in(&person, "Sign in cial"),
        device: login.device.clone(),
        is_confirmed,
        redirect: redirect.and_then(|redirect| redirect_url(redirect, parameter, &value)),
    };
    page(StatusCode::OK, &done)
}
