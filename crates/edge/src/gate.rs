//! Who may pass. A guarded edge answers nobody but the router of its installation, and health.

use protocol::headers::ROUTE_TOKEN;
use proxy::Header;
use subtle::ConstantTimeEq as _;

/// The one path of a guarded edge that anyone may ask for.
const HEALTH: &str = "/.cial/api/healthz";

/// What a guarded edge was given: what it asks for, and what it shows in return.
pub struct Guard {
    pub token: String,
    pub proof: String,
}

/// How a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// There is no guard.
    Open,
    /// It carries the token: what it says of its client is believed, and the answer carries the proof.
    Router,
    /// It asks for health.
    Health,
}

impl Pass {
    /// Whether forwarding headers are the router's word.
    pub fn is_trusted(self) -> bool {
        self == Self::Router
    }
}

/// `None`: it may not pass, and may not learn what is here either.
pub fn judge<'a>(
    guard: Option<&Guard>,
    path: &str,
    headers: impl Iterator<Item = Header<'a>>,
) -> Option<Pass> {
    let Some(guard) = guard else { return Some(Pass::Open) };
    let mut shown = headers.filter(|header| header.is(ROUTE_TOKEN));
    let is_right = |header: Header<'_>| bool::from(header.value.ct_eq(guard.token.as_bytes()));
    match (shown.next().map(is_right), shown.next()) {
        (Some(true), None) => Some(Pass::Router),
        (Some(false) | None, _) | (_, Some(_)) => (path == HEALTH).then_some(Pass::Health),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_or_health_or_nothing() {
        let guard = Guard { token: "t".repeat(43), proof: "p".repeat(43) };
        let (right, long) = ("t".repeat(43), "t".repeat(44));
        let cases: [(&str, &[&str], Option<Pass>); 11] = [
            ("/", &[&right], Some(Pass::Router)),
            (HEALTH, &[&right], Some(Pass::Router)),
            (HEALTH, &[], Some(Pass::Health)),
            (HEALTH, &["wrong"], Some(Pass::Health)),
            ("/", &[], None),
            ("/", &[""], None),
            ("/", &["wrong"], None),
            ("/", &[&long], None),
            ("/", &[&right, &right], None),
            ("/.cial/api/healthz/", &[], None),
            ("/.cial/api/../api/healthz", &[], None),
        ];
        for (path, shown, pass) in cases {
            let headers = shown
                .iter()
                .map(|value| Header { name: "X-Cial-Route-Token", value: value.as_bytes() });
            assert_eq!(judge(Some(&guard), path, headers), pass, "{path} {shown:?}");
        }
        assert_eq!(judge(None, "/", std::iter::empty()), Some(Pass::Open));
    }
}
