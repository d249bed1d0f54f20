//! The header `Range` (RFC 9110, section 14): one range of bytes. Several at once are answered with the whole.

use hyper::HeaderMap;
use hyper::header::{IF_RANGE, RANGE};

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) length: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requested {
    Whole,
    Part(Span),
    /// Begins behind the end.
    Unsatisfiable,
}

/// Reads the headers for a file of `size` bytes, whose version is `tag`. What is no range counts as no header, and so does a
/// range of another version: a time in `If-Range` is none, because files have a tag.
pub(super) fn requested(headers: &HeaderMap, tag: &str, size: u64) -> Requested {
    if headers.get(IF_RANGE).is_some_and(|known| *known != *tag) {
        return Requested::Whole;
    }
    let mut ranges = headers.get_all(RANGE).iter();
    match (ranges.next().map(|range| range.to_str()), ranges.next()) {
        (Some(Ok(range)), None) => read(range, size),
        _ => Requested::Whole,
    }
}

fn read(text: &str, size: u64) -> Requested {
    let ranges = text.split_once('=').filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes"));
    let Some((_, ranges)) = ranges else { return Requested::Whole };
    // A list may hold empty elements (RFC 9110, section 5.6.1).
    let mut ranges = ranges.split(',').map(str::trim).filter(|range| !range.is_empty());
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Requested::Whole };
    let Some((first, last)) = range.split_once('-') else { return Requested::Whole };
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (start, end) = match (first, number(first), number(last)) {
        // The last bytes of nothing are the whole of it; there is no `Content-Range` for them.
        ("", _, Some(length)) if length > 0 && size == 0 => return Requested::Whole,
        ("", _, Some(length)) => (size - length.min(size), size),
        (_, Some(start), Some(last)) if start <= last => (start, last.saturating_add(1).min(size)),
        (_, Some(start), None) if last.is_empty() => (start, size),
        _ => return Requested::Whole,
    };
    match start < end {
        true => Requested::Part(Span { start, length: end - start }),
        false => Requested::Unsatisfiable,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_range_of_bytes_is_read_and_anything_else_is_the_whole() {
        let part = |start, length| Requested::Part(Span { start, length });
        for (text, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-5", part(2, 4)),
            ("bytes=2-", part(2, 8)),
            ("bytes=2-99", part(2, 8)),
            ("bytes=2-99999999999999999999999", part(2, 8)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-99", part(0, 10)),
            ("Bytes=, 2-5 ,", part(2, 4)),
            ("bytes=10-", Requested::Unsatisfiable),
            ("bytes=10-12", Requested::Unsatisfiable),
            ("bytes=-0", Requested::Unsatisfiable),
            ("bytes=5-2", Requested::Whole),
            ("bytes=0-1,4-5", Requested::Whole),
            ("bytes=-", Requested::Whole),
            ("bytes=", Requested::Whole),
            ("bytes=a-b", Requested::Whole),
            ("bytes=+1-2", Requested::Whole),
            ("bytes=1-2-3", Requested::Whole),
            ("items=0-1", Requested::Whole),
            ("", Requested::Whole),
        ] {
            assert_eq!(read(text, 10), expected, "{text}");
        }
        assert_eq!(read("bytes=0-", 0), Requested::Unsatisfiable);
        assert_eq!(read("bytes=-1", 0), Requested::Whole);
    }

    #[test]
    fn two_headers_or_another_version_are_the_whole() {
        let read = |lines: &[(hyper::header::HeaderName, &'static str)]| {
            let lines = lines.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
            let mut headers = HeaderMap::new();
            lines.for_each(|(name, value)| _ = headers.append(name, value));
            requested(&headers, "\"a\"", 10) == Requested::Whole
        };
        assert!(!read(&[(RANGE, "bytes=0-1")]));
        assert!(!read(&[(RANGE, "bytes=0-1"), (IF_RANGE, "\"a\"")]));
        assert!(read(&[(RANGE, "bytes=0-1"), (IF_RANGE, "\"b\"")]));
        assert!(read(&[(RANGE, "bytes=0-1"), (IF_RANGE, "W/\"a\"")]));
        assert!(read(&[(RANGE, "bytes=0-1"), (IF_RANGE, "Mon, 30 Nov 2026 10:00:00 GMT")]));
        assert!(read(&[(RANGE, "bytes=0-1"), (RANGE, "bytes=4-5")]));
        assert!(read(&[]));
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file(text in "(bytes=)?[0-9]{0,20}-?[0-9]{0,20}(,.{0,3})?", size: u64) {
            if let Requested::Part(Span { start, length }) = read(&text, size) {
                prop_assert!(length > 0 && start.checked_add(length).is_some_and(|end| end <= size));
            }
        }

        #[test]
        fn a_range_of_numbers_is_what_it_says(first: u64, last: u64, size: u64) {
            let expected = match () {
                () if first > last => Requested::Whole,
                () if first >= size => Requested::Unsatisfiable,
                () => {
                    let end = last.min(size - 1);
                    Requested::Part(Span { start: first, length: end - first + 1 })
                }
            };
            prop_assert_eq!(read(&format!("bytes={first}-{last}"), size), expected);
        }
    }
}
