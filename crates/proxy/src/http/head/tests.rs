use proptest::prelude::*;

use super::*;
use crate::http::write;

struct Plain;

impl crate::Exchange for Plain {
    fn upstream(&self) -> &crate::Upstream {
        unreachable!("a head alone goes nowhere")
    }
}

#[test]
fn targets_by_the_table() {
    for (method, target, read) in [
        ("GET", "/", Some((None, "/"))),
        ("GET", "/a?b=http://c", Some((None, "/a?b=http://c"))),
        ("GET", "//a/b", Some((None, "//a/b"))),
        ("GET", "http://a", Some((Some("a"), "/"))),
        ("GET", "HTTPS://a:1/b?c", Some((Some("a:1"), "/b?c"))),
        ("OPTIONS", "*", Some((None, "*"))),
        ("OPTIONS", "http://a", Some((Some("a"), "*"))),
        ("GET", "*", None),
        ("GET", "", None),
        ("GET", "a", None),
        ("GET", "a:80", None),
        ("GET", "http:/a", None),
        ("GET", "http:///a", None),
        ("GET", "http://?a", None),
        ("GET", "http://u@a/", None),
        ("GET", "http://a\\b/", None),
        ("GET", "http://a?b", Some((Some("a"), "/?b"))),
        ("OPTIONS", "http://a?b", Some((Some("a"), "/?b"))),
        ("GET", "http://a?http://b/c", Some((Some("a"), "/?http://b/c"))),
        ("GET", "ws://a/", None),
        ("GET", "://a/", None),
        ("GET", "/a#b", None),
        ("GET", "/ä", None),
        ("GET", "/<b>", None),
        ("GET", "/a?b=\"c", None),
        ("GET", "/`", None),
        ("GET", "/?q=`ls`", Some((None, "/?q=`ls`"))),
        ("GET", "/{a}|^\\", Some((None, "/{a}|^\\"))),
    ] {
        assert_eq!(
            split_target(method, target, &mut String::new()).ok(),
            read,
            "{method} {target}"
        );
    }
}

/// The URL standard percent-encodes the query set in a query and the path set in a path; everything else stays raw.
#[test]
fn every_byte_that_a_browser_leaves_raw_passes_unchanged() {
    let is_control_or_non_ascii = |byte: u8| byte <= b' ' || byte >= 0x7f;
    let is_raw_in_query = |byte: u8| !is_control_or_non_ascii(byte) && !b"\"#<>".contains(&byte);
    let is_raw_in_path = |byte: u8| is_raw_in_query(byte) && !b"?^`{}".contains(&byte);
    let settings = Settings::default();
    for byte in 0..=u8::MAX {
        for (start, is_raw) in [("/a", is_raw_in_path(byte)), ("/a?q=", is_raw_in_query(byte))] {
            let target = [start.as_bytes(), &[byte], b"z"].concat();
            let text = [b"GET ", &target[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            let read = RequestHead::read(&text, &settings, |head| {
                head.map(|head| head.target().as_bytes().to_vec())
            });
            let accepts_more = start == "/a" && b"?^{}".contains(&byte);
            match read {
                Ok(read) => {
                    assert!(is_raw || accepts_more, "{byte:#x} after {start}");
                    assert_eq!(read, target);
                }
                Err(error) => assert!(!is_raw, "{byte:#x} after {start}: {error:?}"),
            }
        }
    }
}

#[test]
fn the_authority_of_the_target_replaces_the_host_header() {
    let settings = Settings::default();
    let text = b"GET http://other.example/x HTTP/1.1\r\nA: b\r\nhost: a\r\nC: d\r\n\r\n";
    RequestHead::read(text, &settings, |head| {
        let head = head.unwrap();
        assert_eq!(head.get("host"), Some(&b"other.example"[..]));
        let mut out = Vec::new();
        write::request(&head, &Plain, &mut out);
        let written = "GET /x HTTP/1.1\r\nA: b\r\nhost: other.example\r\nC: d\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), written);
    });
    let text = b"GET http://a/x HTTP/1.1\r\nA: b\r\n\r\n";
    let missing = RequestHead::read(text, &settings, |head| head.map(|_| ()));
    assert_eq!(missing, Err(ProxyError::MissingHost));
}

proptest! {
    /// An upstream that parses the written head must see the same request as the engine saw.
    #[test]
    fn what_goes_out_reads_as_what_came_in(
        method in "GET|POST|PUT|HEAD|OPTIONS",
        target in "/[a-z/?%.]{0,10}|http://a/x|\\*",
        lines in proptest::collection::vec((
            "(?i)content-length|transfer-encoding|connection|te|x-a|x-b|upgrade|expect|keep-alive",
            "[0-9]{1,3}|(?i)chunked|close|keep-alive|x-a|te, x-b|gzip|[ -~]{0,8}",
        ), 0..5),
    ) {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n");
        lines.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        text.push_str("\r\n");
        let settings = Settings::default();
        let written = RequestHead::read(text.as_bytes(), &settings, |head| {
            let head = head.ok()?;
            let mut out = Vec::new();
            write::request(&head, &Plain, &mut out);
            Some((out, head.info.framing, head.target().to_owned()))
        });
        if let Some((out, framing, target)) = written {
            let again = RequestHead::read(&out, &settings, |head| {
                let head = head.map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
                prop_assert!(head.headers().all(|h| !h.is("connection") && !h.is("te")));
                Ok((head.info.framing, head.target().to_owned()))
            });
            prop_assert_eq!(again?, (framing, target));
        }
    }

    /// The fast path must accept only heads for which a scan finds the same end.
    #[test]
    fn a_head_found_at_once_is_the_head_that_a_scan_finds(
        parts in proptest::collection::vec(
            "\r\n|\n|\r| |\t|GET / HTTP/1.1|HTTP/1.1 200 OK|HTTP/1.1 200|Host: a|X: y |X:|: y|Content-Length: 1|x",
            0..9),
    ) {
        let text = ["GET / HTTP/1.1\r\nHost: a\r\n", &parts.concat(), "\r\n\r\n"].concat();
        let response = text.replacen("GET / HTTP/1.1", "HTTP/1.1 200 OK", 1);
        let settings = Settings::default();
        for text in [text.as_str(), &parts.concat(), &format!("{}\r\n\r\n", parts.concat())] {
            let bytes = text.as_bytes();
            let scanned = HeadScan::default().end(bytes);
            let whole = |end: usize| {
                RequestHead::read(&bytes[..end], &settings, |h| h.map(|h| h.info))
            };
            RequestHead::find(bytes, &settings, |head, end| {
                let info = head.map(|h| h.info);
                match scanned {
                    Ok(Some(right)) => prop_assert_eq!((&info, end), (&whole(right), right)),
                    Ok(None) | Err(_) => prop_assert!(info.is_err(), "{:?}", text),
                }
                Ok(())
            })?;
        }
        for text in [response.as_str(), &parts.concat()] {
            let bytes = text.as_bytes();
            let none = RequestInfo::UNPARSED;
            let found = ResponseHead::find(bytes, &settings, &none, |h, end| (h.map(|h| h.info), end));
            if let Some((info, end)) = found {
                prop_assert_eq!(HeadScan::default().end(bytes), Ok(Some(end)));
                let read = ResponseHead::read(&bytes[..end], &settings, &none, |h| h.map(|h| h.info));
                prop_assert_eq!(info, read);
            }
        }
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let settings = Settings::default();
        RequestHead::read(&bytes, &settings, |_| ());
        ResponseHead::read(&bytes, &settings, &RequestInfo::UNPARSED, |_| ());
    }
}
