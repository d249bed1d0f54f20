//! Makes the observed state follow the desired state. Level-triggered by notifications and a timer, one run per
//! tenant at a time, a bounded number of runs at once. [`plan`] decides, `execute` acts.

pub mod error_class;
mod execute;
pub mod observed_cache;
pub mod plan;
pub mod schedule;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use protocol::TenantId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::audit::{Action, Actor, Entry, Resource};
use crate::clock::Clock;
use crate::db::{
    self, Conn, Database, QueryResult, Transaction as _, audit_log, deleted_tenants, sso_grant,
};
use crate::jitter::random_fraction;
use crate::orchestrator::Orchestrator;
use crate::tenant::Tenant;
use crate::tenant::status::TenantStatus;
use crate::tenant_databases::TenantDatabases;
use execute::StepError;
use observed_cache::ObservedCache;
use plan::{Observation, Step};
use schedule::{Outcome, Schedule};

/// A change that no notification announced is found within this time.
const RESYNC_INTERVAL: Duration = Duration::from_secs(2);
pub const MAX_CONCURRENT_RUNS: usize = 32;
const WATCH_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Requests a reconcile run after a change of the desired state.
#[derive(Clone)]
pub struct Notifier {
    sender: mpsc::UnboundedSender<TenantId>,
    runs: Arc<AtomicUsize>,
}

impl Notifier {
    /// The notification is a hint; the reconciler reads the row itself.
    pub fn notify(&self, id: TenantId) {
        // The receiver is gone only while the process ends.
        let _ = self.sender.send(id);
    }

    /// The number of runs at this moment.
    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }
}

pub struct Reconciler {
    pub database: Database,
    pub orchestrator: Arc<dyn Orchestrator>,
    pub observed: Arc<ObservedCache>,
    pub tenant_databases: Arc<TenantDatabases>,
    pub clock: Clock,
}

/// The receiving end of a [`Notifier`].
pub struct NotificationReceiver {
    receiver: mpsc::UnboundedReceiver<TenantId>,
    runs: Arc<AtomicUsize>,
}

pub fn notify_channel() -> (Notifier, NotificationReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let runs = Arc::<AtomicUsize>::default();
    (Notifier { sender, runs: runs.clone() }, NotificationReceiver { receiver, runs })
}

/// Watches the orchestrator and reconciles until `stop`. Must start only on a database of this installation.
///
/// # Errors
/// When a run panics.
pub async fn run(
    reconciler: Arc<Reconciler>,
    mut notifications: NotificationReceiver,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (changed_sender, mut changed) = mpsc::unbounded_channel();
    let mut watching = std::pin::pin!(watch(&reconciler, changed_sender));
    let (mut schedule, mut runs) = (Schedule::default(), JoinSet::new());
    let mut resync = tokio::time::interval(RESYNC_INTERVAL);
    resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        for id in schedule.take_due(now(), MAX_CONCURRENT_RUNS) {
            let reconciler = reconciler.clone();
            runs.spawn(async move { (id, reconciler.reconcile_tenant(id).await) });
        }
        notifications.runs.store(runs.len(), Ordering::Relaxed);
        let due = schedule.next_due().filter(|_| runs.len() < MAX_CONCURRENT_RUNS);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = &mut watching => {}
            Some(id) = notifications.receiver.recv() => schedule.request(id, now()),
            Some(id) = changed.recv() => schedule.hint(id, now()),
            _ = resync.tick() => {
                for id in reconciler.find_drifted().await {
                    schedule.hint(id, now());
                }
            }
            Some(done) = runs.join_next() => match done {
                Ok((id, outcome)) => schedule.finish(id, outcome, now(), random_fraction()),
                // The slot of the panicked run would never be freed: restart the process instead.
                Err(error) => anyhow::bail!("reconcile run panicked: {error}"),
            },
            () = sleep_until(due), if due.is_some() => {}
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the loop is the shell that reads the clock")]
fn now() -> Instant {
    Instant::now()
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due.into()).await;
    }
}

