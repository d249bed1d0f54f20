//! Bounds the streams of this process: each holds a connection, and reads the database at every event.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

/// The most streams of one person, or of all keys of one tenant that belong to nobody: several windows of a browser, and a
/// stream that ended unnoticed.
pub const MAX_PER_CALLER: usize = 16;

/// The places of streams. Clones share them.
#[derive(Clone, Debug)]
pub struct StreamSlots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// The number of streams of each caller that has at least one.
    by_caller: HashMap<Uuid, usize>,
}

/// The reason for which a stream has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSlot {
    OfCaller,
    OfAll,
}

/// The place of one stream, free again when it is dropped.
#[derive(Debug)]
pub struct StreamSlot {
    shared: Arc<Shared>,
    caller: Uuid,
}

impl StreamSlots {
    /// `max`: of all callers together.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Shared { max, taken: Mutex::default() }))
    }

    /// # Errors
    /// When the caller, or all callers together, have as many streams as they may.
    pub fn take(&self, caller: Uuid) -> Result<StreamSlot, NoSlot> {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.by_caller.get(&caller).is_some_and(|count| *count >= MAX_PER_CALLER) {
            return Err(NoSlot::OfCaller);
        }
        if taken.all >= self.0.max {
            return Err(NoSlot::OfAll);
        }
        taken.all += 1;
        *taken.by_caller.entry(caller).or_default() += 1;
        Ok(StreamSlot { shared: self.0.clone(), caller })
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut taken = self.shared.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Entry::Occupied(mut count) = taken.by_caller.entry(self.caller) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bounded_for_each_caller_and_for_all() {
        let slots = StreamSlots::new(MAX_PER_CALLER + 2);
        let (first, second, third) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        let take = |caller| slots.take(caller).map_err(Some);
        let mut of_first: Vec<_> = (0..MAX_PER_CALLER).map(|_| take(first).unwrap()).collect();
        assert_eq!(take(first).unwrap_err(), Some(NoSlot::OfCaller));
        let of_second = [take(second).unwrap(), take(second).unwrap()];
        assert_eq!(take(third).unwrap_err(), Some(NoSlot::OfAll));
        of_first.pop();
        let of_third = take(third).unwrap();
        assert_eq!(take(first).unwrap_err(), Some(NoSlot::OfAll));
        drop((of_first, of_second, of_third));
        let taken = slots.0.taken.lock().unwrap();
        assert_eq!((taken.all, taken.by_caller.len()), (0, 0));
    }
}
