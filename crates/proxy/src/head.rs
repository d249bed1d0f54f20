//! Heads, read strictly: what two readers could read differently is refused.

use std::mem::MaybeUninit;

use crate::ProxyError;
use crate::fields::Fields;
use crate::framing::{self, Framing};
use crate::hop;
use crate::scan::Scan;
use crate::settings::Settings;
use crate::upgrade;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// One header line. Names are compared without regard to case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    pub name: &'a str,
    /// Without white space at either end.
    pub value: &'a [u8],
}

impl<'a> Header<'a> {
    /// `name` in lower case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// Whether the name begins so, where `_` counts as `-`: some servers cannot tell them apart.
    pub fn begins(&self, prefix: &str) -> bool {
        let Some(start) = self.name.as_bytes().get(..prefix.len()) else { return false };
        start.eq_ignore_ascii_case(prefix.as_bytes())
            || start.iter().zip(prefix.bytes()).all(|(have, want)| {
                let have = if *have == b'_' { b'-' } else { have.to_ascii_lowercase() };
                have == want
            })
    }

    /// The value, if it is ASCII.
    pub fn text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.value).ok().filter(|text| text.is_ascii())
    }
}

/// A request's head: one that has exactly one meaning.
#[derive(Debug)]
pub struct RequestHead<'a> {
    method: &'a str,
    target: &'a str,
    authority: Option<&'a str>,
    version: Version,
    pub(crate) lines: Lines<'a>,
    pub(crate) facts: RequestFacts,
}

/// The header lines of a head, and the head they stand in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines<'a> {
    pub(crate) bytes: &'a [u8],
    fields: &'a [httparse::Header<'a>],
    /// Bit by bit: this one is hop-by-hop, whatever `Connection` says.
    hops: u128,
}

impl<'a> Lines<'a> {
    pub(crate) fn each(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        self.fields.iter().map(|f| Header { name: f.name, value: f.value })
    }

    /// Those that are not of this connection only. `names_more`: `Connection` names some of them.
    pub(crate) fn end_to_end(&self, names_more: bool, mut pass: impl FnMut(Header<'a>)) {
        let mut hops = self.hops;
        for header in self.each() {
            let is_hop = hops & 1 != 0;
            hops >>= 1;
            if !(is_hop || names_more && hop::is_named(header.name, self.each())) {
                pass(header);
            }
        }
    }
}

/// What the engine itself needs to know of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestFacts {
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    pub(crate) version: Version,
    pub(crate) is_head: bool,
    /// Idempotent and without a body: it may be sent again while nothing of an answer was seen.
    pub(crate) repeatable: bool,
    /// `Connection` names headers beyond those that are hop-by-hop anyway.
    pub(crate) names_more: bool,
    /// What a server must say to this WebSocket handshake.
    pub(crate) accept: Option<upgrade::Accept>,
}

impl RequestFacts {
    /// Of a head that was not understood.
    pub(crate) const NONE: Self = Self {
        framing: Framing::Empty,
        keep_alive: false,
        version: Version::Http11,
        is_head: false,
        repeatable: false,
        names_more: false,
        accept: None,
    };

    pub(crate) fn is_bodiless(&self) -> bool {
        matches!(self.framing, Framing::Empty | Framing::Length(0))
    }
}

/// An answer's head: one that has exactly one meaning.
pub struct ResponseHead<'a> {
    status: u16,
    pub(crate) reason: &'a str,
    pub(crate) lines: Lines<'a>,
    pub(crate) facts: AnswerFacts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AnswerFacts {
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    pub(crate) names_more: bool,
}

const MOST_HEADERS: usize = 128;

