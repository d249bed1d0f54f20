//! The knowledge about all tenants: the engine's last status of each, its persisted state, deletions, and the feed that
//! publishes both.
//!
//! [`TenantStore`] has one lock. Under it the store calls its [`TenantObserver`] and nothing else, so that the observer
//! learns changes in the order in which they happen; the observer cannot call back, since it has no store.

mod container_state;
mod record;
pub mod state_dir;
mod tombstones;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::busy::BusyList;
use protocol::leases::LeaseUsage;
use protocol::orchestrator::{Exit, ObservedTenant, Phase, TenantAtRevision, Upstream};
use protocol::sleep::{IdleState, LastWake};
use protocol::spec::Spec;
use protocol::watch::Message;
use protocol::{TenantId, Timestamp};
use service::watch::Feed;
use tokio::sync::broadcast;
use uuid::Uuid;

pub(crate) use self::container_state::ContainerEvent;
pub(crate) use self::record::TenantRecord;
pub(crate) use self::tombstones::MAX_TOMBSTONES;

use self::tombstones::Tombstones;
use crate::core_back::BusyError;
use crate::driver::{ContainerStatus, DriverError, DriverErrorCode};
use crate::metrics::Metrics;
use crate::tenants::state_dir::{PersistedState, StateDir, TargetState};

/// The part that decides about sleep, as far as the store may call it: with the store's lock held.
pub trait TenantObserver: Send + Sync + 'static {
    /// Reports the current phase of a tenant. Returns the wake that this phase completes.
    fn on_phase(&self, id: TenantId, observation: PhaseObservation<'_>) -> Option<LastWake>;
    /// Reports that nothing of a tenant can be reached or woken.
    fn on_gone(&self, id: TenantId);
    /// Applies a tenant's policy at once.
    fn on_policy(&self, spec: &Spec);
    /// Reports that a listing of all tenants is complete.
    fn on_listed(&self);
    /// Returns the time of the last use that the observer knows of.
    fn last_use(&self, id: TenantId) -> Option<Timestamp>;
    /// Whether calls and leases of an earlier process may still be live.
    fn is_starting_up(&self) -> bool;
}

/// A tenant's phase, and what the observer needs when it meets the tenant for the first time.
#[derive(Clone, Copy, Debug)]
pub struct PhaseObservation<'a> {
    pub phase: Phase,
    pub spec: Option<&'a Spec>,
    pub last_use: Option<Timestamp>,
    pub is_stopped_by_owner: bool,
}

pub struct TenantStore {
    table: Mutex<TenantTable>,
    feed: Feed<ObservedTenant>,
    state_dir: Arc<StateDir>,
    observer: Arc<dyn TenantObserver>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct TenantTable {
    tenants: HashMap<TenantId, TenantEntry>,
    tombstones: Tombstones,
    /// Why the engine does not respond; `None` while it does.
    engine_error: Option<String>,
    /// Until the first listing no tenant can be called unknown.
    is_listed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct TenantEntry {
    pub(crate) record: TenantRecord,
    /// Counts the specs that were requested; see [`SpecVersion`].
    spec_version: u64,
    /// The disk does not hold what was requested last.
    is_request_unsaved: bool,
    /// The last write of the rest of the state failed.
    is_state_unsaved: bool,
    /// The response to the last busy check.
    pub(crate) busy_response: Option<Result<BusyList, BusyError>>,
    /// The engine's error of the last wake.
    wake_error: Option<String>,
}

/// Identifies a requested spec: an older one must not replace the policy of a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpecVersion(u64);

/// The effect of a new status on a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StatusChange {
    /// The target changed, and must be saved.
    pub(crate) is_target_changed: bool,
    /// Nothing of the tenant is left, and the store forgot it.
    pub(crate) is_forgotten: bool,
}

/// The spec of a tenant, and whether its container can be started as it is.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) spec: Spec,
    pub(crate) is_outdated: bool,
}

