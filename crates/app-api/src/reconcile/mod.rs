//! Makes what is wanted and what is seen agree: level-triggered by a bell and a clock, one run per tenant at a
//! time, a bounded number at once. [`plan`] decides, `execute` does.

pub mod crashes;
mod execute;
pub mod plan;
pub mod schedule;
pub mod sight;
pub mod verdict;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::TenantId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::db::{Database, departed, tenant};
use crate::orchestrator::Orchestrator;
use plan::{Seen, Step};
use schedule::{Outcome, Schedule};
use sight::{Glimpse, Sight};

/// The clock of the loop: what no bell told is found within this time.
const SWEEP: Duration = Duration::from_secs(2);
const AT_ONCE: usize = 32;

/// Rung by whoever changed what is wanted.
#[derive(Clone)]
pub struct Bell(mpsc::UnboundedSender<TenantId>);

impl Bell {
    /// Whom to look at is a hint; the rows are the truth.
    pub fn ring(&self, id: TenantId) {
        // Nobody listens while the process ends.
        let _ = self.0.send(id);
    }
}

pub struct Reconciler {
    pub database: Database,
    pub orchestrator: Arc<dyn Orchestrator>,
    pub sight: Arc<Sight>,
    pub clock: Clock,
}

pub type Wishes = mpsc::UnboundedReceiver<TenantId>;

pub fn bell() -> (Bell, Wishes) {
    let (ring, rung) = mpsc::unbounded_channel();
    (Bell(ring), rung)
}

/// Follows the orchestrator and reconciles until asked to stop. Starts only on a database known to be ours.
pub async fn run(
    reconciler: Arc<Reconciler>,
    mut wishes: Wishes,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (seen_tell, mut seen) = mpsc::unbounded_channel();
    let mut watching = std::pin::pin!(watch(&reconciler, seen_tell));
    let (mut schedule, mut runs) = (Schedule::default(), JoinSet::new());
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        for id in schedule.take(now(), AT_ONCE) {
            let reconciler = reconciler.clone();
            runs.spawn(async move { (id, reconciler.pass(id).await) });
        }
        let due = schedule.next_due().filter(|_| runs.len() < AT_ONCE);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = &mut watching => {}
            Some(id) = wishes.recv() => schedule.ask(id, now()),
            Some(id) = seen.recv() => schedule.hint(id, now()),
            _ = sweep.tick() => {
                for id in reconciler.amiss().await {
                    schedule.hint(id, now());
                }
            }
            Some(done) = runs.join_next() => match done {
                Ok((id, outcome)) => schedule.finished(id, outcome, now(), chance()),
                // Its tenant's turn would never end: better to begin anew.
                Err(error) => anyhow::bail!("a reconcile run broke down: {error}"),
            },
            () = until(due), if due.is_some() => {}
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the loop is the shell that reads the clock")]
fn now() -> Instant {
    Instant::now()
}

async fn until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due.into()).await;
    }
}

/// 0 to 1, for jitter.
fn chance() -> f64 {
    let mut byte = [0];
    // No randomness is no jitter, nothing worse.
    let _ = getrandom::fill(&mut byte);
    f64::from(byte[0]) / 255.0
}

/// Lists and watches for as long as it is polled; what was seen ends with each watch.
async fn watch(reconciler: &Reconciler, tell: mpsc::UnboundedSender<TenantId>) {
    let mut heard = true;
    loop {
        let take = |message| {
            for id in reconciler.sight.take(message) {
                let _ = tell.send(id);
            }
        };
        let ended = reconciler.orchestrator.watch(&take).await;
        let was_clear = reconciler.sight.is_clear();
        reconciler.sight.lose();
        if was_clear || heard {
            tracing::warn!(reason = %ended, "the orchestrator is not heard; trying again");
        }
        heard = false;
        tokio::time::sleep(Duration::from_millis(500).mul_f64(1.0 + chance())).await;
    }
}

impl Reconciler {
    /// Whose row, sight and wish do not agree.
    async fn amiss(&self) -> Vec<TenantId> {
        match self.look().await {
            Ok(ids) => ids,
            Err(error) => {
                tracing::warn!("cannot look at the tenants: {error:#}");
                Vec::new()
            }
        }
    }

    async fn look(&self) -> anyhow::Result<Vec<TenantId>> {
        let rows = tenant::all(&mut *self.database.conn().await?).await?;
        let mut ids: Vec<_> =
            rows.iter().filter(|t| self.is_amiss(t)).map(|t| t.tenant_id()).collect();
        let known: HashSet<_> = rows.iter().map(tenant::Tenant::tenant_id).collect();
        ids.extend(self.sight.ids().into_iter().filter(|id| !known.contains(id)));
        Ok(ids)
    }

