//! `/v1/package-keys`: the keys whose signatures of packages are trusted. List, add, delete.

use axum::extract::{RawPathParams, State};
use protocol::packages::{NewPackageKey, PackageKey, PackageKeyList, to_hex};
use service::api_error::ApiError;

use super::packages::part;
use crate::access::Caller;
use crate::app::App;
use crate::http::extract::Json;
use crate::http::reply::{Created, NoContent};
use crate::views;
use crate::work::signatures;

pub async fn list_package_keys(
    State(app): State<App>,
) -> Result<axum::Json<PackageKeyList>, ApiError> {
    let keys = signatures::keys(&app).await?.into_iter().map(|row| PackageKey {
        name: row.name,
        public_key: to_hex(&row.public_key),
        packages: row.packages,
        created_by: row.created_by,
        created_at: views::time(row.created_at),
    });
    Ok(axum::Json(PackageKeyList { keys: keys.collect() }))
}

pub async fn add_package_key(
    State(app): State<App>,
    Caller(caller): Caller,
    body: Json<NewPackageKey>,
) -> Result<Created<PackageKey>, ApiError> {
    let row = signatures::add_key(&app, &caller, &body.value).await?;
    let public_key = to_hex(&row.public_key);
    let known = signatures::keys(&app).await?.into_iter();
    let packages = known.filter(|key| key.public_key == row.public_key).map(|key| key.packages);
    Ok(Created::new(PackageKey {
        packages: packages.sum(),
        name: row.name,
        public_key,
        created_by: row.created_by,
        created_at: views::time(row.created_at),
    }))
}

pub async fn delete_package_key(
    State(app): State<App>,
    Caller(caller): Caller,
    params: RawPathParams,
) -> Result<NoContent, ApiError> {
    signatures::delete_key(&app, &caller, part(&params, "name")?).await?;
    Ok(NoContent::default())
}
