//! Isolates the core's site from pages of other sites, the tenant's own app among them: they may send a person to one of
//! its pages and nothing else. A resource isolation policy (W3C Fetch Metadata). Pure.

use crate::routes::Class;

/// The response headers of the core's site: no page of another site keeps hold of its windows or reads its resources.
pub(crate) const RESPONSE_HEADERS: [(&str, &str); 2] = [
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// Whether the core's site serves a request. `is_same_origin` decides where the browser sends no Fetch Metadata.
pub(crate) fn admits<'a>(
    class: Class,
    method: &str,
    header: impl Fn(&str) -> Option<&'a str>,
    is_same_origin: bool,
) -> bool {
    match header("sec-fetch-site") {
        Some("same-origin" | "none") => true,
        Some(_) => {
            let (mode, dest) = (header("sec-fetch-mode"), header("sec-fetch-dest"));
            let is_navigation = mode == Some("navigate") && dest == Some("document");
            is_navigation && method == "GET" && class != Class::CoreApi
        }
        None => is_same_origin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests that a page elsewhere sends, and whether the core's site serves them.
    #[test]
    fn other_sites_may_lead_a_person_here_and_nothing_else() {
        let metadata = |site, mode, dest| {
            move |name: &str| match name {
                "sec-fetch-site" => Some(site),
                "sec-fetch-mode" => Some(mode),
                "sec-fetch-dest" => Some(dest),
                _ => None,
            }
        };
        for site in ["cross-site", "same-site"] {
            for (attack, method, mode, dest, is_served) in [
                ("a link, a redirect or window.open", "GET", "navigate", "document", true),
                ("fetch", "GET", "cors", "empty", false),
                ("fetch without CORS", "POST", "no-cors", "empty", false),
                ("fetch of another method", "DELETE", "cors", "empty", false),
                ("a preflight", "OPTIONS", "cors", "empty", false),
                ("a form", "POST", "navigate", "document", false),
                ("a frame", "GET", "navigate", "iframe", false),
                ("an object", "GET", "navigate", "object", false),
                ("an image", "GET", "no-cors", "image", false),
                ("a script", "GET", "no-cors", "script", false),
                ("a worker", "GET", "same-origin", "worker", false),
                ("a service worker", "GET", "same-origin", "serviceworker", false),
                ("a WebSocket", "GET", "websocket", "websocket", false),
                ("a beacon", "POST", "no-cors", "empty", false),
                ("an event source", "GET", "cors", "empty", false),
            ] {
                for class in [Class::CoreFront, Class::SignIn, Class::CoreApi] {
                    let seen = admits(class, method, metadata(site, mode, dest), true);
                    let expected = is_served && class != Class::CoreApi;
                    assert_eq!(seen, expected, "{attack} from {site} to {class:?}");
                }
            }
        }
        for site in ["same-origin", "none"] {
            let metadata = metadata(site, "cors", "empty");
            assert!(admits(Class::CoreApi, "POST", metadata, true), "{site}");
        }
        for is_same_origin in [true, false] {
            let seen = admits(Class::CoreApi, "POST", |_| None, is_same_origin);
            assert_eq!(seen, is_same_origin);
        }
    }
}
