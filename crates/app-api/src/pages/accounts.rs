//! Sign-up, sign-in, sign-out, and the way back in.

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use protocol::Problem;
use protocol::control::{SignIn, SignUp};
use serde::Deserialize;
use service::failure::Failure;

use super::field::Field;
use super::{Frame, of_form, page};
use crate::access::safe_next;
use crate::accounts;
use crate::app::App;
use crate::db::user;
use crate::extract::{Client, Form, Query};
use crate::sessions::{self, with_cookie};

#[derive(Template)]
#[template(path = "signup.html")]
struct SignUpPage {
    frame: Frame,
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
    let judged = |field: Field| field.judged(problem.as_ref());
    SignUpPage {
        frame: Frame::open("Create the owner's account"),
        name: judged(Field::new("name", "Your name", "text"))
            .value(&form.name)
            .autocomplete("name")
            .autofocus(),
        email: judged(Field::new("email", "E-mail", "email"))
            .value(&form.email)
            .autocomplete("username"),
        password: judged(Field::new("password", "Password", "password"))
            .hint("At least 8 characters.")
            .autocomplete("new-password"),
        problem,
    }
}

pub async fn show_signup(State(app): State<App>, headers: HeaderMap) -> Result<Response, Failure> {
    if let Some(elsewhere) = elsewhere(&app, &headers, Door::SignUp).await? {
        return Ok(elsewhere);
    }
    page(StatusCode::OK, &signup_page(&SignUpForm::default(), None))
}

pub async fn sign_up(
    State(app): State<App>,
    headers: HeaderMap,
    Form(form): Form<SignUpForm>,
) -> Result<Response, Failure> {
    let wish = SignUp {
        email: form.email.clone(),
        password: form.password.clone(),
        name: form.name.clone(),
    };
    match accounts::sign_up(&app, &wish).await {
        Ok(user) => {
            let cookie = sessions::begin(&app, &headers, &user).await?;
            Ok((with_cookie(cookie), Redirect::to("/admin")).into_response())
        }
        Err(failure) => {
            let (status, problem) = of_form(failure)?;
            page(status, &signup_page(&form, Some(problem)))
        }
    }
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    frame: Frame,
    email: Field,
    password: Field,
    next: String,
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

fn login_page(form: &LoginForm, problem: Option<Problem>) -> LoginPage {
    LoginPage {
        frame: Frame::open("Sign in"),
        email: Field::new("email", "E-mail", "email")
            .value(&form.email)
            .autocomplete("username")
            .autofocus(),
        password: Field::new("password", "Password", "password").autocomplete("current-password"),
        next: safe_next(form.next.as_deref()).to_owned(),
        problem,
    }
}

pub async fn show_login(
    State(app): State<App>,
    headers: HeaderMap,
    Query(query): Query<LoginQuery>,
) -> Result<Response, Failure> {
    if let Some(elsewhere) = elsewhere(&app, &headers, Door::Login).await? {
        return Ok(elsewhere);
    }
    let form = LoginForm { next: query.next, ..LoginForm::default() };
    page(StatusCode::OK, &login_page(&form, None))
}

pub async fn sign_in(
    State(app): State<App>,
    Client(client): Client,
    headers: HeaderMap,
    Form(form): Form<LoginForm>,
) -> Result<Response, Failure> {
    let wish = SignIn { email: form.email.clone(), password: form.password.clone() };
    match accounts::sign_in(&app, &wish, client).await {
        Ok(user) => {
            let cookie = sessions::begin(&app, &headers, &user).await?;
            let next = Redirect::to(safe_next(form.next.as_deref()));
            Ok((with_cookie(cookie), next).into_response())
        }
        Err(failure) => {
            let (status, problem) = of_form(failure)?;
            page(status, &login_page(&form, Some(problem)))
        }
    }
}

pub async fn sign_out(State(app): State<App>, headers: HeaderMap) -> Result<Response, Failure> {
    sessions::end(&app, &headers).await?;
    let cookie = sessions::no_cookie(&app.addresses)?;
    Ok((with_cookie(cookie), Redirect::to("/admin/login")).into_response())
}

#[derive(PartialEq, Eq)]
enum Door {
    SignUp,
    Login,
}

/// Where a visitor belongs who does not belong at this door.
async fn elsewhere(
    app: &App,
    headers: &HeaderMap,
    door: Door,
) -> Result<Option<Response>, Failure> {
    if sessions::find(app, headers).await?.is_some() {
        return Ok(Some(Redirect::to("/admin").into_response()));
    }
    let right = if user::owner_exists(&mut *app.conn().await?).await? {
        (Door::Login, "/admin/login")
    } else {
        (Door::SignUp, "/admin/signup")
    };
    Ok((right.0 != door).then(|| Redirect::to(right.1).into_response()))
}

#[derive(Template)]
#[template(path = "reset.html")]
struct ResetPage {
    frame: Frame,
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
        frame: Frame::open("Choose a new password"),
        token: token.to_owned(),
        password: Field::new("password", "New password", "password")
            .hint("At least 8 characters. All sessions of the admin end.")
            .autocomplete("new-password")
            .autofocus()
            .judged(problem.as_ref()),
        problem,
    }
}

pub async fn show_reset(
    State(app): State<App>,
    Query(form): Query<ResetForm>,
) -> Result<Response, Failure> {
    if !accounts::reset_is_live(&app, &form.token).await? {
        return Err(accounts::link_is_dead());
    }
    page(StatusCode::OK, &reset_page(&form.token, None))
}

pub async fn reset(
    State(app): State<App>,
    Form(form): Form<ResetForm>,
) -> Result<Response, Failure> {
    match accounts::reset(&app, &form.token, &form.password).await {
        Ok(()) => Ok(Redirect::to("/admin/login").into_response()),
        Err(failure) if failure.problem.errors.is_empty() => Err(failure),
        Err(failure) => {
            let (status, problem) = of_form(failure)?;
            page(status, &reset_page(&form.token, Some(problem)))
        }
    }
}
