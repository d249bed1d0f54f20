//! Does what was decided: asks, freezes, stops, thaws, starts. Each step of an act is taken with the tenant's turn
//! held, and only after the decision was looked at once more.

use std::sync::Arc;

use futures_util::FutureExt as _;
use lease::{BusyReport, CallId, CallOutcome, EngineCall, TenantSleepState, WakeTimings};
use protocol::TenantId;
use protocol::busy::BusyList;
use protocol::leases::LeaseUsage;
use protocol::orchestrator::Phase;
use protocol::sleep::{self, LastWake, WakePhases};
use protocol::spec::Spec;

use super::desk::{Authority, Order, moment, timestamp};
use super::{Keeper, why};
use crate::driver::{DriverError, RunState};
use crate::metrics;
use crate::metrics::sleep::{SuspendResult, WakePart};
use crate::state_dir::TargetState;

impl Keeper {
    /// Never waits: what takes time goes on beside the loop.
    pub(super) fn follow_order(self: &Arc<Self>, order: Order) {
        let keeper = self.clone();
        match order {
            Order::AskBusy { tenant, generation } => {
                tokio::spawn(async move { keeper.ask_busy(tenant, generation).await });
            }
            Order::Act { tenant, act, ticket } => {
                self.acts.spawn(async move {
                    match act {
                        EngineCall::Freeze | EngineCall::Stop | EngineCall::ThawThenStop => {
                            keeper.fall(tenant, act, ticket).await;
                        }
                        EngineCall::Thaw | EngineCall::Start => {
                            keeper.rouse(tenant, act, ticket).await
                        }
                    }
                });
            }
            Order::Woke { tenant, woke } => self.woke(tenant, woke),
            Order::Failed { tenant } => {
                let from = self.phase(tenant).and_then(sleep::IdleState::from_phase);
                let from = from.unwrap_or(sleep::IdleState::Sleeping);
                self.metrics.sleep.count_wake(from, false);
            }
        }
    }

    async fn ask_busy(self: Arc<Self>, id: TenantId, generation: u64) {
        let heard = self.hear(id).await;
        self.desk.tell(|authority, now| authority.on_busy_report(now, id, generation, heard));
    }

    /// Asks it whether it is busy, and keeps its answer for people.
    async fn hear(&self, id: TenantId) -> BusyReport {
        let answer = self.driver.busy_list(id).await;
        let heard = heard(&answer);
        self.metrics.sleep.count_busy_check(match heard {
            BusyReport::NotBusy | BusyReport::NotQueried => metrics::sleep::BusyResponse::Idle,
            BusyReport::Busy { .. } | BusyReport::BusyTooLong { .. } => {
                metrics::sleep::BusyResponse::Busy
            }
            BusyReport::NoReply => metrics::sleep::BusyResponse::None,
        });
        if let Err(why) = &answer {
            tracing::debug!(%id, why, "did not say whether it is busy");
        }
        if let Some(entry) = self.book().tenants.get_mut(&id) {
            entry.answer = Some(answer);
        }
        heard
    }

    /// On the way to sleep: whoever asks before the engine is called makes this come to nothing.
    async fn fall(self: Arc<Self>, id: TenantId, act: EngineCall, ticket: CallId) {
        // Before its turn: whoever wants the tenant awake must not stand behind all those that fall asleep.
        let _queued = self.falls.acquire().await;
        let turn = self.turn(id).await;
        let depth = if act == EngineCall::Freeze {
            sleep::IdleState::Frozen
        } else {
            sleep::IdleState::Sleeping
        };
        let Some(begun) = self.begin(id, ticket) else {
            self.metrics.sleep.count_suspend(depth, SuspendResult::KeptAwake);
            return self.let_go(turn);
        };
        let done = match act {
            EngineCall::ThawThenStop => self.thaw_then_stop(id).await,
            EngineCall::Stop => self.put_to_sleep(id).await,
            EngineCall::Freeze | EngineCall::Thaw | EngineCall::Start => self.freeze(id).await,
        };
        // As long as it runs it does not sleep: a look at what runs puts that right too.
        self.change(id, |known| known.ending = false);
        if let Err(refusal) = &done {
            tracing::warn!(%id, %refusal, "would not fall asleep");
            self.refresh(id).await;
        }
        let now = self.phase(id);
        self.metrics.sleep.count_suspend(depth, fell(depth, now, done.is_ok()));
        begun.end(outcome(&done));
        if matches!(now, Some(Phase::Frozen | Phase::Sleeping)) {
            self.explain(id);
        }
        self.let_go(turn);
    }

