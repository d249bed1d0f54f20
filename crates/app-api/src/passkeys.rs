//! The passkeys of people: add, sign in, list, rename, remove.

use std::net::IpAddr;
use std::time::Duration;

use axum::http::HeaderMap;
use protocol::passkey::PasskeyChange;
use protocol::problem::{Code, FieldCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use service::api_error::ApiError;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::access::Person;
use crate::accounts::count_attempt;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::auth::device;
use crate::auth::passkey::{
    Ceremony, Holder, KnownCredential, PasskeyError, RegistrationResponse, RelyingParty,
    SignInResponse,
};
use crate::auth::throttle::Attempt;
use crate::db::passkey::{self, Challenge, Passkey};
use crate::db::user::User;
use crate::db::{self, Transaction as _, audit_log};
use crate::validation::{self, FieldError, invalid_fields};
use crate::{mail, second_factor};

/// How long a challenge waits for a response.
const CHALLENGE_LIFETIME: Duration = Duration::from_secs(300);
/// The most passkeys of one person.
const MAX_PASSKEYS: i64 = 20;

/// Options for a browser's `navigator.credentials`. They are valid for 5 minutes and one response.
#[derive(Serialize, ToSchema)]
pub struct PasskeyOptions {
    /// `PublicKeyCredentialCreationOptionsJSON` or `PublicKeyCredentialRequestOptionsJSON` of the W3C's Web Authentication.
    #[schema(value_type = Object)]
    pub public_key: Value,
}

/// A new passkey, with the proof that its owner asks for it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPasskey {
    /// 1 to 100 characters.
    pub name: String,
    /// The password of the person who adds the passkey.
    pub password: String,
    /// The code of the account's second factor, or a recovery code.
    #[serde(default)]
    pub code: Option<String>,
    /// `RegistrationResponseJSON`: the browser's credential, by its `toJSON()`.
    #[schema(value_type = Object)]
    pub credential: Value,
}

/// The signature of a passkey.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasskeySignIn {
    /// `AuthenticationResponseJSON`: the browser's credential, by its `toJSON()`.
    #[schema(value_type = Object)]
    pub credential: Value,
}

fn relying_party(app: &App) -> Result<RelyingParty, ApiError> {
    let host = app.addresses.admin.host_str().unwrap_or_default();
    Ok(RelyingParty::new(host, app.addresses.admin_origin())?)
}

/// Begins a sign-in. The options name nobody: the browser finds out whose passkeys it has.
///
/// # Errors
/// `too_many_attempts`.
pub async fn challenge_sign_in(app: &App, client: IpAddr) -> Result<PasskeyOptions, ApiError> {
    count_attempt(app, Attempt::Client(client))?;
    begin(app, relying_party(app)?.begin_sign_in()?, None).await
}

/// Begins the registration of a passkey of the person.
pub async fn challenge_registration(app: &App, user: &User) -> Result<PasskeyOptions, ApiError> {
    let known = passkey::of_user(&mut *app.conn().await?, user.id).await?;
    let known = known.into_iter().map(|known| known.credential_id).collect();
    let holder = Holder { id: user.id, email: &user.email, name: &user.name };
    begin(app, relying_party(app)?.begin_registration(holder, known)?, Some(user.id)).await
}

async fn begin(
    app: &App,
    ceremony: Ceremony,
    user_id: Option<Uuid>,
) -> Result<PasskeyOptions, ApiError> {
    let Ceremony { options, challenge, state } = ceremony;
    let now = app.clock.now();
    let new = Challenge { challenge, state, user_id, expires_at: now + CHALLENGE_LIFETIME };
    let mut conn = app.conn().await?;
    conn.transaction(async |conn| passkey::insert_challenge(conn, &new, now).await).await?;
    Ok(PasskeyOptions { public_key: options })
}

/// Consumes a challenge, whatever becomes of the response to it, and returns what the response must fulfil.
async fn take_challenge(
    app: &App,
    challenge: &[u8],
    user: Option<Uuid>,
) -> Result<Vec<u8>, ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let state = passkey::take_challenge(&mut conn, challenge, user, now).await?;
    state.ok_or_else(|| refused(PasskeyError::Challenge))
}

