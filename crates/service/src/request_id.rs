//! One id for each request: in its log lines, in the header of its response, and in its problem.

use uuid::Uuid;

const MAX_LENGTH: usize = 64;

/// Takes over a valid inbound id (1 to 64 of `a-z A-Z 0-9 - _ .`) and generates one otherwise.
///
/// An id stands in logs and on pages, so a client must not be able to put markup or line breaks into it.
pub fn accept_or_generate(inbound: Option<&str>) -> String {
    match inbound.filter(|id| is_valid(id)) {
        Some(id) => id.to_owned(),
        None => Uuid::now_v7().simple().to_string(),
    }
}

fn is_valid(id: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=MAX_LENGTH).contains(&id.len()) && id.bytes().all(is_plain)
}

/// The part of a path that may stand in a log. What follows `/invitations/` is a secret until it was used, and the address of a
/// trigger's webhook one for ever.
#[cfg_attr(not(feature = "control"), expect(dead_code, reason = "the middleware uses it"))]
fn loggable(path: &str) -> &str {
    const SECRET_BELOW: [&str; 2] = ["/invitations/", "/v1/triggers/"];
    let begins = SECRET_BELOW.iter().filter_map(|above| Some(path.find(above)? + above.len()));
    begins.min().and_then(|begin| path.get(..begin)).unwrap_or(path)
}

#[cfg(feature = "control")]
pub use middleware::{current, layer, scope};

#[cfg(feature = "control")]
mod middleware {
    use axum::extract::Request;
    use axum::http::HeaderValue;
    use axum::middleware::Next;
    use axum::response::Response;
    use protocol::headers::REQUEST_ID;
    use tracing::Instrument as _;

    use super::{accept_or_generate, loggable};
    use crate::api_error::ErrorCause;

    tokio::task_local! {
        static CURRENT: String;
    }

    /// The id of the request that this task handles; empty outside a request.
    pub fn current() -> String {
        CURRENT.try_with(Clone::clone).unwrap_or_default()
    }

    /// Runs `work` with the id of a request, for work that outlives the request.
    pub async fn scope<F: Future>(id: String, work: F) -> F::Output {
        CURRENT.scope(id, work).await
    }

    /// Middleware: assigns the id, opens the log span of the request, logs the cause of an error response, and adds the
    /// id to the response.
    pub async fn layer(request: Request, next: Next) -> Response {
        let inbound = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
        let id = accept_or_generate(inbound);
        let (method, path) = (request.method(), loggable(request.uri().path()));
        let span = tracing::info_span!("request", request_id = %id, %method, path);
        let respond = async {
            let response = next.run(request).await;
            if let Some(cause) = response.extensions().get::<ErrorCause>() {
                cause.log();
            }
            response
        };
        let mut response = CURRENT.scope(id.clone(), respond.instrument(span)).await;
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_inbound_id_is_taken_over_and_any_other_is_replaced() {
        for id in ["a", "0192f0c1-ab", "trace_1.2", &"x".repeat(64)] {
            assert_eq!(accept_or_generate(Some(id)), id);
        }
        for id in ["", "a b", "<script>", "x/../y", "line\n", &"x".repeat(65)] {
            assert_ne!(accept_or_generate(Some(id)), id);
        }
        assert_ne!(accept_or_generate(None), accept_or_generate(None));
    }

    #[test]
    fn a_secret_in_a_path_does_not_reach_the_log() {
        assert_eq!(loggable("/v1/triggers/0192f0c1/secret"), "/v1/triggers/");
        assert_eq!(loggable("/v1/triggers/a/invitations/b"), "/v1/triggers/");
        assert_eq!(loggable("/v1/tenants/acme/triggers/t"), "/v1/tenants/acme/triggers/t");
        assert_eq!(loggable("/admin/invitations/abc"), "/admin/invitations/");
        assert_eq!(loggable("/.cial/invitations/abc/x"), "/.cial/invitations/");
        assert_eq!(loggable("/v1/tenants/acme"), "/v1/tenants/acme");
    }
}
