//! Strict parsing of request and response heads: a head that two parsers could read differently is refused.

use std::mem::MaybeUninit;

use crate::ProxyError;
use crate::http::fields::{ConnectionOptions, ContentKind, Expectation, Fields};
use crate::http::framing::{self, Framing};
use crate::http::head_scan::HeadScan;
use crate::http::hop_by_hop;
use crate::settings::Settings;
use crate::upgrade::handshake;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// One header line. Names compare without regard to case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    pub name: &'a str,
    /// The value without surrounding white space.
    pub value: &'a [u8],
}

impl<'a> Header<'a> {
    /// Whether the name is `name`, given in lower case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// Whether the name begins with `prefix`, counting `_` as `-` because CGI-style servers cannot
    /// distinguish the two.
    pub fn begins(&self, prefix: &str) -> bool {
        let Some(start) = self.name.as_bytes().get(..prefix.len()) else { return false };
        start.eq_ignore_ascii_case(prefix.as_bytes())
            || start.iter().zip(prefix.bytes()).all(|(have, want)| {
                let have = if *have == b'_' { b'-' } else { have.to_ascii_lowercase() };
                have == want
            })
    }

    /// The value as text, if it is ASCII.
    pub fn text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.value).ok().filter(|text| text.is_ascii())
    }
}

/// A request head with exactly one meaning.
#[derive(Debug)]
pub struct RequestHead<'a> {
    method: &'a str,
    target: &'a str,
    authority: Option<&'a str>,
    version: Version,
    pub(crate) lines: HeaderLines<'a>,
    pub(crate) info: RequestInfo,
}

/// The header lines of a head, with the bytes of the head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeaderLines<'a> {
    pub(crate) bytes: &'a [u8],
    fields: &'a [httparse::Header<'a>],
    /// One bit per line: the header is hop-by-hop by its name.
    hop_by_hop_bits: u128,
    /// `Connection` names headers that are not hop-by-hop by their own name.
    names_other_headers: bool,
}

impl<'a> HeaderLines<'a> {
    /// Returns the lines with what they say to the engine, or the violated rule.
    fn read(
        bytes: &'a [u8],
        fields: &'a [httparse::Header<'a>],
    ) -> Result<(Self, Fields), &'static str> {
        let mut lines = Self { bytes, fields, hop_by_hop_bits: 0, names_other_headers: false };
        let seen = Fields::read(lines.each())?;
        lines.hop_by_hop_bits = seen.hop_by_hop_bits;
        lines.names_other_headers = seen.connection.has(ConnectionOptions::OTHER_HEADERS);
        Ok((lines, seen))
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        self.fields.iter().map(|f| Header { name: f.name, value: f.value })
    }

    /// Passes each end-to-end header to `pass`.
    pub(crate) fn end_to_end(&self, mut pass: impl FnMut(Header<'a>)) {
        let mut hop_by_hop_bits = self.hop_by_hop_bits;
        for header in self.each() {
            let is_hop = hop_by_hop_bits & 1 != 0;
            hop_by_hop_bits >>= 1;
            if !(is_hop
                || self.names_other_headers && hop_by_hop::is_named(header.name, self.each()))
            {
                pass(header);
            }
        }
    }
}

/// The properties of a method that the engine depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MethodKind {
    /// `HEAD`: idempotent, and its response has no body.
    Head,
    Idempotent,
    Other,
}

impl MethodKind {
    pub(crate) fn of(method: &str) -> Self {
        match method {
            "HEAD" => Self::Head,
            "GET" | "OPTIONS" | "PUT" | "DELETE" => Self::Idempotent,
            _ => Self::Other,
        }
    }
}

/// The properties of a request that the engine itself depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    pub(crate) framing: Framing,
    pub(crate) version: Version,
    pub(crate) method: MethodKind,
    pub(crate) is_persistent: bool,
    /// The required `Sec-WebSocket-Accept`, if the request is a WebSocket handshake.
    pub(crate) accept: Option<handshake::AcceptKey>,
}

impl RequestInfo {
    /// For a head that was not understood.
    pub(crate) const UNPARSED: Self = Self {
        framing: Framing::Empty,
        version: Version::Http11,
        method: MethodKind::Other,
        is_persistent: false,
        accept: None,
    };

