//! The life of a tenant's processes: events in, orders out. No clock, no system call.

use std::fmt;
use std::time::{Duration, Instant};

use crate::services::Service;

/// From a request to stop until what still runs is killed. The engine's own patience must be longer.
pub const DRAIN: Duration = Duration::from_secs(10);
/// The edge is asked to stop first; the others when it has ended what it was doing, or after this long.
pub const HEAD_START: Duration = Duration::from_secs(1);
/// From the death of one service until the others are killed.
pub const COLLAPSE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A service accepts.
    Ready(Service),
    Died(Service, Death),
    /// The engine, or a person, asks the container to stop.
    Stop,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    Exit(i32),
    Signal(i32),
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exited with {code}"),
            Self::Signal(number) => write!(f, "was killed by signal {number}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Tell core-back that all five accept.
    AllReady,
    Terminate(Service),
    Kill(Service),
    Say(String),
    /// The last order. Whatever still runs ends with PID 1.
    Exit(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Asked to stop: the edge first.
    Draining {
        since: Instant,
    },
    /// Asked to stop, and all have been told.
    Leaving {
        since: Instant,
    },
    /// A service died, so all must.
    Collapsing {
        since: Instant,
    },
    Over,
}

/// Starts with all five services running and none ready.
#[derive(Debug)]
pub struct Machine {
    phase: Phase,
    alive: [bool; Service::ALL.len()],
    ready: [bool; Service::ALL.len()],
}

impl Default for Machine {
    fn default() -> Self {
        let (alive, ready) = ([true; Service::ALL.len()], [false; Service::ALL.len()]);
        Self { phase: Phase::Running, alive, ready }
    }
}

impl Machine {
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Order> {
        match event {
            Event::Ready(service) => self.hear(service),
            Event::Died(service, death) => self.bury(service, death, now),
            Event::Stop => self.stop(now),
        }
    }

    /// When to ask [`Machine::tick`], if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running | Phase::Over => None,
            Phase::Draining { since } => Some(since + HEAD_START),
            Phase::Leaving { since } => Some(since + DRAIN),
            Phase::Collapsing { since } => Some(since + COLLAPSE),
        }
    }

    pub fn tick(&mut self, now: Instant) -> Vec<Order> {
        if self.deadline().is_none_or(|at| at > now) {
            return Vec::new();
        }
        match self.phase {
            Phase::Running | Phase::Over => Vec::new(),
            Phase::Draining { since } => self.tell_the_rest(since),
            Phase::Leaving { .. } => self.cut_off("not stopped in time", 0),
            Phase::Collapsing { .. } => self.cut_off("not ended in time", 1),
        }
    }

    pub const fn is_alive(&self, service: Service) -> bool {
        self.alive[service.index()]
    }

    fn hear(&mut self, service: Service) -> Vec<Order> {
        let was_complete = self.is_complete();
        self.ready[service.index()] = true;
        if self.phase == Phase::Running && self.is_complete() && !was_complete {
            vec![Order::AllReady, Order::Say("all five services are ready".to_owned())]
        } else {
            Vec::new()
        }
    }

    fn bury(&mut self, service: Service, death: Death, now: Instant) -> Vec<Order> {
        self.alive[service.index()] = false;
        let nobody_left = self.living().next().is_none();
        let mut orders = Vec::new();
        match self.phase {
            Phase::Running => {
                let fate = format!("{} {death}: ending the container", service.name());
                orders.push(Order::Say(fate));
                orders.extend(self.living().map(Order::Terminate));
                self.phase = Phase::Collapsing { since: now };
            }
            Phase::Draining { since } if service == Service::Edge => {
                orders.extend(self.tell_the_rest(since));
            }
            Phase::Draining { .. } | Phase::Leaving { .. } | Phase::Collapsing { .. } => {}
            Phase::Over => return orders,
        }
        if nobody_left {
            orders.push(Order::Exit(self.verdict()));
            self.phase = Phase::Over;
        }
        orders
    }

    fn stop(&mut self, now: Instant) -> Vec<Order> {
        if self.phase != Phase::Running {
            return Vec::new();
        }
        self.phase = Phase::Draining { since: now };
        vec![Order::Say("stopping".to_owned()), Order::Terminate(Service::Edge)]
    }

    fn tell_the_rest(&mut self, since: Instant) -> Vec<Order> {
        self.phase = Phase::Leaving { since };
        self.living().filter(|s| *s != Service::Edge).map(Order::Terminate).collect()
    }

    fn cut_off(&mut self, why: &str, code: u8) -> Vec<Order> {
        let names: Vec<_> = self.living().map(Service::name).collect();
        let mut orders = vec![Order::Say(format!("{why}, killed: {}", names.join(", ")))];
        orders.extend(self.living().map(Order::Kill));
        orders.push(Order::Exit(code));
        self.phase = Phase::Over;
        orders
    }

    const fn verdict(&self) -> u8 {
        match self.phase {
            Phase::Draining { .. } | Phase::Leaving { .. } => 0,
            Phase::Running | Phase::Collapsing { .. } | Phase::Over => 1,
        }
    }

    fn is_complete(&self) -> bool {
        self.ready.iter().all(|ready| *ready)
    }

    fn living(&self) -> impl Iterator<Item = Service> + use<> {
        let alive = self.alive;
        Service::ALL.into_iter().filter(move |service| alive[service.index()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Service::{CoreBack, CoreFront, Edge, PlatformBack, PlatformFront};

    const OK: Death = Death::Exit(0);

    /// Plays events at milliseconds; a deadline that lies between two events passes first.
    fn play(script: &[(u64, Event)], until: u64) -> String {
        let start = some_moment();
        let mut machine = Machine::default();
        let mut lines = Vec::new();
        let mut note = |at: Instant, orders: Vec<Order>| {
            let at = (at - start).as_millis();
            lines.extend(orders.iter().map(|order| format!("{at:>5} {order:?}")));
        };
        let end = (until, None);
        let events = script.iter().map(|(at, event)| (*at, Some(*event)));
        for (at, event) in events.chain([end]) {
            let at = start + Duration::from_millis(at);
            while let Some(due) = machine.deadline().filter(|due| *due <= at) {
                note(due, machine.tick(due));
            }
            if let Some(event) = event {
                note(at, machine.handle(event, at));
            }
        }
        lines.join("\n")
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "any moment will do: there is no other way to one"
    )]
    fn some_moment() -> Instant {
        Instant::now()
    }

    #[test]
    fn all_ready_is_said_once_when_the_last_is() {
        let ready = [CoreBack, PlatformBack, Edge, Edge, CoreFront, PlatformFront, CoreBack];
        let script: Vec<_> = (0..).zip(ready.map(Event::Ready)).collect();
        insta::assert_snapshot!(play(&script, 60_000), @r#"
            5 AllReady
            5 Say("all five services are ready")
        "#);
    }

    #[test]
    fn any_death_ends_all_within_a_second() {
        for dead in Service::ALL {
            let story = play(&[(7, Event::Died(dead, OK))], 60_000);
            assert!(story.ends_with("507 Exit(1)"), "{story}");
            assert_eq!(story.matches("Terminate").count(), 4, "{story}");
            assert_eq!(story.matches("Kill").count(), 4, "{story}");
        }
        assert!(COLLAPSE < Duration::from_secs(1));
    }

    #[test]
    fn a_collapse_ends_with_the_last_of_them() {
        let died = [PlatformFront, Edge, CoreBack, PlatformBack, CoreFront];
        let script: Vec<_> = (0..).zip(died.map(|s| Event::Died(s, Death::Signal(9)))).collect();
        insta::assert_snapshot!(play(&script, 60_000), @r#"
            0 Say("platform-front was killed by signal 9: ending the container")
            0 Terminate(Edge)
            0 Terminate(CoreBack)
            0 Terminate(CoreFront)
            0 Terminate(PlatformBack)
            4 Exit(1)
        "#);
    }

    #[test]
    fn a_stop_drains_the_edge_first() {
        let script = [
            (0, Event::Stop),
            (200, Event::Died(Edge, OK)),
            (210, Event::Died(CoreBack, OK)),
            (220, Event::Died(CoreFront, OK)),
            (230, Event::Died(PlatformFront, OK)),
            (240, Event::Died(PlatformBack, OK)),
        ];
        insta::assert_snapshot!(play(&script, 60_000), @r#"
            0 Say("stopping")
            0 Terminate(Edge)
          200 Terminate(CoreBack)
          200 Terminate(CoreFront)
          200 Terminate(PlatformFront)
          200 Terminate(PlatformBack)
          240 Exit(0)
        "#);
    }

    #[test]
    fn a_drain_that_hangs_is_cut_off_and_still_is_a_stop() {
        let script = [(0, Event::Stop), (50, Event::Stop), (3_000, Event::Died(CoreFront, OK))];
        insta::assert_snapshot!(play(&script, 60_000), @r#"
            0 Say("stopping")
            0 Terminate(Edge)
         1000 Terminate(CoreBack)
         1000 Terminate(CoreFront)
         1000 Terminate(PlatformFront)
         1000 Terminate(PlatformBack)
        10000 Say("not stopped in time, killed: edge, core-back, platform-front, platform-back")
        10000 Kill(Edge)
        10000 Kill(CoreBack)
        10000 Kill(PlatformFront)
        10000 Kill(PlatformBack)
        10000 Exit(0)
        "#);
    }

    proptest::proptest! {
        /// Whatever happens, whenever: exactly one exit follows a death or a stop, within the drain's time,
        /// and nothing is ordered of the dead or after the exit.
        #[test]
        fn every_story_ends_once(
            moves in proptest::collection::vec((0_usize..5, 0_u64..4_000, 0_u8..3), 1..40)
        ) {
            let start = some_moment();
            let (mut machine, mut now) = (Machine::default(), start);
            let (mut dead, mut exits, mut doomed) = (Vec::new(), 0, None);
            for (who, pause, kind) in moves {
                let service = Service::ALL[who];
                let event = match kind {
                    0 => Event::Ready(service),
                    1 if !dead.contains(&service) => Event::Died(service, Death::Signal(9)),
                    _ => Event::Stop,
                };
                let mut orders = machine.handle(event, now);
                if let Event::Died(..) = event { dead.push(service); }
                if !matches!(event, Event::Ready(_)) { doomed.get_or_insert(now); }
                now += Duration::from_millis(pause);
                while let Some(due) = machine.deadline().filter(|due| *due <= now) {
                    orders.extend(machine.tick(due));
                }
                for order in orders {
                    proptest::prop_assert_eq!(exits, 0, "{:?} after the exit", order);
                    match order {
                        Order::Terminate(s) | Order::Kill(s) => {
                            proptest::prop_assert!(!dead.contains(&s), "{:?} is dead", s);
                        }
                        Order::Exit(_) => exits += 1,
                        Order::AllReady | Order::Say(_) => {}
                    }
                }
                let overdue = doomed.is_some_and(|at| now >= at + DRAIN);
                proptest::prop_assert!(!overdue || exits == 1);
            }
        }
    }
}
