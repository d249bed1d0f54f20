//! When a tenant is due, and which backups stay. Pure: the time is an argument.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::Datelike as _;
use protocol::Timestamp;

use crate::work::triggers::schedule::Schedule;

/// A tenant that does not rest for so long after its time is reported.
pub const OVERDUE_AFTER: Duration = Duration::from_secs(12 * 3_600);
/// A tenant that froze more recently may be in use: its visitor would wait for the copy.
pub const FROZEN_FOR: Duration = Duration::from_secs(300);
/// Doubles with each failure in a row.
const RETRY_DELAY: Duration = Duration::from_secs(60);
const MAX_DOUBLINGS: u32 = 6;
/// The longest delay after a failure.
pub const MAX_RETRY_DELAY: Duration = Duration::from_secs(60 << MAX_DOUBLINGS);
const MAX_AWAKE_DELAY: Duration = Duration::from_secs(30 * 60);
const MAX_CLOCK_STEP: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Returns the latest time of the schedule after `planned_until`, up to `now`. Of several times that passed one backup is made.
pub fn last_due(
    schedule: &Schedule,
    planned_until: Timestamp,
    now: Timestamp,
) -> Option<Timestamp> {
    // A schedule of every minute has half a million times a year: the last day is enough for it.
    let recent = last_between(schedule, planned_until.max(now - DAY), now);
    recent.or_else(|| last_between(schedule, planned_until, now))
}

fn last_between(schedule: &Schedule, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
    let next = |time: &Timestamp| schedule.next_after(*time).filter(|time| *time <= until);
    std::iter::successors(Some(after), next).skip(1).last()
}

/// No replica plans ahead, so a replica with a wrong clock planned a time that lies so far ahead. No tenant would be due until then.
pub fn is_of_wrong_clock(planned_until: Timestamp, now: Timestamp) -> bool {
    planned_until > now + MAX_CLOCK_STEP
}

pub fn is_overdue(due_at: Timestamp, now: Timestamp) -> bool {
    due_at + OVERDUE_AFTER < now
}

/// The delay of a tenant that woke up before it could be copied: an eighth of the time that it has waited. A tenant that never gets
/// ready looks as if it rested; it is tried less and less often.
pub fn awake_delay(due_at: Timestamp, now: Timestamp) -> Duration {
    let waited = (now - due_at).to_std().unwrap_or_default();
    (waited / 8).clamp(RETRY_DELAY, MAX_AWAKE_DELAY)
}

/// The delay after so many failures in a row.
pub fn retry_delay(failures: i32) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or_default();
    RETRY_DELAY * (1 << doublings.min(MAX_DOUBLINGS))
}

/// How many backups of a tenant stay. The latest always stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The last of each of so many days on which backups were made.
    pub daily: usize,
    /// The last of each of so many weeks.
    pub weekly: usize,
}

impl Retention {
    /// Whether a backup that the store has lost is so old that it would be gone, or unlikely to come back.
    pub fn forgets(self, taken_at: Timestamp, now: Timestamp) -> bool {
        const MIN_DAYS: usize = 30;
        let days = MIN_DAYS.max(self.daily).max(self.weekly * 7);
        let age = (now - taken_at).num_days();
        usize::try_from(age).is_ok_and(|age| age > days)
    }

    /// Returns which of one tenant's backups the rule deletes.
    pub fn expired<I: Copy + Ord>(self, backups: &[(I, Timestamp)]) -> Vec<I> {
        let mut latest_first = backups.to_vec();
        latest_first.sort_by_key(|(id, taken_at)| std::cmp::Reverse((*taken_at, *id)));
        let (mut days, mut weeks) = (BTreeSet::new(), BTreeSet::new());
        let mut expired = Vec::new();
        for (n, (id, taken_at)) in latest_first.into_iter().enumerate() {
            let (day, week) = (taken_at.date_naive(), taken_at.iso_week());
            let is_of_new_day = days.len() < self.daily && days.insert(day);
            let is_of_new_week =
                weeks.len() < self.weekly && weeks.insert((week.year(), week.week()));
            if n > 0 && !is_of_new_day && !is_of_new_week {
                expired.push(id);
            }
        }
        expired
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} daily, {} weekly", self.daily, self.weekly)
    }
}

impl FromStr for Retention {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must look like 7 daily, 4 weekly";
        const MAX: usize = 1_000;
        let mut retention = Self { daily: 0, weekly: 0 };
        for part in text.split(',') {
            let (count, unit) = part.trim().split_once(' ').ok_or(RULE)?;
            let count: usize = count.parse().map_err(|_| RULE)?;
            let field = match unit.trim() {
                "daily" => &mut retention.daily,
                "weekly" => &mut retention.weekly,
                _ => return Err(RULE),
            };
            if *field > 0 || count == 0 || count > MAX {
                return Err("must name daily and weekly at most once, with 1 to 1000 each");
            }
            *field = count;
        }
        Ok(retention)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn one_backup_is_due_however_many_times_passed() {
        let table = [
            ("0 2 * * *", "2026-11-30T02:00:00Z", "2026-12-01T01:59:59Z", None),
            (
                "0 2 * * *",
                "2026-11-30T02:00:00Z",
                "2026-12-01T02:00:00Z",
                Some("2026-12-01T02:00:00Z"),
            ),
            (
                "0 2 * * *",
                "2026-11-01T02:00:00Z",
                "2026-12-01T01:00:00Z",
                Some("2026-11-30T02:00:00Z"),
            ),
            (
                "* * * * *",
                "1990-01-01T00:00:00Z",
                "2026-12-01T01:00:30Z",
                Some("2026-12-01T01:00:00Z"),
            ),
            (
                "0 3 1 * *",
                "2026-09-15T00:00:00Z",
                "2026-11-20T00:00:00Z",
                Some("2026-11-01T03:00:00Z"),
            ),
            // A clock that stepped back.
            ("0 2 * * *", "2026-12-05T02:00:00Z", "2026-12-01T02:00:00Z", None),
            ("0 0 31 2 *", "2026-11-30T02:00:00Z", "2027-12-01T02:00:00Z", None),
        ];
        for (expression, planned, now, expected) in table {
            let schedule = Schedule::parse(expression, "UTC").unwrap();
            assert_eq!(
                last_due(&schedule, at(planned), at(now)),
                expected.map(at),
                "{expression} {planned} {now}"
            );
        }
    }

