//! `/healthz`: the process runs. `/readyz`: the service can work; otherwise the response names the missing part.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use protocol::problem::Code;
use serde_json::json;
use service::api_error::ApiError;

use crate::app::App;

pub async fn healthz() -> &'static str {
    "ok\n"
}

/// The orchestrator is reported but not required: accounts and pages work without it.
pub async fn readyz(State(app): State<App>) -> Result<Response, ApiError> {
    if !app.is_database_ready() {
        return Err(waiting("not opened yet (not reachable, or migrations are running)"));
    }
    if app.database.conn().await.is_err() {
        return Err(waiting("not reachable"));
    }
    let orchestrator = if app.observed.is_connected() { "connected" } else { "not reachable" };
    let facts = json!({ "status": "ready", "orchestrator": orchestrator });
    Ok(axum::Json(facts).into_response())
}

fn waiting(reason: &str) -> ApiError {
    let missing = format!("database: {reason}");
    ApiError::new(Code::Waiting, missing)
}