impl<'a> RequestHead<'a> {
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// Path and query, beginning with `/`; or `*`.
    pub fn target(&self) -> &'a str {
        self.target
    }

    /// What stands between scheme and path, where the whole address was asked for (absolute-form).
    pub fn authority(&self) -> Option<&'a str> {
        self.authority
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether this is a well-formed WebSocket handshake.
    pub fn is_websocket(&self) -> bool {
        self.facts.accept.is_some()
    }

    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        self.lines.each()
    }

    /// The first of this name (in lower case).
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|h| h.is(name)).map(|h| h.value)
    }

    /// The first of this name, as text.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.headers().find(|h| h.is(name)).and_then(|h| h.text())
    }

    /// Reads a whole head, `bytes` ending with its empty line, and shows it to `then`.
    pub(crate) fn read<R>(
        bytes: &[u8],
        settings: &Settings,
        then: impl FnOnce(Result<RequestHead<'_>, ProxyError>) -> R,
    ) -> R {
        let mut room = [const { MaybeUninit::uninit() }; MOST_HEADERS];
        let mut raw = httparse::Request::new(&mut []);
        let room = &mut room[..settings.request_head.lines.min(MOST_HEADERS)];
        match raw.parse_with_uninit_headers(bytes, room) {
            Ok(httparse::Status::Complete(end)) if end == bytes.len() => {}
            Ok(_) => return then(Err(ProxyError::MalformedRequest("The head ends early."))),
            Err(error) => return then(Err(refused(error, bytes))),
        }
        then(request(&raw, bytes))
    }

    /// Reads the head that `bytes` begin with, which nobody has looked for yet, and shows it to `then` with its
    /// length. An empty line ends `bytes`.
    pub(crate) fn find<R>(
        bytes: &[u8],
        settings: &Settings,
        then: impl FnOnce(Result<RequestHead<'_>, ProxyError>, usize) -> R,
    ) -> R {
        let mut room = [const { MaybeUninit::uninit() }; MOST_HEADERS];
        let mut raw = httparse::Request::new(&mut []);
        let room = &mut room[..settings.request_head.lines.min(MOST_HEADERS)];
        if let Ok(httparse::Status::Complete(end)) = raw.parse_with_uninit_headers(bytes, room)
            && lines_end_well(&bytes[..end], raw.headers)
        {
            return then(request(&raw, &bytes[..end]), end);
        }
        // In its own words, whatever is wrong with it.
        match Scan::default().end(bytes) {
            Ok(Some(end)) => Self::read(&bytes[..end], settings, |head| then(head, end)),
            Ok(None) => {
                then(Err(ProxyError::MalformedRequest("The head ends early.")), bytes.len())
            }
            Err(rule) => then(Err(ProxyError::MalformedRequest(rule)), bytes.len()),
        }
    }
}

/// Whether each line of this head ends with CRLF, none before the last is empty and none is folded: what
/// [`Scan`] would find, told from where the parser found the lines to begin.
fn lines_end_well(head: &[u8], fields: &[httparse::Header<'_>]) -> bool {
    let ends = |at: usize| at >= 2 && head.get(at - 2..at) == Some(b"\r\n");
    let begins = |name: &str| (name.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
    !matches!(head.first(), None | Some(b'\r' | b'\n'))
        && fields.iter().all(|field| ends(begins(field.name)))
        && ends(head.len())
        && ends(head.len() - 2)
}

fn request<'a>(
    raw: &'a httparse::Request<'a, 'a>,
    bytes: &'a [u8],
) -> Result<RequestHead<'a>, ProxyError> {
    let (Some(method), Some(target), Some(version)) = (raw.method, raw.path, raw.version) else {
        return Err(ProxyError::MalformedRequest("The request line is incomplete."));
    };
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    if matches!(method, "CONNECT" | "TRACE") {
        return Err(ProxyError::MethodNotServed);
    }
    let (authority, target) = parts(method, target)?;
    let mut lines = Lines { bytes, fields: raw.headers, hops: 0 };
    let seen = Fields::read(lines.each()).map_err(ProxyError::MalformedRequest)?;
    lines.hops = seen.hops;
    match (seen.hosts, version) {
        (0, Version::Http11) => return Err(ProxyError::MissingHost),
        (0, Version::Http10) | (1, _) => {}
        _ => return Err(ProxyError::MalformedRequest("Host is there more than once.")),
    }
    if let Some(authority) = authority
        && let Some(host) = lines.each().find(|h| h.is("host"))
        && !authority.as_bytes().eq_ignore_ascii_case(host.value)
    {
        return Err(ProxyError::MalformedRequest("Host and the host in the address differ."));
    }
    if seen.expects_other {
        return Err(ProxyError::ExpectationFailed);
    }
    let framing = framing::of_request(&seen, version).map_err(ProxyError::MalformedRequest)?;
    let accept = upgrade::asked(method, version, framing, &seen, lines.each())?;
    let idempotent = matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE");
    let facts = RequestFacts {
        framing,
        version,
        keep_alive: seen.keep_alive(version),
        is_head: method == "HEAD",
        repeatable: idempotent && matches!(framing, Framing::Empty | Framing::Length(0)),
        names_more: seen.names_more,
        accept,
    };
    Ok(RequestHead { method, target, authority, version, lines, facts })
}

/// RFC 3986 has none of these in a URI: a server that decodes or cuts there would see another path than we do, and one
/// that refuses them says nothing that a person could read.
const BARRED: [bool; 256] = {
    let mut barred = [true; 256];
    let mut byte = 0x21;
    while byte <= 0x7e {
        barred[byte] = matches!(byte as u8, b'#' | b'"' | b'<' | b'>' | b'`');
        byte += 1;
    }
    barred
};

/// Splits a target into what stands before the path, and the path with its query.
fn parts<'a>(method: &str, target: &'a str) -> Result<(Option<&'a str>, &'a str), ProxyError> {
    if target.bytes().any(|b| BARRED[usize::from(b)]) {
        return Err(ProxyError::MalformedRequest(
            "The address holds a character that none may hold.",
        ));
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((None, target));
    }
    let scheme = target.find("://").unwrap_or(0);
    let known = ["http", "https"].iter().any(|s| target[..scheme].eq_ignore_ascii_case(s));
    if !known {
        return Err(ProxyError::MalformedRequest("The address must begin with / or http://."));
    }
    let rest = &target[scheme + 3..];
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match path.as_bytes().first() {
        _ if authority.is_empty() => {
            Err(ProxyError::MalformedRequest("The address names no host."))
        }
        Some(b'/') => Ok((Some(authority), path)),
        Some(_) => Err(ProxyError::MalformedRequest("The address has a query without a path.")),
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

    /// The first of this name (in lower case).
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|h| h.is(name)).map(|h| h.value)
    }

    /// Reads a whole head, `bytes` ending with its empty line, and shows it to `then`.
    pub(crate) fn read<R>(
        bytes: &[u8],
        settings: &Settings,
        to: &RequestFacts,
        then: impl FnOnce(Result<ResponseHead<'_>, &'static str>) -> R,
    ) -> R {
        let mut room = [const { MaybeUninit::uninit() }; MOST_HEADERS];
        let mut raw = httparse::Response::new(&mut []);
        let room = &mut room[..settings.response_head.lines.min(MOST_HEADERS)];
        match httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut raw, bytes, room)
        {
            Ok(httparse::Status::Complete(end)) if end == bytes.len() => {}
            Ok(_) => return then(Err("its head ends early")),
            Err(_) => return then(Err("its head breaks the grammar")),
        }
        then(answer(&raw, bytes, to))
    }

    /// Reads the head that `bytes` begin with, if it is whole and plainly sound, and shows it to `then` with its
    /// length. `None` says nothing: it must be looked at more closely.
    pub(crate) fn find<R>(
        bytes: &[u8],
        settings: &Settings,
        to: &RequestFacts,
        then: impl FnOnce(Result<ResponseHead<'_>, &'static str>, usize) -> R,
    ) -> Option<R> {
        let mut room = [const { MaybeUninit::uninit() }; MOST_HEADERS];
        let mut raw = httparse::Response::new(&mut []);
        let room = &mut room[..settings.response_head.lines.min(MOST_HEADERS)];
        match httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut raw, bytes, room)
        {
            Ok(httparse::Status::Complete(end))
                if end <= settings.response_head.bytes
                    && lines_end_well(&bytes[..end], raw.headers) =>
            {
                Some(then(answer(&raw, &bytes[..end], to), end))
            }
            Ok(_) | Err(_) => None,
        }
    }
}

