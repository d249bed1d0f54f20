//! Sessions of people: a 256-bit token in a cookie, its hash in a row. [`lifetime`] decides when a session is extended,
//! replaced or over; deleting the row ends the session at once.

pub mod lifetime;
pub mod user_agent;

use std::net::IpAddr;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{AppendHeaders, Response};
use protocol::problem::Code;
use protocol::{TenantId, Timestamp};
use serde_json::json;
use service::api_error::ApiError;
use service::cookies;
use uuid::Uuid;

use crate::access::Principal;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::auth::device;
use crate::auth::second_factor::PendingSignIn;
use crate::auth::token::Token;
use crate::db::session::{self, Session};
use crate::db::user::{self, User};
use crate::db::{Conn, QueryResult, Transaction as _, audit_log};
use crate::settings::Addresses;
use lifetime::{IDLE_TIMEOUT, Use, expiry};

/// A device is known for half a year after its last sign-in.
const DEVICE_LIFETIME: Duration = Duration::from_secs(180 * 24 * 3_600);

/// The session of a request, with the cookie that the response must set, if any.
pub struct Authenticated {
    pub session: Session,
    pub user: User,
    pub cookie: Option<HeaderValue>,
}

/// Over plain HTTP the name has no `__Host-` prefix, because browsers would drop the cookie.
pub fn cookie_name(addresses: &Addresses) -> &'static str {
    if addresses.is_secure() { "__Host-cial_admin" } else { "cial_admin" }
}

/// How a person proved who they are.
#[derive(Clone, Copy, Debug)]
pub enum SignInMethod {
    Password,
    PasswordAndCode,
    Passkey,
    /// The link of an invitation, or the first page of an installation.
    SignUp,
    Development,
}

impl SignInMethod {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::PasswordAndCode => "password_and_code",
            Self::Passkey => "passkey",
            Self::SignUp => "sign_up",
            Self::Development => "development",
        }
    }
}

/// Begins a session under a new token, ends the session of the request's own cookie, and returns the new cookie.
///
/// # Errors
/// `unauthenticated` when the password was changed since `user` was read; `database_unavailable`.
pub async fn begin(
    app: &App,
    headers: &HeaderMap,
    client: IpAddr,
    (user, method): (&User, SignInMethod),
) -> Result<HeaderValue, ApiError> {
    let (token, now) = (Token::random()?, app.clock.now());
    let user_agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let row = Session {
        id: Uuid::now_v7(),
        token_hash: token.hash(),
        user_id: user.id,
        created_at: now,
        last_seen_at: now,
        expires_at: expiry(now, now),
        address: client.to_string(),
        user_agent: user_agent::stored(user_agent),
        must_rotate: false,
        previous_token_hash: None,
        rotated_at: None,
    };
    let began = Entry::new(Actor::user(user, Some(row.id)), Action::SessionBegin, resource(&row));
    let mut conn = app.conn().await?;
    let tenants = conn
        .transaction(async |conn| {
            // A change of the password ends the sessions: it must not miss this one.
            if !user::is_unchanged(conn, user).await? {
                let detail = "The account was changed meanwhile. Sign in again.";
                return Err(ApiError::new(Code::Unauthenticated, detail));
            }
            let (mut entries, tenants) = end_named(conn, &request_hashes(app, headers)).await?;
            session::delete_all_expired(conn, now).await?;
            session::insert(conn, &row).await?;
            let mut description = described(&row);
            description["method"] = method.as_str().into();
            entries.push(began.after(description));
            audit_log::append_all(conn, &entries, now).await?;
            Ok(tenants)
        })
        .await?;
    notify(app, tenants);
    Ok(cookie(&app.addresses, token.reveal(), IDLE_TIMEOUT)?)
}

/// Returns the live session of the request's cookie. Read-only: does not extend the session.
pub async fn find(app: &App, headers: &HeaderMap) -> Result<Option<(Session, User)>, ApiError> {
    let Some(token) = request_token(app, headers) else { return Ok(None) };
    let hash = token.hash();
    let found = session::by_token_hash(&mut *app.conn().await?, &hash).await?;
    let now = app.clock.now();
    Ok(found
        .filter(|(row, _)| !matches!(row.lifetime(&hash).at(now), Use::Expired | Use::Replaced)))
}