    /// The recheck. `None`: not wanted any more, or this process is going.
    fn begin(&self, id: TenantId, ticket: CallId) -> Option<Begun<'_>> {
        let begins = !self.desk.is_leaving()
            && self.desk.tell(|authority, now| authority.begin_call(now, id, ticket));
        begins.then_some(Begun { keeper: self, id, ticket: Some(ticket) })
    }

    async fn freeze(&self, id: TenantId) -> Result<(), DriverError> {
        let seen = self.driver.freeze(id).await?;
        self.change(id, |known| known.look(Some(seen)));
        Ok(())
    }

    /// Noted before it is done: after a crash it must not look as if the tenant had ended by itself.
    async fn put_to_sleep(&self, id: TenantId) -> Result<(), DriverError> {
        self.change(id, |known| known.ending = true);
        self.intend(id, TargetState::Asleep)?;
        let seen = self.driver.stop(id).await?;
        self.change(id, |known| known.look(Some(seen)));
        Ok(())
    }

    /// An engine asked to stop a paused container would wait in vain and kill it. Once thawed it is asked: what it
    /// declared right before it froze, nobody has heard.
    async fn thaw_then_stop(&self, id: TenantId) -> Result<(), DriverError> {
        self.thaw(id).await?;
        let unwanted = |authority: &Authority, _| {
            authority.sleep_state(id).is_some_and(TenantSleepState::is_still_unused)
        };
        // Whoever waits for it by now does not wait for its answer too.
        if !self.desk.see(unwanted) {
            return Ok(());
        }
        let heard = self.hear(id).await;
        if self.desk.tell(|authority, now| authority.continue_after_thaw(now, id, heard)) {
            self.put_to_sleep(id).await
        } else {
            Ok(())
        }
    }

    /// Ends with the engine's call. One that answers before is told to run at once: whoever waits for it is served.
    async fn thaw(&self, id: TenantId) -> Result<(), DriverError> {
        let mut call = self.driver.thaw(id);
        tokio::select! {
            biased;
            done = &mut call => {
                done?;
                self.runs(id, false);
                Ok(())
            }
            () = self.driver.wait_until_responsive(id) => {
                self.runs(id, true);
                call.await
            }
        }
    }

    /// It is frozen no more.
    fn runs(&self, id: TenantId, has_answered: bool) {
        self.change(id, |known| {
            if let Some(seen) = known.seen.as_mut().filter(|seen| seen.run == RunState::Paused) {
                seen.run = RunState::Running;
                seen.ready |= has_answered;
            }
        });
    }

    /// Somebody waits for it.
    async fn rouse(self: Arc<Self>, id: TenantId, act: EngineCall, ticket: CallId) {
        let turn = if let Some(turn) = self.turn(id).now_or_never() {
            turn
        } else {
            self.desk.tell(|authority, now| authority.defer_call(now, id, ticket));
            self.turn(id).await
        };
        // Owners' starts are starts at the same engine.
        let _queued = match act {
            EngineCall::Start => self.starts.acquire().await.ok(),
            EngineCall::Thaw | EngineCall::Freeze | EngineCall::Stop | EngineCall::ThawThenStop => {
                None
            }
        };
        let Some(begun) = self.begin(id, ticket) else { return self.let_go(turn) };
        let done = match act {
            EngineCall::Start => self.start_again(id).await,
            EngineCall::Thaw | EngineCall::Freeze | EngineCall::Stop | EngineCall::ThawThenStop => {
                self.thaw(id).await
            }
        };
        let told = done.as_ref().err().map(|refusal| refusal.detail.clone());
        let refused =
            told.clone().filter(|_| done.as_ref().is_err_and(|refusal| refusal.concerns_tenant()));
        if let Some(entry) = self.book().tenants.get_mut(&id) {
            entry.unwoken = told;
        }
        if let Err(refusal) = &done {
            tracing::warn!(%id, %refusal, "could not be woken");
            self.refresh(id).await;
            if act == EngineCall::Start {
                self.back_to_sleep(id);
            }
        }
        self.change(id, |known| {
            (known.ending, known.starting) = (false, false);
            known.refused = refused;
        });
        begun.end(outcome(&done));
        self.let_go(turn);
    }

    /// One that could not be started sleeps as before, and can be asked for again.
    fn back_to_sleep(&self, id: TenantId) {
        let rests = |known: &mut super::view::Known| {
            !known.seen.as_ref().is_some_and(|seen| seen.run.is_alive())
        };
        if self.change(id, rests)
            && let Err(refusal) = self.intend(id, TargetState::Asleep)
        {
            tracing::error!(%id, %refusal, "could not note that it sleeps");
        }
    }

    /// Where nothing has changed since it was stopped, the engine's start call is all there is.
    async fn start_again(&self, id: TenantId) -> Result<(), DriverError> {
        self.refuse_deleted(id)?;
        let (spec, anew) = self.recipe(id);
        if let Some(spec) = spec.as_ref().filter(|_| anew) {
            self.ensured(spec).await?;
        }
        self.change(id, |known| known.starting = true);
        self.intend(id, TargetState::Running)?;
        match (self.started(id).await, spec) {
            // What it was made of may be gone: its network, its container. Once more from its spec.
            (Err(refusal), Some(spec)) if !anew && refusal.is_fixed_by_recreating() => {
                self.ensured(&spec).await?;
                self.started(id).await
            }
            (done, _) => done,
        }
    }

    /// Its spec as far as it is known, and whether its container must be made anew from that.
    fn recipe(&self, id: TenantId) -> (Option<Spec>, bool) {
        let book = self.book();
        let Some(known) = book.tenants.get(&id).map(|entry| &entry.known) else {
            return (None, false);
        };
        let Some(spec) = known.persisted.spec.clone() else { return (None, false) };
        let fits = known.seen.as_ref().is_some_and(|seen| {
            !seen.image_outdated && !seen.template_outdated && spec.generation <= seen.generation
        });
        (Some(spec), !fits)
    }

    /// Before this process ends: what the engine was told is seen to its end, as long as that does not take long.
    pub async fn acts_ended(&self) {
        self.acts.close();
        if tokio::time::timeout(ACTS_PATIENCE, self.acts.wait()).await.is_err() {
            tracing::warn!("ends while the engine is being called");
        }
    }

    /// Writes down why it fell asleep.
    fn explain(&self, id: TenantId) {
        let slept = self
            .desk
            .see(|authority, _| authority.sleep_state(id).and_then(TenantSleepState::last_sleep));
        let Some(slept) = slept else { return };
        if let Some(entry) = self.book().tenants.get_mut(&id) {
            let answer = entry.answer.as_ref();
            entry.known.persisted.asleep_because = Some(why::asleep(slept, answer));
        }
        self.save_or_log(id);
    }

    fn woke(&self, id: TenantId, woke: WakeTimings) {
        // Any other phase is a start that was not ours.
        let Some(from) = sleep::IdleState::from_phase(woke.from) else { return };
        self.metrics.sleep.count_wake(from, true);
        let parts = [
            (WakePart::Queue, woke.queue),
            (WakePart::Engine, woke.engine),
            (WakePart::Boot, woke.boot),
            (WakePart::Total, woke.total),
        ];
        for (part, millis) in parts {
            self.metrics.sleep.record_wake_time(
                from,
                part,
                std::time::Duration::from_millis(millis),
            );
        }
        let short = |millis: u64| u32::try_from(millis).unwrap_or(u32::MAX);
        let (queue, engine, boot) = (short(woke.queue), short(woke.engine), short(woke.boot));
        let wake = LastWake {
            at: timestamp(woke.ready_at),
            from,
            total_ms: short(woke.total),
            phases_ms: WakePhases { queue, engine, boot, first_byte: None },
        };
        if let Some(entry) = self.book().tenants.get_mut(&id) {
            entry.known.persisted.last_wake = Some(wake);
        }
        self.save_or_log(id);
    }

    /// A router tells when the first byte of an answer came: once a wake.
    pub(super) fn first_byte(&self, used: &LeaseUsage) {
        let Some(millis) = used.first_byte_ms else { return };
        let from = {
            let mut book = self.book();
            let entry = book.tenants.get_mut(&used.tenant);
            let wake = entry.and_then(|entry| entry.known.persisted.last_wake.as_mut());
            let Some(wake) = wake.filter(|wake| wake.phases_ms.first_byte.is_none()) else {
                return;
            };
            wake.phases_ms.first_byte = Some(millis);
            wake.total_ms = wake.total_ms.saturating_add(millis);
            wake.from
        };
        let time = std::time::Duration::from_millis(millis.into());
        self.metrics.sleep.record_wake_time(from, WakePart::FirstByte, time);
    }
}

