//! The knowledge about one tenant, and the part of it that callers see. Pure.

use std::collections::BTreeSet;

use protocol::Timestamp;
use protocol::orchestrator::{Drift, Exit, ObservedTenant, Phase};
use protocol::spec::Spec;

use super::container_state::{ContainerEvent, ContainerState, PendingCall, RunHistory};
use crate::driver::{ContainerStatus, ExitStatus, RunState, describe_drift};
use crate::tenants::state_dir::{PersistedState, TargetState};

/// Changed by operations, by the engine's events and by inspections; always under the store's lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct TenantRecord {
    /// The status that the engine last showed; `None`: no container exists.
    status: Option<ContainerStatus>,
    state: ContainerState,
    /// The state that is on disk, or will be written.
    pub(crate) persisted: PersistedState,
    /// How often the current container exited by itself.
    exits: u32,
    last_exit: Option<RecordedExit>,
    /// The end of the log at the last exit without readiness, and the container.
    last_lines: Option<(String, String)>,
    /// The engine's last error about this tenant, for a person. The next success removes it.
    error: Option<String>,
    /// The engine's time of our last start: processes that ended earlier were ended by us.
    our_start: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq)]
struct RecordedExit {
    exit: Exit,
    source: ExitSource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExitSource {
    Event,
    /// An inspection dates an end a little before the event of the same end.
    Inspection,
}

/// How much later than an inspection the event of the same end may be dated.
const SAME_EXIT_TOLERANCE: chrono::TimeDelta = chrono::TimeDelta::seconds(1);

impl TenantRecord {
    pub(crate) fn new(persisted: PersistedState) -> Self {
        Self { persisted, ..Self::default() }
    }

    pub(crate) fn status(&self) -> Option<&ContainerStatus> {
        self.status.as_ref()
    }

    pub(crate) fn spec(&self) -> Option<&Spec> {
        self.persisted.requested.spec.as_ref()
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.run.is_alive())
    }

    pub(crate) fn set_error(&mut self, error: Option<String>) {
        self.error = error;
    }

    pub(crate) fn on_event(&mut self, event: ContainerEvent) {
        self.state = self.state.next(event);
    }

    /// A container ended. Counts the exit unless the orchestrator ended the process; returns whether it counted.
    pub(crate) fn on_exit(&mut self, container: &str, exit: Exit) -> bool {
        self.record_exit(container, exit, ExitSource::Event)
    }

    fn record_exit(&mut self, container: &str, exit: Exit, source: ExitSource) -> bool {
        if self.status.as_ref().is_none_or(|status| status.container != container) {
            return false;
        }
        let counts = self.state.counts_exit()
            && self.persisted.target == TargetState::Running
            && self.our_start.is_none_or(|start| exit.at >= start);
        self.on_event(ContainerEvent::ExitReported);
        let is_known = self.last_exit.as_ref().is_some_and(|last| {
            let tolerance = match last.source {
                ExitSource::Event => chrono::TimeDelta::zero(),
                ExitSource::Inspection => SAME_EXIT_TOLERANCE,
            };
            exit.at <= last.exit.at + tolerance
        });
        if !counts || is_known {
            return false;
        }
        self.exits += 1;
        self.last_exit = Some(RecordedExit { exit, source });
        true
    }

    /// The container ended without having been ready, and its log ended so.
    pub(crate) fn set_last_lines(&mut self, container: &str, lines: String) {
        // The container may have become ready while the log was read.
        let is_ready = self.status.as_ref().is_some_and(|status| status.ready);
        self.last_lines = (!is_ready && !lines.is_empty()).then(|| (container.to_owned(), lines));
    }

    /// Returns the target before.
    pub(crate) fn set_target(&mut self, target: TargetState) -> TargetState {
        if !self.is_alive() && self.persisted.target != TargetState::Running {
            self.on_event(ContainerEvent::TargetReplaced);
        }
        std::mem::replace(&mut self.persisted.target, target)
    }

    /// The engine's start call returned with `status`.
    pub(crate) fn on_started(&mut self, status: ContainerStatus, is_starting_up: bool) {
        self.our_start = status.started_at.or(self.our_start);
        self.on_event(ContainerEvent::StartReturned);
        self.set_status(Some(status), is_starting_up);
    }

