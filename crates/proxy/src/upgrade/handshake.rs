//! The WebSocket handshake (RFC 6455 §4), verified on both sides. No other upgrade is served.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use crate::ProxyError;
use crate::http::fields::Fields;
use crate::http::framing::Framing;
use crate::http::head::{Header, Version};

/// The only valid value of `Sec-WebSocket-Accept` for a handshake.
pub(crate) type AcceptKey = [u8; 28];

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Returns the accept key that the server must send, if the request is a WebSocket handshake.
///
/// An `Upgrade` to another protocol is ignored (RFC 9110 §7.8).
pub(crate) fn check_request<'a>(
    method: &str,
    version: Version,
    framing: Framing,
    seen: &Fields,
    headers: impl Iterator<Item = Header<'a>>,
) -> Result<Option<AcceptKey>, ProxyError> {
    if !seen.upgrades_to_websocket() {
        return Ok(None);
    }
    if method != "GET" || version != Version::Http11 || !framing.is_bodiless() {
        return Err(ProxyError::MalformedRequest(
            "A WebSocket begins with a GET of HTTP/1.1 without a body.",
        ));
    }
    let (mut key, mut right_version) = (None, None);
    for header in headers {
        if header.is("sec-websocket-key") {
            if key.replace(header.value).is_some() {
                return Err(ProxyError::MalformedRequest(
                    "Sec-WebSocket-Key is there more than once.",
                ));
            }
        } else if header.is("sec-websocket-version")
            && right_version.replace(header.value == b"13").is_some()
        {
            return Err(ProxyError::MalformedRequest(
                "Sec-WebSocket-Version is there more than once.",
            ));
        }
    }
    if right_version != Some(true) {
        return Err(ProxyError::UnsupportedWebSocketVersion);
    }
    let key = key.filter(|key| STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16));
    let key =
        key.ok_or(ProxyError::MalformedRequest("Sec-WebSocket-Key is not 16 bytes in base64."))?;
    Ok(Some(accept(key)))
}

/// Checks that a 101 accepts the requested handshake.
pub(crate) fn check_response<'a>(
    expected: Option<&AcceptKey>,
    seen: &Fields,
    headers: impl Iterator<Item = Header<'a>>,
) -> Result<(), &'static str> {
    let expected = expected.ok_or("it switches protocols unasked")?;
    if !seen.upgrades_to_websocket() {
        return Err("it switches to something else than a WebSocket");
    }
    let mut accepts = headers.filter(|h| h.is("sec-websocket-accept"));
    match (accepts.next(), accepts.next()) {
        (Some(one), None) if one.value == expected => Ok(()),
        _ => Err("its Sec-WebSocket-Accept does not fit the key"),
    }
}

fn accept(key: &[u8]) -> AcceptKey {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; 28];
    // Base64 turns 20 bytes into exactly 28 characters.
    let _ = STANDARD.encode_slice(digest, &mut accept);
    accept
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn ask(method: &str, lines: &[(&str, &str)]) -> Result<Option<AcceptKey>, ProxyError> {
        let headers = || lines.iter().map(|(name, v)| Header { name, value: v.as_bytes() });
        let seen = Fields::read(headers()).unwrap();
        let framing = crate::http::framing::of_request(&seen, Version::Http11).unwrap();
        check_request(method, Version::Http11, framing, &seen, headers())
    }

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(&accept(KEY.as_bytes()), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn handshakes_by_the_table() {
        let (up, ws) = (("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket"));
        let (key, v13) = (("Sec-WebSocket-Key", KEY), ("Sec-WebSocket-Version", "13"));
        assert!(ask("GET", &[up, ws, key, v13]).unwrap().is_some());
        assert!(ask("GET", &[ws, key, v13]).unwrap().is_none(), "Connection does not name it");
        assert!(ask("GET", &[up, ("Upgrade", "h2c")]).unwrap().is_none());
        for lines in [&[up, ws, key][..], &[up, ws, key, ("Sec-WebSocket-Version", "8")]] {
            assert_eq!(
                ask("GET", lines),
                Err(ProxyError::UnsupportedWebSocketVersion),
                "{lines:?}"
            );
        }
        for lines in [
            &[up, ws, v13][..],
            &[up, ws, key, key, v13],
            &[up, ws, key, v13, v13],
            &[up, ws, ("Sec-WebSocket-Key", "short"), v13],
        ] {
            assert!(matches!(ask("GET", lines), Err(ProxyError::MalformedRequest(_))), "{lines:?}");
        }
        assert!(ask("POST", &[up, ws, key, v13]).is_err());
        let empty = ("Content-Length", "0");
        assert!(ask("GET", &[up, ws, key, v13, empty]).unwrap().is_some(), "no byte of a body");
        for body in [("Content-Length", "1"), ("Transfer-Encoding", "chunked")] {
            assert!(ask("GET", &[up, ws, key, v13, body]).is_err(), "{body:?}");
        }
    }
}
