//! What is known of a tenant, and what of that is shown. Pure.

use protocol::Timestamp;
use protocol::orchestrator::{Exit, ObservedTenant, Phase};

use crate::driver::{ContainerStatus, RunState};
use crate::state_dir::{PersistedState, TargetState};

#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// `None`: no container of it exists.
    pub(super) seen: Option<ContainerStatus>,
    /// As it is on disk, or will be.
    pub(super) persisted: PersistedState,
    pub(super) exits: u32,
    pub(super) last_exit: Option<Exit>,
    /// What the engine said when it last refused; gone with the next success.
    pub(super) refused: Option<String>,
    /// When we last started it, by the engine's clock: what ended before that, we ended.
    pub(super) our_start: Option<Timestamp>,
    /// We are about to end what runs: that end does not count.
    pub(super) ending: bool,
    /// We are about to start what rests: until the engine's call returns it has not "ended by itself".
    pub(super) starting: bool,
    /// This process has just begun: what one before it told the engine may still be under way.
    pub(super) young: bool,
    /// What runs is no start that is waited for: it ran before this process did, or has answered.
    found: bool,
    /// It rests because we ended it: no news of that end counts.
    excused: bool,
    /// The last exit was found by an inspection, whose clock runs a little before that of the event.
    found_later: bool,
}

/// How much later than an inspection says the event of the same end may be dated.
const SAME_END: chrono::TimeDelta = chrono::TimeDelta::seconds(1);

impl Known {
    pub(super) fn new(persisted: PersistedState, young: bool) -> Self {
        Self { persisted, young, ..Self::default() }
    }

    /// A container ended. Counts it if nobody of ours had a hand in it; `true` when it counted.
    pub(super) fn died(&mut self, container: &str, exit: Exit) -> bool {
        let current = self.seen.as_ref().filter(|s| s.container == container);
        let ours = self.ending
            || self.excused
            || self.persisted.target != TargetState::Running
            || self.our_start.is_some_and(|start| exit.at < start);
        self.found &= current.is_none();
        let slack = if self.found_later { SAME_END } else { chrono::TimeDelta::zero() };
        let told_before = self.last_exit.as_ref().is_some_and(|last| exit.at <= last.at + slack);
        if current.is_none() || ours || told_before {
            return false;
        }
        self.exits += 1;
        self.last_exit = Some(exit);
        self.found_later = false;
        true
    }

    /// What is asked of it from now on; what was asked before.
    pub(super) fn intend(&mut self, intent: TargetState) -> TargetState {
        let rests = !self.seen.as_ref().is_some_and(|s| s.run.is_alive());
        self.excused |= rests && self.persisted.target != TargetState::Running;
        std::mem::replace(&mut self.persisted.target, intent)
    }

    /// Our start call has returned.
    pub(super) fn started(&mut self, seen: ContainerStatus) {
        self.our_start = seen.started_at.or(self.our_start);
        (self.ending, self.starting, self.excused) = (false, false, false);
        self.found = false;
        self.look(Some(seen));
    }

    /// Its health answered. `false` when that was of another container.
    pub(super) fn answered(&mut self, container: &str) -> bool {
        match self.seen.as_mut().filter(|s| s.container == container) {
            Some(seen) => {
                seen.ready = true;
                self.refused = None;
                self.found = true;
                true
            }
            None => false,
        }
    }

    /// Takes over what the engine shows. A first end that nobody watched is counted from here.
    pub(super) fn look(&mut self, seen: Option<ContainerStatus>) {
        let another = match (&self.seen, &seen) {
            (Some(old), Some(new)) => old.container != new.container,
            (None, _) | (_, None) => false,
        };
        if another {
            (self.exits, self.last_exit) = (0, None);
        }
        self.seen = seen.map(|seen| self.carried_on(seen));
        match self.seen.as_ref().map(|s| s.run.is_alive()) {
            Some(true) => {
                self.excused = false;
                // Started by somebody else's hand: what ends now did so by itself. Unless a stop that was noted before
                // this process began has not come to its end.
                if self.persisted.target == TargetState::Asleep && !self.ending && !self.young {
                    self.persisted.target = TargetState::Running;
                }
            }
            Some(false) | None => {
                self.excused |= self.ending || self.persisted.target != TargetState::Running
            }
        }
        let missed = self.seen.as_ref().and_then(|seen| match &seen.run {
            RunState::Exited(end) => end.at.map(|at| (seen.container.clone(), end.clone(), at)),
            RunState::Created | RunState::Running | RunState::Paused | RunState::Restarting => None,
        });
        if let Some((container, end, at)) = missed.filter(|_| self.last_exit.is_none()) {
            let (code, out_of_memory) = (end.code, end.out_of_memory);
            let exit = Exit { at, code, out_of_memory, was_ready: false };
            self.found_later = self.died(&container, exit);
        }
    }