    /// The tenant's services responded. Returns `false` when another container did.
    pub(crate) fn on_ready(&mut self, container: &str) -> bool {
        let Some(status) = self.status.as_mut().filter(|status| status.container == container)
        else {
            return false;
        };
        status.ready = true;
        self.error = None;
        self.last_lines = None;
        self.on_event(ContainerEvent::Responded);
        true
    }

    /// A paused container runs again. `has_responded`: its services responded before the engine's call returned.
    pub(crate) fn on_thawed(&mut self, has_responded: bool) {
        if let Some(status) = self.status.as_mut().filter(|status| status.run == RunState::Paused) {
            status.run = RunState::Running;
            status.ready |= has_responded;
        }
    }

    /// Takes over the engine's current status. Counts an exit that no event reported.
    ///
    /// `is_starting_up`: calls that an earlier process made may still take effect.
    pub(crate) fn set_status(&mut self, status: Option<ContainerStatus>, is_starting_up: bool) {
        let is_other = match (&self.status, &status) {
            (Some(old), Some(new)) => old.container != new.container,
            (None, _) | (_, None) => false,
        };
        if is_other {
            (self.exits, self.last_exit) = (0, None);
        }
        self.status = status.map(|status| self.with_history(status, is_starting_up));
        if self.is_alive() {
            // Another program started it: an end from now on is an exit by itself. While this process starts up, a stop
            // that was requested before may not have ended yet.
            let is_stopping = self.state.call() == PendingCall::Stop;
            if self.persisted.target == TargetState::Asleep && !is_stopping && !is_starting_up {
                self.persisted.target = TargetState::Running;
            }
        } else {
            self.on_event(match self.persisted.target {
                TargetState::Running => ContainerEvent::FoundDown,
                TargetState::Stopped | TargetState::Asleep => ContainerEvent::FoundDownAsIntended,
            });
        }
        self.count_unreported_exit();
    }

    /// A tenant with an ill service that was ready before, or before this process started, is not shut out: only a start
    /// waits for all services.
    fn with_history(
        &mut self,
        mut status: ContainerStatus,
        is_starting_up: bool,
    ) -> ContainerStatus {
        let old = self.status.as_ref().filter(|old| old.container == status.container);
        let started_at = old.filter(|old| old.run.is_alive()).and_then(|old| old.started_at);
        let limits = old.and_then(|old| old.limits);
        let is_restarted =
            started_at.is_some() && status.started_at.is_some() && started_at != status.started_at;
        let was_running_before_us = is_starting_up && self.status.is_none();
        let history = match old {
            _ if is_restarted => RunHistory::New,
            _ if status.ready || was_running_before_us => RunHistory::Responded,
            Some(_) => RunHistory::Continued,
            None => RunHistory::New,
        };
        let was_ready = old.is_some_and(|old| old.ready);
        match status.run {
            RunState::Running | RunState::Paused => self.on_event(ContainerEvent::FoundUp(history)),
            RunState::Restarting => self.on_event(ContainerEvent::FoundRestarting),
            RunState::Created | RunState::Exited(_) => {}
        }
        status.started_at = status.started_at.or(started_at);
        status.limits = status.limits.or(limits);
        status.ready |= self.state.is_established()
            && (was_ready || !is_starting_up)
            && status.run == RunState::Running;
        status
    }

    fn count_unreported_exit(&mut self) {
        let Some(status) = self.status.as_ref().filter(|_| self.last_exit.is_none()) else {
            return;
        };
        let RunState::Exited(ExitStatus { code, out_of_memory, at: Some(at) }) = status.run else {
            return;
        };
        let exit = Exit { at, code, out_of_memory, was_ready: false };
        let container = status.container.clone();
        self.record_exit(&container, exit, ExitSource::Inspection);
    }

    /// Whether an inspection would add the time of the end, or the limits, which a list does not show.
    pub(crate) fn needs_inspection(&self) -> bool {
        let Some(status) = &self.status else { return false };
        let has_exited = matches!(status.run, RunState::Exited(_));
        let is_exit_unexplained =
            has_exited && self.persisted.target == TargetState::Running && self.last_exit.is_none();
        is_exit_unexplained || status.limits.is_none()
    }

    /// How the container differs from its spec and the installation's settings, as far as that is known.
    pub(crate) fn drift(&self) -> BTreeSet<Drift> {
        match (&self.status, self.spec()) {
            (Some(status), Some(spec)) => status.drift_from(spec),
            (Some(status), None) => status.drift.clone(),
            (None, _) => BTreeSet::new(),
        }
    }

