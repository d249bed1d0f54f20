//! When a rollout may replace a running tenant. Pure.

use std::fmt;
use std::str::FromStr;

use chrono::NaiveTime;
use protocol::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    Always,
    /// Only tenants that do not run.
    Idle,
    /// Every day between two times in UTC; past midnight when `until` is earlier.
    Daily {
        from: NaiveTime,
        until: NaiveTime,
    },
}

/// The text is no window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidWindow;

impl fmt::Display for InvalidWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be idle, or two different times of day in UTC, like 02:00-04:00")
    }
}

impl FromStr for Window {
    type Err = InvalidWindow;

    fn from_str(text: &str) -> Result<Self, InvalidWindow> {
        if text == "idle" {
            return Ok(Self::Idle);
        }
        let time = |text: &str| NaiveTime::parse_from_str(text, "%H:%M").map_err(|_| InvalidWindow);
        let (from, until) = text.split_once('-').ok_or(InvalidWindow)?;
        let (from, until) = (time(from)?, time(until)?);
        if from == until { Err(InvalidWindow) } else { Ok(Self::Daily { from, until }) }
    }
}

impl Window {
    /// Reads the window of a stored rollout; none is any time.
    ///
    /// # Errors
    /// When the text is no window.
    pub fn parse(text: Option<&str>) -> Result<Self, InvalidWindow> {
        text.map_or(Ok(Self::Always), str::parse)
    }

    /// Whether a running tenant may be replaced at `now`.
    pub fn is_open(self, now: Timestamp) -> bool {
        match self {
            Self::Always => true,
            Self::Idle => false,
            Self::Daily { from, until } => {
                let now = now.time();
                if from < until { (from..until).contains(&now) } else { now >= from || now < until }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_open_between_its_times() {
        let is_open = |window: &str, time: &str| {
            let at = format!("2026-11-29T{time}Z").parse::<Timestamp>().unwrap();
            window.parse::<Window>().unwrap().is_open(at)
        };
        for (window, time, expected) in [
            ("02:00-04:00", "01:59:59", false),
            ("02:00-04:00", "02:00:00", true),
            ("02:00-04:00", "03:59:59", true),
            ("02:00-04:00", "04:00:00", false),
            ("22:30-01:00", "22:29:59", false),
            ("22:30-01:00", "23:00:00", true),
            ("22:30-01:00", "00:59:59", true),
            ("22:30-01:00", "01:00:00", false),
            ("idle", "12:00:00", false),
        ] {
            assert_eq!(is_open(window, time), expected, "{window} at {time}");
        }
        assert_eq!(Window::parse(None), Ok(Window::Always));
    }

    #[test]
    fn other_texts_are_no_windows() {
        for text in ["", "night", "02:00", "02:00-02:00", "2-4", "24:00-01:00", "02:00-04:00-06:00"]
        {
            assert_eq!(text.parse::<Window>(), Err(InvalidWindow), "{text}");
        }
    }
}
