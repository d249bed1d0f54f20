//! The tokens that a reply counts against the quota of its tenant. Pure.
//!
//! A reply reserves an estimate before it begins, in the same statement that checks the quota, so that requests at the same moment
//! do not pass it together. When it ends, what it took replaces the estimate.

use std::time::Duration;

use chrono::{Days, NaiveTime};
use protocol::Timestamp;

use super::completion::Usage;

/// Bytes of a token in English text. Other scripts have more tokens, which the count of the endpoint says.
const BYTES_PER_TOKEN: usize = 4;
/// The tokens that a reply reserves for its own text, unless the operator bounds replies.
const DEFAULT_REPLY_TOKENS: i64 = 1_024;

/// The tokens of a request by the bytes of its texts.
pub fn estimate(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u64::MAX)
}

/// The tokens that a reply reserves.
pub fn reservation(prompt_bytes: usize, max_tokens: Option<i32>) -> i64 {
    let prompt = i64::try_from(estimate(prompt_bytes)).unwrap_or(i64::MAX);
    prompt.saturating_add(max_tokens.map_or(DEFAULT_REPLY_TOKENS, i64::from))
}

/// How far a reply came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The endpoint was not reached, or refused the request.
    Refused,
    /// The endpoint may have worked for it, also before it said anything, and did not come to the end.
    Partial,
    Whole,
}

/// The tokens that a reply took: as the endpoint counted, otherwise by its bytes. A partial one takes what was reserved at least:
/// what the endpoint read and thought until then is not known, and the operator pays for it.
pub fn taken(
    progress: Progress,
    counted: Option<Usage>,
    reserved: i64,
    prompt_bytes: usize,
    reply_bytes: usize,
) -> Usage {
    if progress == Progress::Refused {
        return Usage::default();
    }
    let mut taken = counted.unwrap_or_else(|| Usage {
        prompt_tokens: estimate(prompt_bytes),
        completion_tokens: estimate(reply_bytes),
    });
    if progress == Progress::Partial {
        let reserved = u64::try_from(reserved).unwrap_or_default();
        let missing = reserved.saturating_sub(taken.total());
        taken.completion_tokens = taken.completion_tokens.saturating_add(missing);
    }
    taken
}

/// The number of the minute since 1970.
pub const fn minute(now: Timestamp) -> i64 {
    now.timestamp().div_euclid(60)
}

/// The time until the next minute begins.
pub fn until_next_minute(now: Timestamp) -> Duration {
    Duration::from_secs(60 - u64::try_from(now.timestamp().rem_euclid(60)).unwrap_or_default())
}

/// The time until the next day of UTC begins.
pub fn until_next_day(now: Timestamp) -> Duration {
    let next = now.date_naive().checked_add_days(Days::new(1)).unwrap_or_default();
    let wait = next.and_time(NaiveTime::MIN).and_utc() - now;
    // A response names whole seconds.
    wait.to_std().unwrap_or_default() + Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_reply_reserves_its_prompt_and_its_longest_text() {
        for (bytes, max_tokens, expected) in
            [(0, None, 1_024), (1, None, 1_025), (400, Some(50), 150), (401, Some(50), 151)]
        {
            assert_eq!(reservation(bytes, max_tokens), expected, "{bytes} {max_tokens:?}");
        }
    }

    #[test]
    fn the_count_of_the_endpoint_goes_before_an_estimate() {
        let counted = Usage { prompt_tokens: 7, completion_tokens: 2 };
        assert_eq!(taken(Progress::Whole, Some(counted), 2_024, 4_000, 400), counted);
        let estimated = Usage { prompt_tokens: 1_000, completion_tokens: 100 };
        assert_eq!(taken(Progress::Whole, None, 2_024, 4_000, 400), estimated);
    }

    #[test]
    fn only_a_refused_request_gives_its_reservation_back() {
        let early = Usage { prompt_tokens: 1_000, completion_tokens: 1 };
        let much = Usage { prompt_tokens: 1_000, completion_tokens: 9_000 };
        for (progress, counted, reply_bytes, expected) in [
            (Progress::Refused, None, 0, 0),
            (Progress::Partial, None, 0, 2_024),
            (Progress::Partial, None, 400, 2_024),
            (Progress::Partial, None, 8_000, 3_000),
            (Progress::Partial, Some(early), 400, 2_024),
            (Progress::Partial, Some(much), 400, 10_000),
        ] {
            let taken = taken(progress, counted, 2_024, 4_000, reply_bytes);
            assert_eq!(taken.total(), expected, "{progress:?} {counted:?} {reply_bytes}");
        }
    }

    #[test]
    fn waits_end_with_the_minute_and_with_the_day() {
        assert_eq!(until_next_minute(at("2026-11-30T10:00:00Z")).as_secs(), 60);
        assert_eq!(until_next_minute(at("2026-11-30T10:00:59Z")).as_secs(), 1);
        assert_eq!(minute(at("1970-01-01T00:01:59Z")), 1);
        assert_eq!(until_next_day(at("2026-11-30T23:59:59Z")).as_secs(), 2);
        assert_eq!(until_next_day(at("2026-12-31T00:00:00Z")).as_secs(), 86_401);
    }
}