    /// The phase as leases need it; `None`: nothing can be reached or woken.
    pub(crate) fn lease_phase(&self) -> Option<Phase> {
        let Some(status) = &self.status else {
            // The container is gone; the spec to make another one is not.
            let can_wake = self.persisted.target == TargetState::Asleep;
            return (can_wake && self.spec().is_some()).then_some(Phase::Sleeping);
        };
        let phase = phase(status, self.persisted.target);
        let is_never_started = phase == Phase::Created;
        let is_stopped = is_never_started && self.persisted.target == TargetState::Stopped;
        Some(if is_stopped { Phase::Stopped } else { phase })
    }

    /// Returns the state that callers see, or `None` when no container exists. While the engine does not respond, the last
    /// known phase stays and `engine_error` is the reason.
    pub(crate) fn observed(&self, engine_error: Option<&str>) -> Option<ObservedTenant> {
        let status = self.status.as_ref()?;
        let phase = phase(status, self.persisted.target);
        let is_being_started = phase == Phase::Exited && self.state.call() == PendingCall::Start;
        let phase = if is_being_started { Phase::Starting } else { phase };
        let reason = engine_error.map(str::to_owned).or_else(|| self.error.clone());
        let is_reachable = matches!(phase, Phase::Ready | Phase::Frozen);
        let last_lines = self.last_lines.as_ref().filter(|_| !is_reachable);
        let last_lines = last_lines.filter(|(container, _)| *container == status.container);
        Some(ObservedTenant {
            id: status.id,
            generation: status.generation,
            phase,
            container_id: status.container.clone(),
            container_port: status.port,
            upstream: status.upstream.clone().filter(|_| is_reachable),
            lacks_spec: self.spec().is_none(),
            image_outdated: status.drift.contains(&Drift::Image),
            drift: self.drift(),
            exits: self.exits,
            last_exit: self.last_exit.as_ref().map(|last| last.exit.clone()),
            last_lines: last_lines.map(|(_, lines)| lines.clone()),
            reason: reason
                .or_else(|| self.explain(status, phase))
                .or_else(|| is_reachable.then(|| describe_drift(&self.drift())).flatten()),
        })
    }

