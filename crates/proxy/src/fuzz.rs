//! Entry points of the package `fuzz`: each panics where the engine breaks a promise about the bytes.

use crate::http::chunks::{ChunkPart, ChunkedDecoder};
use crate::http::framing::Framing;
use crate::http::head::{HeaderLines, RequestHead, RequestInfo, ResponseHead};
use crate::http::head_scan::HeadScan;
use crate::http::write;
use crate::{Exchange, Settings, Upstream};

/// Forwards every header unchanged.
struct Unchanged;

impl Exchange for Unchanged {
    fn upstream(&self) -> &Upstream {
        unreachable!("a head alone goes nowhere")
    }
}

/// Reads the bytes as the head of a request and of a response.
///
/// # Panics
/// The pace of arrival or the fast path changes the result; a second reading of the lines finds another framing; or
/// what is written reads back as another request.
pub fn head(bytes: &[u8]) {
    let end = HeadScan::default().end(bytes);
    assert_eq!(scan_byte_by_byte(bytes), end, "the pace of arrival");
    let settings = Settings::default();
    RequestHead::find(bytes, &settings, |head, found| match (head, end) {
        (Ok(head), Ok(Some(end))) => {
            assert_eq!(found, end);
            let read = RequestHead::read(&bytes[..end], &settings, |read| read.map(|h| h.info));
            assert_eq!(read, Ok(head.info), "the fast path");
            assert_eq!(head.info.framing, framing_of(&bytes[..end], &head.lines));
            check_written_request(&head, &settings);
        }
        (Ok(_), _) => panic!("a head without an end"),
        (Err(error), Ok(Some(end))) => {
            let read = RequestHead::read(&bytes[..end], &settings, |read| read.map(|h| h.info));
            assert_eq!(read, Err(error), "the fast path");
        }
        (Err(_), _) => {}
    });
    let request = RequestInfo::UNPARSED;
    let found = ResponseHead::find(bytes, &settings, &request, |head, found| {
        assert_eq!(end, Ok(Some(found)));
        head.map(|head| head.info)
    });
    if let (Some(found), Ok(Some(end))) = (found, end) {
        let read = ResponseHead::read(&bytes[..end], &settings, &request, |h| h.map(|h| h.info));
        assert_eq!(found, read, "the fast path");
    }
}

fn scan_byte_by_byte(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut scan = HeadScan::default();
    let mut ends = (0..=bytes.len()).map(|end| scan.end(&bytes[..end]));
    ends.find(|end| *end != Ok(None)).unwrap_or(Ok(None))
}

/// Reads the framing of an accepted request as a simpler server would: line by line, by the exact names.
fn framing_of(head: &[u8], lines: &HeaderLines<'_>) -> Framing {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let fields: Vec<_> = text.split("\r\n").skip(1).take_while(|line| !line.is_empty()).collect();
    assert_eq!(fields.len(), lines.each().count(), "a line that is no header");
    let values = |name: &str| -> Vec<&str> {
        let split = fields.iter().filter_map(|line| line.split_once(':'));
        split
            .filter(|field| field.0 == name)
            .map(|field| field.1.trim_matches([' ', '\t']))
            .collect()
    };
    match (values("transfer-encoding").as_slice(), values("content-length").as_slice()) {
        ([], []) => Framing::Empty,
        (["chunked"], []) => Framing::Chunked,
        ([], [length]) => Framing::Length(length.parse().expect("a length of digits")),
        other => panic!("accepted, with the framing {other:?}"),
    }
}

/// The upstream reads the same request as the engine, without a header that is for one hop.
fn check_written_request(head: &RequestHead<'_>, settings: &Settings) {
    let mut out = Vec::new();
    write::request(head, &Unchanged, &mut out);
    RequestHead::read(&out, settings, |again| {
        let again = again.expect("what is written can be read");
        assert_eq!(
            (again.method(), again.target(), again.info.framing, again.is_websocket()),
            (head.method(), head.target(), head.info.framing, head.is_websocket()),
        );
        assert_eq!(again.get("host"), head.get("host").or(Some(b"")));
        let is_hop = |name: &str| matches!(name, "keep-alive" | "te" | "proxy-connection");
        assert!(again.headers().all(|header| !is_hop(&header.name.to_ascii_lowercase())));
    });
}

/// Reads a chunked body, which the first byte cuts into pieces.
///
/// # Panics
/// The pace of arrival changes the result, or a second decoder reads another payload.
pub fn chunks(bytes: &[u8]) {
    let Some((pace, body)) = bytes.split_first() else { return };
    let at_once = decode(body, body.len().max(1));
    assert_eq!(decode(body, 1 + usize::from(*pace % 16)), at_once, "the pace of arrival");
    if let Ok((payload, used, true)) = at_once {
        assert_eq!(decode_simply(&body[..used]), Some(payload));
    }
}

/// Returns the payload, the consumed length, and whether the body is complete.
fn decode(body: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), &'static str> {
    let (mut decoder, mut payload, mut at) = (ChunkedDecoder::new(), Vec::new(), 0);
    while at < body.len() && !decoder.is_done() {
        let input = &body[at..(at + step).min(body.len())];
        at += match decoder.next(input)? {
            ChunkPart::Framing(count) | ChunkPart::Trailers(count) => count,
            ChunkPart::Data(count) => {
                payload.extend_from_slice(&input[..count]);
                count
            }
        };
    }
    Ok((payload, at, decoder.is_done()))
}

/// Decodes a complete body by whole lines. `None`: no chunked body.
fn decode_simply(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    loop {
        let end = body.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(&body[..end]).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?, 16).ok()?;
        body = &body[end + 2..];
        if size == 0 {
            let is_end = body == b"\r\n" || body.ends_with(b"\r\n\r\n");
            return is_end.then_some(payload);
        }
        payload.extend_from_slice(body.get(..size)?);
        body = body.get(size..)?.strip_prefix(b"\r\n")?;
    }
}
