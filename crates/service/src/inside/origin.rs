//! Whether a page that sends a request is one of this tenant's own.

/// Whether every `Origin` names the host that was asked, by the scheme that the browser used. A client that sends
/// none is no browser, or asks as the page itself.
pub fn is_own<'a>(
    mut origins: impl Iterator<Item = &'a [u8]>,
    host: Option<&str>,
    scheme: &str,
) -> bool {
    origins.all(|origin| {
        host.is_some_and(|host| {
            origin.eq_ignore_ascii_case(format!("{scheme}://{host}").as_bytes())
        })
    })
}