    fn is_amiss(&self, tenant: &tenant::Tenant) -> bool {
        let (glimpse, want, life) =
            (self.sight.of(tenant.tenant_id()), tenant.want(), tenant.life());
        let settled = plan::settle(want, &life, glimpse.seen(), self.clock.now());
        settled != life || plan::plan(want, &settled, glimpse.seen()) != Step::Rest
    }

    /// One run for one tenant: settle what we say of it, then take at most one step.
    async fn pass(&self, id: TenantId) -> Outcome {
        match self.try_pass(id).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!(tenant = %id, "a reconcile run failed: {error:#}");
                Outcome::SetBack { slow: false }
            }
        }
    }

    async fn try_pass(&self, id: TenantId) -> anyhow::Result<Outcome> {
        let Some(tenant) = tenant::by_id(&mut *self.database.conn().await?, id).await? else {
            return self.clear_away(id).await;
        };
        let (glimpse, want, life) = (self.sight.of(id), tenant.want(), tenant.life());
        let settled = plan::settle(want, &life, glimpse.seen(), self.clock.now());
        if settled != life {
            if settled.state != life.state {
                let (from, to) = (life.state, settled.state);
                tracing::info!(tenant = %id, slug = %tenant.slug, %from, %to, reason = settled.reason, "moved");
            }
            // Lost or won, the next look starts from what the row says then.
            tenant::advance(&mut *self.database.conn().await?, &tenant, &settled).await?;
            return Ok(Outcome::Moved);
        }
        let step = plan::plan(want, &life, glimpse.seen());
        if step == Step::Rest {
            return Ok(Outcome::Settled);
        }
        tracing::info!(tenant = %id, slug = %tenant.slug, ?step, "reconciling");
        match execute::execute(&*self.orchestrator, &self.sight, &tenant, step).await {
            Ok(()) => self.done(&tenant, step).await,
            Err(error) => self.failed(&tenant, step, &error).await,
        }
    }

    async fn done(&self, tenant: &tenant::Tenant, step: Step) -> anyhow::Result<Outcome> {
        let mut conn = self.database.conn().await?;
        match step {
            Step::Remove => {
                tenant::bury(&mut conn, tenant.tenant_id()).await?;
            }
            Step::Run | Step::Update | Step::Restart | Step::Wake => {
                tenant::handed_over(&mut conn, tenant, step.meets()).await?;
                let left = tenant.want().without(step.meets());
                let glimpse = self.sight.of(tenant.tenant_id());
                // Accepted and yet nothing came of it: not again at once.
                let again = plan::plan(left, &tenant.life(), glimpse.seen()) != Step::Rest;
                return Ok(if again { Outcome::SetBack { slow: false } } else { Outcome::Moved });
            }
            Step::Stop | Step::Rest => {}
        }
        // What a stop did is told by the watch.
        Ok(Outcome::Settled)
    }

    async fn failed(
        &self,
        tenant: &tenant::Tenant,
        step: Step,
        error: &service::client::CallError,
    ) -> anyhow::Result<Outcome> {
        let id = tenant.tenant_id();
        let verdict = verdict::verdict(error);
        tracing::warn!(tenant = %id, slug = %tenant.slug, fatal = verdict.fatal, "a step came to nothing: {error}");
        if step == Step::Wake && verdict.fatal {
            // It sleeps on; whoever still wants it asks again.
            let mut conn = self.database.conn().await?;
            tenant::handed_over(&mut conn, tenant, step.meets()).await?;
            return Ok(Outcome::Settled);
        }
        let life = tenant.life();
        // A change that cannot be had leaves what runs, or sleeps, as it is.
        let fatal = verdict.fatal && step != Step::Update;
        let told = life.set_back(verdict.reason, fatal, self.clock.now());
        if told != life {
            tenant::advance(&mut *self.database.conn().await?, tenant, &told).await?;
        }
        Ok(Outcome::SetBack { slow: verdict.fatal })
    }

    /// A container without a row: removed only if this database knew its tenant and let it go.
    async fn clear_away(&self, id: TenantId) -> anyhow::Result<Outcome> {
        if !matches!(self.sight.of(id), Glimpse::This(_)) {
            return Ok(Outcome::Settled);
        }
        let ours = departed::among(&mut *self.database.conn().await?, &[id]).await?;
        if ours.is_empty() {
            tracing::warn!(tenant = %id, "a container of this installation that its database never knew; left alone");
            return Ok(Outcome::SetBack { slow: true });
        }
        tracing::info!(tenant = %id, "removing what is left of a deleted tenant");
        execute::remove(&*self.orchestrator, &self.sight, id).await?;
        Ok(Outcome::Settled)
    }
}

impl Glimpse {
    fn seen(&self) -> Seen<'_> {
        match self {
            Self::Unknown => Seen::Unknown,
            Self::Nothing => Seen::Nothing,
            Self::This(observed) => Seen::This(observed),
        }
    }
}
