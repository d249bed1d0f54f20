//! The pages for sign-up, sign-in, sign-out and password reset.

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use protocol::Problem;
use protocol::control::{SignIn, SignUp};
use serde::Deserialize;
use service::api_error::ApiError;

use super::field::Field;
use super::{Layout, assets, form_problem, page};
use crate::access::next_path::safe_next;
use crate::app::App;
use crate::db::user;
use crate::http::extract::{ClientAddress, Form, Query};
use crate::sessions::{self, SignInMethod, with_cookie};
use crate::{accounts, second_factor};

#[derive(Template)]
#[template(path = "signup.html")]
struct SignUpPage {
    layout: Layout,
    name: Field,
    email: Field,
    password: Field,
    problem: Option<Problem>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct SignUpForm {
    name: String,
    email: String,
    password: String,
}

fn signup_page(form: &SignUpForm, problem: Option<Problem>) -> SignUpPage {
    let checked = |field: Field| field.with_problem(problem.as_ref());
    SignUpPage {
        layout: Layout::signed_out("Create the owner's account"),
        name: checked(Field::new("name", "Your name", "text"))
            .value(&form.name)
            .autocomplete("name")
            .autofocus(),
        email: checked(Field::new("email", "E-mail", "email"))
            .value(&form.email)
            .autocomplete("username"),
        password: checked(Field::new("password", "Password", "password"))
            .hint("At least 8 characters.")
            .autocomplete("new-password"),
        problem,
    }
}

pub async fn show_signup(State(app): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    if let Some(redirect) = entry_redirect(&app, &headers, EntryPage::SignUp).await? {
        return Ok(redirect);
    }
    page(StatusCode::OK, &signup_page(&SignUpForm::default(), None))
}

pub async fn sign_up(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    Form(form): Form<SignUpForm>,
) -> Result<Response, ApiError> {
    let request = SignUp {
        email: form.email.clone(),
        password: form.password.clone(),
        name: form.name.clone(),
    };
    match accounts::sign_up(&app, &request, client).await {
        Ok(user) => {
            let cookie =
                sessions::begin(&app, &headers, client, (&user, SignInMethod::SignUp)).await?;
            let cookies = sessions::sign_in_cookies(&app, cookie, &user)?;
            Ok((cookies, Redirect::to("/admin")).into_response())
        }
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            page(status, &signup_page(&form, Some(problem)))
        }
    }
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    layout: Layout,
    email: Field,
    password: Field,
    next: String,
    /// Whether a link that resets the password can be mailed.
    sends_mail: bool,
    script: &'static str,
    problem: Option<Problem>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct LoginForm {
    email: String,
    password: String,
    next: Option<String>,
}

#[derive(Deserialize)]
pub struct LoginQuery {
    next: Option<String>,
}

fn login_page(app: &App, form: &LoginForm, problem: Option<Problem>) -> LoginPage {
    LoginPage {
        layout: Layout::signed_out("Sign in"),
        email: Field::new("email", "E-mail", "email")
            .value(&form.email)
            .autocomplete("username")
            .autofocus(),
        password: Field::new("password", "Password", "password").autocomplete("current-password"),
        next: safe_next(form.next.as_deref()).to_owned(),
        sends_mail: app.sends_mail,
        script: assets::passkey_script_path(),
        problem,
    }
}

pub async fn show_login(
    State(app): State<App>,
    headers: HeaderMap,
    Query(query): Query<LoginQuery>,
) -> Result<Response, ApiError> {
    if let Some(redirect) = entry_redirect(&app, &headers, EntryPage::Login).await? {
        return Ok(redirect);
    }
    let form = LoginForm { next: query.next, ..LoginForm::default() };
    page(StatusCode::OK, &login_page(&app, &form, None))
}

pub async fn sign_in(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    Form(form): Form<LoginForm>,
) -> Result<Response, ApiError> {
    let (email, password) = (form.email.clone(), form.password.clone());
    let request = SignIn { email, password, code: None };
    match accounts::sign_in(&app, &request, client, &headers).await {
        Ok(user) => {
            let next = safe_next(form.next.as_deref());
            if let Some(cookie) = second_factor::pending_cookie(&app, &user).await? {
                let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
                let code = Redirect::to(&format!("/admin/login/code?next={next}"));
                return Ok((with_cookie(cookie), code).into_response());
            }
            let cookie =
                sessions::begin(&app, &headers, client, (&user, SignInMethod::Password)).await?;
            let cookies = sessions::sign_in_cookies(&app, cookie, &user)?;
            Ok((cookies, Redirect::to(next)).into_response())
        }
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            page(status, &login_page(&app, &form, Some(problem)))
        }
    }
}

