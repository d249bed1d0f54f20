//! `/v1/tenants/{slug}/summaries`: counts of a tenant's conversations.

use axum::extract::State;
use protocol::summaries::{ConversationSummary, SummaryList};
use service::api_error::ApiError;

use crate::access::AuthorizedTenant;
use crate::app::App;
use crate::http::extract::Json;
use crate::http::reply::NoContent;
use crate::summaries;

pub async fn list_summaries(
    State(app): State<App>,
    found: AuthorizedTenant,
) -> Result<axum::Json<SummaryList>, ApiError> {
    Ok(axum::Json(summaries::list(&app, &found.tenant).await?))
}

pub async fn ingest_summary(
    State(app): State<App>,
    found: AuthorizedTenant,
    body: Json<ConversationSummary>,
) -> Result<NoContent, ApiError> {
    summaries::ingest(&app, &found.tenant, &body.value).await?;
    Ok(NoContent::default())
}
