//! Which process serves, which comes next, which are leaving. Pure: time is an argument, processes are numbers.

use std::time::Duration;

/// How long a new process may take until it serves.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Number = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Somebody asks for another process in the place of the one that serves.
    Again,
    /// Somebody asks for the end.
    Stop,
    /// A process serves.
    Ready(Number),
    /// A process ended, by its own account well or not.
    Ended(Number, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Start(Number),
    /// Tell it to finish what it has begun, and to end: another serves in its place.
    Relieve(Number),
    /// The same, and nobody serves in its place.
    Dismiss(Number),
    Kill(Number),
    /// Let go of the doors: nobody comes after those that are there.
    Close,
    Say(&'static str),
    /// The last order: well or not.
    Exit(bool),
}

/// Begins with process 0 serving.
#[derive(Debug, Default)]
pub(crate) struct Upgrade {
    serving: Number,
    next: Option<(Number, Duration)>,
    leaving: Vec<Number>,
    last: Number,
    is_stopping: bool,
    has_failed: bool,
}

impl Upgrade {
    pub(crate) fn handle(&mut self, event: Event, now: Duration) -> Vec<Order> {
        match event {
            Event::Again if self.is_stopping => Vec::new(),
            Event::Again if self.next.is_some() => {
                vec![Order::Say("a restart is under way already")]
            }
            Event::Again => {
                self.last += 1;
                self.next = Some((self.last, now + PATIENCE));
                vec![Order::Say("starting another process"), Order::Start(self.last)]
            }
            Event::Stop if self.is_stopping => Vec::new(),
            Event::Stop => {
                self.is_stopping = true;
                let next = self.next.take().map(|(number, _)| number);
                let told: Vec<_> = [self.serving].into_iter().chain(next).collect();
                self.leaving.extend(&told);
                [Order::Close].into_iter().chain(told.into_iter().map(Order::Dismiss)).collect()
            }
            Event::Ready(number) if self.is_next(number) => {
                self.next = None;
                let before = std::mem::replace(&mut self.serving, number);
                self.leaving.push(before);
                let said = Order::Say("another process serves; the one before finishes");
                vec![said, Order::Relieve(before)]
            }
            // The first one; or one that has been told to leave in between.
            Event::Ready(_) => Vec::new(),
            Event::Ended(number, well) => self.bury(number, well),
        }
    }

    /// When to ask [`Upgrade::tick`], if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.next.map(|(_, until)| until)
    }

    pub(crate) fn tick(&mut self, now: Duration) -> Vec<Order> {
        match self.next {
            Some((number, until)) if until <= now => {
                self.next = None;
                self.leaving.push(number);
                let said = "the new process was not ready in time: the one before serves on";
                vec![Order::Say(said), Order::Kill(number)]
            }
            Some(_) | None => Vec::new(),
        }
    }

    fn is_next(&self, number: Number) -> bool {
        self.next.is_some_and(|(next, _)| next == number)
    }

    fn bury(&mut self, number: Number, well: bool) -> Vec<Order> {
        if self.is_next(number) {
            self.next = None;
            return vec![Order::Say("the new process ended at once: the one before serves on")];
        }
        if number == self.serving && !self.is_stopping {
            return vec![Order::Say("the process that serves has ended"), Order::Exit(false)];
        }
        self.leaving.retain(|other| *other != number);
        if !self.is_stopping {
            return Vec::new();
        }
        self.has_failed |= !well;
        if self.leaving.is_empty() { vec![Order::Exit(!self.has_failed)] } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::Event::{Again, Ended, Ready, Stop};
    use super::*;

    /// Plays events at seconds; a deadline between two of them passes first.
    fn play(script: &[(u64, Event)]) -> String {
        let mut succession = Upgrade::default();
        let mut lines = Vec::new();
        let mut note = |at: Duration, orders: Vec<Order>| {
            lines.extend(orders.iter().map(|order| format!("{:>3} {order:?}", at.as_secs())));
        };
        for (at, event) in script {
            let at = Duration::from_secs(*at);
            while let Some(due) = succession.deadline().filter(|due| *due <= at) {
                note(due, succession.tick(due));
            }
            note(at, succession.handle(*event, at));
        }
        lines.join("\n")
    }

    #[test]
    fn the_one_before_leaves_once_the_new_one_serves() {
        let script = [(0, Ready(0)), (1, Again), (2, Ready(1)), (30, Ended(0, true)), (40, Again)];
        insta::assert_snapshot!(play(&script), @r#"
          1 Say("starting another process")
          1 Start(1)
          2 Say("another process serves; the one before finishes")
          2 Relieve(0)
         40 Say("starting another process")
         40 Start(2)
        "#);
    }

    #[test]
    fn a_new_one_that_fails_changes_nothing() {
        let script =
            [(1, Again), (2, Again), (3, Ended(1, false)), (4, Again), (60, Ended(2, true))];
        insta::assert_snapshot!(play(&script), @r#"
          1 Say("starting another process")
          1 Start(1)
          2 Say("a restart is under way already")
          3 Say("the new process ended at once: the one before serves on")
          4 Say("starting another process")
          4 Start(2)
         34 Say("the new process was not ready in time: the one before serves on")
         34 Kill(2)
        "#);
    }

    #[test]
    fn the_end_of_the_one_that_serves_is_the_end() {
        insta::assert_snapshot!(play(&[(1, Ended(0, true))]), @r#"
          1 Say("the process that serves has ended")
          1 Exit(false)
        "#);
    }

    #[test]
    fn a_stop_waits_for_all() {
        let script = [
            (1, Again),
            (2, Ready(1)),
            (3, Again),
            (4, Stop),
            (5, Stop),
            (6, Again),
            (7, Ended(1, true)),
            (8, Ready(2)),
            (9, Ended(2, true)),
            (30, Ended(0, true)),
        ];
        insta::assert_snapshot!(play(&script), @r#"
          1 Say("starting another process")
          1 Start(1)
          2 Say("another process serves; the one before finishes")
          2 Relieve(0)
          3 Say("starting another process")
          3 Start(2)
          4 Close
          4 Dismiss(1)
          4 Dismiss(2)
         30 Exit(true)
        "#);
    }

    proptest::proptest! {
        /// Whatever happens: somebody serves until the end was asked for or that one died, and nobody is told to
        /// leave before the next one serves.
        #[test]
        fn somebody_serves(steps in proptest::collection::vec((0_u8..4, 0_u64..6, 0_u64..40), 1..60)) {
            let mut succession = Upgrade::default();
            let (mut alive, mut ready, mut now) = (vec![0], vec![0], 0);
            for (kind, number, pause) in steps {
                now += pause;
                let at = Duration::from_secs(now);
                let event = match kind {
                    0 => Again,
                    1 if alive.contains(&number) => { ready.push(number); Ready(number) }
                    2 if alive.contains(&number) && number != succession.serving => {
                        alive.retain(|other| *other != number);
                        Ended(number, false)
                    }
                    _ => continue,
                };
                let mut orders = succession.tick(at);
                orders.extend(succession.handle(event, at));
                for order in orders {
                    match order {
                        Order::Start(number) => alive.push(number),
                        Order::Kill(number) => alive.retain(|other| *other != number),
                        Order::Relieve(number) => {
                            proptest::prop_assert_ne!(number, succession.serving);
                        }
                        Order::Exit(_) | Order::Close | Order::Dismiss(_) => {
                            proptest::prop_assert!(false, "an end that nobody asked for");
                        }
                        Order::Say(_) => {}
                    }
                }
                proptest::prop_assert!(alive.contains(&succession.serving));
                proptest::prop_assert!(ready.contains(&succession.serving));
            }
        }
    }
}