    pub(crate) fn is_head(&self) -> bool {
        self.method == MethodKind::Head
    }

    /// Idempotent and without a body: may be sent again while no byte of a response has arrived.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.method != MethodKind::Other && self.framing.is_bodiless()
    }
}

/// A response head with exactly one meaning.
pub struct ResponseHead<'a> {
    status: u16,
    pub(crate) reason: &'a str,
    pub(crate) lines: HeaderLines<'a>,
    pub(crate) info: ResponseInfo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResponseInfo {
    pub(crate) framing: Framing,
    pub(crate) is_persistent: bool,
    pub(crate) is_event_stream: bool,
}

const MAX_HEADER_LINES: usize = 128;

impl<'a> RequestHead<'a> {
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// Path and query beginning with `/`, or `*`.
    pub fn target(&self) -> &'a str {
        self.target
    }

    /// The authority of an absolute-form target.
    pub fn authority(&self) -> Option<&'a str> {
        self.authority
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether the request is a valid WebSocket handshake.
    pub fn is_websocket(&self) -> bool {
        self.info.accept.is_some()
    }

    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        self.lines.each()
    }

    /// Returns the first header of this name (in lower case).
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|h| h.is(name)).map(|h| h.value)
    }

    /// Returns the first header of this name (in lower case) as text, if it is ASCII.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.headers().find(|h| h.is(name)).and_then(|h| h.text())
    }

    /// Parses a complete head and passes it to `then`. `bytes` end with the empty line.
    pub(crate) fn read<R>(
        bytes: &[u8],
        settings: &Settings,
        then: impl FnOnce(Result<RequestHead<'_>, ProxyError>) -> R,
    ) -> R {
        let mut room = [const { MaybeUninit::uninit() }; MAX_HEADER_LINES];
        let mut raw = httparse::Request::new(&mut []);
        let room = &mut room[..settings.request_head.lines.min(MAX_HEADER_LINES)];
        match raw.parse_with_uninit_headers(bytes, room) {
            Ok(httparse::Status::Complete(end)) if end == bytes.len() => {}
            Ok(_) => return then(Err(ProxyError::MalformedRequest("The head ends early."))),
            Err(error) => return then(Err(parse_error(error, bytes))),
        }
        then(request(&mut raw, bytes, &mut String::new()))
    }

    /// Parses the head at the start of `bytes` and passes the head and its length to `then`. `bytes` end with an empty
    /// line; the end of the head is not known yet.
    pub(crate) fn find<R>(
        bytes: &[u8],
        settings: &Settings,
        then: impl FnOnce(Result<RequestHead<'_>, ProxyError>, usize) -> R,
    ) -> R {
        let mut room = [const { MaybeUninit::uninit() }; MAX_HEADER_LINES];
        let mut raw = httparse::Request::new(&mut []);
        let room = &mut room[..settings.request_head.lines.min(MAX_HEADER_LINES)];
        if let Ok(httparse::Status::Complete(end)) = raw.parse_with_uninit_headers(bytes, room)
            && line_ends_are_strict(&bytes[..end], raw.headers)
        {
            return then(request(&mut raw, &bytes[..end], &mut String::new()), end);
        }
        // The scan names the violated rule precisely.
        match HeadScan::default().end(bytes) {
            Ok(Some(end)) => Self::read(&bytes[..end], settings, |head| then(head, end)),
            Ok(None) => {
                then(Err(ProxyError::MalformedRequest("The head ends early.")), bytes.len())
            }
            Err(rule) => then(Err(ProxyError::MalformedRequest(rule)), bytes.len()),
        }
    }
}

/// Whether every line ends with CRLF, no line before the last is empty, and none is folded: the conditions of
/// [`HeadScan`], derived from where the parser found the lines to begin.
fn line_ends_are_strict(head: &[u8], fields: &[httparse::Header<'_>]) -> bool {
    let ends = |at: usize| at >= 2 && head.get(at - 2..at) == Some(b"\r\n");
    let begins = |name: &str| (name.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
    !matches!(head.first(), None | Some(b'\r' | b'\n'))
        && fields.iter().all(|field| ends(begins(field.name)))
        && ends(head.len())
        && ends(head.len() - 2)
}

/// `rewritten` holds the target where the received one cannot be forwarded as it is.
fn request<'a>(
    raw: &'a mut httparse::Request<'_, 'a>,
    bytes: &'a [u8],
    rewritten: &'a mut String,
) -> Result<RequestHead<'a>, ProxyError> {
    let (Some(method), Some(target), Some(version)) = (raw.method, raw.path, raw.version) else {
        return Err(ProxyError::MalformedRequest("The request line is incomplete."));
    };
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    if matches!(method, "CONNECT" | "TRACE") {
        return Err(ProxyError::MethodNotServed);
    }
    let (authority, target) = split_target(method, target, rewritten)?;
    if let Some(authority) = authority {
        // The authority of the target replaces any received `Host` (RFC 9112 §3.2.2).
        for field in raw.headers.iter_mut().filter(|f| f.name.eq_ignore_ascii_case("host")) {
            field.value = authority.as_bytes();
        }
    }
    let (lines, seen) =
        HeaderLines::read(bytes, raw.headers).map_err(ProxyError::MalformedRequest)?;
    match (seen.host_count, version) {
        (0, Version::Http11) => return Err(ProxyError::MissingHost),
        (0, Version::Http10) | (1, _) => {}
        _ => return Err(ProxyError::MalformedRequest("Host is there more than once.")),
    }
    if seen.expectation == Expectation::Unknown {
        return Err(ProxyError::ExpectationFailed);
    }
    let framing = framing::of_request(&seen, version).map_err(ProxyError::MalformedRequest)?;
    let accept = handshake::check_request(method, version, framing, &seen, lines.each())?;
    let info = RequestInfo {
        framing,
        version,
        method: MethodKind::of(method),
        is_persistent: seen.keep_alive(version),
        accept,
    };
    Ok(RequestHead { method, target, authority, version, lines, info })
}

/// Where a byte may stand in a target.
const IN_PATH: u8 = 1;
const IN_QUERY: u8 = 2;

/// The bytes that a browser may leave raw in a path or a query: everything visible except the percent-encode sets of
/// the WHATWG URL standard. `{`, `}` and `^` are accepted in paths too, because older clients leave them raw.
///
/// A server that decodes or cuts at one of the other bytes would see another path than the engine.
const ALPHABET: [u8; 256] = {
    let mut alphabet = [0; 256];
    let mut byte = 0x21;
    while byte <= 0x7e {
        alphabet[byte] = match byte as u8 {
            b'#' | b'"' | b'<' | b'>' => 0,
            b'`' => IN_QUERY,
            _ => IN_PATH | IN_QUERY,
        };
        byte += 1;
    }
    alphabet
};

fn has_only_allowed_bytes(target: &str) -> bool {
    let all = |part: &[u8], place: u8| part.iter().all(|b| ALPHABET[usize::from(*b)] & place != 0);
    match memchr::memchr(b'?', target.as_bytes()) {
        Some(end) => {
            let (path, query) = target.as_bytes().split_at(end);
            all(path, IN_PATH) && all(query, IN_QUERY)
        }
        None => all(target.as_bytes(), IN_PATH),
    }
}

/// Splits a target into its authority, and its path with query.
fn split_target<'a>(
    method: &str,
    target: &'a str,
    rewritten: &'a mut String,
) -> Result<(Option<&'a str>, &'a str), ProxyError> {
    let malformed = |rule| Err(ProxyError::MalformedRequest(rule));
    if !has_only_allowed_bytes(target) {
        return malformed("The address holds a character that none may hold.");
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((None, target));
    }
    let scheme = target.find("://").unwrap_or(0);
    let known = ["http", "https"].iter().any(|s| target[..scheme].eq_ignore_ascii_case(s));
    if !known {
        return malformed("The address must begin with / or http://.");
    }
    let rest = &target[scheme + 3..];
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match path.as_bytes().first() {
        _ if authority.is_empty() => malformed("The address names no host."),
        _ if authority.contains(['@', '\\']) => malformed("The address names more than a host."),
        Some(b'/') => Ok((Some(authority), path)),
        // An empty path means the root (RFC 9110 §4.2.3).
        Some(_) => {
            rewritten.push('/');
            rewritten.push_str(path);
            Ok((Some(authority), rewritten))
        }
        None if method == "OPTIONS" => Ok((Some(authority), "*")),
        None => Ok((Some(authority), "/")),
    }
}

