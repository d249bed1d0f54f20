//! `/v1/users/me/passkeys` and `/api/auth/sign-in/passkey`: passkeys, as the script of the admin's pages uses them.

use axum::extract::State;
use axum::http::HeaderMap;
use protocol::control::SignedIn;
use protocol::passkey::{Passkey, PasskeyChange, PasskeyList};
use service::api_error::ApiError;

use super::auth::signed_in;
use crate::access::Person;
use crate::app::App;
use crate::http::extract::{ClientAddress, IdPath, Json};
use crate::http::reply::{Created, NoContent, Okay};
use crate::passkeys::{NewPasskey, PasskeyOptions, PasskeySignIn};
use crate::sessions::{self, SignInMethod};
use crate::{passkeys, views};

pub async fn challenge_sign_in(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
) -> Result<Okay<PasskeyOptions>, ApiError> {
    Ok(Okay::new(passkeys::challenge_sign_in(&app, client).await?))
}

pub async fn sign_in(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    body: Json<PasskeySignIn>,
) -> Result<Okay<SignedIn>, ApiError> {
    let user = passkeys::sign_in(&app, &headers, client, &body.value).await?;
    let cookie = sessions::begin(&app, &headers, client, (&user, SignInMethod::Passkey)).await?;
    signed_in(&app, cookie, &user)
}

pub async fn list_passkeys(
    State(app): State<App>,
    person: Person,
) -> Result<Okay<PasskeyList>, ApiError> {
    let listed = passkeys::list(&app, &person.user).await?;
    Ok(Okay::new(PasskeyList { passkeys: listed.iter().map(views::passkey).collect() }))
}

pub async fn challenge_registration(
    State(app): State<App>,
    person: Person,
) -> Result<Okay<PasskeyOptions>, ApiError> {
    Ok(Okay::new(passkeys::challenge_registration(&app, &person.user).await?))
}

pub async fn add_passkey(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    person: Person,
    body: Json<NewPasskey>,
) -> Result<Created<Passkey>, ApiError> {
    let added = passkeys::add(&app, &headers, (&person, client), &body.value).await?;
    Ok(Created::new(views::passkey(&added)))
}

pub async fn rename_passkey(
    State(app): State<App>,
    person: Person,
    IdPath(id): IdPath,
    body: Json<PasskeyChange>,
) -> Result<Okay<Passkey>, ApiError> {
    let renamed = passkeys::rename(&app, &person, id, &body.value).await?;
    Ok(Okay::new(views::passkey(&renamed)))
}

pub async fn remove_passkey(
    State(app): State<App>,
    person: Person,
    IdPath(id): IdPath,
) -> Result<NoContent, ApiError> {
    passkeys::remove(&app, &person, id).await?;
    Ok(NoContent::default())
}
