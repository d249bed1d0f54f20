//! The state machine of a zero-downtime upgrade: which process serves, which one starts to replace it, and which ones drain
//! (graceful shutdown). Pure: time is an argument, processes are numbers.

use std::time::Duration;

/// A new process that does not serve within this time is killed, and the process before serves on.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) type ProcessNumber = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    UpgradeRequested,
    StopRequested,
    /// A process has a route table and serves.
    Ready(ProcessNumber),
    Exited {
        process: ProcessNumber,
        success: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Start(ProcessNumber),
    /// The process finishes the requests under way and exits: another process serves in its place.
    Drain(ProcessNumber),
    /// The process finishes the requests under way and exits: no process serves in its place.
    Stop(ProcessNumber),
    Kill(ProcessNumber),
    /// Closes the parent's listeners: no process starts any more.
    CloseListeners,
    /// A log event.
    Log(&'static str),
    /// The last command.
    Exit {
        success: bool,
    },
}

/// Begins with process 0 serving.
#[derive(Debug, Default)]
pub(crate) struct Upgrade {
    serving: ProcessNumber,
    /// The process that starts, and when its time to get ready is up.
    starting: Option<(ProcessNumber, Duration)>,
    draining: Vec<ProcessNumber>,
    last_number: ProcessNumber,
    is_stopping: bool,
    has_failed: bool,
}

impl Upgrade {
    pub(crate) fn handle(&mut self, event: Event, now: Duration) -> Vec<Command> {
        match event {
            Event::UpgradeRequested if self.is_stopping => Vec::new(),
            Event::UpgradeRequested if self.starting.is_some() => {
                vec![Command::Log("upgrade already in progress")]
            }
            Event::UpgradeRequested => {
                self.last_number += 1;
                self.starting = Some((self.last_number, now + READY_TIMEOUT));
                vec![Command::Log("upgrade started"), Command::Start(self.last_number)]
            }
            Event::StopRequested if self.is_stopping => Vec::new(),
            Event::StopRequested => {
                self.is_stopping = true;
                let starting = self.starting.take().map(|(process, _)| process);
                let stopped: Vec<_> = [self.serving].into_iter().chain(starting).collect();
                self.draining.extend(&stopped);
                let stops = stopped.into_iter().map(Command::Stop);
                [Command::CloseListeners].into_iter().chain(stops).collect()
            }
            Event::Ready(process) if self.is_starting(process) => {
                self.starting = None;
                let before = std::mem::replace(&mut self.serving, process);
                self.draining.push(before);
                vec![Command::Log("upgrade finished, old process drains"), Command::Drain(before)]
            }
            // The first process, or a process that was stopped meanwhile.
            Event::Ready(_) => Vec::new(),
            Event::Exited { process, success } => self.on_exit(process, success),
        }
    }

    /// When [`Upgrade::tick`] is due, if no event comes before.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.starting.map(|(_, until)| until)
    }

    pub(crate) fn tick(&mut self, now: Duration) -> Vec<Command> {
        match self.starting {
            Some((process, until)) if until <= now => {
                self.starting = None;
                self.draining.push(process);
                let log = "upgrade timed out, old process serves on";
                vec![Command::Log(log), Command::Kill(process)]
            }
            Some(_) | None => Vec::new(),
        }
    }

    fn is_starting(&self, process: ProcessNumber) -> bool {
        self.starting.is_some_and(|(starting, _)| starting == process)
    }

    fn on_exit(&mut self, process: ProcessNumber, success: bool) -> Vec<Command> {
        if self.is_starting(process) {
            self.starting = None;
            return vec![Command::Log("upgrade failed, old process serves on")];
        }
        if process == self.serving && !self.is_stopping {
            return vec![Command::Log("serving process exited"), Command::Exit { success: false }];
        }
        self.draining.retain(|other| *other != process);
        if !self.is_stopping {
            return Vec::new();
        }
        self.has_failed |= !success;
        match self.draining.is_empty() {
            true => vec![Command::Exit { success: !self.has_failed }],
            false => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Event::{Ready, StopRequested as Stop, UpgradeRequested as Restart};
    use super::*;

    fn exited(process: ProcessNumber, success: bool) -> Event {
        Event::Exited { process, success }
    }

    /// Plays events at seconds. A deadline between two events passes first.
    fn play(script: &[(u64, Event)]) -> String {
        let mut upgrade = Upgrade::default();
        let mut lines = Vec::new();
        let mut record = |at: Duration, commands: Vec<Command>| {
            lines.extend(commands.iter().map(|command| format!("{:>3} {command:?}", at.as_secs())));
        };
        for (at, event) in script {
            let at = Duration::from_secs(*at);
            while let Some(due) = upgrade.deadline().filter(|due| *due <= at) {
                record(due, upgrade.tick(due));
            }
            record(at, upgrade.handle(*event, at));
        }
        lines.join("\n")
    }

    #[test]
    fn the_old_process_drains_once_the_new_one_serves() {
        let script =
            [(0, Ready(0)), (1, Restart), (2, Ready(1)), (30, exited(0, true)), (40, Restart)];
        insta::assert_snapshot!(play(&script), @r#"
          1 Log("upgrade started")
          1 Start(1)
          2 Log("upgrade finished, old process drains")
          2 Drain(0)
         40 Log("upgrade started")
         40 Start(2)
        "#);
    }

    #[test]
    fn an_upgrade_that_fails_changes_nothing() {
        let script = [
            (1, Restart),
            (2, Restart),
            (3, exited(1, false)),
            (4, Restart),
            (60, exited(2, true)),
        ];
        insta::assert_snapshot!(play(&script), @r#"
          1 Log("upgrade started")
          1 Start(1)
          2 Log("upgrade already in progress")
          3 Log("upgrade failed, old process serves on")
          4 Log("upgrade started")
          4 Start(2)
         34 Log("upgrade timed out, old process serves on")
         34 Kill(2)
        "#);
    }

    #[test]
    fn the_parent_exits_with_the_serving_process() {
        insta::assert_snapshot!(play(&[(1, exited(0, true))]), @r#"
          1 Log("serving process exited")
          1 Exit { success: false }
        "#);
    }

    #[test]
    fn a_stop_waits_for_every_process() {
        let script = [
            (1, Restart),
            (2, Ready(1)),
            (3, Restart),
            (4, Stop),
            (5, Stop),
            (6, Restart),
            (7, exited(1, true)),
            (8, Ready(2)),
            (9, exited(2, true)),
            (30, exited(0, true)),
        ];
        insta::assert_snapshot!(play(&script), @r#"
          1 Log("upgrade started")
          1 Start(1)
          2 Log("upgrade finished, old process drains")
          2 Drain(0)
          3 Log("upgrade started")
          3 Start(2)
          4 CloseListeners
          4 Stop(1)
          4 Stop(2)
         30 Exit { success: true }
        "#);
    }

    proptest::proptest! {
        /// A process serves until a stop was requested or the serving process died, and no process drains before
        /// another serves.
        #[test]
        fn a_process_serves_at_every_moment(steps in proptest::collection::vec((0_u8..4, 0_u64..6, 0_u64..40), 1..60)) {
            let mut upgrade = Upgrade::default();
            let (mut alive, mut ready, mut now) = (vec![0], vec![0], 0);
            for (kind, number, pause) in steps {
                now += pause;
                let at = Duration::from_secs(now);
                let event = match kind {
                    0 => Restart,
                    1 if alive.contains(&number) => { ready.push(number); Ready(number) }
                    2 if alive.contains(&number) && number != upgrade.serving => {
                        alive.retain(|other| *other != number);
                        exited(number, false)
                    }
                    _ => continue,
                };
                let mut commands = upgrade.tick(at);
                commands.extend(upgrade.handle(event, at));
                for command in commands {
                    match command {
                        Command::Start(number) => alive.push(number),
                        Command::Kill(number) => alive.retain(|other| *other != number),
                        Command::Drain(number) => {
                            proptest::prop_assert_ne!(number, upgrade.serving);
                        }
                        Command::Exit { .. } | Command::CloseListeners | Command::Stop(_) => {
                            proptest::prop_assert!(false, "an end that was not requested");
                        }
                        Command::Log(_) => {}
                    }
                }
                proptest::prop_assert!(alive.contains(&upgrade.serving));
                proptest::prop_assert!(ready.contains(&upgrade.serving));
            }
        }
    }
}
