//! The second factor of a person: enrolment, signing in with it, and its end.

use std::net::IpAddr;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use protocol::people::PlatformRole;
use protocol::problem::{Code, FieldCode};
use protocol::second_factor::{ConfirmSecondFactor, RecoveryCodes, SecondFactorStatus};
use service::api_error::ApiError;
use uuid::Uuid;

use crate::access::authority::refused;
use crate::access::principal::AccessError;
use crate::access::{Person, Principal};
use crate::accounts::{count_attempt, verify_password};
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::auth::device;
use crate::auth::second_factor::{PendingSignIn, SharedSecret, recovery_codes, recovery_hash};
use crate::auth::throttle::Attempt;
use crate::db::second_factor::{self, SecondFactor};
use crate::db::user::{self, User};
use crate::db::{Conn, Transaction as _, audit_log};
use crate::people::users::no_such_user;
use crate::people::widest_grant;
use crate::sessions::{self, SignInMethod};
use crate::validation::{FieldError, invalid_fields};

/// How long a sign-in waits for the second factor.
const PENDING_LIFETIME: Duration = Duration::from_secs(300);

/// Completes a sign-in whose password was right, with the code that came along. Returns what proved the person.
///
/// # Errors
/// `second_factor_required` without a code where one is needed; `invalid_code`; `too_many_attempts`.
pub async fn check(
    app: &App,
    headers: &HeaderMap,
    user: &User,
    code: Option<&str>,
) -> Result<SignInMethod, ApiError> {
    if !second_factor::is_on(&mut *app.conn().await?, user.id).await? {
        return Ok(SignInMethod::Password);
    }
    let Some(code) = code else {
        let detail = "This account has a second factor. Send its code along, as \"code\".";
        return Err(ApiError::new(Code::SecondFactorRequired, detail));
    };
    sign_in_with(app, headers, user, code).await?;
    Ok(SignInMethod::PasswordAndCode)
}

/// The cookie of a browser whose person must enter a code next; `None` for a person without a second factor.
pub async fn pending_cookie(app: &App, user: &User) -> Result<Option<HeaderValue>, ApiError> {
    if !second_factor::is_on(&mut *app.conn().await?, user.id).await? {
        return Ok(None);
    }
    let pending = PendingSignIn::new(&app.device_key, user, app.clock.now() + PENDING_LIFETIME);
    sessions::pending_cookie(app, &pending.to_value(), PENDING_LIFETIME).map(Some)
}

/// The person whose sign-in in this browser waits for a code.
///
/// # Errors
/// `sign_in_ended` without such a sign-in.
pub async fn pending_user(app: &App, headers: &HeaderMap) -> Result<User, ApiError> {
    let pending = sessions::pending_sign_in(app, headers).ok_or_else(sign_in_ended)?;
    let user = user::by_id(&mut *app.conn().await?, pending.user).await?;
    let proven = user.filter(|user| pending.is_proven(&app.device_key, user, app.clock.now()));
    proven.ok_or_else(sign_in_ended)
}

/// Completes the browser's sign-in by a code, and returns the person.
///
/// # Errors
/// `sign_in_ended`; `invalid_code`; `too_many_attempts`.
pub async fn complete(app: &App, headers: &HeaderMap, code: &str) -> Result<User, ApiError> {
    let user = pending_user(app, headers).await?;
    sign_in_with(app, headers, &user, code).await?;
    Ok(user)
}

async fn sign_in_with(
    app: &App,
    headers: &HeaderMap,
    user: &User,
    code: &str,
) -> Result<(), ApiError> {
    let attempt = code_attempt(app, headers, user);
    count_attempt(app, attempt)?;
    let factor = second_factor::of_user(&mut *app.conn().await?, user.id).await?;
    let is_used = match &factor {
        Some(factor) => use_code(app, user, None, factor, code).await?,
        None => false,
    };
    if !is_used {
        let detail = "The code is wrong, too old, or was used already. Wait for the next one, or use a recovery code.";
        return Err(ApiError::new(Code::InvalidCode, detail));
    }
    app.throttle.succeeded(attempt, app.clock.now());
    Ok(())
}

/// A person's known device has a count of its own, so that unknown devices do not use it up, within the limit of the account.
fn code_attempt<'a>(app: &App, headers: &HeaderMap, user: &'a User) -> Attempt<'a> {
    let account = user.email.as_str();
    match device::proven(&app.device_key, headers, account) {
        Some(device) => Attempt::SecondFactorOnDevice { account, device },
        None => Attempt::SecondFactor { account },
    }
}

