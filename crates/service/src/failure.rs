//! A request that failed: what its caller may know and what only the log may.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::Problem;
use protocol::problem::CONTENT_TYPE;

use crate::request_id;

/// A [`Problem`] for the caller and, apart from it, the cause. Logged once: here.
#[derive(Debug)]
pub struct Failure {
    /// Boxed, so that a failure is no weight on every success.
    pub problem: Box<Problem>,
    cause: Option<anyhow::Error>,
    retry_after: Option<Duration>,
}

impl Failure {
    /// A fault of the caller's.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        let problem = Box::new(Problem::new(status.as_u16(), code, title, detail));
        Self { problem, cause: None, retry_after: None }
    }

    /// A fault of ours: the caller learns only that it happened.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "Something went wrong on our side. The request id finds it in the log.",
            )
        }
    }

    #[must_use]
    pub fn because(mut self, cause: impl Into<anyhow::Error>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Tells the caller when to come back.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    #[must_use]
    pub fn field(mut self, field: &str, code: &str, message: impl Into<String>) -> Self {
        *self.problem = self.problem.field(field, code, message);
        self
    }

    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem.code, self.problem.detail)
    }
}

impl IntoResponse for Failure {
    fn into_response(mut self) -> Response {
        self.problem.request_id = request_id::current();
        if let Some(cause) = &self.cause {
            let (code, id) = (&self.problem.code, &self.problem.request_id);
            tracing::error!(code, request_id = id, "{cause:#}");
        }
        let status = self.status();
        let body = serde_json::to_string(&self.problem).unwrap_or_default();
        let mut answer = (status, body).into_response();
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if let Some(wait) = self.retry_after {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
        }
        // Whoever turns problems into pages for browsers reads it from here.
        answer.extensions_mut().insert(*self.problem);
        answer
    }
}

/// Any error that is not told apart is ours.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::internal(error)
    }
}
