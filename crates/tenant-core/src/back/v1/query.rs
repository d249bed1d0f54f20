//! The parameters in the address of a call. Every fault is named; an unknown or repeated parameter is one.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use protocol::files::FilePath;
use protocol::problem::Code;
use protocol::{Problem, Timestamp};
use uuid::Uuid;

use crate::channel::parse_id;
use crate::history::Millis;
use crate::history::page::{PageRequest, Position};

const MAX_TEXT_CHARS: usize = 100;

pub(super) struct Query<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// # Errors
    /// For a parameter that is not `known`, comes twice, or is no UTF-8.
    pub(super) fn parse(query: Option<&'a str>, known: &[&str]) -> Result<Self, Box<Problem>> {
        let mut all: Vec<(&str, Cow<'_, str>)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) {
                let known = known.join(", ");
                return Err(fault(format!("there is no such parameter here; known: {known}")));
            }
            if all.iter().any(|(other, _)| *other == name) {
                return Err(fault(format!("{name} must be given once")));
            }
            // A plus sign stays: times have one, and no value here has a blank.
            let value = percent_decode_str(value).decode_utf8();
            all.push((name, value.map_err(|_| fault(format!("{name} must be UTF-8")))?));
        }
        Ok(Self(all))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_ref())
    }

    pub(super) fn file_path(&self, name: &str) -> Result<Option<FilePath>, Box<Problem>> {
        let read = |value: &str| FilePath::try_from(value.to_owned());
        let read = self.get(name).map(read).transpose();
        read.map_err(|rule| fault(format!("{name} {rule}")))
    }

    pub(super) fn limit(&self) -> Result<Option<u32>, Box<Problem>> {
        self.get("limit").map(parse_limit).transpose()
    }

    /// A whole number that must be given.
    pub(super) fn number(&self, name: &str) -> Result<u64, Box<Problem>> {
        let text = self.get(name).unwrap_or_default();
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_number.then(|| text.parse().ok()).flatten();
        number.ok_or_else(|| fault(format!("{name} must be a whole number")))
    }

    pub(super) fn id(&self, name: &str) -> Result<Option<Uuid>, Box<Problem>> {
        let read = |value| parse_id(value).ok_or_else(|| fault(format!("{name} must be a UUID")));
        self.get(name).map(read).transpose()
    }

    pub(super) fn short_text(&self, name: &str) -> Result<Option<String>, Box<Problem>> {
        let read = |value: &str| match value.chars().count() {
            1..=MAX_TEXT_CHARS => Ok(value.to_owned()),
            _ => Err(fault(format!("{name} must have 1 to {MAX_TEXT_CHARS} characters"))),
        };
        self.get(name).map(read).transpose()
    }

    /// The page that `limit`, `before_ts` and `cursor` ask for.
    pub(super) fn page(&self) -> Result<PageRequest, Box<Problem>> {
        let limit = self.limit()?;
        let before_ts = self.get("before_ts").map(parse_time).transpose()?;
        let cursor = |text| {
            let problem = || fault("cursor must be the `next` of another page".to_owned());
            Position::from_cursor(text).ok_or_else(problem)
        };
        Ok(PageRequest::new(limit, before_ts, self.get("cursor").map(cursor).transpose()?))
    }
}

/// Clamped later, so that a huge number is as good as a large one.
fn parse_limit(text: &str) -> Result<u32, Box<Problem>> {
    match !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        true => Ok(text.parse().unwrap_or(u32::MAX)),
        false => Err(fault("limit must be a whole number".to_owned())),
    }
}

/// The first stored millisecond that is not older than the time: what is stored before it is strictly older.
fn parse_time(text: &str) -> Result<Millis, Box<Problem>> {
    let time = Timestamp::from(chrono::DateTime::parse_from_rfc3339(text).map_err(|_| {
        fault("before_ts must be an RFC3339 timestamp (e.g. 2026-05-01T00:00:00Z)".to_owned())
    })?);
    let is_between = time.timestamp_subsec_nanos() % 1_000_000 != 0;
    Ok(time.timestamp_millis() + Millis::from(is_between))
}

fn fault(detail: String) -> Box<Problem> {
    Box::new(Problem::new(Code::InvalidQuery, detail))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: [&str; 4] = ["peer_id", "limit", "before_ts", "cursor"];

    fn detail(query: &str) -> String {
        let parsed = Query::parse(Some(query), &KNOWN);
        let checked = parsed.and_then(|query| query.id("peer_id").and(query.page().map(drop)));
        checked.map_or_else(
            |problem| format!("{} {}", problem.status, problem.detail),
            |()| String::new(),
        )
    }

    #[test]
    fn each_fault_is_named() {
        let uuid = "400 peer_id must be a UUID";
        let time = "400 before_ts must be an RFC3339 timestamp (e.g. 2026-05-01T00:00:00Z)";
        for (query, expected) in [
            ("", ""),
            ("peer_id=0192F0C1-2345-7abc-8def-0123456789ab&limit=2", ""),
            ("peer_id=not-a-uuid", uuid),
            ("peer_id=", uuid),
            ("peer_id", uuid),
            ("peer_id=%27%20OR%201%3D1%20--", uuid),
            ("peer_id=0192f0c123457abc8def0123456789ab", uuid),
            ("before_ts=garbage", time),
            ("before_ts=2026-05-01", time),
            ("before_ts=2026-05-01T00:00:00", time),
            ("before_ts=2026-05-01T00:00:00%2B00:00", ""),
            ("before_ts=2026-05-01T00:00:00+00:00", ""),
            ("limit=many", "400 limit must be a whole number"),
            ("limit=-1", "400 limit must be a whole number"),
            ("limit=0", ""),
            ("limit=99999999999999999999", ""),
            ("cursor=x", "400 cursor must be the `next` of another page"),
            ("limit=1&limit=2", "400 limit must be given once"),
            ("limit=%ff", "400 limit must be UTF-8"),
            (
                "peer=1",
                "400 there is no such parameter here; known: peer_id, limit, before_ts, cursor",
            ),
        ] {
            assert_eq!(detail(query), expected, "{query}");
        }
    }

    #[test]
    fn a_time_between_two_milliseconds_is_after_the_first() {
        for (text, millis) in [
            ("1970-01-01T00:00:00.001Z", 1),
            ("1970-01-01T00:00:00.0010001Z", 2),
            ("1970-01-01T01:00:00.002+01:00", 2),
            ("1969-12-31T23:59:59.9990001Z", 0),
        ] {
            assert_eq!(parse_time(text).unwrap(), millis, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query in "\\PC{0,200}", name in 0..KNOWN.len()) {
            detail(&query);
            detail(&format!("{}={query}", KNOWN[name]));
        }
    }
}
