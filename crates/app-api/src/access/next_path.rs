//! The path at which a person continues after signing in.

/// Returns `next` when it is a path of this site, and the list of tenants otherwise.
pub fn safe_next(next: Option<&str>) -> &str {
    let same_site = |path: &&str| {
        path.starts_with('/')
            && !path.starts_with("//")
            // Browsers read a backslash as a slash and skip tabs and line breaks (WHATWG URL).
            && !path.contains(['\\', '\t', '\r', '\n'])
            && path.bytes().all(|b| b.is_ascii_graphic())
    };
    next.filter(same_site).unwrap_or("/admin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_stays_on_this_site() {
        for good in ["/admin", "/admin/tenants/acme?x=1#y", "/"] {
            assert_eq!(safe_next(Some(good)), good);
        }
        for bad in [
            "",
            "admin",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil",
            "https://evil.example",
            "/\t/evil.example",
            "javascript:alert(1)",
            "/a b",
            "/ü",
        ] {
            assert_eq!(safe_next(Some(bad)), "/admin", "{bad:?}");
        }
        assert_eq!(safe_next(None), "/admin");
    }
}
