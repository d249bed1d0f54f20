//! Argon2id outside the async threads. Each hash takes 19 MiB and one core, so work is bounded by two pools.
//!
//! Known devices and new clients have pools of their own: many unknown clients cannot delay a known device. A pool whose queue
//! is full refuses at once, instead of queueing without bound; a job that waits ten seconds in the queue is refused, too.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use protocol::problem::Code;
use service::api_error::ApiError;
use service::forwarded;
use tokio::sync::Semaphore;
use tokio::time::timeout;

const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The most jobs of one client in a pool, running and queued.
const MAX_PER_CLIENT: usize = 10;
/// A hundred people who sign in at once on new devices wait a moment, and none of them is refused.
const MAX_QUEUED_NEW: usize = 128;

/// The caller of a hash: decides on the pool.
#[derive(Clone, Copy, Debug)]
pub enum Caller {
    /// A device on which the account signed in before.
    KnownDevice(IpAddr),
    NewClient(IpAddr),
}

#[derive(Clone)]
pub struct Passwords {
    params: Params,
    known: Arc<Pool>,
    new: Arc<Pool>,
    /// The hash of a random password, against which sign-ins of unknown users are verified.
    decoy_hash: Arc<str>,
    /// Verifications since the start. Each sign-in costs one.
    verifications: Arc<AtomicU64>,
    /// Hashes since the start, verifications included.
    hashes: Arc<AtomicU64>,
}

/// A bounded number of running jobs, and a bounded queue before them.
struct Pool {
    slots: Semaphore,
    max_running: usize,
    max_queued: usize,
    /// Running and queued jobs.
    jobs: AtomicUsize,
    jobs_of_client: Mutex<HashMap<IpAddr, usize>>,
}

/// The load of both pools together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub running: usize,
    pub max_running: usize,
    pub queued: usize,
    pub max_queued: usize,
}

/// A place in a pool. Dropping the value frees the place.
struct Place {
    pool: Arc<Pool>,
    client: IpAddr,
}

impl Passwords {
    /// `params`: [`Params::default`] outside tests.
    pub fn new(params: Params) -> anyhow::Result<Self> {
        let decoy_hash = digest(&params, super::token::Token::random()?.reveal())?.into();
        Ok(Self {
            params,
            known: Arc::new(Pool::new(1, 16)),
            new: Arc::new(Pool::new(2, MAX_QUEUED_NEW)),
            decoy_hash,
            verifications: Arc::default(),
            hashes: Arc::default(),
        })
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// `busy` when the pool is full, or after ten seconds in its queue.
    pub async fn hash(&self, password: &str, caller: Caller) -> Result<String, ApiError> {
        let (params, password) = (self.params.clone(), password.to_owned());
        let hashes = self.hashes.clone();
        let hash = move || {
            hashes.fetch_add(1, Ordering::Relaxed);
            digest(&params, &password)
        };
        Ok(self.in_slot(caller, hash).await??)
    }

    /// The hash of a random password that nobody knows.
    pub fn hash_of_nobody(&self) -> String {
        self.decoy_hash.to_string()
    }

    /// Takes the same work with and without a stored hash, so that timing does not reveal accounts.
    ///
    /// # Errors
    /// `busy` when the pool is full, or after ten seconds in its queue.
    pub async fn verify(
        &self,
        password: &str,
        hash: Option<String>,
        caller: Caller,
    ) -> Result<bool, ApiError> {
        let is_known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.decoy_hash.to_string());
        let password = password.to_owned();
        let (verifications, hashes) = (self.verifications.clone(), self.hashes.clone());
        let compare = move || {
            verifications.fetch_add(1, Ordering::Relaxed);
            hashes.fetch_add(1, Ordering::Relaxed);
            matches(&password, &hash)
        };
        Ok(is_known & self.in_slot(caller, compare).await??)
    }

    pub fn verifications(&self) -> u64 {
        self.verifications.load(Ordering::Relaxed)
    }

    pub fn hashes(&self) -> u64 {
        self.hashes.load(Ordering::Relaxed)
    }

    pub fn load(&self) -> Load {
        let (known, new) = (self.known.load(), self.new.load());
        Load {
            running: known.running + new.running,
            max_running: known.max_running + new.max_running,
            queued: known.queued + new.queued,
            max_queued: known.max_queued + new.max_queued,
        }
    }

