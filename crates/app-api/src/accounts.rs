//! Accounts: the first sign-up makes the owner, then sign-up is closed. Passwords are argon2id.

mod passwords;
pub mod rules;

use std::net::IpAddr;
use std::time::Duration;

use axum::http::StatusCode;
use protocol::control::{SignIn, SignUp};
use service::failure::Failure;
use uuid::Uuid;

pub use passwords::Passwords;

use crate::app::App;
use crate::db::user::{self, User};
use crate::db::{Conn, reset_link};
use crate::token::Token;

/// How long a way back in stays open.
const RESET_WITHIN: Duration = Duration::from_secs(1_800);

/// Makes the owner, if there is none.
pub async fn sign_up(app: &App, wish: &SignUp) -> Result<User, Failure> {
    if user::owner_exists(&mut *app.conn().await?).await? {
        return Err(signup_closed());
    }
    let email = rules::email(&wish.email);
    let name = rules::name(&wish.name);
    let password = rules::password(&wish.password, &wish.email);
    let (Ok(email), Ok(name), Ok(())) = (&email, &name, &password) else {
        let faults = [("email", email.err()), ("password", password.err()), ("name", name.err())];
        return Err(invalid(&faults));
    };
    let owner = User {
        id: Uuid::now_v7(),
        email: email.clone(),
        name: name.clone(),
        role: "owner".to_owned(),
        password_hash: app.passwords.hash(&wish.password).await?,
    };
    if user::insert_owner(&mut *app.conn().await?, &owner).await? {
        tracing::info!(user = %owner.id, "the owner signed up");
        Ok(owner)
    } else {
        Err(signup_closed())
    }
}

/// Who may come in with these; unknown users cost and look the same as wrong passwords.
pub async fn sign_in(app: &App, wish: &SignIn, client: IpAddr) -> Result<User, Failure> {
    let email = wish.email.trim().to_lowercase();
    // No account has such an address, and memory of attempts is bounded.
    let possible = email.len() <= rules::EMAIL_LENGTH && !email.contains('\0');
    let account = if possible { email.as_str() } else { "" };
    if let Err(wait) = app.throttle.attempt(account, client, app.clock.now()) {
        return Err(too_many_attempts(wait));
    }
    let found = user::by_email(&mut *app.conn().await?, account).await?;
    let hash = found.as_ref().map(|user| user.password_hash.clone());
    let fits = app.passwords.verify(&wish.password, hash).await?;
    match found.filter(|_| fits) {
        Some(user) => {
            app.throttle.succeeded(account, client);
            Ok(user)
        }
        None => Err(Failure::new(
            StatusCode::UNAUTHORIZED,
            "invalid_credentials",
            "E-mail address or password is wrong.",
        )),
    }
}

/// A one-time link for a locked-out owner; `None` when nobody has this address.
pub async fn reset_token(
    conn: &mut Conn,
    email: &str,
    now: protocol::Timestamp,
) -> anyhow::Result<Option<Token>> {
    let Some(user) = user::by_email(conn, &email.trim().to_lowercase()).await? else {
        return Ok(None);
    };
    let token = Token::random()?;
    reset_link::replace(conn, user.id, &token.hash(), now + RESET_WITHIN).await?;
    Ok(Some(token))
}

pub async fn reset_is_live(app: &App, token: &str) -> Result<bool, Failure> {
    let hash = Token::from(token).hash();
    Ok(reset_link::is_live(&mut *app.conn().await?, &hash, app.clock.now()).await?)
}

/// Uses a reset link up: sets the password and ends every session.
pub async fn reset(app: &App, token: &str, password: &str) -> Result<(), Failure> {
    rules::password(password, "").map_err(|fault| invalid(&[("password", Some(fault))]))?;
    let hash = app.passwords.hash(password).await?;
    let (token, now) = (Token::from(token).hash(), app.clock.now());
    let mut conn = app.conn().await?;
    let done = reset_link::use_up(&mut conn, &token, now, &hash).await?;
    if done { Ok(()) } else { Err(link_is_dead()) }
}

pub fn link_is_dead() -> Failure {
    let detail = "This link was used already or is too old. Ask for a new one on the machine: app-api reset-password EMAIL.";
    Failure::new(StatusCode::GONE, "reset_link_ended", detail)
}

fn signup_closed() -> Failure {
    let detail = "This installation has its owner; sign-up is closed. Sign in instead.";
    Failure::new(StatusCode::FORBIDDEN, "signup_closed", detail)
}

fn too_many_attempts(wait: Duration) -> Failure {
    let seconds = wait.as_secs() + 1;
    let detail = format!("Too many attempts failed. Try again in {seconds} s.");
    Failure::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", detail)
        .retry_after(Duration::from_secs(seconds))
}

/// 422 with a fault at each field that has one.
pub fn invalid(faults: &[(&str, Option<rules::Fault>)]) -> Failure {
    let detail = "Some fields need another value.";
    let whole = Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields", detail);
    faults
        .iter()
        .filter_map(|(field, fault)| Some((field, fault.as_ref()?)))
        .fold(whole, |failure, (field, fault)| failure.field(field, fault.code, fault.message))
}