impl<'a> ResponseHead<'a> {
    pub fn status(&self) -> u16 {
        self.status
    }

    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        self.lines.each()
    }

    /// Whether the body is an event stream (`text/event-stream`).
    pub fn is_event_stream(&self) -> bool {
        self.info.is_event_stream
    }

    /// Returns the first header of this name (in lower case).
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|h| h.is(name)).map(|h| h.value)
    }

    /// Parses a complete head and passes it to `then`. `bytes` end with the empty line.
    pub(crate) fn read<R>(
        bytes: &[u8],
        settings: &Settings,
        to: &RequestInfo,
        then: impl FnOnce(Result<ResponseHead<'_>, &'static str>) -> R,
    ) -> R {
        let mut room = [const { MaybeUninit::uninit() }; MAX_HEADER_LINES];
        let mut raw = httparse::Response::new(&mut []);
        let room = &mut room[..settings.response_head.lines.min(MAX_HEADER_LINES)];
        match httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut raw, bytes, room)
        {
            Ok(httparse::Status::Complete(end)) if end == bytes.len() => {}
            Ok(_) => return then(Err("its head ends early")),
            Err(_) => return then(Err("its head breaks the grammar")),
        }
        then(response(&raw, bytes, to))
    }

    /// Parses the head at the start of `bytes` if the head is complete and plainly valid, and passes the head and its
    /// length to `then`. `None` decides nothing: the slow path must examine the head.
    pub(crate) fn find<R>(
        bytes: &[u8],
        settings: &Settings,
        to: &RequestInfo,
        then: impl FnOnce(Result<ResponseHead<'_>, &'static str>, usize) -> R,
    ) -> Option<R> {
        let mut room = [const { MaybeUninit::uninit() }; MAX_HEADER_LINES];
        let mut raw = httparse::Response::new(&mut []);
        let room = &mut room[..settings.response_head.lines.min(MAX_HEADER_LINES)];
        match httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut raw, bytes, room)
        {
            Ok(httparse::Status::Complete(end))
                if end <= settings.response_head.bytes
                    && line_ends_are_strict(&bytes[..end], raw.headers) =>
            {
                Some(then(response(&raw, &bytes[..end], to), end))
            }
            Ok(_) | Err(_) => None,
        }
    }
}

