//! `/api/auth/*`: sign up, sign in, sign out, show the session.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use protocol::control::{SignIn, SignUp, SignedIn, User};
use serde::Serialize;
use service::api_error::ApiError;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::access::Person;
use crate::app::App;
use crate::http::extract::{ClientAddress, Json};
use crate::http::reply::{Created, NoContent, Okay, Reply};
use crate::sessions::{self, SignInMethod};
use crate::{accounts, db, second_factor, views};

pub async fn sign_up(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    body: Json<SignUp>,
) -> Result<Created<SignedIn>, ApiError> {
    let user = accounts::sign_up(&app, &body.value, client).await?;
    let cookie = sessions::begin(&app, &headers, client, (&user, SignInMethod::SignUp)).await?;
    signed_in(&app, cookie, &user)
}

pub async fn sign_in(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    body: Json<SignIn>,
) -> Result<Okay<SignedIn>, ApiError> {
    let user = accounts::sign_in(&app, &body.value, client, &headers).await?;
    let method = second_factor::check(&app, &headers, &user, body.value.code.as_deref()).await?;
    let cookie = sessions::begin(&app, &headers, client, (&user, method)).await?;
    signed_in(&app, cookie, &user)
}

pub(super) fn signed_in<const STATUS: u16>(
    app: &App,
    cookie: HeaderValue,
    user: &db::user::User,
) -> Result<Reply<STATUS, SignedIn>, ApiError> {
    let cookies = sessions::sign_in_cookies(app, cookie, user)?;
    let reply = Reply::new(SignedIn { user: views::user(user) });
    Ok(cookies.0.into_iter().fold(reply, |reply, (name, value)| reply.with_header(name, value)))
}

pub async fn sign_out(State(app): State<App>, headers: HeaderMap) -> Result<NoContent, ApiError> {
    sessions::end(&app, &headers).await?;
    let cookie = sessions::clear_cookie(&app.addresses)?;
    Ok(NoContent::default().with_header(header::SET_COOKIE, cookie))
}

/// The caller and the session.
#[derive(Serialize, ToSchema)]
pub struct Session {
    user: User,
    #[schema(inline)]
    session: SessionView,
}

#[derive(Serialize, ToSchema)]
struct SessionView {
    id: Uuid,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    expires_at: String,
}

pub async fn show_session(person: Person) -> Okay<Session> {
    let session = SessionView {
        id: person.session.id,
        created_at: views::time(person.session.created_at),
        expires_at: views::time(person.session.expires_at),
    };
    Okay::new(Session { user: views::user(&person.user), session })
}
