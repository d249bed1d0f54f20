//! Times for people: ages in tables, and `--since 10m`.

use chrono::{DateTime, SecondsFormat, TimeDelta};
use protocol::Timestamp;

use crate::args::parse_duration;

/// An age of one unit, like `3m`; a time ahead begins with `in`.
pub(crate) fn age(at: Timestamp, now: Timestamp) -> String {
    let age = now - at;
    if age < TimeDelta::seconds(-1) {
        return format!("in {}", span(-age));
    }
    span(age)
}

fn span(span: TimeDelta) -> String {
    let seconds = span.num_seconds().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Reads a time of RFC 3339, or an age like `10m`, and writes it by RFC 3339.
///
/// # Errors
/// The text is neither; the error is the rule.
pub(crate) fn parse_moment(text: &str, now: Timestamp) -> Result<String, String> {
    let moment = match DateTime::parse_from_rfc3339(text) {
        Ok(moment) => moment.to_utc(),
        Err(_) => parse_duration(text)
            .ok()
            .and_then(|age| now.checked_sub_signed(TimeDelta::from_std(age).ok()?))
            .ok_or("must be a time like 2026-11-29T12:00:00Z or an age like 10m")?,
    };
    Ok(moment.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn ages_have_one_unit() {
        let now = at("2026-11-29T12:00:00Z");
        for (then, shown) in [
            ("2026-11-29T12:00:00Z", "0s"),
            ("2026-11-29T11:58:01Z", "119s"),
            ("2026-11-29T11:58:00Z", "2m"),
            ("2026-11-29T10:00:00Z", "2h"),
            ("2026-11-27T12:00:00Z", "2d"),
            ("2026-12-29T12:00:00Z", "in 30d"),
        ] {
            assert_eq!(age(at(then), now), shown);
        }
    }

    #[test]
    fn moments_are_times_or_ages() {
        let now = at("2026-11-29T12:00:00Z");
        assert_eq!(parse_moment("10m", now), Ok("2026-11-29T11:50:00.000Z".to_owned()));
        let time = "2026-11-29T12:00:00.5+01:00";
        assert_eq!(parse_moment(time, now), Ok("2026-11-29T11:00:00.500Z".to_owned()));
        for bad in ["", "yesterday", "10", "2026-11-29"] {
            assert!(parse_moment(bad, now).is_err(), "{bad}");
        }
    }
}
