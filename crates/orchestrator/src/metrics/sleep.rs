//! Figures of leases, sleep and wake.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use protocol::sleep::IdleState;

/// What is so at this moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    pub leases: usize,
    /// Asks that wait for a wake.
    pub waiting: usize,
    /// Wakes that wait for their turn at the engine.
    pub queue: usize,
    pub starts: usize,
    /// What the engine is asked for at once, by kind.
    pub calls: [Calls; 4],
}

/// Calls of one kind: how many are under way, and how many may be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls {
    pub of: &'static str,
    pub now: usize,
    pub most: usize,
}

#[derive(Debug, Default)]
pub struct SleepCounters(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By family and labels.
    counts: BTreeMap<(Family, String), u64>,
    /// By labels.
    wakes: BTreeMap<String, Histogram>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Wakes,
    Sleeps,
    Busy,
    QueueFull,
    Notes,
}

impl Family {
    const ALL: [Self; 5] = [Self::Wakes, Self::Sleeps, Self::Busy, Self::QueueFull, Self::Notes];

    const fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Wakes => ("cial_wakes_total", "Wakes by depth and result."),
            Self::Sleeps => ("cial_sleeps_total", "Ways to sleep by depth and result."),
            Self::Busy => ("cial_busy_questions_total", "What tenants answered before sleeping."),
            Self::QueueFull => {
                ("cial_wake_queue_full_total", "Asks refused because too many waited.")
            }
            Self::Notes => ("cial_notes_written_total", "Notes written to CIAL_STATE_DIR."),
        }
    }
}

/// Which part of a wake.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    Queue,
    Engine,
    Boot,
    FirstByte,
    Total,
}

/// What a tenant answered when it was asked what keeps it busy.
#[derive(Clone, Copy, Debug)]
pub enum Heard {
    Busy,
    Idle,
    Nothing,
}

/// How a way to sleep ended.
#[derive(Clone, Copy, Debug)]
pub enum Fell {
    Asleep,
    /// Somebody asked for it, or something in it is busy.
    Kept,
    Failed,
}

impl SleepCounters {
    pub fn woke(&self, from: IdleState, well: bool) {
        let result = if well { "ready" } else { "failed" };
        self.count(Family::Wakes, format!("{{from=\"{}\",result=\"{result}\"}}", word(from)));
    }

    pub fn fell(&self, depth: IdleState, how: Fell) {
        let result = match how {
            Fell::Asleep => "asleep",
            Fell::Kept => "kept_awake",
            Fell::Failed => "failed",
        };
        self.count(Family::Sleeps, format!("{{depth=\"{}\",result=\"{result}\"}}", word(depth)));
    }

    pub fn heard(&self, heard: Heard) {
        let answer = match heard {
            Heard::Busy => "busy",
            Heard::Idle => "idle",
            Heard::Nothing => "none",
        };
        self.count(Family::Busy, format!("{{answer=\"{answer}\"}}"));
    }

    pub fn queue_full(&self) {
        self.count(Family::QueueFull, String::new());
    }

    pub fn noted(&self) {
        self.count(Family::Notes, String::new());
    }

    pub fn took(&self, from: IdleState, part: Part, time: Duration) {
        let part = match part {
            Part::Queue => "queue",
            Part::Engine => "engine",
            Part::Boot => "boot",
            Part::FirstByte => "first_byte",
            Part::Total => "total",
        };
        let labels = format!("from=\"{}\",phase=\"{part}\"", word(from));
        self.with(|inner| inner.wakes.entry(labels).or_default().add(time));
    }

    pub fn text(&self, now: Now) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let gauges = [
            ("cial_leases", "Leases that live.", now.leases),
            ("cial_asks_waiting", "Asks that wait for a wake.", now.waiting),
            ("cial_wake_queue", "Wakes that wait for their turn at the engine.", now.queue),
            ("cial_starts_in_flight", "Starts under way at the engine.", now.starts),
        ];
        for (name, help, value) in gauges {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        }
        let bounds = [
            ("cial_engine_calls", "Calls at the engine, by kind.", now.calls.map(|c| c.now)),
            ("cial_engine_calls_limit", "As many may be at once.", now.calls.map(|c| c.most)),
        ];
        for (name, help, values) in bounds {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            for (calls, value) in now.calls.iter().zip(values) {
                let _ = writeln!(text, "{name}{{of=\"{}\"}} {value}", calls.of);
            }
        }
        self.with(|inner| {
            for family in Family::ALL {
                let (name, help) = family.told();
                let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
                for ((_, labels), n) in inner.counts.iter().filter(|((f, _), _)| *f == family) {
                    let _ = writeln!(text, "{name}{labels} {n}");
                }
            }
            let name = "cial_wake_seconds";
            let _ = writeln!(text, "# HELP {name} Wakes by depth and phase.");
            let _ = writeln!(text, "# TYPE {name} histogram");
            for (labels, histogram) in &inner.wakes {
                histogram.write(&mut text, name, labels);
            }
        });
        text
    }

    fn count(&self, family: Family, labels: String) {
        self.with(|inner| *inner.counts.entry((family, labels)).or_default() += 1);
    }

    fn with<R>(&self, work: impl FnOnce(&mut Inner) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

const fn word(depth: IdleState) -> &'static str {
    match depth {
        IdleState::Frozen => "frozen",
        IdleState::Sleeping => "sleeping",
    }
}

/// From a thaw's milliseconds to the wake deadline.
const BOUNDS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 45.0];

#[derive(Debug, Default)]
struct Histogram {
    /// How many were at most as long as the bound of the same place.
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: Duration,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        for (bucket, bound) in self.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(seconds <= bound);
        }
        self.count += 1;
        self.sum += time;
    }

    fn write(&self, text: &mut String, name: &str, labels: &str) {
        for (count, bound) in self.buckets.iter().zip(BOUNDS) {
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let (count, sum) = (self.count, self.sum.as_secs_f64());
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text() {
        let counters = SleepCounters::default();
        counters.woke(IdleState::Sleeping, true);
        counters.woke(IdleState::Sleeping, true);
        counters.woke(IdleState::Frozen, false);
        counters.fell(IdleState::Frozen, Fell::Asleep);
        counters.fell(IdleState::Sleeping, Fell::Kept);
        counters.heard(Heard::Nothing);
        counters.queue_full();
        counters.noted();
        counters.took(IdleState::Sleeping, Part::Engine, Duration::from_millis(180));
        counters.took(IdleState::Sleeping, Part::Engine, Duration::from_secs(60));
        let calls = ["start", "thaw", "sleep", "other"].map(|of| Calls { of, now: 1, most: 4 });
        insta::assert_snapshot!(counters.text(Now {
            leases: 3,
            waiting: 2,
            queue: 1,
            starts: 1,
            calls,
        }));
    }
}
