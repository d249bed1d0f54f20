//! `/v1/auth/cli-logins`: what the command line calls to sign in, before it has a key.

use axum::extract::State;
use axum::http::header;
use protocol::api_keys::CreatedKey;
use protocol::cli_login::{CliLogin, CliLoginProof, NewCliLogin};
use service::api_error::ApiError;

use crate::app::App;
use crate::cli_login::{self, LIFETIME, POLL_INTERVAL};
use crate::http::extract::{ClientAddress, IdPath, Json};
use crate::http::reply::Created;

pub async fn begin(
    State(app): State<App>,
    ClientAddress(client): ClientAddress,
    body: Json<NewCliLogin>,
) -> Result<Created<CliLogin>, ApiError> {
    let login = cli_login::begin(&app, &body.value, client).await?;
    let page = format!("{}/admin/cli-login", app.addresses.admin_origin());
    let url = match &login.redirect {
        Some(_) => format!("{page}?id={}", login.id),
        None => page,
    };
    let seconds = |time: std::time::Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let location = format!("/v1/auth/cli-logins/{}/key", login.id);
    let begun = CliLogin {
        id: login.id,
        user_code: login.user_code,
        url,
        expires_in_seconds: seconds(LIFETIME),
        poll_seconds: seconds(POLL_INTERVAL),
    };
    Ok(Created::new(begun).with_text(header::LOCATION, &location)?)
}

pub async fn fetch_key(
    State(app): State<App>,
    IdPath(id): IdPath,
    body: Json<CliLoginProof>,
) -> Result<Created<CreatedKey>, ApiError> {
    let created = cli_login::fetch_key(&app, id, &body.value).await?;
    let location = match &created.tenant {
        Some(slug) => format!("/v1/tenants/{slug}/keys/{}", created.id),
        None => format!("/v1/auth/keys/{}", created.id),
    };
    Ok(Created::new(created).with_text(header::LOCATION, &location)?)
}