    fn explain(&self, status: &ContainerStatus, phase: Phase) -> Option<String> {
        let exit = self.last_exit.as_ref().map(|last| &last.exit);
        match (phase, &status.run, exit) {
            (Phase::Exited, RunState::Exited(end), _) => {
                Some(describe_exit(end.code, end.out_of_memory))
            }
            (Phase::Starting, _, Some(exit)) => {
                let exit = describe_exit(exit.code, exit.out_of_memory);
                Some(format!("{exit} It was started again."))
            }
            (Phase::Starting, _, None) => {
                Some("Its services have not all responded yet.".to_owned())
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

fn phase(status: &ContainerStatus, target: TargetState) -> Phase {
    match (&status.run, target) {
        // Created again while the tenant slept: for a new generation, or a rebuilt image.
        (RunState::Created, TargetState::Asleep) => Phase::Sleeping,
        (RunState::Created, TargetState::Running | TargetState::Stopped) => Phase::Created,
        (RunState::Running, _) if status.ready => Phase::Ready,
        (RunState::Running | RunState::Restarting, _) => Phase::Starting,
        (RunState::Paused, _) => Phase::Frozen,
        (RunState::Exited(_), TargetState::Running) => Phase::Exited,
        (RunState::Exited(_), TargetState::Stopped) => Phase::Stopped,
        (RunState::Exited(_), TargetState::Asleep) => Phase::Sleeping,
    }
}

fn describe_exit(code: i64, out_of_memory: bool) -> String {
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
    use protocol::orchestrator::Upstream;

    fn at(seconds: i64) -> Timestamp {
        chrono::DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn status(run: RunState, ready: bool) -> ContainerStatus {
        ContainerStatus {
            id: "0192f0c1-2345-7abc-8def-0123456789ab".parse().unwrap(),
            generation: 1,
            container: "c1".to_owned(),
            run,
            ready,
            started_at: None,
            port: Some(40_000),
            upstream: Some(Upstream::Unix("/s".to_owned())),
            limits: None,
            drift: BTreeSet::new(),
        }
    }

    fn exited(code: i64, seconds: i64) -> RunState {
        RunState::Exited(ExitStatus { code, out_of_memory: false, at: Some(at(seconds)) })
    }

    fn exit(seconds: i64) -> Exit {
        Exit { at: at(seconds), code: 3, out_of_memory: false, was_ready: false }
    }

    fn with_target(target: TargetState) -> PersistedState {
        PersistedState { target, ..PersistedState::default() }
    }

    /// A record of a container that the engine showed once.
    fn record(run: RunState, ready: bool) -> TenantRecord {
        let mut record = TenantRecord::default();
        record.set_status(Some(status(run, ready)), false);
        record
    }

    #[test]
    fn phases_follow_from_what_runs_and_from_the_target() {
        let mut table = String::new();
        let runs = [
            ("created", RunState::Created, false),
            ("running", RunState::Running, false),
            ("running, responds", RunState::Running, true),
            ("restarting", RunState::Restarting, false),
            ("paused", RunState::Paused, true),
            ("exited", exited(3, 1), false),
        ];
        for (name, run, ready) in runs {
            for target in [TargetState::Running, TargetState::Stopped, TargetState::Asleep] {
                let phase = phase(&status(run.clone(), ready), target);
                table.push_str(&format!("{name} · {target:?} → {phase:?}\n"));
            }
        }
        insta::assert_snapshot!(table, @r"
        created · Running → Created
        created · Stopped → Created
        created · Asleep → Sleeping
        running · Running → Starting
        running · Stopped → Starting
        running · Asleep → Starting
        running, responds · Running → Ready
        running, responds · Stopped → Ready
        running, responds · Asleep → Ready
        restarting · Running → Starting
        restarting · Stopped → Starting
        restarting · Asleep → Starting
        paused · Running → Frozen
        paused · Stopped → Frozen
        paused · Asleep → Frozen
        exited · Running → Exited
        exited · Stopped → Stopped
        exited · Asleep → Sleeping
        ");
    }

    #[test]
    fn only_an_exit_by_itself_counts_and_only_once() {
        let base = record(RunState::Running, false);
        let stopping = {
            let mut record = base.clone();
            record.on_event(ContainerEvent::StopRequested);
            record
        };
        let stopped = TenantRecord { persisted: with_target(TargetState::Stopped), ..base.clone() };
        let started_at = |seconds| TenantRecord { our_start: Some(at(seconds)), ..base.clone() };
        let table = [
            ("by itself", base.clone(), "c1", 1),
            ("of another container", base.clone(), "c0", 0),
            ("stopped by its owner", stopped, "c1", 0),
            ("ended for a restart", stopping, "c1", 0),
            ("reported after our restart", started_at(9), "c1", 0),
            ("after our start", started_at(1), "c1", 1),
        ];
        for (case, mut record, container, exits) in table {
            record.on_exit(container, exit(5));
            record.on_exit(container, exit(5));
            assert_eq!(record.exits, exits, "{case}");
        }
    }

    #[test]
    fn an_unreported_exit_counts_when_an_inspection_finds_it() {
        let mut record = TenantRecord::default();
        record.set_status(Some(status(exited(3, 5), false)), false);
        record.set_status(Some(status(exited(3, 5), false)), false);
        let late = Exit { at: at(5) + chrono::TimeDelta::milliseconds(40), ..exit(5) };
        assert!(!record.on_exit("c1", late), "the event of the same exit");
        assert_eq!(record.exits, 1);
        assert_eq!(record.last_exit.unwrap().exit, exit(5));
    }

    #[test]
    fn another_container_starts_a_new_count() {
        let mut record = record(RunState::Running, false);
        record.on_exit("c1", exit(5));
        let other =
            ContainerStatus { container: "c2".to_owned(), ..status(RunState::Running, false) };
        record.set_status(Some(other), false);
        assert_eq!((record.exits, record.last_exit), (0, None));
    }

    #[test]
    fn reasons_are_sentences_for_a_person() {
        let starting = TenantRecord {
            status: Some(status(RunState::Running, false)),
            ..TenantRecord::default()
        };
        let last_exit = Some(RecordedExit { exit: exit(5), source: ExitSource::Event });
        let crashed = TenantRecord { last_exit, ..starting.clone() };
        let killed =
            TenantRecord { status: Some(status(exited(137, 5), false)), ..crashed.clone() };
        let failed = TenantRecord { error: Some("No such image: x.".to_owned()), ..killed.clone() };
        let reason =
            |record: &TenantRecord, engine| record.observed(engine).unwrap().reason.unwrap();
        let reasons = [
            reason(&starting, None),
            reason(&crashed, None),
            reason(&killed, None),
            reason(&failed, None),
            reason(&failed, Some("The engine is unreachable.")),
        ];
        insta::assert_snapshot!(reasons.join("\n"), @r"
        Its services have not all responded yet.
        Its container ended with code 3; see its logs. It was started again.
        Its container was killed (137).
        No such image: x.
        The engine is unreachable.
        ");
        assert_eq!(record(RunState::Running, true).observed(None).unwrap().reason, None);
    }

    #[test]
    fn the_end_of_the_log_is_shown_until_the_container_is_ready() {
        let mut record = record(RunState::Running, false);
        let shown = |record: &TenantRecord| record.observed(None).unwrap().last_lines;
        record.set_last_lines("c0", "of another container".to_owned());
        assert_eq!(shown(&record), None);
        record.set_last_lines("c1", "no such table".to_owned());
        assert_eq!(shown(&record).as_deref(), Some("no such table"));
        record.on_ready("c1");
        record.set_last_lines("c1", "read too late".to_owned());
        record.set_status(Some(status(exited(3, 5), false)), false);
        assert_eq!(shown(&record), None);
    }

    #[test]
    fn a_stop_of_an_earlier_process_that_ends_late_is_no_crash() {
        let mut record = TenantRecord::new(with_target(TargetState::Asleep));
        record.set_status(Some(status(RunState::Running, false)), true);
        assert_eq!(record.persisted.target, TargetState::Asleep, "the stop may be under way");
        let mut started_by_others = record.clone();
        started_by_others.set_status(Some(status(RunState::Running, false)), false);
        assert_eq!(started_by_others.persisted.target, TargetState::Running);
        for (mut record, exits, phase) in
            [(record, 0, Phase::Sleeping), (started_by_others, 1, Phase::Exited)]
        {
            record.on_exit("c1", exit(5));
            record.set_status(Some(status(exited(3, 5), false)), false);
            let observed = record.observed(None).unwrap();
            assert_eq!((observed.exits, observed.phase), (exits, phase));
        }
    }

    #[test]
    fn only_a_start_waits_for_all_services() {
        let run = |started: i64| ContainerStatus {
            started_at: Some(at(started)),
            ..status(RunState::Running, false)
        };
        let listed = || Some(status(RunState::Running, false));
        let phase = |record: &TenantRecord| record.observed(None).unwrap().phase;
        let mut found = TenantRecord::default();
        found.set_status(listed(), true);
        assert_eq!(phase(&found), Phase::Starting, "it may have been started right before");
        found.set_status(listed(), false);
        assert_eq!(phase(&found), Phase::Ready);

        let mut record = record(RunState::Created, false);
        record.on_started(run(1), false);
        record.set_status(listed(), false);
        assert_eq!(phase(&record), Phase::Starting);
        record.on_ready("c1");
        for same_start in [listed(), Some(run(1)), listed()] {
            record.set_status(same_start, false);
            assert_eq!(phase(&record), Phase::Ready, "one of its services is ill");
        }
        let mut restarted = record.clone();
        restarted.set_status(Some(run(2)), false);
        assert_eq!(phase(&restarted), Phase::Starting, "an unreported restart");
        record.on_exit("c1", exit(5));
        record.set_status(listed(), false);
        assert_eq!(phase(&record), Phase::Starting, "the engine started it again");
    }

    #[test]
    fn a_container_that_is_being_started_has_not_ended_by_itself() {
        let mut record = record(exited(0, 5), false);
        record.last_exit = None;
        record.on_event(ContainerEvent::StartRequested);
        let observed = record.observed(None).unwrap();
        assert_eq!(observed.phase, Phase::Starting);
        assert_eq!(observed.reason.unwrap(), "Its services have not all responded yet.");
        record.on_event(ContainerEvent::OperationEnded);
        assert_eq!(record.observed(None).unwrap().phase, Phase::Exited);
    }

    #[test]
    fn a_tenant_is_reachable_only_once_it_has_responded() {
        let upstream = |run, ready| {
            let status = Some(status(run, ready));
            let record = TenantRecord { status, ..TenantRecord::default() };
            record.observed(None).unwrap().upstream
        };
        assert!(upstream(RunState::Running, true).is_some());
        assert!(upstream(RunState::Paused, true).is_some());
        assert!(upstream(RunState::Running, false).is_none());
    }
}
