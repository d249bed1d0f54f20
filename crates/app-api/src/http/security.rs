//! CSRF and host checks for every request, security headers for every response.

use std::any::Any;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use protocol::problem::Code;
use service::api_error::ApiError;

use crate::app::App;
use crate::http::request_body::{Bounds, is_streamed, too_large};
use crate::settings::Addresses;

/// Middleware: refuses requests for another host, unsafe requests of other sites, and bodies over the limit.
pub async fn check_request(State(app): State<App>, request: Request, next: Next) -> Response {
    let checked = check(&app.addresses, request.method(), request.uri(), request.headers());
    match checked {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

/// Middleware: adds the security headers to every response.
pub async fn add_security_headers(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    set_security_headers(&app.addresses, response.headers_mut());
    response
}

/// The response for a handler that panicked. The panic hook has logged the message already.
pub fn panicked(_message: Box<dyn Any + Send>) -> Response {
    ApiError::internal(anyhow::anyhow!("a handler panicked")).into_response()
}

fn check(
    addresses: &Addresses,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), ApiError> {
    // Probes call by address, and their responses hold no secrets.
    if !matches!(uri.path(), "/healthz" | "/readyz" | "/health" | "/ready")
        && !is_our_host(addresses, host(uri, headers))
    {
        let detail = format!("This is not {}.", addresses.admin_origin());
        return Err(ApiError::new(Code::WrongHost, detail));
    }
    // A page of another site can open a WebSocket with the session's cookie.
    let may_act = !method.is_safe() || headers.contains_key(header::UPGRADE);
    if may_act && !is_same_site(addresses, host(uri, headers), headers) {
        let detail = "This request was sent by a page of another site.";
        return Err(ApiError::new(Code::CrossSite, detail));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let limit = Bounds::of_path(uri.path()).limit();
    match length.and_then(|l| l.parse::<usize>().ok()) {
        Some(length) if length > limit && !is_streamed(method, uri.path()) => Err(too_large(limit)),
        Some(_) | None => Ok(()),
    }
}

fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    let named = headers.get(header::HOST).and_then(|v| v.to_str().ok());
    uri.authority().map(|a| a.as_str()).or(named).unwrap_or_default()
}

/// Accepts the admin's own host name and the loopback names. Any other name could point here by DNS rebinding and
/// use the owner's session. The port is not checked because it may be mapped.
fn is_our_host(addresses: &Addresses, host: &str) -> bool {
    let name = host.strip_suffix(|c: char| c.is_ascii_digit()).map_or(host, |_| {
        host.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(host, |(name, _)| name)
    });
    let own = addresses.admin.host_str().unwrap_or_default();
    ["localhost", "127.0.0.1", "[::1]", own].iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

/// Compares `Sec-Fetch-Site`, or else `Origin`, which browsers set. Programs set neither and pass.
fn is_same_site(addresses: &Addresses, host: &str, headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let origin = origin.to_str().unwrap_or_default();
    // The scheme must match: an attacker on the network may have altered a page that came over
    // plain HTTP.
    let own = format!("{}://{host}", addresses.admin.scheme());
    origin == addresses.admin_origin() || origin == own
}

/// A header that the handler set already stays as it is.
fn set_security_headers(addresses: &Addresses, headers: &mut HeaderMap) {
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
         connect-src 'self'; form-action 'self' {}; base-uri 'none'; frame-ancestors 'none'",
        addresses.tenant_wildcard()
    );
    let mut defaults = vec![
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            HeaderValue::from_static("same-origin"),
        ),
        (
            HeaderName::from_static("permissions-policy"),
            HeaderValue::from_static("camera=(), geolocation=(), microphone=()"),
        ),
    ];
    defaults.extend(HeaderValue::try_from(policy).map(|p| (header::CONTENT_SECURITY_POLICY, p)));
    if addresses.is_secure() {
        let year = HeaderValue::from_static("max-age=31536000");
        defaults.push((header::STRICT_TRANSPORT_SECURITY, year));
    }
    for (name, value) in defaults {
        headers.entry(name).or_insert(value);
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use protocol::Domain;
    use tower::ServiceExt as _;
    use tower_http::catch_panic::CatchPanicLayer;

    use super::*;

    #[tokio::test]
    async fn a_panic_of_a_handler_is_a_problem() {
        async fn handler() {
            panic!("planted");
        }
        let layer = CatchPanicLayer::custom(panicked);
        let service = Router::new().route("/", get(handler)).layer(layer);
        let response = service.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    fn addresses(admin: &str) -> Addresses {
        Addresses { admin: admin.parse().unwrap(), domain: Domain::default(), router_port: 8080 }
    }

    #[test]
    fn only_own_host_names_are_accepted() {
        let ours = addresses("https://cial.example");
        for good in [
            "cial.example",
            "CIAL.example:443",
            "localhost",
            "localhost:3100",
            "127.0.0.1:1",
            "[::1]:3100",
            "[::1]",
        ] {
            assert!(is_our_host(&ours, good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "cial.example.evil.example:3100",
            "acme.localhost:8080",
            "localhost:99999",
            "127.0.0.2",
        ] {
            assert!(!is_our_host(&ours, bad), "{bad}");
        }
    }

    #[test]
    fn requests_of_other_sites_are_detected() {
        let is_same = |admin: &str, host: &str, site: Option<&str>, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            site.map(|s| headers.insert("sec-fetch-site", s.parse().unwrap()));
            origin.map(|o| headers.insert(header::ORIGIN, o.parse().unwrap()));
            is_same_site(&addresses(admin), host, &headers)
        };
        for (site, origin, fine) in [
            (None, None, true),
            (Some("same-origin"), None, true),
            (Some("none"), None, true),
            (Some("same-site"), None, false),
            (Some("cross-site"), None, false),
            (Some("cross-site"), Some("http://localhost:3100"), false),
            (None, Some("http://localhost:3100"), true),
            (None, Some("http://acme.localhost:8080"), false),
            (None, Some("https://localhost:3100"), false),
            (None, Some("null"), false),
            (None, Some(""), false),
        ] {
            let found = is_same("http://localhost:3100", "localhost:3100", site, origin);
            assert_eq!(found, fine, "{site:?} {origin:?}");
        }
        for (host, origin, fine) in [
            ("cial.example", "https://cial.example", true),
            ("cial.example", "http://cial.example", false),
            ("cial.example:443", "http://cial.example:443", false),
            ("localhost:3100", "https://localhost:3100", true),
            ("localhost:3100", "http://localhost:3100", false),
        ] {
            let found = is_same("https://cial.example", host, None, Some(origin));
            assert_eq!(found, fine, "{host} {origin}");
        }
    }
}
