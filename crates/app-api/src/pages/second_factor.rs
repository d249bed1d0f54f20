//! The page of one's own second factor, and the second step of signing in.

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse as _, Redirect, Response};
use protocol::Problem;
use protocol::second_factor::ConfirmSecondFactor;
use serde::Deserialize;
use service::api_error::ApiError;

use super::field::Field;
use super::{Layout, form_problem, page};
use crate::access::Person;
use crate::access::next_path::safe_next;
use crate::app::App;
use crate::http::extract::{ClientAddress, Form, Query};
use crate::second_factor;
use crate::sessions::{self, SignInMethod};

const PATH: &str = "/admin/account/second-factor";

#[derive(Template)]
#[template(path = "login_code.html")]
struct CodePage {
    layout: Layout,
    email: String,
    code: Field,
    next: String,
    problem: Option<Problem>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct CodeForm {
    code: String,
    next: Option<String>,
}

async fn code_page(
    app: &App,
    headers: &HeaderMap,
    (status, problem): (StatusCode, Option<Problem>),
    next: Option<&str>,
) -> Result<Response, ApiError> {
    let Ok(user) = second_factor::pending_user(app, headers).await else {
        return Ok(Redirect::to("/admin/login").into_response());
    };
    let shown = CodePage {
        layout: Layout::signed_out("Enter your code"),
        email: user.email,
        code: code_field().autofocus(),
        next: safe_next(next).to_owned(),
        problem,
    };
    page(status, &shown)
}

pub async fn show_code(
    State(app): State<App>,
    headers: HeaderMap,
    Query(form): Query<CodeForm>,
) -> Result<Response, ApiError> {
    code_page(&app, &headers, (StatusCode::OK, None), form.next.as_deref()).await
}

pub async fn enter_code(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    Form(form): Form<CodeForm>,
) -> Result<Response, ApiError> {
    let next = form.next.as_deref();
    match second_factor::complete(&app, &headers, &form.code).await {
        Ok(user) => {
            let cookie =
                sessions::begin(&app, &headers, client, (&user, SignInMethod::PasswordAndCode))
                    .await?;
            let cookies = sessions::sign_in_cookies(&app, cookie, &user)?;
            let done = sessions::pending_cookie(&app, "", std::time::Duration::ZERO)?;
            let done = AppendHeaders([(header::SET_COOKIE, done)]);
            Ok((cookies, done, Redirect::to(safe_next(next))).into_response())
        }
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            code_page(&app, &headers, (status, Some(problem)), next).await
        }
    }
}

fn code_field() -> Field {
    Field::new("code", "Code", "text")
        .hint("Six digits of your authenticator app, or a recovery code.")
        .autocomplete("one-time-code")
}

#[derive(Template)]
#[template(path = "second_factor.html")]
struct SecondFactorPage {
    layout: Layout,
    state: Shown,
    password: Field,
    code: Field,
    problem: Option<Problem>,
}

/// The state of a person's second factor.
enum Shown {
    Off,
    /// The app has to prove that it has the secret. Only the response that begins the enrolment shows the secret.
    Begun {
        new: Option<ShownSecret>,
    },
    On {
        recovery_codes_left: i64,
    },
}

/// The secret of a new enrolment.
struct ShownSecret {
    text: String,
    qr_image: String,
}

/// The state as everybody with the session may see it: an enrolment that waits looks like none.
async fn current(app: &App, person: &Person) -> Result<Shown, ApiError> {
    let found = second_factor::status(app, &person.user).await?;
    Ok(if found.is_on {
        Shown::On { recovery_codes_left: found.recovery_codes_left }
    } else {
        Shown::Off
    })
}

fn second_factor_page(
    person: &Person,
    state: Shown,
    (status, problem): (StatusCode, Option<Problem>),
) -> Result<Response, ApiError> {
    let password = Field::new("password", "Your password", "password");
    let shown = SecondFactorPage {
        layout: Layout::signed_in(person, "Second factor"),
        state,
        password: password.autocomplete("current-password").with_problem(problem.as_ref()),
        code: code_field().with_problem(problem.as_ref()),
        problem,
    };
    page(status, &shown)
}

pub async fn show(State(app): State<App>, person: Person) -> Result<Response, ApiError> {
    second_factor_page(&person, current(&app, &person).await?, (StatusCode::OK, None))
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct BeginForm {
    password: String,
}

pub async fn begin(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    person: Person,
    Form(form): Form<BeginForm>,
) -> Result<Response, ApiError> {
    let user = &person.user;
    match second_factor::begin(&app, user, &form.password, client).await {
        Ok(secret) => {
            let (text, qr_image) = (secret.for_typing()?, secret.qr_image(&user.email)?);
            let state = Shown::Begun { new: Some(ShownSecret { text, qr_image }) };
            second_factor_page(&person, state, (StatusCode::OK, None))
        }
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            second_factor_page(&person, current(&app, &person).await?, (status, Some(problem)))
        }
    }
}

#[derive(Template)]
#[template(path = "recovery_codes.html")]
struct RecoveryCodesPage {
    layout: Layout,
    codes: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct ConfirmForm {
    password: String,
    code: String,
}

impl From<ConfirmForm> for ConfirmSecondFactor {
    fn from(form: ConfirmForm) -> Self {
        Self { password: form.password, code: form.code }
    }
}

pub async fn confirm(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    person: Person,
    Form(form): Form<ConfirmForm>,
) -> Result<Response, ApiError> {
    match second_factor::confirm(&app, &headers, (&person, client), &form.into()).await {
        Ok(made) => {
            let layout = Layout::signed_in(&person, "Recovery codes");
            page(StatusCode::OK, &RecoveryCodesPage { layout, codes: made.recovery_codes })
        }
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            let state = if second_factor::is_begun(&app, &person.user).await? {
                Shown::Begun { new: None }
            } else {
                current(&app, &person).await?
            };
            second_factor_page(&person, state, (status, Some(problem)))
        }
    }
}

pub async fn disable(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    person: Person,
    Form(form): Form<ConfirmForm>,
) -> Result<Response, ApiError> {
    match second_factor::disable(&app, &headers, (&person, client), &form.into()).await {
        Ok(()) => Ok(Redirect::to(PATH).into_response()),
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            second_factor_page(&person, current(&app, &person).await?, (status, Some(problem)))
        }
    }
}