    async fn in_slot<R: Send + 'static>(
        &self,
        caller: Caller,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, ApiError> {
        let (pool, client) = match caller {
            Caller::KnownDevice(client) => (&self.known, client),
            Caller::NewClient(client) => (&self.new, client),
        };
        // The job owns the place: after its caller has disconnected, the place stays taken until the hash is done.
        let place = Pool::enter(pool, client).ok_or_else(busy)?;
        let Ok(slot) = timeout(QUEUE_TIMEOUT, pool.slots.acquire()).await else {
            return Err(busy());
        };
        slot?.forget();
        let done = tokio::task::spawn_blocking(move || {
            let running = Running(place);
            let result = work();
            drop(running);
            result
        });
        Ok(done.await?)
    }
}

/// A running job. Dropping the value frees its slot and its place.
struct Running(Place);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.pool.slots.add_permits(1);
    }
}

impl Pool {
    fn new(max_running: usize, max_queued: usize) -> Self {
        Self {
            slots: Semaphore::new(max_running),
            max_running,
            max_queued,
            jobs: AtomicUsize::new(0),
            jobs_of_client: Mutex::default(),
        }
    }

    /// Returns `None` when the pool is full, or full of jobs of this client.
    fn enter(pool: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let client = forwarded::rate_limit_key(client);
        let mut clients = pool.jobs_of_client.lock().unwrap_or_else(PoisonError::into_inner);
        let own = clients.get(&client).copied().unwrap_or_default();
        let all = pool.jobs.load(Ordering::Relaxed);
        if own >= MAX_PER_CLIENT || all >= pool.max_running + pool.max_queued {
            return None;
        }
        clients.insert(client, own + 1);
        pool.jobs.store(all + 1, Ordering::Relaxed);
        Some(Place { pool: pool.clone(), client })
    }

    fn load(&self) -> Load {
        let running = self.max_running - self.slots.available_permits().min(self.max_running);
        let queued = self.jobs.load(Ordering::Relaxed).saturating_sub(running);
        Load { running, max_running: self.max_running, queued, max_queued: self.max_queued }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = self.pool.jobs_of_client.lock().unwrap_or_else(PoisonError::into_inner);
        self.pool.jobs.fetch_sub(1, Ordering::Relaxed);
        if let Some(jobs) = clients.get_mut(&self.client) {
            *jobs -= 1;
            if *jobs == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

fn busy() -> ApiError {
    let detail = "Too many sign-ins at once. Try again in a moment.";
    ApiError::new(Code::Busy, detail).with_retry_after(RETRY_AFTER)
}

fn digest(params: &Params, password: &str) -> anyhow::Result<String> {
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let hash = argon.hash_password(password.as_bytes());
    Ok(hash.map_err(|error| anyhow::anyhow!("hashing: {error}"))?.to_string())
}

fn matches(password: &str, hash: &str) -> anyhow::Result<bool> {
    let hash = PasswordHash::new(hash).map_err(|error| anyhow::anyhow!("stored hash: {error}"))?;
    Ok(Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn the_decoy_hash_costs_as_much_as_a_real_hash() {
        let passwords = Passwords::new(Params::default()).unwrap();
        let work = |hash: &str| hash.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        let caller = Caller::NewClient(CLIENT);
        let real = passwords.hash("correct horse", caller).await.unwrap();
        assert_eq!(work(&real), ["", "argon2id", "v=19", "m=19456,t=2,p=1"]);
        assert_eq!(work(&passwords.decoy_hash), work(&real));
        assert!(!passwords.verify("correct horse", None, caller).await.unwrap());
        assert!(passwords.verify("correct horse", Some(real), caller).await.unwrap());
        assert_eq!((passwords.verifications(), passwords.hashes()), (2, 3));
    }

    #[test]
    fn a_full_pool_refuses_at_once_and_one_client_cannot_fill_a_pool() {
        let pool = Arc::new(Pool::new(2, 16));
        let client = |n: u8| IpAddr::from([192, 0, 2, n]);
        let own: Vec<_> =
            (0..MAX_PER_CLIENT).map(|_| Pool::enter(&pool, CLIENT).unwrap()).collect();
        assert!(Pool::enter(&pool, CLIENT).is_none(), "the client's share is used up");
        let others: Vec<_> = (0..8).map(|n| Pool::enter(&pool, client(n)).unwrap()).collect();
        assert!(Pool::enter(&pool, client(9)).is_none(), "the pool is full");
        drop(others);
        assert!(Pool::enter(&pool, client(9)).is_some());
        drop(own);
        assert!(Pool::enter(&pool, CLIENT).is_some());
        assert_eq!(pool.jobs.load(Ordering::Relaxed), 0);
        assert!(pool.jobs_of_client.lock().unwrap().is_empty());
    }
}