/// Less than an engine leaves us to end in order.
const ACTS_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// An act that was begun. One that breaks off is as good as refused: its tenant must not be "being called" for ever.
struct Begun<'a> {
    keeper: &'a Keeper,
    id: TenantId,
    /// `None`: its end was told.
    ticket: Option<CallId>,
}

impl Begun<'_> {
    /// Tells what the engine shows now, with the turn still held.
    fn end(mut self, outcome: CallOutcome) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: CallOutcome) {
        let (keeper, id) = (self.keeper, self.id);
        let Some(ticket) = self.ticket.take() else { return };
        let phase = keeper.phase(id).unwrap_or(Phase::Exited);
        keeper
            .desk
            .tell(|authority, now| authority.on_call_finished(now, id, ticket, outcome, phase));
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.keeper.change(self.id, |known| (known.ending, known.starting) = (false, false));
            self.tell(CallOutcome::Refused);
        }
    }
}

fn heard(answer: &Result<BusyList, String>) -> BusyReport {
    match answer {
        Err(_) => BusyReport::NoReply,
        Ok(list) => match list.busy.iter().map(|busy| busy.until).max() {
            Some(until) => BusyReport::Busy { until: moment(until) },
            None => BusyReport::NotBusy,
        },
    }
}

fn outcome(done: &Result<(), DriverError>) -> CallOutcome {
    if done.is_ok() { CallOutcome::Done } else { CallOutcome::Refused }
}

fn fell(wanted: sleep::IdleState, now: Option<Phase>, well: bool) -> SuspendResult {
    match (now.and_then(sleep::IdleState::from_phase) == Some(wanted), well) {
        (true, _) => SuspendResult::Asleep,
        (false, true) => SuspendResult::KeptAwake,
        (false, false) => SuspendResult::Failed,
    }
}