/// Consumes a code of the app that has the secret of `factor`, or a recovery code. Returns `false` for a text that is
/// neither, or was used.
async fn use_code(
    app: &App,
    user: &User,
    session: Option<Uuid>,
    factor: &SecondFactor,
    code: &str,
) -> Result<bool, ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let Some(hash) = recovery_hash(code) else {
        let secret = SharedSecret::open(&factor.sealed_secret, &app.sealing, user.id)?;
        let Some(step) = secret.step_of(code, now)? else { return Ok(false) };
        return Ok(second_factor::advance(&mut conn, user.id, step).await?);
    };
    let entry = entry(Actor::user(user, session), Action::RecoveryCodeUse, user);
    conn.transaction(async |conn| -> Result<_, ApiError> {
        let is_taken = second_factor::take_recovery_code(conn, user.id, &hash).await?;
        if is_taken {
            audit_log::append(conn, &entry, now).await?;
        }
        Ok(is_taken)
    })
    .await
}

/// Whether the person has a second factor.
pub async fn status(app: &App, user: &User) -> Result<SecondFactorStatus, ApiError> {
    let mut conn = app.conn().await?;
    Ok(SecondFactorStatus {
        is_on: second_factor::is_on(&mut conn, user.id).await?,
        recovery_codes_left: second_factor::recovery_codes_left(&mut conn, user.id).await?,
    })
}

/// Begins an enrolment: a secret that takes effect once a code proves that the app has it. Replaces an earlier secret that
/// is not in effect. Takes the password: whoever stole a session must not enrol an app of theirs.
///
/// # Errors
/// `second_factor_conflict` when the person has a second factor; `invalid_fields` for a wrong password;
/// `too_many_attempts`.
pub async fn begin(
    app: &App,
    user: &User,
    password: &str,
    client: IpAddr,
) -> Result<SharedSecret, ApiError> {
    prove_password(app, user, password, client).await?;
    let secret = SharedSecret::random()?;
    let row = SecondFactor {
        user_id: user.id,
        sealed_secret: secret.seal(&app.sealing, user.id)?,
        confirmed_at: None,
        last_step: 0,
        created_at: app.clock.now(),
    };
    let mut conn = app.conn().await?;
    let begun = conn.transaction(async |conn| second_factor::begin(conn, &row).await).await?;
    if begun { Ok(secret) } else { Err(is_on_already()) }
}

/// Whether an enrolment waits for its first code.
pub async fn is_begun(app: &App, user: &User) -> Result<bool, ApiError> {
    Ok(begun(app, user).await?.is_some())
}

/// The enrolment that is not confirmed; `None` without one.
async fn begun(app: &App, user: &User) -> Result<Option<SecondFactor>, ApiError> {
    let factor = second_factor::of_user(&mut *app.conn().await?, user.id).await?;
    Ok(factor.filter(|factor| factor.confirmed_at.is_none()))
}

/// Puts a begun enrolment into effect. Returns the recovery codes, which nothing shows again.
///
/// # Errors
/// `second_factor_conflict`, also when another enrolment replaced the one whose code was proved; `invalid_fields` for a
/// wrong password or code; `too_many_attempts`.
pub async fn confirm(
    app: &App,
    headers: &HeaderMap,
    (person, client): (&Person, IpAddr),
    request: &ConfirmSecondFactor,
) -> Result<RecoveryCodes, ApiError> {
    let user = &person.user;
    let codes = recovery_codes()?;
    let hashes: Vec<_> = codes.iter().filter_map(|code| recovery_hash(code)).collect();
    let entry = entry(Actor::user(user, Some(person.session.id)), Action::SecondFactorOn, user);
    let factor = begun(app, user).await?.ok_or_else(nothing_begun)?;
    prove(app, headers, (person, client), &factor, request).await?;
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        if !second_factor::confirm(conn, user.id, &factor.sealed_secret, &hashes, now).await? {
            return Err(nothing_begun());
        }
        audit_log::append(conn, &entry, now).await?;
        Ok(())
    })
    .await?;
    Ok(RecoveryCodes { recovery_codes: codes })
}

/// Ends one's own second factor.
///
/// # Errors
/// As [`confirm`].
pub async fn disable(
    app: &App,
    headers: &HeaderMap,
    (person, client): (&Person, IpAddr),
    request: &ConfirmSecondFactor,
) -> Result<(), ApiError> {
    let user = &person.user;
    let factor = second_factor::of_user(&mut *app.conn().await?, user.id).await?;
    let factor = factor.filter(|factor| factor.confirmed_at.is_some()).ok_or_else(is_off)?;
    prove(app, headers, (person, client), &factor, request).await?;
    let entry = entry(Actor::user(user, Some(person.session.id)), Action::SecondFactorOff, user);
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| delete(conn, user, &entry, now).await).await
}

