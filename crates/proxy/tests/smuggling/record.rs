//! An upstream that records its input and parses as strictly as possible: input that parsers could
//! read in two ways is a failure of the sender.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

/// A request as the upstream read it, with its body and without its framing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedRequest {
    method: String,
    target: String,
    body: String,
}

impl ReceivedRequest {
    pub(crate) fn new((method, target, body): (&str, &str, &str)) -> Self {
        Self { method: method.to_owned(), target: target.to_owned(), body: body.to_owned() }
    }
}

#[derive(Default)]
struct Log {
    seen: Vec<ReceivedRequest>,
    broken: Option<String>,
    partials: usize,
}

/// Responds to every request with 200 and a body of two bytes.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Log>>);

impl Recorder {
    /// `lines` go into the head of each response, each with its CRLF.
    pub(crate) fn new<S: Read + Write + Send + 'static>(
        mut accept: impl FnMut() -> S + Send + 'static,
        lines: &str,
    ) -> Self {
        let (recorder, lines) = (Self::default(), lines.to_owned());
        let record = recorder.clone();
        std::thread::spawn(move || {
            loop {
                record.clone().listen(accept(), lines.clone());
            }
        });
        recorder
    }

    /// Returns the whole requests since the last call. An error is input that parsers could read in
    /// two ways.
    pub(crate) fn take(&self) -> Result<Vec<ReceivedRequest>, String> {
        let mut log = self.0.lock().unwrap();
        match log.broken.take() {
            Some(why) => Err(why),
            None => Ok(std::mem::take(&mut log.seen)),
        }
    }

    /// Returns how many connections ended inside a request.
    pub(crate) fn partials(&self) -> usize {
        self.0.lock().unwrap().partials
    }

    fn listen(self, mut stream: impl Read + Write + Send + 'static, lines: String) {
        std::thread::spawn(move || {
            let (mut held, mut bytes) = (Vec::new(), [0; 16 << 10]);
            loop {
                match whole(&held) {
                    Ok(Some((seen, end))) => {
                        held.drain(..end);
                        let body = if seen.method == "HEAD" { "" } else { "ok" };
                        self.0.lock().unwrap().seen.push(seen);
                        let head = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\n");
                        // A peer that left receives nothing.
                        let _ = stream.write_all((head + body).as_bytes());
                        continue;
                    }
                    Ok(None) => {}
                    Err(why) => {
                        let text = String::from_utf8_lossy(&held).into_owned();
                        self.0.lock().unwrap().broken = Some(format!("{why} in {text:?}"));
                        return;
                    }
                }
                match stream.read(&mut bytes) {
                    Ok(count @ 1..) => held.extend_from_slice(&bytes[..count]),
                    Ok(_) | Err(_) => break,
                }
            }
            self.0.lock().unwrap().partials += usize::from(!held.is_empty());
        });
    }
}

/// Returns the first request in `bytes` and its length, if the request is whole.
fn whole(bytes: &[u8]) -> Result<Option<(ReceivedRequest, usize)>, &'static str> {
    let Some(head) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..head]).map_err(|_| "no text")?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("an odd first line");
    };
    if text.replace("\r\n", "").contains(['\r', '\n', '\0']) || method.is_empty() {
        return Err("an odd line end");
    }
    let (mut length, mut chunked, mut hosts) = (None, false, 0);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a line without a name")?;
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) {
            return Err("an odd name");
        }
        let value = value.trim_matches([' ', '\t']);
        match name.to_ascii_lowercase().replace('_', "-").as_str() {
            "host" => hosts += 1,
            "content-length" if name.contains('_') || length.is_some() => {
                return Err("two lengths");
            }
            "content-length" if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) => {
                return Err("an odd length");
            }
            "content-length" => length = value.parse::<usize>().ok(),
            "transfer-encoding" if name.contains('_') || chunked || value != "chunked" => {
                return Err("an odd coding");
            }
            "transfer-encoding" => chunked = true,
            "connection" if !value.eq_ignore_ascii_case("upgrade") => return Err("a hop"),
            "te" | "keep-alive" | "proxy-connection" => return Err("a hop"),
            _ => {}
        }
    }
    if hosts > 1 || (chunked && length.is_some()) {
        return Err("two hosts or framings");
    }
    let rest = &bytes[head + 4..];
    let body = if chunked { chunks(rest)? } else { plain(rest, length.unwrap_or(0)) };
    let Some((body, used)) = body else { return Ok(None) };
    Ok(Some((ReceivedRequest::new((method, target, &body)), head + 4 + used)))
}

type Body = Option<(String, usize)>;

fn plain(bytes: &[u8], length: usize) -> Body {
    let body = bytes.get(..length)?;
    Some((String::from_utf8_lossy(body).into_owned(), length))
}

fn chunks(bytes: &[u8]) -> Result<Body, &'static str> {
    let (mut body, mut at) = (Vec::new(), 0);
    let line = |at: usize| {
        let end = bytes[at..].windows(2).position(|w| w == b"\r\n")?;
        Some((&bytes[at..at + end], at + end + 2))
    };
    loop {
        let Some((size, next)) = line(at) else { return Ok(None) };
        let size = size.split(|b| *b == b';').next().unwrap_or_default();
        let hex =
            std::str::from_utf8(size).ok().filter(|s| s.bytes().all(|b| b.is_ascii_hexdigit()));
        let size =
            hex.and_then(|s| usize::from_str_radix(s, 16).ok()).ok_or("an odd chunk size")?;
        at = next;
        if size == 0 {
            break;
        }
        let Some(data) = bytes.get(at..at + size + 2) else { return Ok(None) };
        if !data.ends_with(b"\r\n") {
            return Err("a chunk longer than its size");
        }
        body.extend_from_slice(&data[..size]);
        at += size + 2;
    }
    loop {
        let Some((field, next)) = line(at) else { return Ok(None) };
        at = next;
        if field.is_empty() {
            return Ok(Some((String::from_utf8_lossy(&body).into_owned(), at)));
        }
        if field.contains(&b'\n') || field.contains(&b'\r') || !field.contains(&b':') {
            return Err("an odd trailer");
        }
    }
}
