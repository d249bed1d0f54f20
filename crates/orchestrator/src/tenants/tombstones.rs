//! The tenants that were deleted since this process started.

use std::collections::{HashSet, VecDeque};

use protocol::TenantId;

/// Bounded: the oldest entry is dropped first. app-api knows every deletion for ever, so that a dropped one is refused there.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    order: VecDeque<TenantId>,
    ids: HashSet<TenantId>,
}

pub(crate) const MAX_TOMBSTONES: usize = 65_536;

impl Tombstones {
    pub(super) fn insert(&mut self, id: TenantId) {
        if self.ids.insert(id) {
            self.order.push_back(id);
        }
        if self.order.len() > MAX_TOMBSTONES
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, id: TenantId) -> bool {
        self.ids.contains(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_tombstone_is_dropped_first() {
        let mut tombstones = Tombstones::default();
        let ids: Vec<_> = (0..=MAX_TOMBSTONES)
            .map(|n| TenantId::new(uuid::Uuid::from_u128(u128::try_from(n).unwrap())))
            .collect();
        ids.iter().for_each(|id| tombstones.insert(*id));
        tombstones.insert(ids[1]);
        assert_eq!(tombstones.len(), MAX_TOMBSTONES);
        assert!(!tombstones.contains(ids[0]) && tombstones.contains(ids[1]));
    }
}
