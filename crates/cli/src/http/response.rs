//! A whole response, and how it becomes a value or an error.

use std::io::Read as _;

use protocol::Problem;
use protocol::problem::Code;
use serde_json::Value;
use ureq::http::{HeaderMap, StatusCode};

use super::client::Client;
use super::failure::wrong_server;
use super::request::Request;
use crate::error::{CliError, Exit, ResponseFacts};

/// More than any response of the API; a larger one comes from something else.
const MAX_BODY_BYTES: u64 = 64 << 20;
/// From this difference on, a clock explains why a key or a certificate seems to be expired.
pub(crate) const NOTABLE_SKEW_SECONDS: i64 = 60;

#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(super) fn read(response: ureq::http::Response<ureq::Body>) -> Result<Self, ureq::Error> {
        let (head, body) = response.into_parts();
        let mut bytes = Vec::new();
        body.into_reader().take(MAX_BODY_BYTES).read_to_end(&mut bytes)?;
        Ok(Self { status: head.status, headers: head.headers, body: bytes })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; `null` for an empty one.
    ///
    /// # Errors
    /// The body is something else: the response is not the API's.
    pub(crate) fn json(&self, request: &Request, client: &Client) -> Result<Value, CliError> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).map_err(|_| wrong_server(request, &client.server, self))
    }

    /// Returns a success, and turns everything else into an error.
    pub(super) fn success(self, request: &Request, client: &Client) -> Result<Self, CliError> {
        let is_json = self.header("content-type").is_some_and(|kind| kind.contains("json"));
        if self.status.is_success() && (is_json || self.body.is_empty()) {
            return Ok(self);
        }
        match self.problem() {
            Some(problem) => Err(self.refused(request, client, problem)),
            None => Err(wrong_server(request, &client.server, &self)),
        }
    }

    fn problem(&self) -> Option<Problem> {
        if self.status.is_success() {
            return None;
        }
        serde_json::from_slice(&self.body).ok()
    }

    fn refused(&self, request: &Request, client: &Client, problem: Problem) -> CliError {
        let retry_after = self.header("retry-after").and_then(|seconds| seconds.parse().ok());
        let is_unauthenticated = self.status == StatusCode::UNAUTHORIZED;
        let exit = if is_unauthenticated { Exit::NotAuthenticated } else { Exit::Failed };
        let mut error = CliError::new(exit, format!("cannot {}", request.title))
            .because(problem.detail.trim_end_matches('.'));
        let skew = client.clock_skew().unwrap_or_default();
        if is_unauthenticated && skew.abs() >= NOTABLE_SKEW_SECONDS {
            error = error.because(describe_skew(skew));
        }
        if let Some(next) = advice(&problem, retry_after, client.has_key()) {
            error = error.next(next);
        }
        let header_id = self.header("x-request-id").unwrap_or_default();
        let request_id = Some(problem.request_id).filter(|id| !id.is_empty());
        // A server of another version may have codes that this program does not know, but knows its own.
        let docs = Code::parse(&problem.code).map(|code| client.server.url.join(&code.page_path()));
        error.with_response(ResponseFacts {
            status: self.status.as_u16(),
            code: problem.code,
            request_id: request_id.unwrap_or_else(|| header_id.to_owned()),
            retry_after,
            fields: problem.errors,
            docs,
        })
    }
}

/// Returns the next step that a person can take after a problem.
fn advice(problem: &Problem, retry_after: Option<u64>, has_key: bool) -> Option<String> {
    if let Some(seconds) = retry_after {
        return Some(format!("try again in {seconds} s"));
    }
    match problem.status {
        401 if !has_key => Some("pass --api-key, set CIAL_API_KEY, or run: cial login".to_owned()),
        401 => Some("get a new key, then run: cial login".to_owned()),
        403 => Some("see whose key this is: cial whoami".to_owned()),
        500 => Some(
            "report it to the operator with the request id, which is in the server's log"
                .to_owned(),
        ),
        // The fields at fault are named one by one already.
        _ if !problem.errors.is_empty() => None,
        _ => Code::parse(&problem.code)?.plain_remedy(),
    }
}

/// For example `this machine's clock is 300 s ahead of the server's`.
pub(crate) fn describe_skew(seconds: i64) -> String {
    let direction = if seconds > 0 { "ahead of" } else { "behind" };
    format!("this machine's clock is {} s {direction} the server's", seconds.abs())
}
