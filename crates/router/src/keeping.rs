//! Holds the leases: one thread asks for them, renews and releases them in batches, and answers all who wait.

mod absence;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use lease::{DueAction, LeaseCall, LeaseTerms, Millis, Moment};
use protocol::TenantId;
use protocol::leases::{
    LeaseGrant, LeaseUsage, ReleaseRequest, RenewRequest, RenewResponse, RequestIntent,
};
use service::client::CallError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::asking::{self, Keeper, Meaning};
use crate::clock;
use crate::held::Held;
use crate::leases::{Outcome, Refusal, Room, Want, until};
use crate::metrics::LeaseCounters;
use crate::routes::store::RouteStore;
use crate::routes::table::Availability;

pub(crate) struct Keeping {
    directory: Arc<RouteStore>,
    keeper: Keeper,
    room: Arc<Room>,
    wakes: Arc<LeaseCounters>,
    tenants: HashMap<TenantId, Held>,
    calls: JoinSet<Said>,
    /// When to look at all tenants; `None` while nothing is held.
    due: Option<Moment>,
    /// When the orchestrator last said anything, and whether it is being asked just for that.
    heard: Moment,
    listened: Moment,
    is_listening: bool,
    /// When it was last found to be away.
    lost: Moment,
}

/// What came back.
enum Said {
    Asked {
        tenant: TenantId,
        call: LeaseCall,
        intent: RequestIntent,
        answer: Result<LeaseGrant, CallError>,
    },
    Renewed {
        calls: Vec<(TenantId, LeaseCall)>,
        answer: Result<RenewResponse, CallError>,
    },
    Listened(Result<RenewResponse, CallError>),
    Released,
}

/// How long what is known of a sleeper, of one that does not run, or of a wake that failed, is not asked for again.
const ASLEEP: Millis = 1_000;
const ABSENT: Millis = 1_000;
const FAILED: Millis = 10_000;
/// In one call.
const BATCH: usize = 1_000;
/// While a tenant is in use nothing tells when that ends: then it is looked at this often.
const LOOK_AGAIN: Millis = 1_000;
/// All tenants are looked at no more often than this.
const BREATH: Millis = 20;

impl Keeping {
    pub(crate) fn new(
        directory: Arc<RouteStore>,
        keeper: Keeper,
        room: Arc<Room>,
        wakes: Arc<LeaseCounters>,
    ) -> Self {
        let (tenants, due) = (HashMap::new(), None);
        let (heard, listened, lost, is_listening) = (Moment(0), Moment(0), Moment(0), false);
        let calls = JoinSet::new();
        Self {
            directory,
            keeper,
            room,
            wakes,
            tenants,
            calls,
            due,
            heard,
            listened,
            is_listening,
            lost,
        }
    }