/// Lists and watches for as long as the future is polled. Each end of a watch clears the cache.
async fn watch(reconciler: &Reconciler, changed: mpsc::UnboundedSender<TenantId>) {
    let mut is_first_failure = true;
    loop {
        let on_message = |message| {
            for id in reconciler.observed.apply_message(message) {
                let _ = changed.send(id);
            }
        };
        let ended = reconciler.orchestrator.watch(&on_message).await;
        let was_connected = reconciler.observed.is_connected();
        reconciler.observed.disconnect();
        if was_connected || is_first_failure {
            tracing::warn!(reason = %ended, "orchestrator watch ended, retrying");
        }
        is_first_failure = false;
        tokio::time::sleep(WATCH_RETRY_DELAY.mul_f64(1.0 + random_fraction())).await;
    }
}

impl Reconciler {
    /// Returns the tenants whose row and observation disagree.
    async fn find_drifted(&self) -> Vec<TenantId> {
        match self.try_find_drifted().await {
            Ok(ids) => ids,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "reading tenants failed");
                Vec::new()
            }
        }
    }

    async fn try_find_drifted(&self) -> anyhow::Result<Vec<TenantId>> {
        let rows = db::tenant::all(&mut *self.database.conn().await?).await?;
        let mut ids: Vec<_> =
            rows.iter().filter(|t| self.is_drifted(t)).map(Tenant::tenant_id).collect();
        let known: HashSet<_> = rows.iter().map(Tenant::tenant_id).collect();
        ids.extend(self.observed.ids().into_iter().filter(|id| !known.contains(id)));
        Ok(ids)
    }

    fn is_drifted(&self, tenant: &Tenant) -> bool {
        let observation = self.observed.get(tenant.tenant_id());
        let (desired, status) = (tenant.desired_state(), tenant.status());
        let derived = plan::derive_status(desired, &status, &observation, self.clock.now());
        derived != status || plan::plan(desired, &derived, &observation) != Step::Noop
    }

    /// One run for one tenant: updates the status, or else takes at most one step.
    async fn reconcile_tenant(&self, id: TenantId) -> Outcome {
        match self.try_reconcile_tenant(id).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!(tenant = %id, error = format!("{error:#}"), "reconcile run failed");
                Outcome::RetryLater { slow: false }
            }
        }
    }

    async fn try_reconcile_tenant(&self, id: TenantId) -> anyhow::Result<Outcome> {
        let Some(tenant) = db::tenant::by_id(&mut *self.database.conn().await?, id).await? else {
            return self.remove_orphan(id).await;
        };
        let observation = self.observed.get(id);
        let (desired, status) = (tenant.desired_state(), tenant.status());
        let derived = plan::derive_status(desired, &status, &observation, self.clock.now());
        if derived != status {
            if derived.state != status.state {
                let (from, to) = (status.state, derived.state);
                // The lines after the first are the program's own.
                let reason = derived.reason.as_deref().and_then(|reason| reason.lines().next());
                tracing::info!(tenant = %id, slug = %tenant.slug, %from, %to, reason, "state changed");
            }
            // A lost race needs no handling: the next run starts from the row of that time.
            let mut conn = self.database.conn().await?;
            db::tenant::update_status(&mut conn, &tenant, &derived).await?;
            return Ok(Outcome::Requeue);
        }
        let step = plan::plan(desired, &status, &observation);
        if step == Step::Noop {
            return Ok(Outcome::Settled);
        }
        tracing::info!(tenant = %id, slug = %tenant.slug, ?step, "reconcile step started");
        // Read after the row: a later revocation counts as another change.
        let revoked = {
            let mut conn = self.database.conn().await?;
            sso_grant::revoked_sessions(&mut conn, id, self.clock.now()).await?
        };
        match self.execute(&tenant, revoked, step).await {
            Ok(()) => self.on_step_done(&tenant, step).await,
            Err(error) => self.on_step_failed(&tenant, step, &error).await,
        }
    }

    async fn on_step_done(&self, tenant: &Tenant, step: Step) -> anyhow::Result<Outcome> {
        let mut conn = self.database.conn().await?;
        match step {
            Step::Remove => self.delete_row(&mut conn, tenant).await?,
            Step::Create | Step::CreateDatabase => {
                let status = tenant.status();
                if status.reason.as_deref().is_some_and(error_class::is_database_reason) {
                    let next = TenantStatus { reason: None, ..status };
                    db::tenant::update_status(&mut conn, tenant, &next).await?;
                }
                return Ok(Outcome::Requeue);
            }
            Step::DropDatabase => return Ok(Outcome::Requeue),
            Step::Run | Step::Update | Step::Restart | Step::Wake => {
                db::tenant::mark_fulfilled(&mut conn, tenant, step.fulfills()).await?;
                let left = tenant.desired_state().without(step.fulfills());
                let observation = self.observed.get(tenant.tenant_id());
                // A call that succeeded without any effect must not be repeated at once.
                let is_repeated = plan::plan(left, &tenant.status(), &observation) != Step::Noop;
                return Ok(if is_repeated {
                    Outcome::RetryLater { slow: false }
                } else {
                    Outcome::Requeue
                });
            }
            Step::Stop | Step::Noop => {}
        }
        // The watch reports the effect of a stop.
        Ok(Outcome::Settled)
    }

    async fn delete_row(&self, conn: &mut Conn, tenant: &Tenant) -> anyhow::Result<()> {
        let entry = Entry::new(
            Actor::command("reconcile"),
            Action::TenantGone,
            Resource::tenant(&tenant.slug),
        );
        let now = self.clock.now();
        let deleted = conn.transaction(async |conn| {
            if db::tenant::delete(conn, tenant.tenant_id()).await? > 0 {
                audit_log::append(conn, &entry, now).await?;
            }
            QueryResult::Ok(())
        });
        Ok(deleted.await?)
    }

    async fn on_step_failed(
        &self,
        tenant: &Tenant,
        step: Step,
        error: &StepError,
    ) -> anyhow::Result<Outcome> {
        let id = tenant.tenant_id();
        let class = error_class::classify(step, error);
        tracing::warn!(
            tenant = %id, slug = %tenant.slug, ?step, fatal = class.is_fatal, %error, "reconcile step failed"
        );
        if step == Step::Wake && class.is_fatal {
            // The tenant stays asleep; its owner may request another wake.
            let mut conn = self.database.conn().await?;
            db::tenant::mark_fulfilled(&mut conn, tenant, step.fulfills()).await?;
            return Ok(Outcome::Settled);
        }
        let status = tenant.status();
        // An impossible change must not end a tenant that runs or sleeps.
        let is_fatal = class.is_fatal && step != Step::Update;
        let next = status.after_failed_step(class.reason, is_fatal, self.clock.now());
        if next != status {
            let mut conn = self.database.conn().await?;
            db::tenant::update_status(&mut conn, tenant, &next).await?;
        }
        Ok(Outcome::RetryLater { slow: class.is_fatal })
    }

    /// Removes a container without a row, but only if this database created and deleted its tenant.
    async fn remove_orphan(&self, id: TenantId) -> anyhow::Result<Outcome> {
        if !matches!(self.observed.get(id), Observation::Present(_)) {
            return Ok(Outcome::Settled);
        }
        let deleted =
            deleted_tenants::known_among(&mut *self.database.conn().await?, &[id]).await?;
        if deleted.is_empty() {
            tracing::warn!(tenant = %id, "container of an unknown tenant left alone");
            return Ok(Outcome::RetryLater { slow: true });
        }
        tracing::info!(tenant = %id, "removing container of a deleted tenant");
        self.remove(id).await?;
        Ok(Outcome::Settled)
    }
}