fn answer<'a>(
    raw: &'a httparse::Response<'a, 'a>,
    bytes: &'a [u8],
    to: &RequestFacts,
) -> Result<ResponseHead<'a>, &'static str> {
    let (Some(status), Some(version)) = (raw.code, raw.version) else {
        return Err("its status line is incomplete");
    };
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    if !(100..=599).contains(&status) {
        return Err("its status is none");
    }
    let mut lines = Lines { bytes, fields: raw.headers, hops: 0 };
    let seen = Fields::read(lines.each())?;
    lines.hops = seen.hops;
    if status == 101 {
        upgrade::answered(to.accept.as_ref(), &seen, lines.each())?;
    }
    let framing = framing::of_answer(&seen, version, status, to.is_head)?;
    let facts = AnswerFacts {
        framing,
        keep_alive: seen.keep_alive(version) && framing != Framing::Close,
        names_more: seen.names_more,
    };
    Ok(ResponseHead { status, reason: raw.reason.unwrap_or(""), lines, facts })
}

fn refused(error: httparse::Error, bytes: &[u8]) -> ProxyError {
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

/// Whether the request line is one but for a version that we do not serve.
fn names_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ').skip(2);
    match (words.next(), words.next()) {
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None) => {
            major.is_ascii_digit() && minor.is_ascii_digit()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
