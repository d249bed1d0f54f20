//! `/api/auth/*`: sign up, sign in, sign out, show the session.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use protocol::control::{SignIn, SignUp, SignedIn};
use serde::Serialize;
use service::api_error::ApiError;
use uuid::Uuid;

use crate::access::Person;
use crate::app::App;
use crate::http::extract::{ClientAddress, Json};
use crate::sessions::{self, with_cookie};
use crate::{accounts, views};

pub async fn sign_up(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    body: Json<SignUp>,
) -> Result<Response, ApiError> {
    let user = accounts::sign_up(&app, &body.value, client).await?;
    let cookie = sessions::begin(&app, &headers, client, &user).await?;
    let cookies = sessions::sign_in_cookies(&app, cookie, &user)?;
    let response = axum::Json(SignedIn { user: views::user(&user) });
    Ok((StatusCode::CREATED, cookies, response).into_response())
}

pub async fn sign_in(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    body: Json<SignIn>,
) -> Result<Response, ApiError> {
    let user = accounts::sign_in(&app, &body.value, client, &headers).await?;
    let cookie = sessions::begin(&app, &headers, client, &user).await?;
    let cookies = sessions::sign_in_cookies(&app, cookie, &user)?;
    Ok((cookies, axum::Json(SignedIn { user: views::user(&user) })).into_response())
}

pub async fn sign_out(State(app): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    sessions::end(&app, &headers).await?;
    let cookie = sessions::clear_cookie(&app.addresses)?;
    Ok((StatusCode::NO_CONTENT, with_cookie(cookie)).into_response())
}

#[derive(Serialize)]
struct SessionView {
    id: Uuid,
    created_at: String,
    expires_at: String,
}

pub async fn show_session(person: Person) -> Response {
    let session = SessionView {
        id: person.session.id,
        created_at: views::time(person.session.created_at),
        expires_at: views::time(person.session.expires_at),
    };
    let response = serde_json::json!({ "user": views::user(&person.user), "session": session });
    axum::Json(response).into_response()
}