fn response<'a>(
    raw: &'a httparse::Response<'a, 'a>,
    bytes: &'a [u8],
    to: &RequestInfo,
) -> Result<ResponseHead<'a>, &'static str> {
    let (Some(status), Some(version)) = (raw.code, raw.version) else {
        return Err("its status line is incomplete");
    };
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    if !(100..=599).contains(&status) {
        return Err("its status is none");
    }
    let (lines, seen) = HeaderLines::read(bytes, raw.headers)?;
    if status == 101 {
        handshake::check_response(to.accept.as_ref(), &seen, lines.each())?;
    }
    let framing = framing::of_response(&seen, version, status, to.is_head())?;
    let info = ResponseInfo {
        framing,
        is_persistent: seen.keep_alive(version) && framing != Framing::Close,
        is_event_stream: seen.content == ContentKind::EventStream,
    };
    Ok(ResponseHead { status, reason: raw.reason.unwrap_or(""), lines, info })
}

fn parse_error(error: httparse::Error, bytes: &[u8]) -> ProxyError {
    match error {
        httparse::Error::TooManyHeaders => ProxyError::RequestHeadTooLarge { target: false },
        httparse::Error::Version if names_version(bytes) => ProxyError::UnsupportedHttpVersion,
        httparse::Error::HeaderName => {
            ProxyError::MalformedRequest("A header's name breaks the grammar.")
        }
        httparse::Error::HeaderValue => {
            ProxyError::MalformedRequest("A header's value breaks the grammar.")
        }
        httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token
        | httparse::Error::Version => {
            ProxyError::MalformedRequest("The request line breaks the grammar.")
        }
    }
}

/// Whether the request line is well-formed except for an unsupported version.
fn names_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|b| *b == b' ').skip(2);
    match (parts.next(), parts.next()) {
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None) => {
            major.is_ascii_digit() && minor.is_ascii_digit()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
