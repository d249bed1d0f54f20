//! `/auth/login` and `/warmup` of the development profile.

use axum::extract::State;
use axum::http::HeaderMap;
use protocol::control::SignedIn;
use serde::{Deserialize, Serialize};
use service::api_error::ApiError;
use utoipa::ToSchema;

use super::auth::signed_in;
use crate::access::Person;
use crate::app::App;
use crate::dev_login;
use crate::http::extract::{ClientAddress, Json};
use crate::http::reply::Okay;
use crate::sessions::{self, SignInMethod};

/// `plan` and `onboarding_completed` are accepted for clients that send them; nothing depends on them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DevLogin {
    /// The client's name for the person; the name of their tenant is derived from it.
    user_id: String,
    email: String,
    #[serde(rename = "plan", default)]
    _plan: Option<String>,
    #[serde(rename = "onboarding_completed", default)]
    _onboarding_completed: Option<bool>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// The `user_id` of the person's own sign-in.
    user_id: String,
}

#[derive(Serialize, ToSchema)]
pub struct WarmedUp {
    tenant: protocol::Slug,
    state: protocol::State,
}

pub async fn login(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    headers: HeaderMap,
    body: Json<DevLogin>,
) -> Result<Okay<SignedIn>, ApiError> {
    let user = dev_login::sign_in(&app, &body.value.user_id, &body.value.email).await?;
    let cookie =
        sessions::begin(&app, &headers, client, (&user, SignInMethod::Development)).await?;
    signed_in(&app, cookie, &user)
}

pub async fn warm_up(
    State(app): State<App>,
    person: Person,
    body: Json<Warmup>,
) -> Result<Okay<WarmedUp>, ApiError> {
    let tenant = dev_login::warm_up(&app, person, &body.value.user_id).await?;
    Ok(Okay::new(WarmedUp { tenant: tenant.slug, state: tenant.state }))
}