impl TenantStore {
    /// `epoch`: milliseconds since 1970; see also [`Feed::new`].
    pub(crate) fn new(
        state_dir: StateDir,
        epoch: u64,
        observer: Arc<dyn TenantObserver>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (table, feed) = (Mutex::default(), Feed::new(epoch));
        Self { table, feed, state_dir: Arc::new(state_dir), observer, metrics }
    }

    /// The observed state of all tenants.
    ///
    /// # Errors
    /// [`DriverErrorCode::NotListed`] before the first listing.
    pub fn feed(&self) -> Result<&Feed<ObservedTenant>, DriverError> {
        let table = self.lock();
        if table.is_listed {
            return Ok(&self.feed);
        }
        let detail = table.engine_error.clone().unwrap_or_else(|| NOT_LISTED.to_owned());
        Err(DriverError::new(DriverErrorCode::NotListed, detail))
    }

    /// Whether the engine responds and its containers were listed.
    ///
    /// # Errors
    /// The reason, for a person.
    pub fn engine_status(&self) -> Result<(), String> {
        let table = self.lock();
        match &table.engine_error {
            Some(error) => Err(error.clone()),
            None if !table.is_listed => Err(NOT_LISTED.to_owned()),
            None => Ok(()),
        }
    }

    /// Observed states as they change, from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Message<ObservedTenant>> {
        self.feed.subscribe()
    }

    pub(crate) fn observed(&self, id: TenantId) -> Option<ObservedTenant> {
        let table = self.lock();
        table.tenants.get(&id)?.record.observed(table.engine_error.as_deref())
    }

    pub(crate) fn at_revision(&self, id: TenantId) -> Option<TenantAtRevision> {
        let table = self.lock();
        let tenant = table.tenants.get(&id)?.record.observed(table.engine_error.as_deref())?;
        // Changes are published with the lock held: the tenant includes all of its changes up to this revision.
        Some(TenantAtRevision { revision: self.feed.revision(), tenant })
    }

    pub(crate) fn phase(&self, id: TenantId) -> Option<Phase> {
        self.lock().tenants.get(&id)?.record.lease_phase()
    }

    /// The address of the tenant, and the generation that responds there.
    pub(crate) fn upstream(&self, id: TenantId) -> Option<(i64, Upstream)> {
        let table = self.lock();
        let status = table.tenants.get(&id)?.record.status()?;
        Some((status.generation, status.upstream.clone()?))
    }

    /// The reason why the tenant is not ready, for a person.
    pub(crate) fn reason(&self, id: TenantId) -> String {
        let reason = self.observed(id).and_then(|observed| observed.reason);
        reason.unwrap_or_else(|| "It is not running. Look at its log, or start it.".to_owned())
    }

    pub(crate) fn wake_error(&self, id: TenantId) -> Option<String> {
        self.lock().tenants.get(&id)?.wake_error.clone()
    }

    pub(crate) fn ids(&self) -> Vec<TenantId> {
        self.lock().tenants.keys().copied().collect()
    }

    /// Tenants whose exit only an inspection explains.
    pub(crate) fn unexplained(&self) -> Vec<TenantId> {
        let table = self.lock();
        let unexplained = table.tenants.iter().filter(|(_, entry)| entry.record.needs_inspection());
        unexplained.map(|(id, _)| *id).collect()
    }

    pub(crate) fn tombstone_count(&self) -> usize {
        self.lock().tombstones.len()
    }

    /// Reads one tenant under the lock; `None`: unknown.
    pub(crate) fn read<R>(&self, id: TenantId, read: impl FnOnce(&TenantEntry) -> R) -> Option<R> {
        self.lock().tenants.get(&id).map(read)
    }

    /// Reads all tenants under the lock.
    pub(crate) fn read_all<R>(&self, mut read: impl FnMut(TenantId, &TenantEntry) -> R) -> Vec<R> {
        self.lock().tenants.iter().map(|(id, entry)| read(*id, entry)).collect()
    }

    /// Loads a tenant that the engine does not show: it may still be asleep.
    pub(crate) fn load(&self, id: TenantId) {
        let mut table = self.lock();
        if table.tenants.contains_key(&id) || table.tombstones.contains(id) {
            return;
        }
        let mut entry = self.new_entry(id);
        if entry.record.lease_phase().is_some() {
            self.publish(id, &mut entry.record, table.engine_error.as_deref());
            table.tenants.insert(id, entry);
        }
    }

    /// Changes one tenant and publishes the result in one step.
    pub(crate) fn update<R>(&self, id: TenantId, change: impl FnOnce(&mut TenantRecord) -> R) -> R {
        let mut table = self.lock();
        let TenantTable { tenants, engine_error, .. } = &mut *table;
        let entry = tenants.entry(id).or_insert_with(|| self.new_entry(id));
        let result = change(&mut entry.record);
        self.publish(id, &mut entry.record, engine_error.as_deref());
        result
    }

    pub(crate) fn on_event(&self, id: TenantId, event: ContainerEvent) {
        self.update(id, |record| record.on_event(event));
    }

    /// Takes over a status that an operation on the tenant received.
    pub(crate) fn set_status(&self, id: TenantId, status: Option<ContainerStatus>) {
        let is_starting_up = self.observer.is_starting_up();
        self.update(id, |record| record.set_status(status, is_starting_up));
    }

    pub(crate) fn on_started(&self, id: TenantId, status: ContainerStatus) {
        let is_starting_up = self.observer.is_starting_up();
        self.update(id, |record| record.on_started(status, is_starting_up));
    }

    /// Returns whether the exit counts.
    pub(crate) fn on_exit(&self, id: TenantId, container: &str, exit: Exit) -> bool {
        self.update(id, |record| record.on_exit(container, exit))
    }

    /// Returns `false` when another container responded.
    pub(crate) fn on_ready(&self, id: TenantId, container: &str) -> bool {
        self.update(id, |record| record.on_ready(container))
    }

    /// Takes over a status that no operation is responsible for, and forgets a tenant of which nothing is left.
    pub(crate) fn reconcile_status(
        &self,
        id: TenantId,
        status: Option<ContainerStatus>,
    ) -> StatusChange {
        let is_starting_up = self.observer.is_starting_up();
        let mut table = self.lock();
        let TenantTable { tenants, engine_error, .. } = &mut *table;
        let entry = tenants.entry(id).or_insert_with(|| self.new_entry(id));
        let target = entry.record.persisted.target;
        entry.record.set_status(status, is_starting_up);
        let is_target_changed = entry.record.persisted.target != target;
        self.publish(id, &mut entry.record, engine_error.as_deref());
        let is_forgotten = entry.record.lease_phase().is_none();
        if is_forgotten {
            tenants.remove(&id);
        }
        StatusChange { is_target_changed, is_forgotten }
    }

    /// Applies the policy of a requested spec at once: a policy does not wait behind an engine's call.
    pub(crate) fn announce_spec(&self, spec: &Spec) -> SpecVersion {
        let mut table = self.lock();
        let entry = table.tenants.entry(spec.id).or_insert_with(|| self.new_entry(spec.id));
        entry.spec_version += 1;
        let version = SpecVersion(entry.spec_version);
        self.observer.on_policy(spec);
        version
    }

    /// Takes over a requested spec. Returns the target before.
    pub(crate) fn set_spec(&self, spec: &Spec, version: SpecVersion) -> TargetState {
        let (is_changed, target) = self.update(spec.id, |record| {
            let old = record.persisted.requested.spec.replace(spec.clone());
            (old.as_ref() != Some(spec), record.persisted.target)
        });
        if let Some(entry) = self.lock().tenants.get_mut(&spec.id) {
            entry.is_request_unsaved |= is_changed;
        }
        // Once more for a tenant that the observer met only now; never over a spec that was requested later.
        if self.read(spec.id, |entry| SpecVersion(entry.spec_version)) == Some(version) {
            self.observer.on_policy(spec);
        }
        target
    }

    /// Takes over the admin sessions that have ended. Returns whether the list changed.
    pub(crate) fn set_revoked_sessions(&self, id: TenantId, sessions: &[Uuid]) -> bool {
        let mut table = self.lock();
        let Some(entry) = table.tenants.get_mut(&id) else { return false };
        let known = &mut entry.record.persisted.requested.revoked_sessions;
        let is_changed = known != sessions;
        *known = sessions.to_vec();
        entry.is_request_unsaved |= is_changed;
        is_changed
    }

    /// Saves what was requested of a tenant, unless the disk holds it. Must be called in the tenant's turn.
    pub(crate) async fn save_requested(&self, id: TenantId) -> io::Result<()> {
        let unsaved = self.read(id, |entry| {
            entry.is_request_unsaved.then(|| entry.record.persisted.requested.clone())
        });
        let Some(requested) = unsaved.flatten() else { return Ok(()) };
        let state_dir = self.state_dir.clone();
        let write = tokio::task::spawn_blocking(move || state_dir.write_requested(id, &requested));
        write.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))?;
        if let Some(entry) = self.lock().tenants.get_mut(&id) {
            entry.is_request_unsaved = false;
        }
        self.metrics.sleep.count_state_write();
        Ok(())
    }

    /// The admin sessions that have ended, and from which sessions of this tenant may derive.
    pub(crate) fn revoked_sessions(&self, id: TenantId) -> Vec<Uuid> {
        self.read(id, |entry| entry.record.persisted.requested.revoked_sessions.clone())
            .unwrap_or_default()
    }

    pub(crate) fn set_target(&self, id: TenantId, target: TargetState) -> io::Result<()> {
        let before = self.update(id, |record| record.set_target(target));
        let is_unsaved = self.read(id, |entry| entry.is_state_unsaved).unwrap_or_default();
        if before == target && !is_unsaved { Ok(()) } else { self.save(id) }
    }

    pub(crate) fn recipe(&self, id: TenantId) -> Option<Recipe> {
        let recipe = |entry: &TenantEntry| {
            let spec = entry.record.spec()?.clone();
            let fits = entry.record.status().is_some_and(|status| {
                status.drift_from(&spec).is_empty() && spec.generation <= status.generation
            });
            Some(Recipe { spec, is_outdated: !fits })
        };
        self.read(id, recipe).flatten()
    }

    pub(crate) fn set_busy_response(&self, id: TenantId, response: Result<BusyList, BusyError>) {
        if let Some(entry) = self.lock().tenants.get_mut(&id) {
            entry.busy_response = Some(response);
        }
    }

    pub(crate) fn set_wake_error(&self, id: TenantId, error: Option<String>) {
        if let Some(entry) = self.lock().tenants.get_mut(&id) {
            entry.wake_error = error;
        }
    }

    /// Saves why a tenant fell asleep; `explain` gets the response to the last busy check.
    pub(crate) fn set_asleep_because(
        &self,
        id: TenantId,
        explain: impl FnOnce(Option<&Result<BusyList, BusyError>>) -> String,
    ) {
        if let Some(entry) = self.lock().tenants.get_mut(&id) {
            entry.record.persisted.asleep_because = Some(explain(entry.busy_response.as_ref()));
        }
        self.save_or_log(id);
    }

    /// Saves a wake. A wake that the tenant's phase completed is known already, perhaps with its first byte.
    pub(crate) fn set_last_wake(&self, id: TenantId, wake: LastWake) {
        if let Some(entry) = self.lock().tenants.get_mut(&id) {
            let known = &mut entry.record.persisted.last_wake;
            if known.as_ref().is_none_or(|known| known.at != wake.at) {
                *known = Some(wake);
            }
        }
        self.save_or_log(id);
    }

    /// Adds the time to the first byte of a response, which a router reports, to the last wake. Returns the state that the
    /// tenant was woken from, once per wake.
    pub(crate) fn set_first_byte(&self, usage: &LeaseUsage) -> Option<(IdleState, u32)> {
        let millis = usage.first_byte_ms?;
        let mut table = self.lock();
        let entry = table.tenants.get_mut(&usage.tenant)?;
        let wake = entry.record.persisted.last_wake.as_mut()?;
        if wake.phases_ms.first_byte.is_some() {
            return None;
        }
        wake.phases_ms.first_byte = Some(millis);
        wake.total_ms = wake.total_ms.saturating_add(millis);
        Some((wake.from, millis))
    }

    /// Sets why the engine does not respond. What is known of tenants stays; each shows the reason.
    pub(crate) fn set_engine_error(&self, error: Option<String>) {
        let mut table = self.lock();
        self.metrics.set_engine_up(error.is_none());
        if table.engine_error == error {
            return;
        }
        match &error {
            Some(error) => tracing::warn!(error, "engine unreachable"),
            None => tracing::info!("engine reachable"),
        }
        let TenantTable { tenants, engine_error, .. } = &mut *table;
        *engine_error = error;
        for (id, entry) in tenants {
            self.publish(*id, &mut entry.record, engine_error.as_deref());
        }
    }

    pub(crate) fn mark_listed(&self) {
        self.lock().is_listed = true;
        self.observer.on_listed();
    }

    /// Operations under way see the deletion at their next step.
    pub(crate) fn mark_deleted(&self, id: TenantId) {
        self.lock().tombstones.insert(id);
    }

    pub(crate) fn is_deleted(&self, id: TenantId) -> bool {
        self.lock().tombstones.contains(id)
    }

    /// Removes the state file and resets the record of a deleted tenant.
    pub(crate) fn erase(&self, id: TenantId) -> io::Result<()> {
        self.state_dir.remove(id)?;
        self.update(id, |record| *record = TenantRecord::default());
        Ok(())
    }

    pub(crate) fn forget(&self, id: TenantId) {
        self.lock().tenants.remove(&id);
    }

    pub(crate) fn save_or_log(&self, id: TenantId) {
        if let Err(error) = self.save(id) {
            tracing::error!(tenant = %id, %error, "state file not written");
        }
    }

    /// Writes the current state of a tenant, unless it was deleted.
    pub(crate) fn save(&self, id: TenantId) -> io::Result<()> {
        let written = self.state_dir.write_latest(id, || {
            let last_use = self.observer.last_use(id);
            let mut table = self.lock();
            if table.tombstones.contains(id) {
                return None;
            }
            let entry = table.tenants.get_mut(&id)?;
            entry.is_state_unsaved = false;
            let persisted = &mut entry.record.persisted;
            persisted.last_use = last_use.or(persisted.last_use);
            Some(persisted.clone())
        });
        match written {
            Ok(true) => self.metrics.sleep.count_state_write(),
            Ok(false) => {}
            Err(error) => {
                if let Some(entry) = self.lock().tenants.get_mut(&id) {
                    entry.is_state_unsaved = true;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Tenants whose state could not be written.
    pub(crate) fn unsaved(&self) -> Vec<TenantId> {
        let table = self.lock();
        let unsaved = table.tenants.iter().filter(|(_, entry)| entry.is_state_unsaved);
        unsaved.map(|(id, _)| *id).collect()
    }

    /// Must be called with the lock held, so that the last published state is the last known one.
    fn publish(&self, id: TenantId, record: &mut TenantRecord, engine_error: Option<&str>) {
        let completed_wake = match record.lease_phase() {
            Some(phase) => self.observer.on_phase(id, record.observation(phase)),
            None => {
                self.observer.on_gone(id);
                None
            }
        };
        // In one step with the feed: a caller that sees the new phase also sees the wake that led to it.
        if completed_wake.is_some() {
            record.persisted.last_wake = completed_wake;
        }
        match record.observed(engine_error) {
            Some(observed) => {
                self.feed.put(observed);
            }
            None => {
                self.feed.remove(&id);
            }
        }
    }

    fn new_entry(&self, id: TenantId) -> TenantEntry {
        let record = TenantRecord::new(self.state_dir.read(id));
        TenantEntry { record, ..TenantEntry::default() }
    }

    fn lock(&self) -> MutexGuard<'_, TenantTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const NOT_LISTED: &str = "The engine's containers were not listed yet. Ask again in a moment.";

impl TenantRecord {
    fn observation(&self, phase: Phase) -> PhaseObservation<'_> {
        let PersistedState { target, last_use, .. } = &self.persisted;
        PhaseObservation {
            phase,
            spec: self.spec(),
            last_use: *last_use,
            is_stopped_by_owner: *target == TargetState::Stopped,
        }
    }
}
