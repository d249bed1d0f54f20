//! Accounts: the first sign-up creates the owner, then sign-up is closed. Passwords are hashed with argon2id.

use std::net::IpAddr;
use std::time::Duration;

use axum::http::HeaderMap;
use protocol::control::{SignIn, SignUp};
use protocol::problem::Code;
use serde_json::json;
use service::api_error::ApiError;
use uuid::Uuid;

use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::auth::device;
use crate::auth::passwords::Caller;
use crate::auth::throttle::Attempt;
use crate::auth::token::Token;
use crate::db::user::{self, User};
use crate::db::{Conn, QueryResult, Transaction as _, audit_log, reset_link};
use crate::mail::{self, Mail, Prepared};
use crate::sessions;
use crate::settings::Addresses;
use crate::validation::{self, invalid_fields};

/// How long a reset link stays valid.
const RESET_LINK_LIFETIME: Duration = Duration::from_secs(1_800);

/// Creates the owner.
///
/// # Errors
/// `signup_closed` when there is an owner; `invalid_fields`.
pub async fn sign_up(app: &App, request: &SignUp, client: IpAddr) -> Result<User, ApiError> {
    if user::owner_exists(&mut *app.conn().await?).await? {
        return Err(signup_closed());
    }
    let email = validation::email(&request.email);
    let name = validation::name(&request.name);
    let password = validation::password(&request.password, &request.email);
    let (Ok(email), Ok(name), Ok(())) = (&email, &name, &password) else {
        let errors = [("email", email.err()), ("password", password.err()), ("name", name.err())];
        return Err(invalid_fields(&errors));
    };
    count_attempt(app, Attempt::Client(client))?;
    let owner = User {
        id: Uuid::now_v7(),
        email: email.clone(),
        name: name.clone(),
        role: "owner".to_owned(),
        password_hash: app.passwords.hash(&request.password, Caller::NewClient(client)).await?,
    };
    let entry = Entry::new(Actor::user(&owner, None), Action::UserSignUp, Resource::user(email));
    let entry = entry.after(described(&owner));
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let inserted = conn
        .transaction(async |conn| {
            let inserted = user::insert_first_owner(conn, &owner).await?;
            if inserted {
                audit_log::append(conn, &entry, now).await?;
            }
            QueryResult::Ok(inserted)
        })
        .await?;
    if inserted {
        tracing::info!(user = %owner.id, "owner signed up");
        Ok(owner)
    } else {
        Err(signup_closed())
    }
}

/// Returns the user with this address and password; the caller checks the second factor. An unknown address costs and
/// looks the same as a wrong password.
///
/// # Errors
/// `invalid_credentials`; `too_many_attempts`.
pub async fn sign_in(
    app: &App,
    request: &SignIn,
    client: IpAddr,
    headers: &HeaderMap,
) -> Result<User, ApiError> {
    let email = request.email.trim().to_lowercase();
    // No account has a longer address, and the throttle's memory is bounded.
    let is_possible = email.len() <= validation::MAX_EMAIL_BYTES && !email.contains('\0');
    let account = if is_possible { email.as_str() } else { "" };
    let device = device::proven(&app.device_key, headers, account);
    let (attempt, caller) = match device {
        Some(device) => (Attempt::KnownDevice { account, device }, Caller::KnownDevice(client)),
        None => (Attempt::SignIn { account, client }, Caller::NewClient(client)),
    };
    count_attempt(app, attempt)?;
    let found = user::by_email(&mut *app.conn().await?, account).await?;
    let hash = found.as_ref().map(|user| user.password_hash.clone());
    let is_match = app.passwords.verify(&request.password, hash, caller).await?;
    match found.filter(|_| is_match) {
        Some(user) => {
            app.throttle.succeeded(attempt, app.clock.now());
            if device.is_none() {
                mail::alert_of_sign_in(app, &user, headers, client).await?;
            }
            Ok(user)
        }
        None => {
            Err(ApiError::new(Code::InvalidCredentials, "E-mail address or password is wrong."))
        }
    }
}

/// Whether this is the password of a signed-in person, who is about to change how they sign in.
///
/// # Errors
/// `too_many_attempts`.
pub async fn verify_password(
    app: &App,
    user: &User,
    password: &str,
    client: IpAddr,
) -> Result<bool, ApiError> {
    let attempt = Attempt::SignIn { account: &user.email, client };
    count_attempt(app, attempt)?;
    let hash = Some(user.password_hash.clone());
    let is_match = app.passwords.verify(password, hash, Caller::KnownDevice(client)).await?;
    if is_match {
        app.throttle.succeeded(attempt, app.clock.now());
    }
    Ok(is_match)
}