    #[test]
    fn a_backup_is_overdue_half_a_day_after_its_time() {
        let due = at("2026-11-30T02:00:00Z");
        assert!(!is_overdue(due, at("2026-11-30T14:00:00Z")));
        assert!(is_overdue(due, at("2026-11-30T14:00:01Z")));
    }

    #[test]
    fn a_plan_of_the_future_is_of_a_wrong_clock() {
        let now = at("2026-11-30T02:00:00Z");
        assert!(!is_of_wrong_clock(at("2026-11-30T03:00:00Z"), now), "a small step is none");
        assert!(is_of_wrong_clock(at("2026-11-30T03:00:01Z"), now));
    }

    #[test]
    fn a_tenant_that_stays_awake_is_asked_for_less_often() {
        let due = at("2026-11-30T02:00:00Z");
        let seconds = ["2026-11-30T01:00:00Z", "2026-11-30T02:16:00Z", "2026-12-07T02:00:00Z"]
            .map(|now| awake_delay(due, at(now)).as_secs());
        assert_eq!(seconds, [60, 120, 1_800]);
    }

    #[test]
    fn a_lost_backup_is_forgotten_after_the_longest_term() {
        let table = [
            ((7, 4), "2026-11-30T02:00:00Z", false),
            ((7, 4), "2026-12-01T02:00:00Z", true),
            ((7, 5), "2026-12-01T02:00:00Z", false),
            ((7, 5), "2026-12-06T02:00:00Z", true),
            ((1, 0), "2026-10-01T02:00:00Z", false),
        ];
        for ((daily, weekly), now, expected) in table {
            let retention = Retention { daily, weekly };
            let forgets = retention.forgets(at("2026-10-31T02:00:00Z"), at(now));
            assert_eq!(forgets, expected, "{retention} {now}");
        }
    }

    #[test]
    fn a_delay_doubles_up_to_a_bound() {
        let seconds = [0, 1, 2, 7, 8, i32::MAX, -1].map(|n| retry_delay(n).as_secs());
        assert_eq!(seconds, [60, 60, 120, 3_840, 3_840, 3_840, 60]);
        assert_eq!(retry_delay(i32::MAX), MAX_RETRY_DELAY);
    }

    #[test]
    fn a_retention_is_read_or_refused() {
        let good = |daily, weekly| Ok(Retention { daily, weekly });
        assert_eq!("7 daily, 4 weekly".parse(), good(7, 4));
        assert_eq!(" 4 weekly , 7  daily".parse(), good(7, 4));
        assert_eq!("1 daily".parse(), good(1, 0));
        for bad in
            ["", "7", "daily", "7 hourly", "0 daily", "7 daily, 7 daily", "-1 daily", "9999 weekly"]
        {
            assert!(bad.parse::<Retention>().is_err(), "{bad}");
        }
        assert_eq!(Retention { daily: 7, weekly: 4 }.to_string().parse(), good(7, 4));
    }

    #[test]
    fn the_last_of_each_day_and_week_stays() {
        let times = [
            "2026-11-02T02:00:00Z",
            "2026-11-09T02:00:00Z",
            "2026-11-15T02:00:00Z",
            "2026-11-16T02:00:00Z",
            "2026-11-22T02:00:00Z",
            "2026-11-29T02:00:00Z",
            "2026-11-30T02:00:00Z",
            "2026-11-30T03:00:00Z",
        ];
        let backups: Vec<_> = times.iter().map(|time| (*time, at(time))).collect();
        let expired = |daily, weekly| {
            let mut expired = Retention { daily, weekly }.expired(&backups);
            expired.sort_unstable();
            expired
        };
        assert_eq!(expired(10, 10), ["2026-11-30T02:00:00Z"]);
        // Days: 30, 29. Weeks: of the 30th, the 29th, the 22nd.
        let rest = [&times[..4], &times[6..7]].concat();
        assert_eq!(expired(2, 3), rest);
        assert_eq!(expired(1, 0), times[..7]);
        assert_eq!(Retention { daily: 1, weekly: 0 }.expired::<u8>(&[]), [0; 0]);
    }

    proptest! {
        #[test]
        fn the_latest_stays_and_no_more_than_the_rule_says(
            days in proptest::collection::vec(0_i64..200, 0..60),
            daily in 0_usize..9,
            weekly in 0_usize..9,
        ) {
            let begin = at("2026-01-01T00:00:00Z");
            let time = |day: &i64| begin + chrono::TimeDelta::days(*day);
            let backups: Vec<_> = days.iter().map(time).enumerate().collect();
            let expired = Retention { daily, weekly }.expired(&backups);
            let kept = backups.iter().filter(|(id, _)| !expired.contains(id));
            let kept: Vec<_> = kept.map(|(_, time)| *time).collect();
            prop_assert_eq!(kept.iter().max(), backups.iter().map(|(_, time)| time).max());
            prop_assert!(kept.len() <= (daily + weekly).max(1));
            prop_assert_eq!(kept.len() + expired.len(), backups.len());
        }
    }
}
