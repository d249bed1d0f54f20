//! Sessions: half an hour from the last request, twelve hours at most, ended at once when their row goes.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use axum_extra::extract::CookieJar;
use protocol::Timestamp;
use service::failure::Failure;
use uuid::Uuid;

use crate::app::App;
use crate::db::session::{self, Session};
use crate::db::user::User;
use crate::settings::Addresses;
use crate::token::Token;

pub const IDLE: Duration = Duration::from_secs(1_800);
pub const AT_MOST: Duration = Duration::from_secs(12 * 3_600);
/// A session in use is not written on every request.
const TOUCH_AFTER: Duration = Duration::from_secs(60);

/// A browser drops a `__Host-` cookie that came over plain HTTP.
pub fn cookie_name(addresses: &Addresses) -> &'static str {
    if addresses.is_secure() { "__Host-cial_admin" } else { "cial_admin" }
}

/// Begins a session and ends the one that the caller came with; answers its cookie.
pub async fn begin(app: &App, headers: &HeaderMap, user: &User) -> Result<HeaderValue, Failure> {
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
    session::delete_ended(&mut conn, now - IDLE, now - AT_MOST).await?;
    session::insert(&mut conn, &row).await?;
    Ok(cookie(&app.addresses, token.reveal(), AT_MOST)?)
}

/// The live session that the caller came with.
pub async fn find(app: &App, headers: &HeaderMap) -> Result<Option<(Session, User)>, Failure> {
    let Some(token) = token(app, headers) else { return Ok(None) };
    let mut conn = app.conn().await?;
    let Some((mut row, user)) = session::by_token_hash(&mut conn, &token.hash()).await? else {
        return Ok(None);
    };
    let now = app.clock.now();
    if !is_live(&row, now) {
        session::delete(&mut conn, row.id).await?;
        return Ok(None);
    }
    if row.last_seen_at + TOUCH_AFTER <= now {
        session::touch(&mut conn, row.id, now).await?;
        row.last_seen_at = now;
    }
    Ok(Some((row, user)))
}

/// Ends the session that the caller came with, if any.
pub async fn end(app: &App, headers: &HeaderMap) -> Result<(), Failure> {
    if let Some((row, _)) = find(app, headers).await? {
        session::delete(&mut *app.conn().await?, row.id).await?;
    }
    Ok(())
}

/// What makes a browser forget its cookie.
pub fn no_cookie(addresses: &Addresses) -> Result<HeaderValue, Failure> {
    Ok(cookie(addresses, "", Duration::ZERO)?)
}

pub fn ends_at(session: &Session) -> Timestamp {
    (session.last_seen_at + IDLE).min(session.created_at + AT_MOST)
}

fn is_live(session: &Session, now: Timestamp) -> bool {
    now < ends_at(session)
}

fn token(app: &App, headers: &HeaderMap) -> Option<Token> {
    let jar = CookieJar::from_headers(headers);
    Some(Token::from(jar.get(cookie_name(&app.addresses))?.value()))
}

fn cookie(addresses: &Addresses, value: &str, age: Duration) -> anyhow::Result<HeaderValue> {
    let secure = if addresses.is_secure() { "; Secure" } else { "" };
    let (name, age) = (cookie_name(addresses), age.as_secs());
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={age}{secure}");
    Ok(HeaderValue::try_from(text)?)
}

/// Answers with a cookie.
pub fn with_cookie(cookie: HeaderValue) -> [(header::HeaderName, HeaderValue); 1] {
    [(header::SET_COOKIE, cookie)]
}
