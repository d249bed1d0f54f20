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

/// Whether a request that only reads may have content that costs this tenant a transfer. A page of another origin can lead
/// its visitor to a file, and can fetch none behind the visitor's back: a body that it never reads would hold its place. A
/// browser that sends no Fetch Metadata counts as no browser.
pub(super) fn may_read(headers: &HeaderMap) -> bool {
    let value = |name| headers.get(name).map(HeaderValue::as_bytes);
    let is_visit = value("sec-fetch-mode") == Some(b"navigate".as_slice())
        && value("sec-fetch-dest") == Some(b"document".as_slice());
    is_visit || matches!(value("sec-fetch-site"), None | Some(b"same-origin" | b"none"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    fn headers(sent: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |&(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v));
        sent.iter().map(pair).collect()
    }

    #[test]
    fn a_page_of_another_origin_leads_to_a_file_and_fetches_none() {
        for (site, mode, dest, may) in [
            ("same-origin", "cors", "empty", true),
            ("same-origin", "no-cors", "image", true),
            ("none", "navigate", "document", true),
            ("same-site", "navigate", "document", true),
            ("cross-site", "navigate", "document", true),
            ("cross-site", "navigate", "iframe", false),
            ("same-site", "no-cors", "empty", false),
            ("same-site", "cors", "empty", false),
            ("cross-site", "no-cors", "image", false),
            ("another", "no-cors", "document", false),
        ] {
            let sent =
                [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)];
            assert_eq!(may_read(&headers(&sent)), may, "{sent:?}");
        }
        assert!(may_read(&HeaderMap::new()));
        assert!(!may_read(&headers(&[("sec-fetch-site", "cross-site")])));
    }

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
            let mut headers = headers(sent);
            headers.insert(HOST, HeaderValue::from_static("a.localhost:8080"));
            assert_eq!(is_allowed(&headers), is_same, "{sent:?}");
        }
    }
}