/// Adds a passkey, after the password and the code of a second factor, both of which the passkey replaces: a stolen session
/// must not leave a key behind.
///
/// # Errors
/// `invalid_fields`; `invalid_passkey`; `passkey_conflict`; `too_many_attempts`.
pub async fn add(
    app: &App,
    headers: &HeaderMap,
    (person, client): (&Person, IpAddr),
    new: &NewPasskey,
) -> Result<Passkey, ApiError> {
    let user = &person.user;
    let name = checked_name(&new.name)?;
    let response = RegistrationResponse::parse(&new.credential).map_err(refused)?;
    let code = new.code.as_deref();
    second_factor::prove_owner(app, headers, (person, client), &new.password, code).await?;
    let state = take_challenge(app, &response.challenge, Some(user.id)).await?;
    let credential = relying_party(app)?.finish_registration(&state, &response).map_err(refused)?;
    let now = app.clock.now();
    let row = Passkey {
        id: Uuid::now_v7(),
        user_id: user.id,
        credential_id: credential.id,
        static_state: credential.static_state,
        dynamic_state: credential.dynamic_state,
        name,
        created_at: now,
        last_used_at: None,
    };
    let entry = entry(person, Action::PasskeyAdd).after(json!({ "name": row.name }));
    let mut conn = app.conn().await?;
    conn.transaction(async |conn| -> Result<_, ApiError> {
        // A change of the password removes the passkeys: it must not miss this one.
        let account = db::user::lock(conn, user.id).await?;
        if account.is_none_or(|account| account.password_hash != user.password_hash) {
            return Err(second_factor::wrong_password());
        }
        if !passkey::insert(conn, &row, MAX_PASSKEYS).await? {
            return Err(conflict());
        }
        audit_log::append(conn, &entry, now).await?;
        Ok(())
    })
    .await?;
    Ok(row)
}

/// Returns the person whose passkey signed the challenge. The authenticator has verified its user, so that no second
/// factor is required.
///
/// # Errors
/// `invalid_passkey`, the same for an unknown passkey and for a wrong signature; `invalid_fields` for JSON that is no
/// credential; `too_many_attempts`.
pub async fn sign_in(
    app: &App,
    headers: &HeaderMap,
    client: IpAddr,
    request: &PasskeySignIn,
) -> Result<User, ApiError> {
    let attempt = Attempt::Client(client);
    count_attempt(app, attempt)?;
    let response = SignInResponse::parse(&request.credential).map_err(refused)?;
    let state = take_challenge(app, &response.challenge, None).await?;
    let found = passkey::by_credential(&mut *app.conn().await?, &response.credential_id).await?;
    let known = found.as_ref().map(|(known, _)| KnownCredential {
        user: known.user_id,
        static_state: &known.static_state,
        dynamic_state: &known.dynamic_state,
    });
    let checked = relying_party(app)?.finish_sign_in(&state, &response, known);
    let (dynamic_state, now) = (checked.map_err(refused)?, app.clock.now());
    let (known, user) = found.ok_or_else(|| refused(PasskeyError::Unknown))?;
    if !passkey::record_use(&mut *app.conn().await?, &known, &dynamic_state, now).await? {
        return Err(refused(PasskeyError::Overtaken));
    }
    app.throttle.succeeded(attempt, now);
    if device::proven(&app.device_key, headers, &user.email).is_none() {
        mail::alert_of_sign_in(app, &user, headers, client).await?;
    }
    Ok(user)
}

pub async fn list(app: &App, user: &User) -> Result<Vec<Passkey>, ApiError> {
    Ok(passkey::of_user(&mut *app.conn().await?, user.id).await?)
}

/// Renames a passkey of the person.
///
/// # Errors
/// `not_found`; `invalid_fields`.
pub async fn rename(
    app: &App,
    person: &Person,
    id: Uuid,
    change: &PasskeyChange,
) -> Result<Passkey, ApiError> {
    let name = checked_name(&change.name)?;
    let entry = entry(person, Action::PasskeyRename).after(json!({ "name": name }));
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        let renamed = passkey::rename(conn, person.user.id, id, &name).await?;
        let (renamed, old) = renamed.ok_or_else(no_such_passkey)?;
        audit_log::append(conn, &entry.before(json!({ "name": old })), now).await?;
        Ok(renamed)
    })
    .await
}

/// Removes a passkey of the person.
///
/// # Errors
/// `not_found`.
pub async fn remove(app: &App, person: &Person, id: Uuid) -> Result<(), ApiError> {
    let entry = entry(person, Action::PasskeyRemove);
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        let name = passkey::delete(conn, person.user.id, id).await?.ok_or_else(no_such_passkey)?;
        audit_log::append(conn, &entry.before(json!({ "name": name })), now).await?;
        Ok(())
    })
    .await
}

fn checked_name(text: &str) -> Result<String, ApiError> {
    validation::name(text).map_err(|error| invalid_fields(&[("name", Some(error))]))
}

fn entry(person: &Person, action: Action) -> Entry {
    let actor = Actor::user(&person.user, Some(person.session.id));
    Entry::new(actor, action, Resource::user(&person.user.email))
}

/// One text for every rule that a credential may break. The log has the reason.
fn refused(reason: PasskeyError) -> ApiError {
    tracing::info!(error = %reason, "passkey refused");
    if let PasskeyError::Malformed(_) = reason {
        let message = "Send what toJSON() of the browser's credential returns.";
        let error = FieldError { code: FieldCode::Invalid, message };
        return invalid_fields(&[("credential", Some(error))]);
    }
    let detail = "The passkey was not accepted. Try again, or sign in with your password.";
    ApiError::new(Code::InvalidPasskey, detail)
}

fn conflict() -> ApiError {
    let detail = "The passkey is known already, or the account has 20 of them. Remove one first.";
    ApiError::new(Code::PasskeyConflict, detail)
}

fn no_such_passkey() -> ApiError {
    ApiError::new(Code::NotFound, "There is no such passkey in your account.")
}
