//! Serialises the loads of one name: an earlier one that fails would remove what a later one has loaded. Pure.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

#[derive(Debug, Default)]
pub(in crate::driver::docker) struct LoadLocks(Mutex<HashMap<String, Weak<AsyncMutex<()>>>>);

impl LoadLocks {
    /// Waits for the other loads of this name. The next one begins when the guard is dropped.
    pub(super) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        self.of(name).lock_owned().await
    }

    fn of(&self, name: &str) -> Arc<AsyncMutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        locks.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let lock = Arc::default();
            locks.insert(name.to_owned(), Arc::downgrade(&lock));
            lock
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn one_load_of_a_name_is_under_way() {
        let locks = LoadLocks::default();
        let first = locks.lock("a").now_or_never().unwrap();
        assert!(locks.lock("b").now_or_never().is_some());
        let mut second = Box::pin(locks.lock("a"));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        assert!(second.now_or_never().is_some());
        drop(locks.of("c"));
        assert_eq!(locks.0.lock().unwrap().len(), 1, "names of loads that ended are forgotten");
    }
}