/// Verifies the password and consumes a code, before a change of the person's own second factor: a stolen session must
/// neither lock its owner out nor weaken the account.
async fn prove(
    app: &App,
    headers: &HeaderMap,
    (person, client): (&Person, IpAddr),
    factor: &SecondFactor,
    request: &ConfirmSecondFactor,
) -> Result<(), ApiError> {
    let user = &person.user;
    prove_password(app, user, &request.password, client).await?;
    let attempt = code_attempt(app, headers, user);
    count_attempt(app, attempt)?;
    if !use_code(app, user, Some(person.session.id), factor, &request.code).await? {
        let message = "The code is wrong, too old, or was used already. Wait for the next one.";
        return Err(wrong_secret("code", message));
    }
    app.throttle.succeeded(attempt, app.clock.now());
    Ok(())
}

/// Verifies the password, and consumes a code where the person has a second factor, before the person gets another way to
/// sign in that takes neither.
///
/// # Errors
/// `invalid_fields` for a wrong password, or a wrong or missing code; `too_many_attempts`.
pub async fn prove_owner(
    app: &App,
    headers: &HeaderMap,
    (person, client): (&Person, IpAddr),
    password: &str,
    code: Option<&str>,
) -> Result<(), ApiError> {
    let factor = second_factor::of_user(&mut *app.conn().await?, person.user.id).await?;
    let Some(factor) = factor.filter(|factor| factor.confirmed_at.is_some()) else {
        return prove_password(app, &person.user, password, client).await;
    };
    let Some(code) = code else {
        let message = "Enter a code of your authenticator app.";
        return Err(invalid_fields(&[(
            "code",
            Some(FieldError { code: FieldCode::Required, message }),
        )]));
    };
    let request = ConfirmSecondFactor { password: password.to_owned(), code: code.to_owned() };
    prove(app, headers, (person, client), &factor, &request).await
}

async fn prove_password(
    app: &App,
    user: &User,
    password: &str,
    client: IpAddr,
) -> Result<(), ApiError> {
    if verify_password(app, user, password, client).await? { Ok(()) } else { Err(wrong_password()) }
}

pub fn wrong_password() -> ApiError {
    wrong_secret("password", "This is not your password.")
}

fn wrong_secret(field: &'static str, message: &'static str) -> ApiError {
    invalid_fields(&[(field, Some(FieldError { code: FieldCode::WrongSecret, message }))])
}

/// Ends another person's second factor: for an owner, when that person lost the app and the recovery codes. Owners end
/// their own by [`disable`]: a stolen session must not weaken the account that it belongs to.
///
/// # Errors
/// `resource_not_found`; `insufficient_role`; `second_factor_conflict`.
pub async fn reset(app: &App, caller: &Principal, id: Uuid) -> Result<(), ApiError> {
    let mut conn = app.conn().await?;
    let user = user::by_id(&mut conn, id).await?.ok_or_else(no_such_user)?;
    if widest_grant(caller) != PlatformRole::Owner {
        return Err(refused(AccessError::InsufficientRole));
    }
    if caller.user_id() == Some(id) {
        let detail = "End your own second factor with your password and a code.";
        return Err(ApiError::new(Code::InsufficientRole, detail));
    }
    reset_by(&mut conn, Actor::from(caller), &user, app.clock.now()).await
}

/// Ends a person's second factor in the name of `actor`, who may do so.
///
/// # Errors
/// `second_factor_conflict`.
pub async fn reset_by(
    conn: &mut Conn,
    actor: Actor,
    user: &User,
    now: protocol::Timestamp,
) -> Result<(), ApiError> {
    let entry = entry(actor, Action::SecondFactorReset, user);
    conn.transaction(async |conn| delete(conn, user, &entry, now).await).await
}

async fn delete(
    conn: &mut Conn,
    user: &User,
    entry: &Entry,
    now: protocol::Timestamp,
) -> Result<(), ApiError> {
    if !second_factor::delete(conn, user.id).await? {
        return Err(is_off());
    }
    audit_log::append(conn, entry, now).await?;
    Ok(())
}

fn entry(actor: Actor, action: Action, user: &User) -> Entry {
    Entry::new(actor, action, Resource::user(&user.email))
}

fn sign_in_ended() -> ApiError {
    let detail = "This sign-in is older than 5 minutes. Enter e-mail address and password again.";
    ApiError::new(Code::SignInEnded, detail)
}

fn is_on_already() -> ApiError {
    let detail = "The account has a second factor already. Disable it first.";
    ApiError::new(Code::SecondFactorConflict, detail)
}

fn nothing_begun() -> ApiError {
    let detail =
        "No enrolment waits for its first code. Begin one; disable an earlier second factor first.";
    ApiError::new(Code::SecondFactorConflict, detail)
}

fn is_off() -> ApiError {
    ApiError::new(Code::SecondFactorConflict, "There is no second factor.")
}
