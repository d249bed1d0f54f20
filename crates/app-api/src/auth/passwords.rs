//! Argon2id outside the async threads, a bounded number at once: each hash takes 19 MiB and one core.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use axum::http::StatusCode;
use service::api_error::ApiError;
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub const MAX_CONCURRENT_HASHES: usize = 2;
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Passwords {
    params: Params,
    slots: Arc<Semaphore>,
    /// The hash of a random password, against which sign-ins of unknown users are verified.
    decoy_hash: Arc<str>,
    /// Verifications since the start. Each sign-in costs one.
    verifications: Arc<AtomicU64>,
}

impl Passwords {
    /// `params`: [`Params::default`] outside tests.
    pub fn new(params: Params) -> anyhow::Result<Self> {
        let decoy_hash = digest(&params, crate::auth::token::Token::random()?.reveal())?.into();
        let slots = Arc::new(Semaphore::new(MAX_CONCURRENT_HASHES));
        Ok(Self { params, slots, decoy_hash, verifications: Arc::default() })
    }

    pub async fn hash(&self, password: &str) -> Result<String, ApiError> {
        let (params, password) = (self.params.clone(), password.to_owned());
        Ok(self.in_slot(move || digest(&params, &password)).await??)
    }

    /// Takes the same work with and without a stored hash, so that timing does not reveal accounts.
    pub async fn verify(&self, password: &str, hash: Option<String>) -> Result<bool, ApiError> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.decoy_hash.to_string());
        let password = password.to_owned();
        let verifications = self.verifications.clone();
        let compare = move || {
            verifications.fetch_add(1, Ordering::Relaxed);
            fits(&password, &hash)
        };
        Ok(known & self.in_slot(compare).await??)
    }

    pub fn verifications(&self) -> u64 {
        self.verifications.load(Ordering::Relaxed)
    }

    async fn in_slot<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, ApiError> {
        let slot = timeout(QUEUE_TIMEOUT, self.slots.clone().acquire_owned()).await;
        let Ok(slot) = slot else {
            let detail = "Too many sign-ins at once. Try again in a moment.";
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
                .with_retry_after(Duration::from_secs(5)));
        };
        let slot = slot?;
        let done = tokio::task::spawn_blocking(move || {
            let _held_until_done = slot;
            work()
        });
        Ok(done.await?)
    }
}

fn digest(params: &Params, password: &str) -> anyhow::Result<String> {
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let hash = argon.hash_password(password.as_bytes());
    Ok(hash.map_err(|error| anyhow::anyhow!("hashing: {error}"))?.to_string())
}

fn fits(password: &str, hash: &str) -> anyhow::Result<bool> {
    let hash = PasswordHash::new(hash).map_err(|error| anyhow::anyhow!("stored hash: {error}"))?;
    Ok(Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_decoy_hash_costs_as_much_as_a_real_hash() {
        let passwords = Passwords::new(Params::default()).unwrap();
        let work = |hash: &str| hash.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        let real = passwords.hash("correct horse").await.unwrap();
        assert_eq!(work(&real), ["", "argon2id", "v=19", "m=19456,t=2,p=1"]);
        assert_eq!(work(&passwords.decoy_hash), work(&real));
        assert!(!passwords.verify("correct horse", None).await.unwrap());
        assert!(passwords.verify("correct horse", Some(real)).await.unwrap());
        assert_eq!(passwords.verifications(), 2);
    }
}
