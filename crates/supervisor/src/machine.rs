//! The state machine of a tenant's processes: events in, actions out. No clock, no system call.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::services::Service;

/// The time from the request to stop until the remaining services are killed. The engine's stop
/// timeout must be longer.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The edge receives SIGTERM first; the others receive it when the edge has ended, at the latest
/// after this time.
pub const EDGE_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// The same where the program of an app runs, which may end at SIGTERM with requests under way: they get one half of
/// the time, and the program's own shutdown the other.
pub const APP_EDGE_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The time from the unexpected end of one service until the others are killed.
pub const CRASH_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A service accepts connections.
    Ready(Service),
    Ended(Service, ExitReason),
    /// The engine or a person requests that the container stop.
    Stop,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    Exit(i32),
    Signal(i32),
}

impl From<ExitStatus> for ExitReason {
    fn from(status: ExitStatus) -> Self {
        match status.signal() {
            Some(signal) => Self::Signal(signal),
            // A process without a code was ended by a signal.
            None => Self::Exit(status.code().unwrap_or_default()),
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exited with {code}"),
            Self::Signal(number) => write!(f, "was killed by signal {number}"),
        }
    }
}

/// One action for the loop of PID 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Notify core-back that all services accept connections.
    NotifyAllReady,
    Terminate(Service),
    Kill(Service),
    Log(String),
    /// The last action. Remaining processes end with PID 1.
    Exit(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Stop requested; the edge has received SIGTERM.
    DrainingEdge {
        since: Instant,
    },
    /// Stop requested; every service has received SIGTERM.
    DrainingAll {
        since: Instant,
    },
    /// A service ended unexpectedly; the others have received SIGTERM.
    Crashing {
        since: Instant,
    },
    Over,
}

/// Starts with all services running and none ready.
#[derive(Debug)]
pub struct Machine {
    phase: Phase,
    edge_drain_timeout: Duration,
    alive: [bool; Service::ALL.len()],
    ready: [bool; Service::ALL.len()],
}

