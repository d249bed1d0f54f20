//! The edge's own responses: problem documents, pages with the same facts, and the bare 404 of a guarded edge.

use protocol::headers::{PROOF, REQUEST_ID};
use protocol::problem::Code;
use protocol::site::Site;
use proxy::{ErrorOrigin, ProxyError, Response};
use tenant_service::{RequestContext, page};

use crate::isolation;

/// The response of a guarded edge to a client without the route token. The response must not reveal that a tenant exists.
pub(crate) fn unknown_site() -> Response {
    Response::new(404)
}

/// The response to an error that occurred before the client was identified.
pub(crate) fn without_body(error: &ProxyError) -> Response {
    Response::new(error.status())
}

/// An error as a page or a problem document, whichever the client accepts.
pub(crate) fn problem(request_context: &RequestContext, code: Code, detail: &str) -> Response {
    let mut problem = protocol::Problem::new(code, detail);
    problem.request_id.clone_from(&request_context.request_id);
    let response =
        Response::new(problem.status).header(REQUEST_ID, request_context.request_id.clone());
    if request_context.is_navigation {
        let kind = "text/html; charset=utf-8";
        let response = response.body(kind, page::render_problem(&problem));
        page::HEADERS.into_iter().fold(response, |response, (name, value)| {
            response.header(name.as_str().to_owned(), value)
        })
    } else {
        // A problem consists of strings and numbers, so serialising cannot fail.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        response.body(protocol::problem::CONTENT_TYPE, body).header("cache-control", "no-store")
    }
}

/// A redirect to a path of the site.
pub(crate) fn see_other(request_context: &RequestContext, path: &str) -> Response {
    Response::new(303)
        .header(REQUEST_ID, request_context.request_id.clone())
        .header("location", path.to_owned())
        .header("cache-control", "no-store")
}

/// The methods that the services of a tenant may implement; `CONNECT` and `TRACE` are never served.
const ALLOWED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The response to `OPTIONS *`, which concerns the server and none of its services.
pub(crate) fn options(request_context: &RequestContext) -> Response {
    Response::new(204)
        .header(REQUEST_ID, request_context.request_id.clone())
        .header("allow", ALLOWED_METHODS)
        .header("cache-control", "no-store")
}

/// The response to an engine error. Logs the errors that the client did not cause.
pub(crate) fn proxy_error(
    request_context: &RequestContext,
    error: &ProxyError,
    upstream: &str,
) -> Response {
    if error.origin() != ErrorOrigin::Client {
        eprintln!(
            "request failed: request_id={} upstream={upstream} error={error:?}",
            request_context.request_id
        );
    }
    let code = Code::parse(error.code()).unwrap_or(Code::Internal);
    problem(request_context, code, error.public_detail())
}

/// Adds what every response of a site carries: on the core's site the isolation, so that a refusal does not leave its
/// window to the page that opened it, and the proof that identifies this tenant to the router.
pub(crate) fn complete(response: Response, site: Site, proof: Option<&str>) -> Response {
    let headers = match site {
        Site::Core => &isolation::RESPONSE_HEADERS[..],
        Site::Tenant => &[],
    };
    let response =
        headers.iter().fold(response, |response, (name, value)| response.header(*name, *value));
    match proof {
        Some(proof) => response.header(PROOF, proof.to_owned()),
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_proxy_error_has_a_problem_code_with_its_status() {
        let errors = [
            ProxyError::MalformedRequest("rule"),
            ProxyError::MissingHost,
            ProxyError::MethodNotServed,
            ProxyError::RequestHeadTimeout,
            ProxyError::RequestBodyTimeout,
            ProxyError::RequestBodyTooLarge,
            ProxyError::RequestHeadTooLarge { target: true },
            ProxyError::RequestHeadTooLarge { target: false },
            ProxyError::ExpectationFailed,
            ProxyError::UnsupportedWebSocketVersion,
            ProxyError::UnsupportedHttpVersion,
            ProxyError::UpstreamUnreachable(String::new()),
            ProxyError::LocalShortage(String::new()),
            ProxyError::ConnectTimeout,
            ProxyError::ResponseTimeout,
            ProxyError::ResponseTruncated,
            ProxyError::MalformedResponse("rule"),
        ];
        for error in errors {
            let code = Code::parse(error.code());
            assert_eq!(code.map(Code::status), Some(error.status()), "{error:?}");
        }
    }
}
