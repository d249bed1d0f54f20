//! `/v1/audit`: the audit log, filtered, its export, and the check of its chain.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use protocol::audit::{AuditChain, AuditEntry, AuditPage};
use protocol::problem::Code;
use serde_json::Value;
use service::api_error::ApiError;

use crate::app::App;
use crate::audit::chain::hex;
use crate::audit::export::{Format, export};
use crate::audit::query::{self, AuditQuery};
use crate::audit::verify::verify;
use crate::http::describe::{Call, DescribeOutput};
use crate::http::extract::{Query, invalid_query};

pub async fn list_entries(
    State(app): State<App>,
    Query(query): Query<AuditQuery>,
) -> Result<axum::Json<AuditPage<Value>>, ApiError> {
    if query.format.is_some() {
        return Err(invalid_query("format", "belongs to exports"));
    }
    Ok(axum::Json(query::list(&mut *app.conn().await?, &query).await?))
}

/// Checks the hash chain of the whole log. One check runs at a time: it reads every entry.
pub async fn verify_chain(State(app): State<App>) -> Result<axum::Json<AuditChain>, ApiError> {
    let Ok(_running) = app.audit_check.try_acquire() else {
        let detail = "Another check of the audit log runs. Try again in 5 s.";
        let error = ApiError::new(Code::RateLimited, detail);
        return Err(error.with_retry_after(Duration::from_secs(5)));
    };
    Ok(axum::Json(match verify(&mut *app.conn().await?).await? {
        Ok(log) => {
            AuditChain { entries: Some(log.entries), hash: Some(hex(&log.hash)), fault: None }
        }
        Err(found) => AuditChain { entries: None, hash: None, fault: Some(found.to_string()) },
    }))
}

/// The entries as a file.
pub struct AuditExport(Response);

impl IntoResponse for AuditExport {
    fn into_response(self) -> Response {
        self.0
    }
}

impl DescribeOutput for AuditExport {
    fn describe(call: &mut Call) {
        call.export_response::<AuditEntry<Value>>("text/csv");
    }
}

pub async fn export_entries(
    State(app): State<App>,
    Query(query): Query<AuditQuery>,
) -> Result<AuditExport, ApiError> {
    let format = Format::parse(query.format.as_deref());
    let format = format.ok_or_else(|| invalid_query("format", "must be csv or json"))?;
    if query.cursor.is_some() || query.limit.is_some() {
        return Err(invalid_query("cursor", "and limit belong to lists"));
    }
    let filter = query.filter()?;
    let response = export(app.clone(), filter, format).await?;
    Ok(AuditExport(app.until_stop(response)))
}
