//! A tenant's log, streamed from the orchestrator as it comes.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use protocol::Timestamp;
use serde::Deserialize;
use service::client::CallError;
use service::failure::Failure;

use crate::access::Owner;
use crate::app::App;
use crate::extract::{Path, Query, invalid_query};
use crate::tenants;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    tail: Option<u32>,
    since: Option<String>,
    follow: Option<String>,
}

const TAIL: u32 = 100;
const TAIL_MOST: u32 = 50_000;

impl LogQuery {
    /// As the orchestrator takes it.
    fn forward(&self) -> Result<String, Failure> {
        let tail = self.tail.unwrap_or(TAIL);
        if tail > TAIL_MOST {
            return Err(invalid_query("tail", "must be 0 to 50000"));
        }
        let mut query = format!("tail={tail}");
        if let Some(since) = self.since.as_deref().filter(|s| !s.is_empty()) {
            let at: Timestamp =
                since.parse().map_err(|_| invalid_query("since", "must be a time by RFC 3339"))?;
            let at = crate::views::time(at);
            query.push_str(&format!("&since={}", utf8_percent_encode(&at, NON_ALPHANUMERIC)));
        }
        match self.follow.as_deref() {
            None | Some("" | "0" | "false") => Ok(query),
            Some("1" | "true") => Ok(query + "&follow=1"),
            Some(_) => Err(invalid_query("follow", "must be 0 or 1")),
        }
    }
}

pub async fn show_logs(
    State(app): State<App>,
    owner: Owner,
    Path(slug): Path,
    Query(query): Query<LogQuery>,
) -> Result<Response, Failure> {
    let forward = query.forward()?;
    let tenant = tenants::find(&app, &owner, &slug).await?;
    let body = match app.orchestrator.logs(tenant.tenant_id(), &forward).await {
        Ok(body) => body,
        // No container, no log.
        Err(CallError::Refused(problem)) if problem.status == 404 => Body::empty(),
        Err(error) => return Err(unavailable().because(error)),
    };
    let mut answer = body.into_response();
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(answer)
}

fn unavailable() -> Failure {
    let detail = "The orchestrator cannot be reached at the moment.";
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "orchestrator_unavailable", detail)
}
