//! What is asked of a tenant: one operation at a time, a delete before all others.

use std::sync::Arc;

use protocol::TenantId;
use protocol::orchestrator::{ApplyRequest, ObservedTenant};
use protocol::spec::Spec;
use tokio::sync::OwnedMutexGuard;

use super::view::Known;
use super::{Entry, Keeper};
use crate::driver::{ContainerStatus, DriverError, DriverErrorCode, RunState};
use crate::state_dir::TargetState;

/// How often a container may vanish while it is being started.
const TRIES: u32 = 3;

/// The right to change one tenant. Others wait until it is dropped.
pub(super) struct Turn<'a> {
    keeper: &'a Keeper,
    id: TenantId,
    gate: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let now = self.keeper.now();
        if let Some(entry) = self.keeper.book().tenants.get_mut(&self.id) {
            entry.busy -= 1;
            entry.touched = now;
        }
        self.gate.take();
    }
}

impl Keeper {
    /// Makes it so. What is under way for this tenant is waited for.
    ///
    /// One that sleeps or is frozen for want of use stays so: what was changed is handed over (limits and a new
    /// generation to its container, its policy to us), and the next request wakes it. Only a restart, or a wake by
    /// its owner, wakes it from here. A frozen one of an older generation runs, as far as this goes: it is made anew
    /// and started.
    pub async fn apply(
        self: &Arc<Self>,
        apply: ApplyRequest,
    ) -> Result<ObservedTenant, DriverError> {
        self.owner_wants(apply.spec.id, apply.run);
        let specified = self.policy_holds(&apply.spec);
        let keeper = self.clone();
        let outcome = finished(tokio::spawn(async move {
            let id = apply.spec.id;
            let turn = keeper.turn(id).await;
            keeper.refuse_deleted(id)?;
            let done = keeper.make_so(&apply, specified).await;
            keeper.close(turn, done).await
        }));
        let outcome = outcome.await;
        self.metrics.count_apply(&outcome);
        outcome
    }

    /// The owner's stop: it stays down until it is asked to run again.
    pub async fn stop(self: &Arc<Self>, id: TenantId) -> Result<ObservedTenant, DriverError> {
        self.owner_wants(id, false);
        let keeper = self.clone();
        finished(tokio::spawn(async move {
            let turn = keeper.turn(id).await;
            keeper.refuse_deleted(id)?;
            let done = keeper.rest(id).await;
            keeper.close(turn, done).await
        }))
        .await
    }

    /// All of it goes, for good. Whatever waits for its turn behind this is refused.
    pub async fn delete(self: &Arc<Self>, id: TenantId) -> Result<(), DriverError> {
        // At once: an operation under way sees it at its next step.
        self.book().tombs.dig(id);
        self.owner_wants(id, false);
        let keeper = self.clone();
        let outcome = finished(tokio::spawn(async move {
            let turn = keeper.turn(id).await;
            keeper.change(id, |known| known.ending = true);
            keeper.driver.remove(id).await.inspect_err(|refusal| {
                keeper.change(id, |known| known.refused = Some(refusal.detail.clone()));
            })?;
            keeper.forget(id).map_err(|e| on_disk(&e))?;
            keeper.change(id, |known| *known = Known::default());
            drop(turn);
            let mut book = keeper.book();
            if book.tenants.get(&id).is_some_and(|e| e.busy == 0) {
                book.tenants.remove(&id);
            }
            Ok(())
        }));
        let outcome = outcome.await;
        self.metrics.count_delete(&outcome);
        outcome
    }

