//! Formats times, durations and sizes for people. Pure.

use protocol::Timestamp;

/// "3 min ago". The page shows the exact time beside it.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = (now - at).num_seconds().max(0);
    match seconds {
        0..5 => "just now".to_owned(),
        5..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// "in 3 min": the time until `at`, rounded.
pub fn within(at: Timestamp, now: Timestamp) -> String {
    match u32::try_from((at - now).num_seconds()) {
        Ok(seconds) if seconds > 0 => format!("in {}", rounded(seconds)),
        Ok(_) | Err(_) => "any moment".to_owned(),
    }
}

/// The time since `since`, rounded.
pub fn elapsed(since: Timestamp, now: Timestamp) -> String {
    rounded(u32::try_from((now - since).num_seconds()).unwrap_or_default())
}

/// The exact duration: "1 h 30 min".
pub fn span(seconds: u32) -> String {
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let words = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n} {unit}"));
    let words = words.collect::<Vec<_>>().join(" ");
    if words.is_empty() { "0 s".to_owned() } else { words }
}

/// The duration in its largest unit, rounded down.
fn rounded(seconds: u32) -> String {
    match seconds {
        0..60 => span(seconds),
        60..3_600 => span(seconds / 60 * 60),
        3_600..86_400 => span(seconds / 3_600 * 3_600),
        _ => span(seconds / 86_400 * 86_400),
    }
}

/// "412 ms", "1.4 s".
pub fn millis(millis: u32) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        _ => format!("{}.{} s", millis / 1_000, millis / 100 % 10),
    }
}

/// Thousandths as a decimal number: 500 is "0.5".
pub fn thousandths(millis: u32) -> String {
    let text = format!("{}.{:03}", millis / 1_000, millis % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub fn bytes(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 && b.is_multiple_of(1 << 30) => format!("{} GiB", b >> 30),
        b => format!("{} MiB", b >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_timestamp(1_700_000_000 + second, 0).unwrap()
    }

    #[test]
    fn times_are_rounded() {
        let said = [-5, 0, 7, 61, 7_300, 200_000].map(|s| ago(at(0), at(s)));
        assert_eq!(said, ["just now", "just now", "7 s ago", "1 min ago", "2 h ago", "2 d ago"]);
        let said = [-5, 0, 7, 61, 7_300].map(|s| within(at(s), at(0)));
        assert_eq!(said, ["any moment", "any moment", "in 7 s", "in 1 min", "in 2 h"]);
        assert_eq!([-5, 119, 200_000].map(|s| elapsed(at(0), at(s))), ["0 s", "1 min", "2 d"]);
    }

    #[test]
    fn spans_are_exact() {
        let said = [0, 59, 60, 90, 3_600, 5_400, 86_400, 90_061].map(span);
        let expected =
            ["0 s", "59 s", "1 min", "1 min 30 s", "1 h", "1 h 30 min", "1 d", "1 d 1 h 1 min 1 s"];
        assert_eq!(said, expected);
        assert_eq!([7, 999, 1_000, 61_980].map(millis), ["7 ms", "999 ms", "1.0 s", "61.9 s"]);
        assert_eq!([10, 500, 2_000].map(thousandths), ["0.01", "0.5", "2"]);
        assert_eq!([256 << 20, 4 << 30].map(bytes), ["256 MiB", "4 GiB"]);
    }
}