/// Returns the live session of the request's cookie and extends or replaces it when that is due.
pub async fn authenticate(
    app: &App,
    headers: &HeaderMap,
) -> Result<Option<Authenticated>, ApiError> {
    let Some(token) = request_token(app, headers) else { return Ok(None) };
    let hash = token.hash();
    let mut conn = app.conn().await?;
    let Some((mut row, user)) = session::by_token_hash(&mut conn, &hash).await? else {
        return Ok(None);
    };
    let now = app.clock.now();
    let mut new_cookie = None;
    match row.lifetime(&hash).at(now) {
        Use::Expired => {
            session::delete_expired(&mut conn, row.id).await?;
            return Ok(None);
        }
        Use::Replaced => return Ok(None),
        Use::Valid => {}
        Use::Touch => {
            session::touch(&mut conn, row.id, now).await?;
            row.last_seen_at = now;
        }
        Use::Renew(expires_at) => {
            session::renew(&mut conn, row.id, now, expires_at).await?;
            (row.last_seen_at, row.expires_at) = (now, expires_at);
            new_cookie = Some(cookie(&app.addresses, token.reveal(), age(&row, now))?);
        }
        Use::Rotate(expires_at) => {
            let next = Token::random()?;
            let rotation =
                session::Rotation { id: Uuid::now_v7(), token_hash: next.hash(), expires_at, now };
            // A concurrent request may have replaced the token first; its response carries the cookie.
            if let Some((rotated, tenants)) = session::rotate(&mut conn, &row, &rotation).await? {
                notify(app, tenants);
                new_cookie = Some(cookie(&app.addresses, next.reveal(), age(&rotated, now))?);
                row = rotated;
            }
        }
    }
    Ok(Some(Authenticated { session: row, user, cookie: new_cookie }))
}

/// Adds the cookie of a renewed or replaced session, unless the handler set or cleared the session's cookie itself.
pub fn add_renewed_cookie(
    addresses: &Addresses,
    response: &mut Response,
    cookie: Option<HeaderValue>,
) {
    let Some(cookie) = cookie else { return };
    let prefix = format!("{}=", cookie_name(addresses));
    let set = response.headers().get_all(header::SET_COOKIE);
    if !set.iter().any(|line| line.as_bytes().starts_with(prefix.as_bytes())) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

/// Ends every session that a cookie of the request names: two different cookies must not hide a live session.
/// The tenant sessions that it opened end, too.
pub async fn end(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    let hashes = request_hashes(app, headers);
    if hashes.is_empty() {
        return Ok(());
    }
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let tenants = conn
        .transaction(async |conn| {
            let (entries, tenants) = end_named(conn, &hashes).await?;
            audit_log::append_all(conn, &entries, now).await?;
            QueryResult::Ok(tenants)
        })
        .await?;
    notify(app, tenants);
    Ok(())
}

/// Ends the sessions of these tokens. Returns the audit entries, which the caller writes at the end of the
/// transaction, and the tenants whose sessions end with them.
async fn end_named(
    conn: &mut Conn,
    hashes: &[Vec<u8>],
) -> QueryResult<(Vec<Entry>, Vec<TenantId>)> {
    let (mut entries, mut tenants) = (Vec::new(), Vec::new());
    for hash in hashes {
        let Some(ended) = session::end(conn, hash).await? else { continue };
        let actor = Actor::user(&ended.user, Some(ended.session.id));
        let entry = Entry::new(actor, Action::SessionEnd, resource(&ended.session));
        entries.push(entry.before(described(&ended.session)));
        tenants.extend(ended.tenants);
    }
    Ok((entries, tenants))
}

fn resource(session: &Session) -> Resource {
    Resource::new("session", session.id)
}

/// A session as the audit log shows it.
fn described(session: &Session) -> serde_json::Value {
    json!({ "device": user_agent::summarize(&session.user_agent), "address": session.address })
}

/// The live sessions of a user, the latest first.
pub async fn list(app: &App, user: Uuid) -> Result<Vec<Session>, ApiError> {
    Ok(session::of_user(&mut *app.conn().await?, user, app.clock.now()).await?)
}

/// Ends a session of the caller's account; returns `false` when the account has no such session.
pub async fn revoke(
    app: &App,
    caller: &Principal,
    user: &User,
    id: Uuid,
) -> Result<bool, ApiError> {
    let resource = Resource::new("session", id);
    let entry = Entry::new(Actor::from(caller), Action::SessionRevoke, resource);
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let revoked = conn
        .transaction(async |conn| {
            let revoked = session::end_by_id(conn, user.id, id).await?;
            if revoked.is_some() {
                audit_log::append(conn, &entry, now).await?;
            }
            QueryResult::Ok(revoked)
        })
        .await?;
    Ok(revoked.map(|tenants| notify(app, tenants)).is_some())
}

/// Ends every session of the caller's account but the one that calls. A key is none, so it ends all.
pub async fn revoke_others(app: &App, caller: &Principal, user: &User) -> Result<(), ApiError> {
    let resource = Resource::user(&user.email);
    let entry = Entry::new(Actor::from(caller), Action::SessionRevokeOthers, resource);
    let current = caller.credential_id();
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let tenants = conn
        .transaction(async |conn| {
            let (count, tenants) = session::end_others(conn, user.id, current).await?;
            audit_log::append(conn, &entry.before(json!({ "sessions": count })), now).await?;
            QueryResult::Ok(tenants)
        })
        .await?;
    notify(app, tenants);
    Ok(())
}

/// Makes the reconciler send these tenants the ids of their ended sessions.
pub fn notify(app: &App, tenants: Vec<TenantId>) {
    tenants.into_iter().for_each(|tenant| app.reconcile.notify(tenant));
}

/// The cookie of a sign-in that waits for the second factor. An empty `value` with no age deletes it.
///
/// # Errors
/// When the value is no header value.
pub fn pending_cookie(app: &App, value: &str, age: Duration) -> Result<HeaderValue, ApiError> {
    Ok(set_cookie(&app.addresses, pending_cookie_name(&app.addresses), value, age)?)
}

fn pending_cookie_name(addresses: &Addresses) -> &'static str {
    if addresses.is_secure() { "__Host-cial_sign_in" } else { "cial_sign_in" }
}

