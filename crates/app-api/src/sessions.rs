//! Sessions of owners: they end 30 minutes after the last request, after 12 hours, or when their row is deleted.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::AppendHeaders;
use protocol::Timestamp;
use service::api_error::ApiError;
use service::cookies;
use uuid::Uuid;

use crate::app::App;
use crate::auth::device;
use crate::auth::token::Token;
use crate::db::session::{self, Session};
use crate::db::user::User;
use crate::settings::Addresses;

pub const IDLE_TIMEOUT: Duration = Duration::from_secs(1_800);
/// A device is known for half a year after its last sign-in.
const DEVICE_LIFETIME: Duration = Duration::from_secs(180 * 24 * 3_600);
pub const MAX_LIFETIME: Duration = Duration::from_secs(12 * 3_600);
/// The time of the last request is written at most this often.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// Over plain HTTP the name has no `__Host-` prefix, because browsers would drop the cookie.
pub fn cookie_name(addresses: &Addresses) -> &'static str {
    if addresses.is_secure() { "__Host-cial_admin" } else { "cial_admin" }
}

/// Begins a session, ends the session of the request's own cookie, and returns the new cookie.
pub async fn begin(app: &App, headers: &HeaderMap, user: &User) -> Result<HeaderValue, ApiError> {
    end(app, headers).await?;
    let (token, now) = (Token::random()?, app.clock.now());
    let row = Session {
        id: Uuid::now_v7(),
        token_hash: token.hash(),
        user_id: user.id,
        created_at: now,
        last_seen_at: now,
    };
    let mut conn = app.conn().await?;
    session::delete_all_expired(&mut conn, now - IDLE_TIMEOUT, now - MAX_LIFETIME).await?;
    session::insert(&mut conn, &row).await?;
    Ok(cookie(&app.addresses, token.reveal(), MAX_LIFETIME)?)
}

/// Returns the live session of the request's cookie.
pub async fn find(app: &App, headers: &HeaderMap) -> Result<Option<(Session, User)>, ApiError> {
    let Some(token) = request_token(app, headers) else { return Ok(None) };
    let mut conn = app.conn().await?;
    let Some((mut row, user)) = session::by_token_hash(&mut conn, &token.hash()).await? else {
        return Ok(None);
    };
    let now = app.clock.now();
    if !is_live(&row, now) {
        session::delete_expired(&mut conn, row.id).await?;
        return Ok(None);
    }
    if row.last_seen_at + TOUCH_INTERVAL <= now {
        session::touch(&mut conn, row.id, now).await?;
        row.last_seen_at = now;
    }
    Ok(Some((row, user)))
}

/// Ends every session that a cookie of the request names: two different cookies must not hide a live session.
/// The tenant sessions that it opened end, too.
pub async fn end(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    for value in cookies::all(cookie_lines(headers), cookie_name(&app.addresses)) {
        let hash = Token::from(value).hash();
        let tenants = session::end(&mut *app.conn().await?, &hash).await?;
        tenants.into_iter().for_each(|tenant| app.reconcile.notify(tenant));
    }
    Ok(())
}

/// A cookie that makes the browser delete the session's cookie.
pub fn clear_cookie(addresses: &Addresses) -> Result<HeaderValue, ApiError> {
    Ok(cookie(addresses, "", Duration::ZERO)?)
}

pub fn ends_at(session: &Session) -> Timestamp {
    (session.last_seen_at + IDLE_TIMEOUT).min(session.created_at + MAX_LIFETIME)
}

fn is_live(session: &Session, now: Timestamp) -> bool {
    now < ends_at(session)
}

fn cookie_lines(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(header::COOKIE).iter().map(|line| line.as_bytes())
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