    pub(super) async fn turn(&self, id: TenantId) -> Turn<'_> {
        let gate = {
            let mut book = self.book();
            let entry = book.tenants.entry(id).or_insert_with(|| Entry::new(self, id));
            entry.busy += 1;
            entry.gate.clone()
        };
        let mut turn = Turn { keeper: self, id, gate: None };
        turn.gate = Some(gate.lock_owned().await);
        turn
    }

    pub(super) fn refuse_deleted(&self, id: TenantId) -> Result<(), DriverError> {
        if self.book().tombs.set.contains(&id) { Err(DriverError::deleted(id)) } else { Ok(()) }
    }

    async fn make_so(&self, apply: &ApplyRequest, specified: u64) -> Result<(), DriverError> {
        let ApplyRequest { spec, run, restart } = apply;
        let before = self.take_spec(spec, specified)?;
        let stays_asleep = *run && !*restart && before == TargetState::Asleep;
        if !stays_asleep {
            self.intend(spec.id, if *run { TargetState::Running } else { TargetState::Stopped })?;
        }
        if *restart || !*run {
            self.end(spec.id).await?;
        }
        let mut tries = TRIES;
        loop {
            tries -= 1;
            let made = self.ensured(spec).await?;
            let rests = match made.run {
                RunState::Running | RunState::Restarting | RunState::Paused => false,
                RunState::Created | RunState::Exited(_) => true,
            };
            if !*run || !rests || stays_asleep {
                return Ok(());
            }
            let queued = self.starts.acquire().await;
            self.refuse_deleted(spec.id)?;
            match self.started(spec.id).await {
                // Somebody removed it between the two.
                Err(refusal) if refusal.code == DriverErrorCode::NoSuchTenant && tries > 0 => {
                    drop(queued)
                }
                done => return done,
            }
        }
    }

    /// At once, as its owner's will does: a policy does not wait behind an engine's call. Returns when it was asked for.
    fn policy_holds(&self, spec: &Spec) -> u64 {
        let mut book = self.book();
        let now = self.now();
        book.tenants.entry(spec.id).or_insert_with(|| Entry::new(self, spec.id)).specified = now;
        self.set_policy(spec);
        now
    }

    fn set_policy(&self, spec: &Spec) {
        let policy = self.rules.policy(Some(spec));
        self.desk.tell(|authority, now| authority.set_policy(now, spec.id, policy));
    }

    /// Writes it down. What was asked of it before.
    fn take_spec(&self, spec: &Spec, specified: u64) -> Result<TargetState, DriverError> {
        let (changed, before) = self.change(spec.id, |known| {
            let old = known.persisted.spec.replace(spec.clone());
            (old.as_ref() != Some(spec), known.persisted.target)
        });
        // Again, for one that leases have only now come to know; never over what was asked for later.
        if self.book().tenants.get(&spec.id).is_some_and(|entry| entry.specified == specified) {
            self.set_policy(spec);
        }
        if changed {
            self.save(spec.id).map_err(|e| on_disk(&e))?;
        }
        Ok(before)
    }

    /// At once: whoever waits for the tenant is told before the operation has its turn.
    fn owner_wants(&self, id: TenantId, running: bool) {
        self.desk.tell(|authority, now| authority.set_owner_intent(now, id, running));
    }

    pub(super) async fn ensured(&self, spec: &Spec) -> Result<ContainerStatus, DriverError> {
        self.change(spec.id, |known| {
            known.ending |= known.seen.as_ref().is_some_and(|s| s.generation != spec.generation);
        });
        let queued = self.calls.acquire().await;
        self.refuse_deleted(spec.id)?;
        let made = self.driver.ensure(spec).await?;
        drop(queued);
        self.change(spec.id, |known| known.look(Some(made.clone())));
        Ok(made)
    }

    pub(super) async fn started(&self, id: TenantId) -> Result<(), DriverError> {
        self.change(id, |known| known.starting = true);
        let seen = self.driver.start(id).await?;
        self.change(id, |known| known.started(seen));
        Ok(())
    }

    async fn rest(&self, id: TenantId) -> Result<(), DriverError> {
        self.intend(id, TargetState::Stopped)?;
        if self.end(id).await? { Ok(()) } else { Err(DriverError::no_such_tenant(id)) }
    }

    /// Ends what runs, if anything does; `false` when there is no container at all.
    async fn end(&self, id: TenantId) -> Result<bool, DriverError> {
        self.change(id, |known| known.ending = true);
        match self.driver.stop(id).await {
            Ok(seen) => {
                self.change(id, |known| known.look(Some(seen)));
                Ok(true)
            }
            Err(refusal) if refusal.code == DriverErrorCode::NoSuchTenant => {
                self.change(id, |known| known.look(None));
                Ok(false)
            }
            Err(refusal) => Err(refusal),
        }
    }

    pub(super) fn intend(&self, id: TenantId, intent: TargetState) -> Result<(), DriverError> {
        let before = self.change(id, |known| known.intend(intent));
        if before != intent {
            self.save(id).map_err(|e| on_disk(&e))?;
        }
        Ok(())
    }

    /// Ends an operation: what it ran into is kept as the tenant's reason, what it missed is looked at.
    async fn close(
        self: &Arc<Self>,
        turn: Turn<'_>,
        done: Result<(), DriverError>,
    ) -> Result<ObservedTenant, DriverError> {
        let id = turn.id;
        let refused = done.as_ref().err().filter(|refusal| refusal.concerns_tenant());
        let refused = refused.map(|refusal| refusal.detail.clone());
        self.change(id, |known| {
            (known.ending, known.starting) = (false, false);
            known.refused = refused;
        });
        if done.is_err() {
            self.refresh(id).await;
        }
        self.let_go(turn);
        done?;
        self.observed(id).ok_or_else(|| DriverError::no_such_tenant(id))
    }

    /// The next operation may begin. What was missed meanwhile is looked at.
    pub(super) fn let_go(self: &Arc<Self>, turn: Turn<'_>) {
        let id = turn.id;
        drop(turn);
        let hinted =
            self.book().tenants.get_mut(&id).is_some_and(|e| std::mem::take(&mut e.hinted));
        if hinted {
            self.look_aside(id);
        }
    }

    /// Looks once and takes over what is there. A look that fails changes nothing.
    pub(super) async fn refresh(&self, id: TenantId) {
        match self.driver.inspect(id).await {
            Ok(seen) => self.change(id, |known| known.look(seen)),
            Err(refusal) => tracing::debug!(%id, %refusal, "could not look"),
        }
    }
}

async fn finished<T>(
    task: tokio::task::JoinHandle<Result<T, DriverError>>,
) -> Result<T, DriverError> {
    task.await
        .unwrap_or_else(|error| Err(DriverError::new(DriverErrorCode::Internal, error.to_string())))
}

fn on_disk(error: &std::io::Error) -> DriverError {
    let detail = format!("CIAL_STATE_DIR cannot be written: {error}.");
    let full = error.kind() == std::io::ErrorKind::StorageFull;
    DriverError::new(
        if full { DriverErrorCode::DiskFull } else { DriverErrorCode::Internal },
        detail,
    )
}
