//! Identities: which headers only the router may write, and whether a response carries its tenant's
//! proof. Pure.

use protocol::headers::{PREFIX, REQUEST_ID};
use proxy::Header;

/// Compares in time that depends on the lengths alone. Every response pays for the comparison, hence no loop over
/// opaque choices.
pub(crate) fn is_same_secret(left: &[u8], right: &[u8]) -> bool {
    let differs = left.iter().zip(right).fold(0, |seen, (l, r)| seen | (l ^ r));
    left.len() == right.len() && std::hint::black_box(differs) == 0
}

/// Headers by which a client would claim an identity, an origin, or to have passed the router. The router drops them
/// from requests and writes its own.
pub(crate) fn is_reserved_header(header: &Header<'_>) -> bool {
    let first = header.name.as_bytes().first().map_or(0, u8::to_ascii_lowercase);
    match (first, header.name.len()) {
        (b'f', 9) => header.begins("forwarded"),
        (b'x', 9) if header.begins("x-real-ip") || header.begins("x-user-id") => true,
        (b'x', 12) if header.begins(REQUEST_ID) => true,
        (b'x', _) => ["x-forwarded", PREFIX, "x-tenant-"].iter().any(|p| header.begins(p)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equal_secrets_are_the_same() {
        for (left, right, same) in [
            ("", "", true),
            ("abc", "abc", true),
            ("abc", "abd", false),
            ("abc", "ab", false),
            ("", "a", false),
        ] {
            assert_eq!(is_same_secret(left.as_bytes(), right.as_bytes()), same, "{left} {right}");
        }
    }

    #[test]
    fn headers_reserved_to_the_router() {
        for (name, reserved) in [
            ("X-Forwarded-For", true),
            ("x_forwarded_for", true),
            ("X-Forwarded", true),
            ("Forwarded", true),
            ("X-Real-IP", true),
            ("X-Request-Id", true),
            ("X-User-ID", true),
            ("X-Tenant-Role", true),
            ("X-Cial-User", true),
            ("x_cial_proof", true),
            ("X-Cial-", true),
            ("Forwarder", false),
            ("X-Real-IP-2", false),
            ("X-Requested-With", false),
            ("X-Custom", false),
            ("Host", false),
            ("", false),
        ] {
            assert_eq!(is_reserved_header(&Header { name, value: b"" }), reserved, "{name}");
        }
    }
}