/// The sign-in that waits for the second factor, as the browser claims.
pub fn pending_sign_in(app: &App, headers: &HeaderMap) -> Option<PendingSignIn> {
    let value = cookies::find(cookie_lines(headers), pending_cookie_name(&app.addresses))?;
    PendingSignIn::parse(value)
}

/// A cookie that makes the browser delete the session's cookie.
pub fn clear_cookie(addresses: &Addresses) -> Result<HeaderValue, ApiError> {
    Ok(cookie(addresses, "", Duration::ZERO)?)
}

fn age(session: &Session, now: Timestamp) -> Duration {
    (session.expires_at - now).to_std().unwrap_or_default()
}

fn cookie_lines(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(header::COOKIE).iter().map(|line| line.as_bytes())
}

fn request_hashes(app: &App, headers: &HeaderMap) -> Vec<Vec<u8>> {
    let values = cookies::all(cookie_lines(headers), cookie_name(&app.addresses));
    values.map(|value| Token::from(value).hash()).collect()
}

fn request_token(app: &App, headers: &HeaderMap) -> Option<Token> {
    Some(Token::from(cookies::find(cookie_lines(headers), cookie_name(&app.addresses))?))
}

fn cookie(addresses: &Addresses, value: &str, age: Duration) -> anyhow::Result<HeaderValue> {
    set_cookie(addresses, cookie_name(addresses), value, age)
}

fn set_cookie(
    addresses: &Addresses,
    name: &str,
    value: &str,
    age: Duration,
) -> anyhow::Result<HeaderValue> {
    let secure = if addresses.is_secure() { "; Secure" } else { "" };
    let age = age.as_secs();
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={age}{secure}");
    Ok(HeaderValue::try_from(text)?)
}

/// The response headers that set the session's cookie and make this device known.
///
/// # Errors
/// When a value is no header value.
pub fn sign_in_cookies(
    app: &App,
    session: HeaderValue,
    user: &User,
) -> Result<AppendHeaders<[(header::HeaderName, HeaderValue); 2]>, ApiError> {
    let name = if app.addresses.is_secure() { device::COOKIE_SECURE } else { device::COOKIE };
    let value = device::cookie_value(&app.device_key, &user.email);
    let device = set_cookie(&app.addresses, name, &value, DEVICE_LIFETIME)?;
    Ok(AppendHeaders([(header::SET_COOKIE, session), (header::SET_COOKIE, device)]))
}

/// The response header that sets `cookie`.
pub fn with_cookie(cookie: HeaderValue) -> [(header::HeaderName, HeaderValue); 1] {
    [(header::SET_COOKIE, cookie)]
}