    /// One whose services were not all well before we looked away, or before this process began, is not shut out for
    /// that: only a start is waited for.
    fn carried_on(&mut self, mut seen: ContainerStatus) -> ContainerStatus {
        let old = self.seen.as_ref().filter(|old| old.container == seen.container);
        let ran = old.is_some_and(|old| old.run.is_alive());
        let at = old.and_then(|old| old.started_at).filter(|_| ran);
        let again = at.is_some() && seen.started_at.is_some() && at != seen.started_at;
        let first = self.young && self.seen.is_none();
        let runs = matches!(seen.run, RunState::Running | RunState::Paused);
        self.found = runs && !again && (first || seen.ready || self.found && ran);
        seen.started_at = seen.started_at.or(at);
        let answered = old.is_some_and(|old| old.ready) || !self.young;
        seen.ready |= self.found && answered && seen.run == RunState::Running;
        seen
    }

    /// A list does not tell when something ended: is it worth an inspection?
    pub(super) fn is_unexplained(&self) -> bool {
        let ended = self.seen.as_ref().is_some_and(|s| matches!(s.run, RunState::Exited(_)));
        ended && self.persisted.target == TargetState::Running && self.last_exit.is_none()
    }

    /// As leases see it; `None`: there is nothing to reach, and nothing to wake.
    pub(super) fn lease_phase(&self) -> Option<Phase> {
        let Some(seen) = &self.seen else {
            // Its container is gone; what it is made of is not.
            let wakes =
                self.persisted.target == TargetState::Asleep && self.persisted.spec.is_some();
            return wakes.then_some(Phase::Sleeping);
        };
        let phase = phase(seen, self.persisted.target);
        // A container that its owner stopped before its first start.
        let is_stopped = phase == Phase::Created && self.persisted.target == TargetState::Stopped;
        Some(if is_stopped { Phase::Stopped } else { phase })
    }

    /// `engine`: why it does not answer, if so. What is known stays known.
    pub(super) fn observed(&self, engine: Option<&str>) -> Option<ObservedTenant> {
        let seen = self.seen.as_ref()?;
        let phase = phase(seen, self.persisted.target);
        let is_begun = phase == Phase::Exited && self.starting;
        let phase = if is_begun { Phase::Starting } else { phase };
        let reason = engine.map(str::to_owned).or_else(|| self.refused.clone());
        Some(ObservedTenant {
            id: seen.id,
            generation: seen.generation,
            phase,
            container_id: seen.container.clone(),
            container_port: seen.port,
            upstream: seen
                .upstream
                .clone()
                .filter(|_| matches!(phase, Phase::Ready | Phase::Frozen)),
            image_outdated: seen.image_outdated,
            exits: self.exits,
            last_exit: self.last_exit.clone(),
            reason: reason.or_else(|| self.explained(seen, phase)),
        })
    }

    fn explained(&self, seen: &ContainerStatus, phase: Phase) -> Option<String> {
        let crashed = self.last_exit.as_ref().map(|exit| (exit.code, exit.out_of_memory));
        match (phase, &seen.run, crashed) {
            (Phase::Exited, RunState::Exited(end), _) => Some(told(end.code, end.out_of_memory)),
            (Phase::Starting, _, Some((code, oom))) => {
                Some(format!("{} It was started again.", told(code, oom)))
            }
            (Phase::Starting, _, None) => {
                Some("Its services have not all answered yet.".to_owned())
            }
            (
                Phase::Created
                | Phase::Ready
                | Phase::Frozen
                | Phase::Sleeping
                | Phase::Stopped
                | Phase::Exited,
                _,
                _,
            ) => None,
        }
    }
}

fn phase(seen: &ContainerStatus, intent: TargetState) -> Phase {
    match (&seen.run, intent) {
        // Made anew while it slept: for a new generation, or a rebuilt image.
        (RunState::Created, TargetState::Asleep) => Phase::Sleeping,
        (RunState::Created, TargetState::Running | TargetState::Stopped) => Phase::Created,
        (RunState::Running, _) if seen.ready => Phase::Ready,
        (RunState::Running | RunState::Restarting, _) => Phase::Starting,
        (RunState::Paused, _) => Phase::Frozen,
        (RunState::Exited(_), TargetState::Running) => Phase::Exited,
        (RunState::Exited(_), TargetState::Stopped) => Phase::Stopped,
        (RunState::Exited(_), TargetState::Asleep) => Phase::Sleeping,
    }
}

