//! The address of the admin API.

use std::fmt;
use std::net::IpAddr;

/// An address with `http` or `https` and a host, without a path. Requests are made to paths below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    text: String,
    host: String,
    is_https: bool,
}

/// The rule that an address breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerUrlError(&'static str);

impl ServerUrl {
    /// # Errors
    /// The text is no address of a server.
    pub fn parse(text: &str) -> Result<Self, ServerUrlError> {
        let uri: ureq::http::Uri = text
            .parse()
            .map_err(|_| ServerUrlError("must be an address like https://cial.example.com"))?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(ServerUrlError("must begin with https:// or http://")),
        };
        let authority = uri.authority().ok_or(ServerUrlError("must name a host"))?;
        if authority.as_str().contains('@') {
            return Err(ServerUrlError("must not hold a user or a password"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(ServerUrlError("must end after the host and the port"));
        }
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let scheme = if is_https { "https" } else { "http" };
        Ok(Self { text: format!("{scheme}://{authority}"), host, is_https })
    }

    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.text)
    }

    /// Whether a page is on this server: the same scheme, host and port.
    pub fn is_origin_of(&self, page: &str) -> bool {
        Self::of_page(page).is_some_and(|origin| origin.parts() == self.parts())
    }

    /// The server that a page is on.
    pub fn of_page(page: &str) -> Option<Self> {
        let (scheme, rest) = page.split_once("://")?;
        let authority = rest.split(['/', '\\', '?', '#']).next()?;
        Self::parse(&format!("{scheme}://{authority}")).ok()
    }

    fn parts(&self) -> (bool, &str, u16) {
        let default = if self.is_https { 443 } else { 80 };
        let (_, port) = self.text.rsplit_once(':').unwrap_or_default();
        (self.is_https, &self.host, port.parse().unwrap_or(default))
    }

    pub fn port(&self) -> u16 {
        self.parts().2
    }

    /// The host without brackets and port, in lower case.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// Whether the server is this machine: no proxy stands before it, and plain HTTP reveals nothing.
    pub fn is_this_machine(&self) -> bool {
        let is_loopback = self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        is_loopback || self.host == "localhost" || self.host.ends_with(".localhost")
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for ServerUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_normalised_or_refused() {
        for (text, shown, is_this_machine) in [
            ("https://cial.example.com", "https://cial.example.com", false),
            ("http://localhost:3100/", "http://localhost:3100", true),
            ("http://[::1]:3100", "http://[::1]:3100", true),
            ("http://127.0.0.1:3100", "http://127.0.0.1:3100", true),
            ("http://admin.localhost", "http://admin.localhost", true),
            ("http://localhost.example.com", "http://localhost.example.com", false),
        ] {
            let url = ServerUrl::parse(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.is_this_machine()), (shown, is_this_machine));
        }
        let server = ServerUrl::parse("http://localhost:3100").unwrap();
        for (page, is_on_server) in [
            ("http://localhost:3100/admin/cli-login?id=1", true),
            ("HTTP://LOCALHOST:3100", true),
            ("http://localhost:3100?x=://", true),
            ("http://localhost:31000/", false),
            ("http://localhost/", false),
            ("https://localhost:3100/", false),
            ("http://127.0.0.1:3100/", false),
            ("http://localhost:3100@evil.example/", false),
            ("http://evil.example/http://localhost:3100", false),
            ("http://localhost:3100.evil.example/", false),
            ("javascript:alert(1)", false),
            ("", false),
        ] {
            assert_eq!(server.is_origin_of(page), is_on_server, "{page}");
        }
        assert!(ServerUrl::parse("https://[::1]").unwrap().is_origin_of("https://[::1]:443/a"));
        for bad in [
            "",
            "cial.example.com",
            "localhost:3100",
            "ftp://x",
            "https://",
            "https://u:p@x",
            "https://x/admin",
            "https://x?q=1",
            "https://x y",
        ] {
            assert!(ServerUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
