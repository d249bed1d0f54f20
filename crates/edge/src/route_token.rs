//! The route-token check: a guarded edge serves only the router of its installation, health checks, and the public keys of
//! the tenant's assertions.

use protocol::headers::{ROUTE_TOKEN, STRICT_ROUTE_TOKEN};
use proxy::Header;
use service::secret::constant_time_eq;

/// The paths of a guarded edge that need no token. The tenant's own program reads the keys from inside.
const PUBLIC: [&str; 2] = ["/.cial/api/healthz", "/.cial/api/jwks.json"];

/// The secrets of a guarded edge: the token that the router presents, and the proof that the edge returns.
pub struct RouteToken {
    pub token: String,
    pub proof: String,
}

/// Why a request is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The edge has no route token to check.
    Unguarded,
    /// The request carries the token: its forwarding headers are trusted, and the response carries the proof.
    Router,
    /// The request is a health check, or reads the public keys.
    Public,
}

impl Admission {
    /// Whether the forwarding headers come from the router.
    pub fn is_trusted(self) -> bool {
        self == Self::Router
    }
}

/// Admits a request. `None`: refused, without a hint that a tenant exists.
pub fn check<'a>(
    route_token: Option<&RouteToken>,
    path: &str,
    headers: impl Iterator<Item = Header<'a>>,
) -> Option<Admission> {
    let Some(route_token) = route_token else { return Some(Admission::Unguarded) };
    let is_token = |header: &Header<'_>| header.is(ROUTE_TOKEN) || header.is(STRICT_ROUTE_TOKEN);
    let mut presented = headers.filter(is_token);
    let is_right = |header: Header<'_>| constant_time_eq(header.value, &route_token.token);
    match (presented.next().map(is_right), presented.next()) {
        (Some(true), None) => Some(Admission::Router),
        (Some(false) | None, _) | (_, Some(_)) => {
            PUBLIC.contains(&path).then_some(Admission::Public)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guarded_edge_admits_the_token_health_checks_and_the_keys_only() {
        let route_token = RouteToken { token: "t".repeat(43), proof: "p".repeat(43) };
        let (right, long) = ("t".repeat(43), "t".repeat(44));
        let cases: [(&str, &[&str], Option<Admission>); 13] = [
            ("/", &[&right], Some(Admission::Router)),
            (PUBLIC[0], &[&right], Some(Admission::Router)),
            (PUBLIC[0], &[], Some(Admission::Public)),
            (PUBLIC[0], &["wrong"], Some(Admission::Public)),
            (PUBLIC[1], &[], Some(Admission::Public)),
            ("/.cial/api/jwks.json/", &[], None),
            ("/", &[], None),
            ("/", &[""], None),
            ("/", &["wrong"], None),
            ("/", &[&long], None),
            ("/", &[&right, &right], None),
            ("/.cial/api/healthz/", &[], None),
            ("/.cial/api/../api/healthz", &[], None),
        ];
        for (path, shown, admission) in cases {
            let headers = shown
                .iter()
                .map(|value| Header { name: "X-Cial-Route-Token", value: value.as_bytes() });
            assert_eq!(check(Some(&route_token), path, headers), admission, "{path} {shown:?}");
            let strict = shown
                .iter()
                .map(|value| Header { name: "X-Cial-Route-Token-2", value: value.as_bytes() });
            assert_eq!(check(Some(&route_token), path, strict), admission, "{path} {shown:?}");
        }
        let both = ["x-cial-route-token", "x-cial-route-token-2"]
            .map(|name| Header { name, value: right.as_bytes() });
        assert_eq!(check(Some(&route_token), "/", both.into_iter()), None);
        assert_eq!(check(None, "/", std::iter::empty()), Some(Admission::Unguarded));
    }
}