pub async fn sign_out(State(app): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    sessions::end(&app, &headers).await?;
    let cookie = sessions::clear_cookie(&app.addresses)?;
    Ok((with_cookie(cookie), Redirect::to("/admin/login")).into_response())
}

#[derive(PartialEq, Eq)]
enum EntryPage {
    SignUp,
    Login,
}

/// The redirect for a visitor who requested an entry page that is not for them.
async fn entry_redirect(
    app: &App,
    headers: &HeaderMap,
    requested: EntryPage,
) -> Result<Option<Response>, ApiError> {
    if sessions::find(app, headers).await?.is_some() {
        return Ok(Some(Redirect::to("/admin").into_response()));
    }
    let (page, path) = if user::owner_exists(&mut *app.conn().await?).await? {
        (EntryPage::Login, "/admin/login")
    } else {
        (EntryPage::SignUp, "/admin/signup")
    };
    Ok((page != requested).then(|| Redirect::to(path).into_response()))
}

#[derive(Template)]
#[template(path = "forgot.html")]
struct ForgotPage {
    layout: Layout,
    email: Field,
    sends_mail: bool,
    is_requested: bool,
    problem: Option<Problem>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct ForgotForm {
    email: String,
}

fn forgot_page(app: &App, form: &ForgotForm, problem: Option<Problem>) -> ForgotPage {
    ForgotPage {
        layout: Layout::signed_out("Choose a new password"),
        email: Field::new("email", "E-mail", "email")
            .value(&form.email)
            .autocomplete("username")
            .autofocus()
            .with_problem(problem.as_ref()),
        sends_mail: app.sends_mail,
        is_requested: false,
        problem,
    }
}

pub async fn show_forgot(State(app): State<App>) -> Result<Response, ApiError> {
    page(StatusCode::OK, &forgot_page(&app, &ForgotForm::default(), None))
}

/// The response is the same whether or not an account has the address.
pub async fn request_reset(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    Form(form): Form<ForgotForm>,
) -> Result<Response, ApiError> {
    match accounts::request_reset(&app, &form.email, client).await {
        Ok(()) => {
            let requested = ForgotPage { is_requested: true, ..forgot_page(&app, &form, None) };
            page(StatusCode::ACCEPTED, &requested)
        }
        Err(failure) if failure.status() == StatusCode::NOT_FOUND => Err(failure),
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            page(status, &forgot_page(&app, &form, Some(problem)))
        }
    }
}

#[derive(Template)]
#[template(path = "reset.html")]
struct ResetPage {
    layout: Layout,
    token: String,
    password: Field,
    problem: Option<Problem>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct ResetForm {
    token: String,
    password: String,
}

fn reset_page(token: &str, problem: Option<Problem>) -> ResetPage {
    ResetPage {
        layout: Layout::signed_out("Choose a new password"),
        token: token.to_owned(),
        password: Field::new("password", "New password", "password")
            .hint("At least 8 characters. All sessions of the admin end.")
            .autocomplete("new-password")
            .autofocus()
            .with_problem(problem.as_ref()),
        problem,
    }
}

pub async fn show_reset(
    State(app): State<App>,
    Query(form): Query<ResetForm>,
) -> Result<Response, ApiError> {
    if !accounts::is_reset_link_live(&app, &form.token).await? {
        return Err(accounts::reset_link_ended());
    }
    page(StatusCode::OK, &reset_page(&form.token, None))
}

pub async fn reset(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    Form(form): Form<ResetForm>,
) -> Result<Response, ApiError> {
    match accounts::reset_password(&app, &form.token, &form.password, client).await {
        Ok(()) => Ok(Redirect::to("/admin/login").into_response()),
        Err(failure) if failure.problem.errors.is_empty() => Err(failure),
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            page(status, &reset_page(&form.token, Some(problem)))
        }
    }
}
