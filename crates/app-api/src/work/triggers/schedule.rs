//! The times at which a trigger fires. Pure: the time is an argument.
//!
//! The row of a trigger holds its next time, which only grows. A time is never planned again once the row is past it, even if the
//! clock steps back. Until then the writes of [`plan`] may be repeated from the first one on.

use std::collections::VecDeque;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use protocol::Timestamp;
use protocol::triggers::CatchUp;

const MAX_EXPRESSION_BYTES: usize = 100;
/// With [`CatchUp::Skip`]: an older time does not fire, unless it was tried before.
pub const MAX_LATENESS: Duration = Duration::from_secs(600);
/// With [`CatchUp::Skip`]: the most times of one plan, those of each minute.
const MAX_LATE: usize = 11;
/// No older time fires.
pub const MAX_CATCH_UP_AGE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// With [`CatchUp::RunAll`]: the most times of one plan.
pub const MAX_CATCH_UP: usize = 100;

/// A cron expression in a time zone.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleError {
    /// The text is no cron expression, for this reason.
    Expression(String),
    UnknownZone,
}

/// A change that a fire makes. A plan lists them in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Creates the execution of this time, unless there is one.
    Fire(Timestamp),
    /// Makes this the next time of the trigger; `None`: no time follows.
    Advance(Option<Timestamp>),
}

impl Schedule {
    /// Reads an expression of five fields, or a nickname like `@daily`, and the name of a time zone.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn parse(expression: &str, zone: &str) -> Result<Self, ScheduleError> {
        if expression.len() > MAX_EXPRESSION_BYTES || !expression.is_ascii() {
            let rule = format!("It must have at most {MAX_EXPRESSION_BYTES} ASCII characters.");
            return Err(ScheduleError::Expression(rule));
        }
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(expression);
        let cron = cron.map_err(|error| ScheduleError::Expression(error.to_string()))?;
        let zone = TimeZone::get(zone).map_err(|_| ScheduleError::UnknownZone)?;
        Ok(Self { cron, zone })
    }

    /// The name of the time zone as its database writes it.
    pub fn zone_name(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// Returns the first time after `after`; `None` when no time follows.
    ///
    /// A time that a change to summer time skips is moved behind the gap, and one that comes twice in the autumn is the first of
    /// the two. An expression with more than one time a day follows the wall clock instead, through both hours.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let begin = jiff::Timestamp::from_second(after.timestamp()).ok()?;
        let found = self.cron.find_next_occurrence(&begin.to_zoned(self.zone.clone()), false);
        let found = Timestamp::from_timestamp(found.ok()?.timestamp().as_second(), 0)?;
        (found > after).then_some(found)
    }
}

