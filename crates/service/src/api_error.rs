//! The error of a request handler: a problem for the caller and, apart from it, the cause for the log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::Problem;
use protocol::problem::{CONTENT_TYPE, Code, FieldCode};

use crate::request_id;

/// A [`Problem`] for the caller and the cause for the log.
#[derive(Debug)]
pub struct ApiError {
    /// Boxed: a `Result` stays small on the path without an error.
    pub problem: Box<Problem>,
    cause: Option<Arc<anyhow::Error>>,
    retry_after: Option<Duration>,
}

/// The cause of an error response, among its extensions. [`request_id::layer`] logs it, once; a middleware below may
/// replace the response by one with another code.
#[derive(Clone, Debug)]
pub struct ErrorCause {
    code: String,
    pub error: Arc<anyhow::Error>,
}

impl ErrorCause {
    pub(crate) fn log(&self) {
        let (code, id, error) = (&self.code, request_id::current(), format!("{:#}", self.error));
        tracing::error!(code, request_id = id, error, "request failed");
    }
}

impl ApiError {
    /// An error with the usual status of `code`; `detail` is a sentence for the caller.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self::from_problem(Problem::new(code, detail))
    }

    /// An error with another status of `code` than the usual one: one of [`Code::statuses`].
    pub fn with_status(code: Code, status: StatusCode, detail: impl Into<String>) -> Self {
        Self::from_problem(Problem::with_status(code, status.as_u16(), detail))
    }

    fn from_problem(problem: Problem) -> Self {
        Self { problem: Box::new(problem), cause: None, retry_after: None }
    }

    pub fn has_code(&self, code: Code) -> bool {
        self.problem.code == code.as_str()
    }

    /// A 500 whose cause reaches the log only.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        Self {
            cause: Some(Arc::new(cause.into())),
            ..Self::new(
                Code::Internal,
                "Something went wrong on our side. The request id finds it in the log.",
            )
        }
    }

    /// Adds the cause, for the log only.
    #[must_use]
    pub fn with_cause(self, cause: impl Into<anyhow::Error>) -> Self {
        self.with_shared_cause(Arc::new(cause.into()))
    }

    /// Adds the cause of a response that this error replaces.
    #[must_use]
    pub fn with_shared_cause(mut self, cause: Arc<anyhow::Error>) -> Self {
        self.cause = Some(cause);
        self
    }

    /// Adds a `Retry-After` header, in whole seconds.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Adds an error of one field of the request.
    #[must_use]
    pub fn with_field_error(
        mut self,
        field: &str,
        code: impl Into<FieldCode>,
        message: impl Into<String>,
    ) -> Self {
        *self.problem = self.problem.field(field, code, message);
        self
    }

    /// The problem and its cause, for the log of a task that answers nobody.
    pub fn into_error(self) -> anyhow::Error {
        match &self.cause {
            Some(cause) => anyhow::anyhow!("{self}: {cause:#}"),
            None => anyhow::anyhow!("{self}"),
        }
    }

    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem.code, self.problem.detail)
    }
}

impl IntoResponse for ApiError {
    fn into_response(mut self) -> Response {
        self.problem.request_id = request_id::current();
        let status = self.status();
        let body = serde_json::to_string(&self.problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
        }
        if let Some(error) = self.cause {
            response.extensions_mut().insert(ErrorCause { code: self.problem.code.clone(), error });
        }
        // A middleware that renders problems as pages for browsers reads the problem from the extensions.
        response.extensions_mut().insert(*self.problem);
        response
    }
}

/// Any error without a code of its own is internal.
impl<E: Into<anyhow::Error>> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self::internal(error)
    }
}
