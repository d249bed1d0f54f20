//! What is remembered across restarts, and what people are told of sleep.

use std::io;
use std::sync::PoisonError;

use protocol::TenantId;
use protocol::orchestrator::Phase;
use protocol::sleep::SleepStatus;

use super::desk::timestamp;
use super::{Entry, Keeper, why};
use crate::driver::DriverError;

impl Keeper {
    pub fn sleep_of(&self, id: TenantId) -> Result<SleepStatus, DriverError> {
        self.feed()?;
        self.remember(id);
        let book = self.book();
        let told = book.tenants.get(&id).and_then(|entry| self.told_of(id, entry));
        told.ok_or_else(|| DriverError::no_such_tenant(id))
    }

    pub fn sleeps(&self) -> Result<Vec<SleepStatus>, DriverError> {
        self.feed()?;
        let book = self.book();
        let mut tenants: Vec<_> =
            book.tenants.iter().filter_map(|(id, entry)| self.told_of(*id, entry)).collect();
        tenants.sort_by_key(|sleep| sleep.tenant);
        Ok(tenants)
    }

    /// Looking is no use: nothing here touches an idle clock.
    fn told_of(&self, id: TenantId, entry: &Entry) -> Option<SleepStatus> {
        self.desk.see(|authority, now| {
            let rest = authority.sleep_state(id)?;
            let note = &entry.known.persisted;
            let mut because = why::awake(&rest.awake_reasons(now), entry.answer.as_ref());
            if because.is_empty() && rest.phase() == Phase::Ready {
                because.push(why::idle(rest.last_use()));
            }
            Some(SleepStatus {
                tenant: id,
                awake_because: because,
                asleep_because: note.asleep_because.clone(),
                freezes_at: rest.freezes_at(now).map(timestamp),
                sleeps_at: rest.sleeps_at(now).map(timestamp),
                last_wake: note.last_wake.clone(),
            })
        })
    }

    /// Writes the notes of those who were used since the last time: every few seconds, and before the process ends.
    pub fn note_uses(&self) {
        for id in self.desk.used() {
            let known = self.book().tenants.contains_key(&id);
            if known {
                self.save_or_log(id);
            }
        }
    }

    pub(super) fn save_or_log(&self, id: TenantId) {
        if let Err(error) = self.save(id) {
            tracing::error!(%id, %error, "CIAL_STATE_DIR cannot be written");
        }
    }

    /// Writes what is known now, unless it was deleted.
    pub(super) fn save(&self, id: TenantId) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let last_use = self
            .desk
            .see(|authority, _| authority.sleep_state(id).map(lease::TenantSleepState::last_use));
        let note = {
            let mut book = self.book();
            if book.tombs.set.contains(&id) {
                return Ok(());
            }
            let Some(entry) = book.tenants.get_mut(&id) else { return Ok(()) };
            entry.known.persisted.last_use =
                last_use.map(timestamp).or(entry.known.persisted.last_use);
            entry.known.persisted.clone()
        };
        self.notes.write(id, &note)?;
        self.metrics.sleep.count_state_write();
        Ok(())
    }

    pub(super) fn forget(&self, id: TenantId) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.notes.remove(id)
    }
}
