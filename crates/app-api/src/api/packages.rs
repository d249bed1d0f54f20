//! `/v1/tenants/{slug}/packages`: upload, list, delete.

use axum::extract::{RawPathParams, State};
use protocol::packages::{Package, PackageList, SignedBy, UploadedPackage, to_hex};
use protocol::problem::Code;
use service::api_error::ApiError;

use crate::access::{AuthorizedTenant, Caller};
use crate::app::App;
use crate::db::package_signature::PinnedKey;
use crate::db::tenant_packages::PackageRow;
use crate::http::extract::path_part;
use crate::http::reply::{Created, NoContent};
use crate::http::upload::UploadedFile;
use crate::views;
use crate::work::packages;

pub async fn upload_package(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    file: UploadedFile,
) -> Result<Created<UploadedPackage>, ApiError> {
    let tenant = &found.tenant;
    let row = packages::upload(&app, &caller, tenant, file).await?;
    let location = format!("/v1/tenants/{}/packages/{}/{}", tenant.slug, row.name, row.version);
    let uploaded = UploadedPackage {
        package_id: row.id,
        tenant_id: tenant.id,
        name: row.name,
        version: row.version,
        workflows: row.workflows,
    };
    Ok(Created::new(uploaded).with_text("location", &location)?)
}

pub async fn list_packages(
    State(app): State<App>,
    found: AuthorizedTenant,
) -> Result<axum::Json<PackageList>, ApiError> {
    let items: Vec<_> = packages::list(&app, &found.tenant).await?.into_iter().map(view).collect();
    Ok(axum::Json(PackageList { total: items.len(), items, next: None }))
}

pub async fn delete_package(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
) -> Result<NoContent, ApiError> {
    let package = (part(&params, "name")?, part(&params, "version")?);
    packages::delete(&app, &caller, &found.tenant, package).await?;
    Ok(NoContent::default())
}

/// A text in the path. One that Postgres cannot hold names nothing.
///
/// # Errors
/// `not_found`.
pub(super) fn part<'a>(params: &'a RawPathParams, wanted: &str) -> Result<&'a str, ApiError> {
    let value = path_part(params, wanted).filter(|value| !value.contains('\0'));
    value.ok_or_else(|| ApiError::new(Code::NotFound, "There is nothing of this name."))
}

fn view((row, pin): (PackageRow, Option<PinnedKey>)) -> Package {
    Package {
        id: row.id,
        name: row.name,
        version: row.version,
        about: row.about,
        bytes: row.bytes,
        sha256: row.sha256,
        signed_by: pin.map(|pin| SignedBy { public_key: to_hex(&pin.public_key), key: pin.key }),
        workflows: row.workflows,
        created_by: row.created_by,
        created_at: views::time(row.created_at),
    }
}