impl Machine {
    /// `services`: those that were started. A service that does not exist delays no readiness.
    pub fn new(services: &[Service]) -> Self {
        let alive = Service::ALL.map(|service| services.contains(&service));
        let has_app = !services.contains(&Service::PlatformBack);
        Self {
            phase: Phase::Running,
            edge_drain_timeout: if has_app { APP_EDGE_DRAIN_TIMEOUT } else { EDGE_DRAIN_TIMEOUT },
            alive,
            ready: alive.map(|exists| !exists),
        }
    }

    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Ready(service) => self.on_ready(service),
            Event::Ended(service, reason) => self.on_ended(service, reason, now),
            Event::Stop => self.stop(now),
        }
    }

    /// Returns when to call [`Machine::tick`], unless an event comes first.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running | Phase::Over => None,
            Phase::DrainingEdge { since } => Some(since + self.edge_drain_timeout),
            Phase::DrainingAll { since } => Some(since + DRAIN_TIMEOUT),
            Phase::Crashing { since } => Some(since + CRASH_TIMEOUT),
        }
    }

    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        if self.deadline().is_none_or(|at| at > now) {
            return Vec::new();
        }
        match self.phase {
            Phase::Running | Phase::Over => Vec::new(),
            Phase::DrainingEdge { since } => self.terminate_others(since),
            Phase::DrainingAll { .. } => self.kill_remaining("not stopped in time", 0),
            Phase::Crashing { .. } => self.kill_remaining("not ended in time", 1),
        }
    }

    pub const fn is_alive(&self, service: Service) -> bool {
        self.alive[service.index()]
    }

    fn on_ready(&mut self, service: Service) -> Vec<Action> {
        let were_all_ready = self.are_all_ready();
        self.ready[service.index()] = true;
        if self.phase == Phase::Running && self.are_all_ready() && !were_all_ready {
            vec![Action::NotifyAllReady, Action::Log("all services are ready".to_owned())]
        } else {
            Vec::new()
        }
    }

    fn on_ended(&mut self, service: Service, reason: ExitReason, now: Instant) -> Vec<Action> {
        self.alive[service.index()] = false;
        let none_left = self.running().next().is_none();
        let mut actions = Vec::new();
        match self.phase {
            Phase::Running => {
                let line = format!("{} {reason}: ending the container", service.name());
                actions.push(Action::Log(line));
                actions.extend(self.running().map(Action::Terminate));
                self.phase = Phase::Crashing { since: now };
            }
            Phase::DrainingEdge { since } if service == Service::Edge => {
                actions.extend(self.terminate_others(since));
            }
            Phase::DrainingEdge { .. } | Phase::DrainingAll { .. } | Phase::Crashing { .. } => {}
            Phase::Over => return actions,
        }
        if none_left {
            actions.push(Action::Exit(self.exit_code()));
            self.phase = Phase::Over;
        }
        actions
    }

    fn stop(&mut self, now: Instant) -> Vec<Action> {
        if self.phase != Phase::Running {
            return Vec::new();
        }
        self.phase = Phase::DrainingEdge { since: now };
        vec![Action::Log("stopping".to_owned()), Action::Terminate(Service::Edge)]
    }

    fn terminate_others(&mut self, since: Instant) -> Vec<Action> {
        self.phase = Phase::DrainingAll { since };
        self.running().filter(|s| *s != Service::Edge).map(Action::Terminate).collect()
    }

    fn kill_remaining(&mut self, why: &str, code: u8) -> Vec<Action> {
        let names: Vec<_> = self.running().map(Service::name).collect();
        let mut actions = vec![Action::Log(format!("{why}, killed: {}", names.join(", ")))];
        actions.extend(self.running().map(Action::Kill));
        actions.push(Action::Exit(code));
        self.phase = Phase::Over;
        actions
    }

    const fn exit_code(&self) -> u8 {
        match self.phase {
            Phase::DrainingEdge { .. } | Phase::DrainingAll { .. } => 0,
            Phase::Running | Phase::Crashing { .. } | Phase::Over => 1,
        }
    }

    fn are_all_ready(&self) -> bool {
        self.ready.iter().all(|ready| *ready)
    }

    fn running(&self) -> impl Iterator<Item = Service> + use<> {
        let alive = self.alive;
        Service::ALL.into_iter().filter(move |service| alive[service.index()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Service::{CoreBack, CoreFront, Edge, PlatformBack, PlatformFront};

    const OK: ExitReason = ExitReason::Exit(0);

    /// Plays events at given milliseconds; a deadline between two events fires first.
    fn play(script: &[(u64, Event)], until: u64) -> String {
        play_with(&Service::ALL, script, until)
    }

    fn play_with(services: &[Service], script: &[(u64, Event)], until: u64) -> String {
        let start = any_instant();
        let mut machine = Machine::new(services);
        let mut lines = Vec::new();
        let mut note = |at: Instant, actions: Vec<Action>| {
            let at = (at - start).as_millis();
            lines.extend(actions.iter().map(|action| format!("{at:>5} {action:?}")));
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
    fn any_instant() -> Instant {
        Instant::now()
    }

    #[test]
    fn readiness_is_reported_once_when_the_last_service_is_ready() {
        let ready = [CoreBack, PlatformBack, Edge, Edge, CoreFront, PlatformFront, CoreBack];
        let script: Vec<_> = (0..).zip(ready.map(Event::Ready)).collect();
        insta::assert_snapshot!(play(&script, 60_000), @r#"
            5 NotifyAllReady
            5 Log("all services are ready")
        "#);
    }

    #[test]
    fn an_unexpected_end_of_one_service_ends_all_within_a_second() {
        for dead in Service::ALL {
            let story = play(&[(7, Event::Ended(dead, OK))], 60_000);
            assert!(story.ends_with("507 Exit(1)"), "{story}");
            assert_eq!(story.matches("Terminate").count(), 4, "{story}");
            assert_eq!(story.matches("Kill").count(), 4, "{story}");
        }
        assert!(CRASH_TIMEOUT < Duration::from_secs(1));
    }

    #[test]
    fn a_crash_ends_with_the_last_service() {
        let died = [PlatformFront, Edge, CoreBack, PlatformBack, CoreFront];
        let script: Vec<_> =
            (0..).zip(died.map(|s| Event::Ended(s, ExitReason::Signal(9)))).collect();
        insta::assert_snapshot!(play(&script, 60_000), @r#"
            0 Log("platform-front was killed by signal 9: ending the container")
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
            (200, Event::Ended(Edge, OK)),
            (210, Event::Ended(CoreBack, OK)),
            (220, Event::Ended(CoreFront, OK)),
            (230, Event::Ended(PlatformFront, OK)),
            (240, Event::Ended(PlatformBack, OK)),
        ];
        insta::assert_snapshot!(play(&script, 60_000), @r#"
            0 Log("stopping")
            0 Terminate(Edge)
          200 Terminate(CoreBack)
          200 Terminate(CoreFront)
          200 Terminate(PlatformFront)
          200 Terminate(PlatformBack)
          240 Exit(0)
        "#);
    }

    #[test]
    fn an_app_answers_requests_under_way_before_it_is_ended() {
        let script = [(0, Event::Stop), (4_000, Event::Ended(Edge, OK))];
        insta::assert_snapshot!(play_with(&Service::WITH_APP, &script, 6_000), @r#"
            0 Log("stopping")
            0 Terminate(Edge)
         4000 Terminate(CoreBack)
         4000 Terminate(CoreFront)
         4000 Terminate(PlatformFront)
        "#);
        let hangs = play_with(&Service::WITH_APP, &[(0, Event::Stop)], 9_000);
        assert!(hangs.contains(" 5000 Terminate(PlatformFront)"), "{hangs}");
    }

    #[test]
    fn a_drain_that_hangs_is_killed_and_still_counts_as_a_stop() {
        let script = [(0, Event::Stop), (50, Event::Stop), (3_000, Event::Ended(CoreFront, OK))];
        insta::assert_snapshot!(play(&script, 60_000), @r#"
            0 Log("stopping")
            0 Terminate(Edge)
         1000 Terminate(CoreBack)
         1000 Terminate(CoreFront)
         1000 Terminate(PlatformFront)
         1000 Terminate(PlatformBack)
        10000 Log("not stopped in time, killed: edge, core-back, platform-front, platform-back")
        10000 Kill(Edge)
        10000 Kill(CoreBack)
        10000 Kill(PlatformFront)
        10000 Kill(PlatformBack)
        10000 Exit(0)
        "#);
    }

    proptest::proptest! {
        /// Holds for every order of events: exactly one exit follows an ended service or a stop,
        /// within the drain timeout. No action concerns an ended service or follows the exit.
        #[test]
        fn every_sequence_of_events_exits_once(
            moves in proptest::collection::vec((0_usize..5, 0_u64..4_000, 0_u8..3), 1..40)
        ) {
            let start = any_instant();
            let (mut machine, mut now) = (Machine::new(&Service::ALL), start);
            let (mut dead, mut exits, mut ending_since) = (Vec::new(), 0, None);
            for (who, pause, kind) in moves {
                let service = Service::ALL[who];
                let event = match kind {
                    0 => Event::Ready(service),
                    1 if !dead.contains(&service) => Event::Ended(service, ExitReason::Signal(9)),
                    _ => Event::Stop,
                };
                let mut actions = machine.handle(event, now);
                if let Event::Ended(..) = event { dead.push(service); }
                if !matches!(event, Event::Ready(_)) { ending_since.get_or_insert(now); }
                now += Duration::from_millis(pause);
                while let Some(due) = machine.deadline().filter(|due| *due <= now) {
                    actions.extend(machine.tick(due));
                }
                for action in actions {
                    proptest::prop_assert_eq!(exits, 0, "{:?} after the exit", action);
                    match action {
                        Action::Terminate(s) | Action::Kill(s) => {
                            proptest::prop_assert!(!dead.contains(&s), "{:?} is dead", s);
                        }
                        Action::Exit(_) => exits += 1,
                        Action::NotifyAllReady | Action::Log(_) => {}
                    }
                }
                let overdue = ending_since.is_some_and(|at| now >= at + DRAIN_TIMEOUT);
                proptest::prop_assert!(!overdue || exits == 1);
            }
        }
    }
}
