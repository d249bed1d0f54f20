//! Whether the page that sends a request belongs to this tenant.

/// Whether every `Origin` is `{scheme}://{host}`: the host of the request and the scheme that the browser used.
///
/// True without an `Origin`: such a client is not a browser, or the request comes from the page itself.
pub fn is_same_origin<'a>(
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
