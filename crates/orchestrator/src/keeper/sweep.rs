//! The loop: hints as they come, and the whole list every so often and after every gap.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use protocol::TenantId;
use tokio::time::MissedTickBehavior;

use super::{Entry, Keeper};
use crate::driver::{ContainerStatus, DriverError, EngineEvent};

/// What no hint told is seen after this long at the latest.
const EVERY: Duration = Duration::from_secs(10);
/// By so much, and a lease, the idle clock may be off after a crash.
const NOTED_EVERY: Duration = Duration::from_secs(5);

impl Keeper {
    /// Follows the engine, and does what was decided, for as long as it is polled. Once in the life of a keeper.
    pub async fn follow(self: Arc<Self>) {
        let Some(mut orders) = self.take_orders() else { return };
        let mut events = self.driver.watch();
        let mut clock = tokio::time::interval(EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut notes = tokio::time::interval(NOTED_EVERY);
        notes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                Some(order) = orders.recv() => self.follow_order(order),
                () = self.desk.due() => {}
                _ = clock.tick() => self.sweep_aside(),
                _ = notes.tick() => self.note_uses(),
            }
        }
    }

    /// Never waits: a hint must not be held up by a call to the engine.
    fn take(self: &Arc<Self>, event: EngineEvent) {
        match event {
            EngineEvent::Ready { id, container } => {
                if self.change(id, |known| known.answered(&container)) {
                    self.metrics.count_ready();
                    self.outdate_looks(id);
                } else {
                    self.look_aside(id);
                }
            }
            EngineEvent::Died { id, container, exit } => {
                let (code, oom) = (exit.code, exit.out_of_memory);
                if self.change(id, |known| known.died(&container, exit)) {
                    tracing::info!(%id, code, oom, "a tenant ended by itself");
                }
                self.look_aside(id);
            }
            EngineEvent::Changed(id) => self.look_aside(id),
            EngineEvent::EventsMissed | EngineEvent::Reconnected => self.sweep_aside(),
            EngineEvent::Disconnected(why) => self.engine_is(Some(why)),
        }
    }

    /// An operation under way looks for itself, at its end.
    pub(super) fn look_aside(self: &Arc<Self>, id: TenantId) {
        {
            let mut book = self.book();
            let entry = book.tenants.entry(id).or_insert_with(|| Entry::new(self, id));
            if entry.busy > 0 {
                entry.hinted = true;
                return;
            }
        }
        let keeper = self.clone();
        tokio::spawn(async move { keeper.look_again(id).await });
    }

    /// Looks; what an operation did meanwhile is newer than what this look saw.
    async fn look_again(self: &Arc<Self>, id: TenantId) {
        let _queued = self.calls.acquire().await;
        let began = self.now();
        let Ok(seen) = self.driver.inspect(id).await else { return };
        self.take_over(id, seen, began);
    }

    /// Whoever looked before now may have missed what we just learnt.
    fn outdate_looks(&self, id: TenantId) {
        let now = self.now();
        if let Some(entry) = self.book().tenants.get_mut(&id) {
            entry.touched = now;
            entry.hinted |= entry.busy > 0;
        }
    }

    fn take_over(self: &Arc<Self>, id: TenantId, seen: Option<ContainerStatus>, began: u64) {
        let mut book = self.book();
        let engine = book.engine.clone();
        let entry = book.tenants.entry(id).or_insert_with(|| Entry::new(self, id));
        if entry.busy > 0 {
            entry.hinted = true;
            return;
        }
        if entry.touched > began {
            drop(book);
            self.look_aside(id);
            return;
        }
        // Looks overtake each other: the one that began last has seen most.
        entry.touched = began;
        let intent = entry.known.persisted.target;
        entry.known.young &= self.is_young();
        entry.known.look(seen);
        let turned = entry.known.persisted.target != intent;
        self.show(id, &entry.known, engine.as_deref());
        if entry.known.lease_phase().is_none() {
            book.tenants.remove(&id);
        }
        drop(book);
        if turned {
            self.save_or_log(id);
        }
    }

    fn sweep_aside(self: &Arc<Self>) {
        let keeper = self.clone();
        tokio::spawn(async move { keeper.sweep().await });
    }

    /// Lists everything once. A second caller meanwhile is served by the one under way plus its own.
    pub async fn sweep(self: &Arc<Self>) {
        let _one = self.sweeping.lock().await;
        let began = self.now();
        match self.driver.list().await {
            Ok(seen) => self.take_list(seen, began),
            Err(refusal) => self.missed(refusal),
        }
    }

    fn take_list(self: &Arc<Self>, list: Vec<ContainerStatus>, began: u64) {
        self.engine_is(None);
        let listed: std::collections::HashSet<_> = list.iter().map(|s| s.id).collect();
        for seen in list {
            self.take_over(seen.id, Some(seen), began);
        }
        let known: Vec<_> = self.book().tenants.keys().copied().collect();
        for id in known.into_iter().filter(|id| !listed.contains(id)) {
            self.take_over(id, None, began);
        }
        self.book().listed = true;
        self.desk.tell(|_, _| ());
        self.metrics.count_resync();
        let unexplained: Vec<_> = {
            let book = self.book();
            let told =
                |(id, entry): (&TenantId, &Entry)| entry.known.is_unexplained().then_some(*id);
            book.tenants.iter().filter_map(told).collect()
        };
        unexplained.into_iter().for_each(|id| self.look_aside(id));
    }

    fn missed(&self, refusal: DriverError) {
        tracing::warn!(code = refusal.code.as_str(), %refusal, "could not list");
        self.engine_is(Some(refusal.detail));
    }

    /// What is known of tenants stays; why nothing new is learnt goes with it.
    fn engine_is(&self, away: Option<String>) {
        let mut book = self.book();
        self.metrics.set_engine_up(away.is_none());
        if book.engine == away {
            return;
        }
        if let Some(why) = &away {
            tracing::warn!(why, "the engine is away");
        } else {
            tracing::info!("the engine answers");
        }
        book.engine.clone_from(&away);
        for (id, entry) in &book.tenants {
            self.show(*id, &entry.known, away.as_deref());
        }
    }
}
