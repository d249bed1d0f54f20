//! Backups: see [`crate::backups`].

use axum::extract::State;
use protocol::backups::{Backup, BackupList, BackupStatus, RestoreBackup};
use protocol::control;
use service::api_error::ApiError;

use crate::access::layer::StillAdmitted;
use crate::access::{AuthorizedTenant, Caller};
use crate::app::App;
use crate::audit::origin;
use crate::backups;
use crate::http::extract::{IdPath, Json, Query};
use crate::http::paging::PageQuery;
use crate::http::reply::{Accepted, Created, NoContent};
use crate::views;

pub async fn list_backups(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<BackupList>, ApiError> {
    Ok(axum::Json(backups::list(&app, query.window()?, None).await?))
}

pub async fn list_tenant_backups(
    State(app): State<App>,
    found: AuthorizedTenant,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<BackupList>, ApiError> {
    Ok(axum::Json(backups::list(&app, query.window()?, Some(&found.tenant)).await?))
}

pub async fn show_status(State(app): State<App>) -> Result<axum::Json<BackupStatus>, ApiError> {
    Ok(axum::Json(backups::status(&app).await?))
}

pub async fn show_backup(
    State(app): State<App>,
    IdPath(id): IdPath,
) -> Result<axum::Json<Backup>, ApiError> {
    Ok(axum::Json(backups::show(&app, id).await?))
}

pub async fn request_backup(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
) -> Result<Accepted<Backup>, ApiError> {
    let backup = backups::request(&app, &caller, &found.tenant).await?;
    let location = format!("/v1/tenants/{}/backups", found.tenant.slug);
    Ok(Accepted::new(backup).with_text("location", &location)?)
}

pub async fn delete_backup(
    State(app): State<App>,
    Caller(caller): Caller,
    IdPath(id): IdPath,
) -> Result<NoContent, ApiError> {
    backups::delete(&app, &caller, id).await?;
    Ok(NoContent::default())
}

/// Goes on when the client leaves: a proxy may have less patience than a large archive takes.
pub async fn restore_backup(
    State(app): State<App>,
    Caller(caller): Caller,
    admitted: StillAdmitted,
    IdPath(id): IdPath,
    Json { value: RestoreBackup { slug }, .. }: Json<RestoreBackup>,
) -> Result<Created<control::Tenant>, ApiError> {
    let location = format!("/v1/tenants/{slug}");
    let restore = {
        let app = app.clone();
        async move { backups::restore(&app, &caller, &admitted, id, &slug).await }
    };
    let tenant = origin::spawn(restore).await.map_err(ApiError::internal)??;
    let tenant = views::tenant(&app, tenant, views::Observed::default());
    Ok(Created::new(tenant).with_text("location", &location)?)
}
