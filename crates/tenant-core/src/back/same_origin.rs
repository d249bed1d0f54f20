//! CSRF check: whether a state-changing request comes from one of this tenant's pages.

use hyper::HeaderMap;
use hyper::header::{HOST, HeaderValue, ORIGIN};
use tenant_service::same_origin;

use super::cookie::Scheme;

/// Decides by Fetch Metadata where the browser sends it, else by `Origin`. A client with neither is not a browser.
pub(super) fn is_allowed(headers: &HeaderMap) -> bool {
    match headers.get("sec-fetch-site") {
        Some(site) => matches!(site.as_bytes(), b"same-origin" | b"none"),
        None => {
            let origins = headers.get_all(ORIGIN).into_iter().map(HeaderValue::as_bytes);
            let host = headers.get(HOST).and_then(|host| host.to_str().ok());
            same_origin::is_same_origin(origins, host, Scheme::from_headers(headers).name())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    #[test]
    fn pages_of_this_tenant_and_clients_that_are_not_browsers_pass() {
        let cases = [
            (&[][..], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "http://a.localhost:8080")], false),
            (&[("origin", "http://a.localhost:8080")], true),
            (&[("origin", "http://A.localhost:8080")], true),
            (&[("origin", "https://a.localhost:8080")], false),
            (&[("origin", "http://a.localhost:8081")], false),
            (&[("origin", "http://b.localhost:8080")], false),
            (&[("origin", "null")], false),
            (&[("origin", "https://a.localhost:8080"), ("x-forwarded-proto", "https")], true),
        ];
        for (sent, is_same) in cases {
            let pair = |&(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v));
            let mut headers: HeaderMap = sent.iter().map(pair).collect();
            headers.insert(HOST, HeaderValue::from_static("a.localhost:8080"));
            assert_eq!(is_allowed(&headers), is_same, "{sent:?}");
        }
    }
}