/// Creates a one-time reset token; returns `None` when no account has this address.
pub async fn reset_token(
    conn: &mut Conn,
    actor: Actor,
    email: &str,
    now: protocol::Timestamp,
) -> anyhow::Result<Option<Token>> {
    let Some(user) = user::by_email(conn, &email.trim().to_lowercase()).await? else {
        return Ok(None);
    };
    let token = Token::random()?;
    let entry = Entry::new(actor, Action::PasswordResetLink, Resource::user(&user.email));
    conn.transaction(async |conn| {
        reset_link::replace(conn, user.id, &token.hash(), now + RESET_LINK_LIFETIME).await?;
        audit_log::append(conn, &entry, now).await
    })
    .await?;
    Ok(Some(token))
}

/// The address at which a token resets a password.
pub fn reset_url(addresses: &Addresses, token: &Token) -> String {
    format!("{}/admin/reset?token={}", addresses.admin_origin(), token.reveal())
}

/// Makes a reset link for whoever asked for it by mail; `None` when no account has this address.
///
/// # Errors
/// The database.
pub async fn reset_link(app: &App, email: &str) -> anyhow::Result<Option<String>> {
    let mut conn = app.database.conn().await?;
    let actor = Actor::command("mail");
    let token = reset_token(&mut conn, actor, email, app.clock.now()).await?;
    Ok(token.map(|token| reset_url(&app.addresses, &token)))
}

/// Has a reset link mailed, if an account has this address: whoever asks does not learn whether one does.
///
/// # Errors
/// `not_found` without a mail server; `invalid_fields`; `too_many_attempts`.
pub async fn request_reset(app: &App, email: &str, client: IpAddr) -> Result<(), ApiError> {
    if !app.sends_mail {
        return Err(ApiError::new(Code::NotFound, "This installation sends no mail."));
    }
    let email =
        validation::email(email).map_err(|error| invalid_fields(&[("email", Some(error))]))?;
    count_attempt(app, Attempt::Reset { account: &email, client })?;
    let mail = Prepared::new(&app.sealing, &email, &Mail::PasswordReset, app.clock.now())?;
    mail.insert(&mut *app.conn().await?).await?;
    Ok(())
}

pub async fn is_reset_link_live(app: &App, token: &str) -> Result<bool, ApiError> {
    let hash = Token::from(token).hash();
    Ok(reset_link::is_live(&mut *app.conn().await?, &hash, app.clock.now()).await?)
}

/// Consumes a reset link: sets the password and ends every session.
///
/// # Errors
/// `reset_link_ended`; `invalid_fields`.
pub async fn reset_password(
    app: &App,
    token: &str,
    password: &str,
    client: IpAddr,
) -> Result<(), ApiError> {
    // The cheap check comes first: only the holder of a live link may cause a hash.
    if !is_reset_link_live(app, token).await? {
        return Err(reset_link_ended());
    }
    validation::password(password, "")
        .map_err(|error| invalid_fields(&[("password", Some(error))]))?;
    count_attempt(app, Attempt::Client(client))?;
    let hash = app.passwords.hash(password, Caller::NewClient(client)).await?;
    let (token, now) = (Token::from(token).hash(), app.clock.now());
    let mut conn = app.conn().await?;
    let reset = conn
        .transaction(async |conn| {
            let reset = reset_link::consume(conn, &token, now, &hash).await?;
            let Some((user, tenants)) = reset else { return Ok(None) };
            let actor = Actor::user(&user, None);
            let entry = Entry::new(actor, Action::PasswordReset, Resource::user(&user.email));
            audit_log::append(conn, &entry, now).await?;
            QueryResult::Ok(Some(tenants))
        })
        .await?;
    sessions::notify(app, reset.ok_or_else(reset_link_ended)?);
    Ok(())
}

/// An account as the audit log shows it.
fn described(user: &User) -> serde_json::Value {
    json!({ "name": user.name, "role": user.role })
}

pub(crate) fn count_attempt(app: &App, attempt: Attempt<'_>) -> Result<(), ApiError> {
    app.throttle.attempt(attempt, app.clock.now()).map_err(too_many_attempts)
}

pub fn reset_link_ended() -> ApiError {
    let detail =
        "This link was used already or is too old. Ask for a new one on the page for signing in.";
    ApiError::new(Code::ResetLinkEnded, detail)
}

fn signup_closed() -> ApiError {
    let detail = "This installation has its owner; sign-up is closed. Sign in instead.";
    ApiError::new(Code::SignupClosed, detail)
}

fn too_many_attempts(wait: Duration) -> ApiError {
    let seconds = wait.as_secs().max(1);
    let detail = format!("Too many attempts failed. Try again in {seconds} s.");
    ApiError::new(Code::TooManyAttempts, detail).with_retry_after(Duration::from_secs(seconds))
}
