//! The page of an invitation: who has an account signs in and accepts; who has none makes one.

use askama::Template;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use protocol::Problem;
use serde::Deserialize;
use service::api_error::ApiError;

use super::field::Field;
use super::{Layout, form_problem, page};
use crate::access::Person;
use crate::app::App;
use crate::http::extract::{ClientAddress, Form};
use crate::people::invitations::{self, Open};
use crate::sessions::{self, SignInMethod};

#[derive(Template)]
#[template(path = "invitation.html")]
struct InvitationPage {
    layout: Layout,
    token: String,
    email: String,
    role: String,
    tenant_name: Option<String>,
    action: InvitationAction,
    name: Field,
    password: Field,
    problem: Option<Problem>,
}

/// The action that an invitation offers to its visitor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InvitationAction {
    Accept,
    SignIn,
    SignUp,
    /// Signed in with another address.
    OtherAccount,
}

fn action(open: &Open, person: Option<&Person>) -> InvitationAction {
    match person {
        Some(person) if person.user.email == open.invitation.email => InvitationAction::Accept,
        Some(_) => InvitationAction::OtherAccount,
        None if open.has_account => InvitationAction::SignIn,
        None => InvitationAction::SignUp,
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct AcceptForm {
    name: String,
    password: String,
}

fn invitation_page(
    open: Open,
    token: &str,
    person: Option<&Person>,
    form: &AcceptForm,
    problem: Option<Problem>,
) -> InvitationPage {
    let layout = match person {
        Some(person) => Layout::signed_in(person, "Invitation"),
        None => Layout::signed_out("Invitation"),
    };
    InvitationPage {
        layout,
        token: token.to_owned(),
        action: action(&open, person),
        email: open.invitation.email,
        role: open.invitation.role,
        tenant_name: open.tenant_name,
        name: Field::new("name", "Your name", "text")
            .value(&form.name)
            .autocomplete("name")
            .with_problem(problem.as_ref()),
        password: Field::new("password", "Password", "password")
            .hint("At least 8 characters.")
            .autocomplete("new-password")
            .with_problem(problem.as_ref()),
        problem,
    }
}

/// The token in the path; bytes that are no UTF-8 are the token of no invitation.
pub struct Token(String);

impl<S: Send + Sync> FromRequestParts<S> for Token {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = Path::<String>::from_request_parts(parts, state).await;
        read.map(|Path(token)| Self(token)).map_err(|_| invitations::invitation_ended())
    }
}

async fn signed_in(app: &App, headers: &HeaderMap) -> Result<Option<Person>, ApiError> {
    let found = sessions::find(app, headers).await?;
    Ok(found.map(|(session, user)| Person { user, session }))
}

pub async fn show_invitation(
    State(app): State<App>,
    headers: HeaderMap,
    Token(token): Token,
) -> Result<Response, ApiError> {
    let open = invitations::find_open(&app, &token).await?;
    let person = signed_in(&app, &headers).await?;
    let form = AcceptForm::default();
    page(StatusCode::OK, &invitation_page(open, &token, person.as_ref(), &form, None))
}

pub async fn accept_invitation(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    Token(token): Token,
    Form(form): Form<AcceptForm>,
) -> Result<Response, ApiError> {
    if let Some(person) = signed_in(&app, &headers).await? {
        invitations::accept(&app, &token, &person).await?;
        return Ok(Redirect::to("/admin").into_response());
    }
    match invitations::sign_up(&app, &token, (&form.name, &form.password), client).await {
        Ok(user) => {
            let cookie =
                sessions::begin(&app, &headers, client, (&user, SignInMethod::SignUp)).await?;
            let cookies = sessions::sign_in_cookies(&app, cookie, &user)?;
            Ok((cookies, Redirect::to("/admin")).into_response())
        }
        Err(failure) if failure.problem.errors.is_empty() => Err(failure),
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            let open = invitations::find_open(&app, &token).await?;
            page(status, &invitation_page(open, &token, None, &form, Some(problem)))
        }
    }
}
