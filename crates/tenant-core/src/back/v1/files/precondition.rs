//! The headers `If-Match` and `If-None-Match` (RFC 9110, section 13) of a request that reads.

use hyper::HeaderMap;
use hyper::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precondition {
    Fulfilled,
    /// 412: what is there is not what the caller expects.
    Failed,
    /// 304: the caller has what is there.
    NotModified,
}

/// Compares the headers with the tag of what is there. Times are not compared: files have a tag, and no `Last-Modified`.
pub(super) fn evaluate(headers: &HeaderMap, tag: &str) -> Precondition {
    let has = |name: &HeaderName| headers.contains_key(name);
    // A weak tag never equals a strong one in `If-Match`, and does in `If-None-Match` (section 8.8.3.2).
    if has(&IF_MATCH) && !tags(headers, &IF_MATCH).any(|known| known == "*" || known == tag) {
        return Precondition::Failed;
    }
    let is_known = |known: &str| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag;
    if tags(headers, &IF_NONE_MATCH).any(is_known) {
        return Precondition::NotModified;
    }
    Precondition::Fulfilled
}

/// The members of a list of tags, which may have several lines. A tag of ours holds no comma; a part of another one that does
/// equals none of ours.
fn tags<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_as_the_standard_says() {
        use Precondition::{Failed, Fulfilled, NotModified};
        const TAG: &str = "\"a-1\"";
        let headers = |lines: &[(HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, value.parse().unwrap());
            }
            headers
        };
        for (lines, expected) in [
            (vec![], Fulfilled),
            (vec![(IF_MATCH, "*")], Fulfilled),
            (vec![(IF_MATCH, TAG)], Fulfilled),
            (vec![(IF_MATCH, "\"b\" , \"a-1\"")], Fulfilled),
            (vec![(IF_MATCH, "\"b\""), (IF_MATCH, TAG)], Fulfilled),
            (vec![(IF_MATCH, "\"b\"")], Failed),
            (vec![(IF_MATCH, "W/\"a-1\"")], Failed),
            (vec![(IF_MATCH, "a-1")], Failed),
            (vec![(IF_MATCH, "")], Failed),
            (vec![(IF_NONE_MATCH, "*")], NotModified),
            (vec![(IF_NONE_MATCH, TAG)], NotModified),
            (vec![(IF_NONE_MATCH, "W/\"a-1\"")], NotModified),
            (vec![(IF_NONE_MATCH, "\"b\",,\"a-1\"")], NotModified),
            (vec![(IF_NONE_MATCH, "\"b\"")], Fulfilled),
            (vec![(IF_NONE_MATCH, "a-1")], Fulfilled),
            (vec![(IF_MATCH, TAG), (IF_NONE_MATCH, TAG)], NotModified),
            (vec![(IF_MATCH, "\"b\""), (IF_NONE_MATCH, TAG)], Failed),
        ] {
            assert_eq!(evaluate(&headers(&lines), TAG), expected, "{lines:?}");
        }
    }
}