/// Returns what is to be written at `now` for a trigger whose next time is `next`. Nothing while that is in the future. `was_tried`:
/// the time was not too old once, and its fire failed.
///
/// Each fire is followed by its own advance: at most one time is created again after a crash, the last one.
pub fn plan(
    schedule: &Schedule,
    catch_up: CatchUp,
    (next, was_tried): (Timestamp, bool),
    now: Timestamp,
) -> Vec<Write> {
    if next > now {
        return Vec::new();
    }
    let (max_age, max_times) = match catch_up {
        CatchUp::Skip => (MAX_LATENESS, MAX_LATE),
        CatchUp::RunAll => (MAX_CATCH_UP_AGE, MAX_CATCH_UP),
    };
    let oldest = now - max_age;
    let mut due = VecDeque::new();
    let mut time = Some(next);
    if next < oldest {
        if was_tried && next >= now - MAX_CATCH_UP_AGE && catch_up == CatchUp::Skip {
            due.push_back(next);
        }
        time = schedule.next_after(next.max(oldest - Duration::from_secs(1)));
    }
    let max_times = max_times + due.len();
    while let Some(passed) = time.filter(|time| *time <= now) {
        due.push_back(passed);
        if due.len() > max_times {
            due.pop_front();
        }
        time = schedule.next_after(passed);
    }
    let following = due.iter().skip(1).copied().map(Some).chain([time]);
    let mut writes: Vec<_> = due
        .iter()
        .zip(following)
        .flat_map(|(fire, next)| [Write::Fire(*fire), Write::Advance(next)])
        .collect();
    if writes.is_empty() {
        writes.push(Write::Advance(time));
    }
    writes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn schedule(expression: &str, zone: &str) -> Schedule {
        Schedule::parse(expression, zone).unwrap()
    }

    /// The first times after a time, in UTC.
    fn times(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let schedule = schedule(expression, zone);
        let next = |time: &Timestamp| schedule.next_after(*time);
        let times = std::iter::successors(Some(at(after)), next).skip(1).take(count);
        times.map(|time| time.format("%m-%d %H:%M").to_string()).collect()
    }

    #[test]
    fn expressions_have_five_fields_or_a_nickname() {
        for good in
            ["* * * * *", "*/5 8-18 * * MON-FRI", "0 2 * * *", "@daily", "0 0 L * *", "0 0 29 2 *"]
        {
            assert!(Schedule::parse(good, "UTC").is_ok(), "{good}");
        }
        let long = format!("0{} * * * *", ",1".repeat(50));
        for bad in [
            "",
            "* * * *",
            "* * * * * *",
            "0 * * * * * *",
            "60 * * * *",
            "a * * * *",
            "0 0 0 * *",
            "ü * * * *",
            &long,
        ] {
            let refused = Schedule::parse(bad, "UTC");
            assert!(matches!(refused, Err(ScheduleError::Expression(_))), "{bad}: {refused:?}");
        }
        for bad in ["Mars/Olympus", "", "../../etc/passwd", "a\0b"] {
            assert_eq!(
                Schedule::parse("@daily", bad).unwrap_err(),
                ScheduleError::UnknownZone,
                "{bad}"
            );
        }
        assert_eq!(schedule("@daily", "europe/berlin").zone_name(), "Europe/Berlin");
        assert_eq!(schedule("@daily", "utc").zone_name(), "UTC");
    }

    #[test]
    fn a_schedule_without_a_day_has_no_time() {
        assert_eq!(schedule("0 0 31 2 *", "UTC").next_after(at("2026-11-30T00:00:00Z")), None);
    }

    #[test]
    fn a_time_zone_moves_the_times() {
        let nightly = times("30 2 * * *", "Asia/Kolkata", "2026-11-30T00:00:00Z", 2);
        assert_eq!(nightly, ["11-30 21:00", "12-01 21:00"]);
        // The start is a fraction of a second after a due time.
        let after = times("0 * * * *", "UTC", "2026-11-30T01:00:00.000001Z", 1);
        assert_eq!(after, ["11-30 02:00"]);
    }

    /// In Berlin 02:00–03:00 is missing on 2027-03-28, and comes twice on 2026-10-25.
    #[test]
    fn a_change_of_the_clocks_loses_and_doubles_no_daily_time() {
        let spring = times("30 2 * * *", "Europe/Berlin", "2027-03-27T00:00:00Z", 3);
        assert_eq!(spring, ["03-27 01:30", "03-28 01:00", "03-29 00:30"]);
        let autumn = times("30 2 * * *", "Europe/Berlin", "2026-10-24T00:00:00Z", 3);
        assert_eq!(autumn, ["10-24 00:30", "10-25 00:30", "10-26 01:30"]);
        let hourly = times("0 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", 3);
        assert_eq!(hourly, ["10-25 00:00", "10-25 01:00", "10-25 02:00"]);
        let hourly = times("0 * * * *", "Europe/Berlin", "2027-03-28T00:30:00Z", 2);
        assert_eq!(hourly, ["03-28 01:00", "03-28 02:00"]);
    }

    fn shown(catch_up: CatchUp, next: &str, now: &str) -> Vec<String> {
        let writes = plan(&schedule("*/5 * * * *", "UTC"), catch_up, (at(next), false), at(now));
        let shown = writes.into_iter().map(|write| match write {
            Write::Fire(time) => format!("fire {}", time.format("%H:%M")),
            Write::Advance(Some(time)) => format!("then {}", time.format("%H:%M")),
            Write::Advance(None) => "end".to_owned(),
        });
        shown.collect()
    }

    #[test]
    fn times_that_passed_fire_by_the_rule_of_the_trigger() {
        use CatchUp::{RunAll, Skip};
        let table: [(CatchUp, &str, &str, &[&str]); 7] = [
            (Skip, "2026-11-30T08:00:00Z", "2026-11-30T07:59:59Z", &[]),
            (Skip, "2026-11-30T08:00:00Z", "2026-11-30T08:00:00Z", &["fire 08:00", "then 08:05"]),
            (
                Skip,
                "2026-11-30T08:00:00Z",
                "2026-11-30T08:12:00Z",
                &["fire 08:05", "then 08:10", "fire 08:10", "then 08:15"],
            ),
            (
                Skip,
                "2026-11-30T00:00:00Z",
                "2026-11-30T08:12:00Z",
                &["fire 08:05", "then 08:10", "fire 08:10", "then 08:15"],
            ),
            (RunAll, "2026-11-30T08:00:00Z", "2026-11-30T07:00:00Z", &[]),
            (RunAll, "2026-11-30T08:00:00Z", "2026-11-30T08:00:01Z", &["fire 08:00", "then 08:05"]),
            (
                RunAll,
                "2026-11-30T08:00:00Z",
                "2026-11-30T08:12:00Z",
                &[
                    "fire 08:00",
                    "then 08:05",
                    "fire 08:05",
                    "then 08:10",
                    "fire 08:10",
                    "then 08:15",
                ],
            ),
        ];
        for (catch_up, next, now, expected) in table {
            assert_eq!(shown(catch_up, next, now), expected, "{catch_up:?} {next} {now}");
        }
        let nightly = schedule("0 2 * * *", "UTC");
        let (time, next) = (at("2026-11-30T02:00:00Z"), at("2026-12-01T02:00:00Z"));
        let late = |was_tried, now| plan(&nightly, Skip, (time, was_tried), at(now));
        assert_eq!(late(false, "2026-11-30T02:10:01Z"), [Write::Advance(Some(next))]);
        let fires = [Write::Fire(time), Write::Advance(Some(next))];
        assert_eq!(late(false, "2026-11-30T02:10:00Z"), fires);
        // A time whose fire failed is tried until a fire succeeds.
        for now in ["2026-11-30T02:10:00Z", "2026-11-30T02:10:01Z", "2026-11-30T09:00:00Z"] {
            assert_eq!(late(true, now), fires, "{now}");
        }
        assert_eq!(late(true, "2026-12-01T02:01:00Z").len(), 4);
        let minutely =
            plan(&schedule("* * * * *", "UTC"), Skip, (time, true), at("2026-11-30T09:00:00Z"));
        assert_eq!(minutely.len(), 2 * (MAX_LATE + 1));
        assert_eq!(
            minutely[..2],
            [Write::Fire(time), Write::Advance(Some(at("2026-11-30T08:50:00Z")))]
        );
        let years = plan(
            &schedule("* * * * *", "UTC"),
            RunAll,
            (at("1990-01-01T00:00:00Z"), true),
            at("2026-11-30T00:00:30Z"),
        );
        assert_eq!(years.len(), 2 * MAX_CATCH_UP);
        assert_eq!(years[0], Write::Fire(at("2026-11-29T22:21:00Z")));
    }

    /// The row of a trigger, and the executions in the schema of its tenant.
    struct World {
        next: Option<Timestamp>,
        executions: BTreeMap<Timestamp, usize>,
    }

    /// A process that works through a plan.
    #[derive(Default)]
    struct Replica {
        seen: Option<Timestamp>,
        writes: VecDeque<Write>,
    }

    impl World {
        fn plan(&self, schedule: &Schedule, catch_up: CatchUp, now: Timestamp) -> Replica {
            let writes = self.next.map(|next| plan(schedule, catch_up, (next, false), now));
            Replica { seen: self.next, writes: writes.unwrap_or_default().into() }
        }

        /// Like the shell: an execution is unique by its time, and a row that another process changed ends the plan.
        fn write(&mut self, replica: &mut Replica) {
            match replica.writes.pop_front() {
                None => {}
                Some(Write::Fire(time)) => {
                    self.executions.entry(time).or_insert(1);
                }
                Some(Write::Advance(_)) if self.next != replica.seen => replica.writes.clear(),
                Some(Write::Advance(next)) => {
                    self.next = next;
                    replica.seen = next;
                }
            }
        }
    }

    /// An event in a world of two processes with one clock.
    #[derive(Clone, Debug)]
    enum Event {
        /// The process looks for due times, unless it is still writing.
        Look(usize),
        /// The process makes its next write.
        Write(usize),
        Crash(usize),
        /// The clock goes on, or steps by so many seconds.
        Clock(i64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (0..2_usize).prop_map(Event::Look),
            6 => (0..2_usize).prop_map(Event::Write),
            1 => (0..2_usize).prop_map(Event::Crash),
            3 => (0..120_i64).prop_map(Event::Clock),
            1 => (-7_200..7_200_i64).prop_map(Event::Clock),
        ]
    }

    /// Over the changes of Berlin's clocks, too.
    fn start() -> impl Strategy<Value = Timestamp> {
        let starts = ["2026-10-24T22:30:00Z", "2027-03-27T23:50:00Z", "2026-11-30T08:00:30Z"];
        proptest::sample::select(starts.map(at).to_vec())
    }

    fn expression() -> impl Strategy<Value = &'static str> {
        proptest::sample::select(vec![
            "* * * * *",
            "*/7 * * * *",
            "30 2 * * *",
            "0 */2 * * *",
            "15,45 1-3 * * *",
        ])
    }

    proptest! {
        /// Every time up to the last look fires, and none twice: with two processes at once, crashes between any two writes, and
        /// steps of the clock.
        #[test]
        fn no_time_is_lost_or_doubled(
            begin in start(),
            expression in expression(),
            run_all in any::<bool>(),
            events in proptest::collection::vec(event(), 1..200),
        ) {
            let schedule = schedule(expression, "Europe/Berlin");
            let catch_up = if run_all { CatchUp::RunAll } else { CatchUp::Skip };
            let (mut now, mut latest) = (begin, begin);
            let mut world = World { next: schedule.next_after(begin), executions: BTreeMap::new() };
            let mut replicas = [Replica::default(), Replica::default()];
            for event in events {
                match event {
                    Event::Look(n) if replicas[n].writes.is_empty() => {
                        replicas[n] = world.plan(&schedule, catch_up, now);
                        latest = latest.max(now);
                    }
                    Event::Look(_) => {}
                    Event::Write(n) => world.write(&mut replicas[n]),
                    Event::Crash(n) => replicas[n] = Replica::default(),
                    Event::Clock(seconds) => now += chrono::Duration::seconds(seconds),
                }
            }
            // One more process finishes the rest, at the latest time at which any process looked.
            let mut last = world.plan(&schedule, catch_up, latest);
            while !last.writes.is_empty() {
                world.write(&mut last);
            }
            let all: Vec<_> = std::iter::successors(schedule.next_after(begin), |time| schedule.next_after(*time))
                .take_while(|time| *time <= latest)
                .collect();
            let fired: Vec<_> = world.executions.keys().copied().collect();
            prop_assert!(world.executions.values().all(|count| *count == 1));
            prop_assert!(fired.iter().all(|time| all.contains(time)), "{fired:?} {all:?}");
            prop_assert!(world.next > Some(latest));
            if run_all && all.len() <= MAX_CATCH_UP {
                prop_assert_eq!(&fired, &all);
            }
            // Every time that is at most MAX_LATENESS old when a process looks is fired.
            let mut young = all.iter().filter(|time| **time + MAX_LATENESS >= latest);
            prop_assert!(young.all(|time| fired.contains(time)), "{fired:?} {all:?}");
        }

        /// The times of a schedule do not depend on the time from which they are counted.
        #[test]
        fn the_times_of_a_schedule_are_the_same_from_everywhere(
            begin in start(),
            expression in expression(),
            seconds in 0..18_000_i64,
        ) {
            let schedule = schedule(expression, "Europe/Berlin");
            let from = |time| std::iter::successors(schedule.next_after(time), |time| schedule.next_after(*time));
            let later = begin + chrono::Duration::seconds(seconds);
            let expected: Vec<_> = from(begin).skip_while(|time| *time <= later).take(30).collect();
            prop_assert!(expected.is_sorted_by(|a, b| a < b));
            prop_assert_eq!(from(later).take(30).collect::<Vec<_>>(), expected);
        }
    }
}