fn told(code: i64, out_of_memory: bool) -> String {
    if out_of_memory {
        return "It ran out of memory and was killed; see its limits.".to_owned();
    }
    match code {
        0 => "Its container ended by itself.".to_owned(),
        137 => "Its container was killed (137).".to_owned(),
        code => format!("Its container ended with code {code}; see its logs."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::ExitStatus;
    use protocol::orchestrator::Upstream;

    fn at(seconds: i64) -> Timestamp {
        chrono::DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn seen(run: RunState, ready: bool) -> ContainerStatus {
        ContainerStatus {
            id: "0192f0c1-2345-7abc-8def-0123456789ab".parse().unwrap(),
            generation: 1,
            container: "c1".to_owned(),
            run,
            ready,
            started_at: None,
            port: Some(40_000),
            upstream: Some(Upstream::Unix("/s".to_owned())),
            image_outdated: false,
            template_outdated: false,
        }
    }

    fn ended(code: i64, seconds: i64) -> RunState {
        RunState::Exited(ExitStatus { code, out_of_memory: false, at: Some(at(seconds)) })
    }

    fn exit(seconds: i64) -> Exit {
        Exit { at: at(seconds), code: 3, out_of_memory: false, was_ready: false }
    }

    fn noted(intent: TargetState) -> PersistedState {
        PersistedState { target: intent, ..PersistedState::default() }
    }

    #[test]
    fn phases_follow_from_what_runs_and_why_it_does_not() {
        let mut table = String::new();
        let runs = [
            ("created", RunState::Created, false),
            ("running", RunState::Running, false),
            ("running, answers", RunState::Running, true),
            ("restarting", RunState::Restarting, false),
            ("paused", RunState::Paused, true),
            ("ended", ended(3, 1), false),
        ];
        for (name, run, ready) in runs {
            for intent in [TargetState::Running, TargetState::Stopped, TargetState::Asleep] {
                let phase = phase(&seen(run.clone(), ready), intent);
                table.push_str(&format!("{name} · {intent:?} → {phase:?}\n"));
            }
        }
        insta::assert_snapshot!(table, @r"
        created · Running → Created
        created · Stopped → Created
        created · Asleep → Sleeping
        running · Running → Starting
        running · Stopped → Starting
        running · Asleep → Starting
        running, answers · Running → Ready
        running, answers · Stopped → Ready
        running, answers · Asleep → Ready
        restarting · Running → Starting
        restarting · Stopped → Starting
        restarting · Asleep → Starting
        paused · Running → Frozen
        paused · Stopped → Frozen
        paused · Asleep → Frozen
        ended · Running → Exited
        ended · Stopped → Stopped
        ended · Asleep → Sleeping
        ");
    }

    #[test]
    fn only_what_ended_by_itself_is_counted_and_only_once() {
        let base = Known { seen: Some(seen(RunState::Running, false)), ..Known::default() };
        let table = [
            ("by itself", base.clone(), "c1", 1),
            ("of another container", base.clone(), "c0", 0),
            (
                "stopped by its owner",
                Known { persisted: noted(TargetState::Stopped), ..base.clone() },
                "c1",
                0,
            ),
            ("ended for a restart", Known { ending: true, ..base.clone() }, "c1", 0),
            ("told after our restart", Known { our_start: Some(at(9)), ..base.clone() }, "c1", 0),
            ("after our start", Known { our_start: Some(at(1)), ..base.clone() }, "c1", 1),
        ];
        for (what, mut known, container, exits) in table {
            known.died(container, exit(5));
            known.died(container, exit(5));
            assert_eq!(known.exits, exits, "{what}");
        }
    }

    #[test]
    fn an_end_that_nobody_watched_is_counted_when_it_is_found() {
        let mut known = Known::default();
        known.look(Some(seen(ended(3, 5), false)));
        known.look(Some(seen(ended(3, 5), false)));
        let late = Exit { at: at(5) + chrono::TimeDelta::milliseconds(40), ..exit(5) };
        assert!(!known.died("c1", late), "the event of the same end");
        assert_eq!(known.exits, 1);
        assert_eq!(known.last_exit, Some(exit(5)));
    }

    #[test]
    fn another_container_begins_a_new_count() {
        let mut known = Known { seen: Some(seen(RunState::Running, false)), ..Known::default() };
        known.died("c1", exit(5));
        known.look(Some(ContainerStatus {
            container: "c2".to_owned(),
            ..seen(RunState::Running, false)
        }));
        assert_eq!((known.exits, known.last_exit), (0, None));
    }

    #[test]
    fn reasons_are_sentences_for_a_person() {
        let crashed = Known {
            seen: Some(seen(RunState::Running, false)),
            last_exit: Some(exit(5)),
            ..Known::default()
        };
        let starting = Known { last_exit: None, ..crashed.clone() };
        let gone = Known { seen: Some(seen(ended(137, 5), false)), ..crashed.clone() };
        let refused = Known { refused: Some("No such image: x.".to_owned()), ..gone.clone() };
        let reason = |known: &Known, engine| known.observed(engine).unwrap().reason.unwrap();
        let said = [
            reason(&starting, None),
            reason(&crashed, None),
            reason(&gone, None),
            reason(&refused, None),
            reason(&refused, Some("The engine is away.")),
        ];
        insta::assert_snapshot!(said.join("\n"), @r"
        Its services have not all answered yet.
        Its container ended with code 3; see its logs. It was started again.
        Its container was killed (137).
        No such image: x.
        The engine is away.
        ");
        let ready = Known { seen: Some(seen(RunState::Running, true)), ..Known::default() };
        assert_eq!(ready.observed(None).unwrap().reason, None);
    }

    #[test]
    fn a_stop_of_before_this_process_that_comes_to_its_end_is_no_crash() {
        let mut known = Known::new(noted(TargetState::Asleep), true);
        known.look(Some(seen(RunState::Running, false)));
        assert_eq!(known.persisted.target, TargetState::Asleep, "the stop may be under way");
        let ends = Known { young: true, ..known.clone() };
        for (mut known, exits, phase) in [(ends, 0, Phase::Sleeping), (known, 1, Phase::Exited)] {
            if exits == 1 {
                known.young = false;
                known.look(Some(seen(RunState::Running, false)));
                assert_eq!(known.persisted.target, TargetState::Running, "somebody started it");
            }
            known.died("c1", exit(5));
            known.look(Some(seen(ended(3, 5), false)));
            let observed = known.observed(None).unwrap();
            assert_eq!((observed.exits, observed.phase), (exits, phase));
        }
    }

    #[test]
    fn only_a_start_waits_for_all_services() {
        let run = |started: i64| ContainerStatus {
            started_at: Some(at(started)),
            ..seen(RunState::Running, false)
        };
        let listed = || Some(seen(RunState::Running, false));
        let phase = |known: &Known| known.observed(None).unwrap().phase;
        let mut found = Known::new(PersistedState::default(), true);
        found.look(listed());
        assert_eq!(phase(&found), Phase::Starting, "it may have been started right before");
        found.young = false;
        found.look(listed());
        assert_eq!(phase(&found), Phase::Ready);

        let mut known = Known::default();
        known.look(Some(seen(RunState::Created, false)));
        known.started(run(1));
        known.look(listed());
        assert_eq!(phase(&known), Phase::Starting);
        known.answered("c1");
        for still in [listed(), Some(run(1)), listed()] {
            known.look(still);
            assert_eq!(phase(&known), Phase::Ready, "one of its services is ill");
        }
        let mut again = known.clone();
        again.look(Some(run(2)));
        assert_eq!(phase(&again), Phase::Starting, "nobody told us that it was started anew");
        known.died("c1", exit(5));
        known.look(listed());
        assert_eq!(phase(&known), Phase::Starting, "the engine started it again");
    }

    #[test]
    fn what_is_being_started_has_not_ended_by_itself() {
        let mut known = Known { seen: Some(seen(ended(0, 5), false)), ..Known::default() };
        known.starting = true;
        let observed = known.observed(None).unwrap();
        assert_eq!(observed.phase, Phase::Starting);
        assert_eq!(observed.reason.unwrap(), "Its services have not all answered yet.");
        known.starting = false;
        assert_eq!(known.observed(None).unwrap().phase, Phase::Exited);
    }

    #[test]
    fn a_tenant_is_reachable_only_once_it_has_answered() {
        let known = |run, ready| Known { seen: Some(seen(run, ready)), ..Known::default() };
        assert!(known(RunState::Running, true).observed(None).unwrap().upstream.is_some());
        assert!(known(RunState::Paused, true).observed(None).unwrap().upstream.is_some());
        assert!(known(RunState::Running, false).observed(None).unwrap().upstream.is_none());
    }
}
