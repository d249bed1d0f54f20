//! Export of a tenant, and import as a new one: see [`crate::transfer`].

use axum::extract::{RawPathParams, State};
use protocol::control;
use serde::Deserialize;
use service::api_error::ApiError;
use utoipa::IntoParams;

use crate::access::layer::StillAdmitted;
use crate::access::{AuthorizedTenant, Caller};
use crate::app::App;
use crate::http::extract::{Query, invalid_query, path_part};
use crate::http::reply::Created;
use crate::http::upload::StreamedArchive;
use crate::transfer::{self, Archive, DatabaseChoice};
use crate::views;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    /// 1: without the tenant's schema, with its tables, packages and workflows.
    without_database: Option<String>,
}

pub async fn export_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    Query(query): Query<ExportQuery>,
) -> Result<Archive, ApiError> {
    let database = match query.without_database.as_deref() {
        None | Some("" | "0" | "false") => DatabaseChoice::Included,
        Some("1" | "true") => DatabaseChoice::LeftOut,
        Some(_) => return Err(invalid_query("without_database", "must be 0 or 1")),
    };
    transfer::export(&app, &caller, found.tenant, database).await
}

pub async fn import_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    admitted: StillAdmitted,
    params: RawPathParams,
    StreamedArchive(body): StreamedArchive,
) -> Result<Created<control::Tenant>, ApiError> {
    let slug = path_part(&params, "as").unwrap_or_default();
    let location = format!("/v1/tenants/{slug}");
    let tenant = transfer::import(&app, &caller, &admitted, slug, body).await?;
    let tenant = views::tenant(&app, tenant, views::Observed::default());
    Ok(Created::new(tenant).with_text("location", &location)?)
}
