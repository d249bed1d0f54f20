//! Suspending one tenant: decide, query whether it is busy, recheck, call the engine.

use protocol::orchestrator::Phase;

use crate::authority::reason::{AwakeReason, BusyReport, SleepRecord};
use crate::authority::sleep_state::{BusyPeriod, SuspendKind, SuspendStep, TenantSleepState};
use crate::time::{Millis, Moment};

/// A busy report that takes longer counts as none. The caller's own timeouts together are shorter: a report that it could
/// not fetch for reasons of its own keeps the tenant awake.
pub const BUSY_REPORT_TIMEOUT: Millis = 5_000;

/// The next step that the caller of [`TenantSleepState`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    Nothing,
    /// Query the tenant whether it is busy, then call [`TenantSleepState::on_busy_report`].
    QueryBusy {
        generation: u64,
    },
    /// Acquire the tenant's lock, call [`TenantSleepState::begin_suspend`], call the engine, then call
    /// [`TenantSleepState::on_suspend_finished`].
    Suspend {
        generation: u64,
        kind: SuspendKind,
    },
}

impl<H: Copy + Ord> TenantSleepState<H> {
    /// Returns the step to take now. Each step is returned once.
    pub fn next_decision(&mut self, now: Moment) -> Decision {
        self.remove_expired_leases(now);
        if matches!(self.step, SuspendStep::QueryingBusy { until, .. } if until <= now) {
            return self.on_busy_report(now, self.generation, BusyReport::NoReply);
        }
        let generation = self.generation;
        match self.next_suspend() {
            Some((at, kind)) if at <= now && self.step == SuspendStep::Settled => match kind {
                SuspendKind::Freeze | SuspendKind::Stop => {
                    let until = now.plus(BUSY_REPORT_TIMEOUT);
                    self.step = SuspendStep::QueryingBusy { generation, until };
                    Decision::QueryBusy { generation }
                }
                // A frozen tenant cannot report; it is queried after the thaw.
                SuspendKind::ThawThenStop => self.decide_suspend(kind, BusyReport::NotQueried),
            },
            Some(_) | None => Decision::Nothing,
        }
    }

    /// Takes the tenant's answer to a busy query.
    pub fn on_busy_report(&mut self, now: Moment, generation: u64, report: BusyReport) -> Decision {
        let is_querying = matches!(self.step, SuspendStep::QueryingBusy { .. });
        if generation != self.generation || !is_querying {
            return Decision::Nothing;
        }
        self.step = SuspendStep::Settled;
        let Some(report) = self.record_busy_report(now, report) else {
            return Decision::Nothing;
        };
        // The kind of suspend depends on the idle time alone, not on the busy period.
        let busy = self.busy.take();
        let next = self.next_suspend();
        self.busy = busy;
        match next {
            Some((at, kind)) if at <= now => self.decide_suspend(kind, report),
            Some(_) | None => Decision::Nothing,
        }
    }

    /// Records a report. Returns `None` when the tenant is busy and stays awake.
    ///
    /// The start of a busy period is cleared only by a report of not being busy, or by a suspend. Neither a visit nor a
    /// refusal of the engine extends the time that the policy allows.
    fn record_busy_report(&mut self, now: Moment, report: BusyReport) -> Option<BusyReport> {
        match report {
            BusyReport::Busy { until } => {
                let since = self.busy.map_or(now, |busy| busy.since);
                if self.policy.max_awake.is_some_and(|max| now >= since.plus(max)) {
                    return Some(BusyReport::BusyTooLong { since });
                }
                self.busy = Some(BusyPeriod { since, reported_at: now, until });
                None
            }
            BusyReport::NotBusy => {
                self.busy = None;
                Some(report)
            }
            BusyReport::NoReply | BusyReport::BusyTooLong { .. } | BusyReport::NotQueried => {
                Some(report)
            }
        }
    }

    fn decide_suspend(&mut self, kind: SuspendKind, report: BusyReport) -> Decision {
        let generation = self.generation;
        self.step = SuspendStep::Decided { generation, kind, report };
        Decision::Suspend { generation, kind }
    }

    /// Rechecks the decision right before the engine is called. Returns `false` when the tenant was used since, or when
    /// its owner changed its intent.
    pub fn begin_suspend(&mut self, now: Moment, decided_generation: u64) -> bool {
        let SuspendStep::Decided { generation, kind, report } = self.step else { return false };
        if generation != decided_generation {
            return false;
        }
        if generation != self.generation || self.has_lease(now) {
            self.step = SuspendStep::Settled;
            return false;
        }
        self.step = SuspendStep::Suspending { generation, kind, report };
        true
    }

    /// Whether no request has used the tenant since the suspend began.
    pub fn is_still_unused(&self) -> bool {
        matches!(self.step, SuspendStep::Suspending { generation, .. } if generation == self.generation)
    }

    /// Rechecks between the thaw and the stop, with the tenant's report in between: work may have been declared right
    /// before the freeze. Returns `false` when the tenant stays awake.
    pub fn continue_after_thaw(&mut self, now: Moment, report: BusyReport) -> bool {
        let SuspendStep::Suspending { generation, kind, .. } = self.step else { return false };
        if generation != self.generation {
            return false;
        }
        let report = self.record_busy_report(now, report);
        if let Some(report) = report {
            self.step = SuspendStep::Suspending { generation, kind, report };
        }
        report.is_some()
    }

