//! A store for governor's keyed rate limiter whose memory no client can grow or empty.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use governor::nanos::Nanos;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed, StateStore};

use super::ClientTenantPair;

/// The states of at most `max` pairs. All further pairs share one state, and keep sharing it until
/// states are dropped: a flood of new pairs takes no pair's state away, and passes no more requests
/// than one pair.
pub(super) struct BoundedStates {
    /// Several maps with a lock each, so that threads seldom wait for each other.
    shards: [Mutex<Shard>; SHARDS],
    max: usize,
    count: AtomicUsize,
    overflow: InMemoryState,
}

type Shard = HashMap<ClientTenantPair, InMemoryState>;

const SHARDS: usize = 32;

impl BoundedStates {
    pub(super) fn new(max: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            max,
            count: AtomicUsize::new(0),
            overflow: InMemoryState::default(),
        }
    }

    fn shard(&self, pair: &ClientTenantPair) -> MutexGuard<'_, Shard> {
        lock(&self.shards[shard_index(pair.client)])
    }

    /// Counts a new state, unless there is no room for it.
    fn take_room(&self) -> bool {
        let next = |count| (count < self.max).then_some(count + 1);
        self.count.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

/// Cheaper than a hash. A client that chooses its shard gains nothing: all shards share one bound.
fn shard_index(client: IpAddr) -> usize {
    let bits = match client {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    };
    let mixed = bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(mixed).unwrap_or(0) % SHARDS
}

impl StateStore for BoundedStates {
    type Key = ClientTenantPair;

    fn measure_and_replace<T, F, E>(&self, pair: &ClientTenantPair, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.shard(pair);
        if let Some(state) = shard.get(pair) {
            return state.measure_and_replace(&NotKeyed::NonKey, measure);
        }
        if self.take_room() {
            let state = shard.entry(*pair).or_default();
            return state.measure_and_replace(&NotKeyed::NonKey, measure);
        }
        drop(shard);
        self.overflow.measure_and_replace(&NotKeyed::NonKey, measure)
    }
}

impl ShrinkableKeyedStateStore<ClientTenantPair> for BoundedStates {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let before = shard.len();
            shard.retain(|_, state| arrival(state).is_some_and(|arrival| arrival > drop_below));
            self.count.fetch_sub(before - shard.len(), Relaxed);
        }
    }

    fn len(&self) -> usize {
        self.count.load(Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The theoretical arrival time of a state, which stays as it is.
fn arrival(state: &InMemoryState) -> Option<Nanos> {
    let read = |arrival| Err::<((), Nanos), _>(arrival);
    state.measure_and_replace(&NotKeyed::NonKey, read).err().flatten()
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
