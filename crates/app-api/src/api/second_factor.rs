//! `/v1/users/me/second-factor`: whether there is one, enrol, confirm, disable. An owner ends the one of another person.

use axum::extract::State;
use axum::http::HeaderMap;
use protocol::second_factor::{
    BeginSecondFactor, ConfirmSecondFactor, NewSecondFactor, RecoveryCodes, SecondFactorStatus,
};
use service::api_error::ApiError;

use crate::access::{Caller, Person};
use crate::app::App;
use crate::http::extract::{ClientAddress, IdPath, Json};
use crate::http::reply::{Created, NoContent, Okay};
use crate::second_factor;

pub async fn show_status(
    State(app): State<App>,
    person: Person,
) -> Result<Okay<SecondFactorStatus>, ApiError> {
    Ok(Okay::new(second_factor::status(&app, &person.user).await?))
}

pub async fn begin(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    person: Person,
    body: Json<BeginSecondFactor>,
) -> Result<Created<NewSecondFactor>, ApiError> {
    let password = &body.value.password;
    let secret = second_factor::begin(&app, &person.user, password, client).await?;
    let (secret, url) = (secret.for_typing()?, secret.address(&person.user.email)?);
    Ok(Created::new(NewSecondFactor { secret, url }))
}

pub async fn confirm(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    person: Person,
    body: Json<ConfirmSecondFactor>,
) -> Result<Okay<RecoveryCodes>, ApiError> {
    let codes = second_factor::confirm(&app, &headers, (&person, client), &body.value).await?;
    Ok(Okay::new(codes))
}

pub async fn disable(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    person: Person,
    body: Json<ConfirmSecondFactor>,
) -> Result<NoContent, ApiError> {
    second_factor::disable(&app, &headers, (&person, client), &body.value).await?;
    Ok(NoContent::default())
}

pub async fn reset(
    State(app): State<App>,
    Caller(caller): Caller,
    IdPath(id): IdPath,
) -> Result<NoContent, ApiError> {
    second_factor::reset(&app, &caller, id).await?;
    Ok(NoContent::default())
}