    /// Takes the end of the engine's call; `phase` is what the engine shows now. A refusal is retried after
    /// `retry_delay`.
    pub fn on_suspend_finished(
        &mut self,
        now: Moment,
        phase: Phase,
        was_refused: bool,
        retry_delay: Millis,
    ) {
        let SuspendStep::Suspending { generation, report, .. } = self.step else { return };
        self.step = SuspendStep::Settled;
        if was_refused {
            self.retry_at = now.plus(retry_delay);
        }
        let is_unused = generation == self.generation;
        let keeps_busy_period = phase == self.phase
            || match (self.phase, phase) {
                // A tenant that was frozen for being busy too long gets no more time from the thaw before its stop.
                (_, Phase::Frozen) => matches!(report, BusyReport::BusyTooLong { .. }),
                (Phase::Frozen, Phase::Ready) => is_unused,
                (_, _) => false,
            };
        if !keeps_busy_period {
            self.busy = None;
        }
        if matches!(phase, Phase::Frozen | Phase::Sleeping) && phase != self.phase {
            let idle = now.since(self.last_use);
            self.last_sleep = Some(SleepRecord { at: now, phase, idle, busy_report: report });
        }
        self.phase = phase;
        self.generation += 1;
    }

    /// Returns when to call [`TenantSleepState::next_decision`], if no event comes first.
    pub fn next_deadline(&self) -> Option<Moment> {
        match self.step {
            SuspendStep::Settled => {
                let suspend = self.next_suspend().map(|(at, _)| at);
                suspend.into_iter().chain(self.rewake_at()).min()
            }
            SuspendStep::QueryingBusy { until, .. } => Some(until),
            SuspendStep::Decided { .. } | SuspendStep::Suspending { .. } => None,
        }
    }

    fn next_suspend(&self) -> Option<(Moment, SuspendKind)> {
        if self.is_stop_requested {
            return None;
        }
        let freeze =
            self.policy.freeze_after.map(|after| (self.idle_at(after), SuspendKind::Freeze));
        let stop = self.policy.sleep_after.map(|after| self.idle_at(after));
        match self.phase {
            Phase::Ready => match (freeze, stop) {
                (Some(freeze), Some(stop)) if freeze.0 < stop => Some(freeze),
                (_, Some(stop)) => Some((stop, SuspendKind::Stop)),
                (freeze, None) => freeze,
            },
            Phase::Frozen => stop.map(|stop| (stop, SuspendKind::ThawThenStop)),
            Phase::Created | Phase::Exited | Phase::Starting | Phase::Sleeping | Phase::Stopped => {
                None
            }
        }
    }

    /// The idle timer: returns when the tenant will have been idle for `after` with nothing else that keeps it awake.
    fn idle_at(&self, after: Millis) -> Moment {
        let busy = self.busy.map_or(Moment(0), |busy| {
            let next_query = busy.reported_at.plus(after);
            self.policy.max_awake.map_or(next_query, |max| next_query.min(busy.since.plus(max)))
        });
        let leased = self.leases.values().map(|lease| lease.until).max().unwrap_or_default();
        let idle = self.last_use.plus(after);
        idle.max(busy).max(leased).max(self.earliest_suspend).max(self.retry_at)
    }

    /// Returns when the tenant freezes; `None` when it never does, something keeps it awake, or it does not run.
    pub fn freezes_at(&self, now: Moment) -> Option<Moment> {
        let (at, kind) = self.next_suspend().filter(|_| self.awake_reasons(now).is_empty())?;
        (kind == SuspendKind::Freeze).then_some(at)
    }

    /// Returns when the tenant is stopped; `None` as for [`TenantSleepState::freezes_at`].
    pub fn sleeps_at(&self, now: Moment) -> Option<Moment> {
        self.next_suspend().filter(|_| self.awake_reasons(now).is_empty())?;
        self.policy.sleep_after.map(|after| self.idle_at(after))
    }

    /// Returns what keeps the tenant awake besides its idle time.
    pub fn awake_reasons(&self, now: Moment) -> Vec<AwakeReason> {
        let mut reasons = Vec::new();
        if self.phase != Phase::Ready {
            return reasons;
        }
        let live = || self.leases.values().filter(|lease| lease.until > now);
        if let Some(until) = live().map(|lease| lease.until).max() {
            let requests = live().map(|lease| lease.requests).sum();
            let streams = live().map(|lease| lease.streams).sum();
            let holders = live().count();
            reasons.push(AwakeReason::Leased { holders, requests, streams, until });
        }
        // A report from before the last use keeps nothing awake; the tenant is queried again.
        if let Some(BusyPeriod { since, until, .. }) =
            self.busy.filter(|busy| busy.reported_at >= self.last_use)
        {
            reasons.push(AwakeReason::Busy { since, until });
        }
        if self.earliest_suspend > now {
            reasons.push(AwakeReason::OrchestratorStarted { until: self.earliest_suspend });
        }
        if self.retry_at > now {
            reasons.push(AwakeReason::EngineRefused { until: self.retry_at });
        }
        if self.policy.freeze_after.is_none() && self.policy.sleep_after.is_none() {
            reasons.push(AwakeReason::NeverSleeps);
        }
        reasons
    }
}
