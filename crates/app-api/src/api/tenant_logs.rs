//! The log of a tenant, streamed from the orchestrator.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use protocol::Timestamp;
use protocol::problem::Code;
use serde::Deserialize;
use service::api_error::ApiError;
use service::client::CallError;
use utoipa::IntoParams;

use crate::access::AuthorizedTenant;
use crate::app::App;
use crate::http::describe::{Call, DescribeOutput};
use crate::http::extract::{Query, invalid_query};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    tail: Option<u32>,
    since: Option<String>,
    follow: Option<String>,
    timestamps: Option<String>,
}

const DEFAULT_TAIL_LINES: u32 = 100;
const MAX_TAIL_LINES: u32 = 50_000;

impl LogQuery {
    /// The query string for the orchestrator.
    fn to_orchestrator_query(&self) -> Result<String, ApiError> {
        let tail = self.tail.unwrap_or(DEFAULT_TAIL_LINES);
        if tail > MAX_TAIL_LINES {
            return Err(invalid_query("tail", "must be 0 to 50000"));
        }
        let mut query = format!("tail={tail}");
        if let Some(since) = self.since.as_deref().filter(|s| !s.is_empty()) {
            let at: Timestamp =
                since.parse().map_err(|_| invalid_query("since", "must be a time by RFC 3339"))?;
            let at = crate::views::time(at);
            query.push_str(&format!("&since={}", utf8_percent_encode(&at, NON_ALPHANUMERIC)));
        }
        for (name, value) in [("follow", &self.follow), ("timestamps", &self.timestamps)] {
            match value.as_deref() {
                None | Some("" | "0" | "false") => {}
                Some("1" | "true") => query.push_str(&format!("&{name}=1")),
                Some(_) => return Err(invalid_query(name, "must be 0 or 1")),
            }
        }
        Ok(query)
    }
}

/// The lines of a log, the newest last.
pub struct LogLines(Response);

impl IntoResponse for LogLines {
    fn into_response(self) -> Response {
        self.0
    }
}

impl DescribeOutput for LogLines {
    fn describe(call: &mut Call) {
        call.text_response(&["text/plain"]);
    }
}

pub async fn show_logs(
    State(app): State<App>,
    found: AuthorizedTenant,
    Query(query): Query<LogQuery>,
) -> Result<LogLines, ApiError> {
    let log_query = query.to_orchestrator_query()?;
    let body = match app.orchestrator.logs(found.tenant.tenant_id(), &log_query).await {
        Ok(body) => body,
        // Without a container there is no log.
        Err(CallError::Refused(problem)) if problem.status == 404 => Body::empty(),
        Err(error) => return Err(unavailable().with_cause(error)),
    };
    let mut response = app.until_stop(body.into_response());
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(LogLines(response))
}

fn unavailable() -> ApiError {
    let detail = "The orchestrator cannot be reached at the moment.";
    ApiError::new(Code::OrchestratorUnavailable, detail)
}