    /// Until `stop`; then gives back what it holds.
    pub(crate) async fn run(
        mut self,
        mut wanted: mpsc::UnboundedReceiver<Want>,
        stop: CancellationToken,
    ) {
        let mut tables = self.directory.subscribe();
        loop {
            let due = self.due;
            let due = async {
                match due {
                    Some(at) => tokio::time::sleep(until(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(want) = wanted.recv() => self.want(want),
                Some(said) = self.calls.join_next() => {
                    if let Ok(said) = said {
                        self.hear(said);
                    }
                }
                Ok(()) = tables.changed() => {
                    let known = tables.borrow_and_update().routes().map(|r| r.tenant).collect();
                    self.forget(&known);
                }
                () = due => self.settle(),
                () = stop.cancelled() => break,
            }
        }
        let all: Vec<LeaseUsage> = self
            .tenants
            .iter_mut()
            .filter_map(|(tenant, held)| {
                let usage = held.usage();
                held.give_back(*tenant, &usage)
            })
            .collect();
        self.release(all);
        let said = async { while self.calls.join_next().await.is_some() {} };
        // Whatever is not said by then runs out by itself.
        let _ = tokio::time::timeout(Duration::from_secs(1), said).await;
    }

    fn want(&mut self, want: Want) {
        let Want { tenant, intent, lost, insists, place: _place, waiter } = want;
        let (now, limit) = (clock::now(), self.room.limits.held_for_one);
        let is_gone = self.is_gone(now);
        let entry = self.directory.get(tenant);
        let runs =
            entry.as_ref().is_some_and(|entry| entry.availability() == Availability::Running);
        let held = self.tenants.entry(tenant).or_default();
        held.is_at(entry.and_then(|entry| entry.tenure.clone()));
        if let Some(lost) = lost {
            held.lose(&lost);
        }
        if insists {
            (held.failed, held.absent) = (None, Moment(0));
        }
        if let Some(tenure) = held.live(now) {
            if let Some(waiter) = waiter {
                waiter.gets(tenure);
            }
            return;
        }
        let known = match &held.failed {
            // What was learnt of it is over.
            _ if runs => None,
            Some((until, reason)) if *until > now => Some(Refusal::Failed(reason.clone())),
            _ if held.absent > now => Some(Refusal::NotRunning),
            _ if intent == RequestIntent::Background && held.asleep > now => {
                Some(Refusal::WakeRequired)
            }
            Some(_) | None => None,
        };
        if let Some(refusal) = known {
            if let Some(waiter) = waiter {
                waiter.hears(Outcome::Refused(refusal));
            }
            return;
        }
        if let Some(waiter) = waiter {
            if is_gone && !runs {
                waiter.hears(Outcome::Refused(Refusal::Unavailable));
                if held.asking.is_none() && self.room.is_probe_due() {
                    self.ask(tenant, intent);
                }
                return;
            }
            if held.waiters.len() >= limit {
                held.waiters.retain(|waiter| !waiter.reply.is_closed());
            }
            if held.waiters.len() >= limit {
                waiter.hears(Outcome::Refused(Refusal::Crowded));
                return;
            }
            held.waiters.push(waiter);
        }
        if held.asking.is_none() && held.again.is_none() {
            self.ask(tenant, intent);
        }
    }

    fn ask(&mut self, tenant: TenantId, intent: RequestIntent) {
        let held = self.tenants.entry(tenant).or_default();
        (held.asking, held.asked, held.again) = (Some(intent), clock::now(), None);
        let call = held.holder.begin_request(held.asked);
        let keeper = self.keeper.clone();
        self.wakes.asked();
        self.calls.spawn(async move {
            let answer = keeper.ask(tenant, call.number, intent).await;
            Said::Asked { tenant, call, intent, answer }
        });
        self.look_by(clock::now().plus(absence::SILENCE));
    }

    fn hear(&mut self, said: Said) {
        match said {
            Said::Asked { tenant, call, intent, answer } => {
                if let Some(held) = self.tenants.get_mut(&tenant) {
                    held.asking = None;
                }
                self.room.set_place(tenant, None);
                match answer {
                    Ok(grant) => self.granted(call, &grant),
                    Err(error) => self.refused(tenant, call, intent, &error),
                }
            }
            Said::Renewed { calls, answer: Ok(renewed) } => {
                self.heard();
                for ((tenant, call), standing) in calls.into_iter().zip(renewed.leases) {
                    let Some(held) = self.tenants.get_mut(&tenant) else { continue };
                    if standing.tenant == tenant {
                        held.holder.on_renewed(call, standing.expires_in_ms.map(Millis::from));
                        held.publish();
                    }
                }
            }
            Said::Renewed { answer: Err(error), .. } => self.came_to_nothing(&error),
            Said::Listened(answer) => {
                self.is_listening = false;
                match answer {
                    Ok(_) => self.heard(),
                    Err(error) => self.came_to_nothing(&error),
                }
                if let Some(at) = self.next_look() {
                    self.look_by(at);
                }
            }
            Said::Released => {}
        }
    }

    fn granted(&mut self, call: LeaseCall, grant: &LeaseGrant) {
        self.heard();
        let tenant = grant.tenant;
        let tenure = self.directory.record_upstream(tenant, grant.generation, &grant.upstream);
        let Some(held) = self.tenants.get_mut(&tenant) else { return };
        let terms =
            LeaseTerms { expires_in: grant.expires_in_ms.into(), linger: grant.linger_ms.into() };
        let is_of_use = held.holder.on_granted(call, terms);
        let Some(tenure) = tenure else {
            held.refuse(&Refusal::NotRunning);
            return;
        };
        if !is_of_use || !held.holder.may_send(clock::now()) {
            return self.ask_again(tenant);
        }
        if held.moves_to(&tenure) {
            self.wakes.moved();
        }
        (held.linger, held.failed) = (terms.linger, None);
        (held.asleep, held.absent) = (Moment(0), Moment(0));
        if grant.woke {
            self.wakes.woke();
        }
        tenure.is_heard();
        let is_awaited = held.waiters.iter().any(|waiter| !waiter.reply.is_closed());
        tenure.woke(if grant.woke && is_awaited { clock::now() } else { Moment(0) });
        held.publish();
        for waiter in held.waiters.drain(..) {
            waiter.gets(&tenure);
        }
        self.look_by(clock::now().plus(BREATH));
    }

    fn refused(
        &mut self,
        tenant: TenantId,
        call: LeaseCall,
        intent: RequestIntent,
        error: &CallError,
    ) {
        let now = clock::now();
        let refusal = match asking::meaning(error) {
            Meaning::Refused(refusal) => {
                self.heard();
                refusal
            }
            Meaning::Nobody => {
                self.silent(error);
                return self.without_keeper(tenant);
            }
            Meaning::Fault => {
                self.faulty(error);
                Refusal::Unavailable
            }
        };
        if let Refusal::Waking { ahead } = refusal {
            self.room.set_place(tenant, ahead);
        }
        let Some(held) = self.tenants.get_mut(&tenant) else { return };
        match &refusal {
            Refusal::WakeRequired => {
                held.asleep = now.plus(ASLEEP);
                let (visits, others): (Vec<_>, _) =
                    std::mem::take(&mut held.waiters).into_iter().partition(|w| {
                        w.intent == RequestIntent::Visit && intent == RequestIntent::Background
                    });
                held.waiters = others;
                held.refuse(&refusal);
                held.waiters = visits;
                self.ask_again(tenant);
            }
            // Some may wait longer than this ask did, unless it was not let wait at all.
            Refusal::Waking { .. }
                if now.since(call.sent_at) >= Millis::from(asking::SLICE_MS) / 2 =>
            {
                self.ask_again(tenant);
            }
            Refusal::Failed(reason) => {
                held.failed = Some((now.plus(FAILED), reason.clone()));
                held.refuse(&refusal);
            }
            Refusal::NotRunning => {
                held.absent = now.plus(ABSENT);
                held.refuse(&refusal);
            }
            Refusal::Stopped
            | Refusal::Waking { .. }
            | Refusal::QueueFull { .. }
            | Refusal::Unavailable
            | Refusal::Crowded => held.refuse(&refusal),
        }
    }

    /// For those who still wait.
    fn ask_again(&mut self, tenant: TenantId) {
        let Some(held) = self.tenants.get_mut(&tenant) else { return };
        held.waiters.retain(|waiter| !waiter.reply.is_closed());
        let visits = held.waiters.iter().any(|waiter| waiter.intent == RequestIntent::Visit);
        held.again = None;
        if !held.waiters.is_empty() && held.asking.is_none() {
            self.ask(tenant, if visits { RequestIntent::Visit } else { RequestIntent::Background });
        }
    }

    fn look_by(&mut self, at: Moment) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Says what is due to be said.
    fn settle(&mut self) {
        let now = clock::now();
        self.listen(now);
        let (mut renewals, mut releases, mut asks) = (Vec::new(), Vec::new(), Vec::new());
        for (tenant, held) in &mut self.tenants {
            let usage = held.usage();
            match held.holder.due_action(now, usage.requests > 0, usage.last) {
                DueAction::Nothing => {}
                DueAction::Renew => {
                    if let Some(call) = held.holder.begin_renewal(now) {
                        renewals.push(((*tenant, call), held.used(*tenant, call.number, &usage)));
                    }
                }
                DueAction::Release => releases.extend(held.give_back(*tenant, &usage)),
                DueAction::Request if held.asking.is_none() && held.again.is_none() => {
                    asks.push(*tenant)
                }
                DueAction::Request => {}
            }
        }
        self.ask_for(now, asks);
        for batch in renewals.chunks(BATCH) {
            let (calls, leases): (Vec<_>, Vec<_>) = batch.iter().cloned().unzip();
            let keeper = self.keeper.clone();
            self.calls.spawn(async move {
                let renew = RenewRequest { holder: keeper.holder, leases };
                Said::Renewed { calls, answer: keeper.renew(&renew).await }
            });
        }
        self.release(releases);
        self.wakes.live(self.tenants.values().filter(|held| held.live(now).is_some()).count());
        self.due = self.next_deadline();
    }

    fn release(&mut self, leases: Vec<LeaseUsage>) {
        for batch in leases.chunks(BATCH) {
            let release = ReleaseRequest { holder: self.keeper.holder, leases: batch.to_vec() };
            let keeper = self.keeper.clone();
            self.calls.spawn(async move {
                keeper.release(&release).await;
                Said::Released
            });
        }
    }

    fn next_deadline(&self) -> Option<Moment> {
        let now = clock::now();
        let deadlines = self.tenants.values().filter_map(|held| {
            let usage = held.usage();
            let at = held.holder.next_deadline(usage.requests > 0, usage.last)?;
            match usage.requests {
                0 => Some(at),
                _ => Some(at.min(now.plus(held.linger.clamp(50, LOOK_AGAIN)))),
            }
        });
        // Some leave their deadline behind us: an ask under way, and whoever is not asked for while nobody is there.
        let breath = if self.room.is_away() { absence::BREATH } else { BREATH };
        deadlines.chain(self.next_look()).min().map(|at| at.max(now.plus(breath)))
    }

    /// What the table does not know any more, and nobody waits for; and who was not running by the one before.
    fn forget(&mut self, known: &HashSet<TenantId>) {
        let now = clock::now();
        self.tenants.retain(|tenant, held| {
            held.absent = Moment(0);
            let is_idle = held.live(now).is_none() && held.waiters.is_empty();
            known.contains(tenant) || !is_idle || held.asking.is_some()
        });
    }
}
