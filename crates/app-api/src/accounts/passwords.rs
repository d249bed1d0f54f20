//! Argon2id off the async threads, a few at a time: each takes 19 MiB and a core.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use axum::http::StatusCode;
use service::failure::Failure;
use tokio::sync::Semaphore;
use tokio::time::timeout;

const AT_ONCE: usize = 2;
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Passwords {
    params: Params,
    turns: Arc<Semaphore>,
    /// Of a password that nobody has: what unknown users are compared with.
    nobody: Arc<str>,
    /// Hashes compared since the start: what a sign-in costs.
    verifications: Arc<AtomicU64>,
}

impl Passwords {
    /// `params`: [`Params::default`] outside tests.
    pub fn new(params: Params) -> anyhow::Result<Self> {
        let nobody = digest(&params, crate::token::Token::random()?.reveal())?.into();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Ok(Self { params, turns, nobody, verifications: Arc::default() })
    }

    pub async fn hash(&self, password: &str) -> Result<String, Failure> {
        let (params, password) = (self.params.clone(), password.to_owned());
        Ok(self.in_turn(move || digest(&params, &password)).await??)
    }

    /// The same work whether or not there is a hash to compare with.
    pub async fn verify(&self, password: &str, hash: Option<String>) -> Result<bool, Failure> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.to_string());
        let password = password.to_owned();
        let verifications = self.verifications.clone();
        let compare = move || {
            verifications.fetch_add(1, Ordering::Relaxed);
            fits(&password, &hash)
        };
        Ok(known & self.in_turn(compare).await??)
    }

    pub fn verifications(&self) -> u64 {
        self.verifications.load(Ordering::Relaxed)
    }

    async fn in_turn<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Failure> {
        let turn = timeout(PATIENCE, self.turns.clone().acquire_owned()).await;
        let Ok(turn) = turn else {
            let detail = "Too many sign-ins at once. Try again in a moment.";
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
                .retry_after(Duration::from_secs(5)));
        };
        let turn = turn?;
        let done = tokio::task::spawn_blocking(move || {
            let _held_until_done = turn;
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
    async fn nobodys_hash_takes_the_work_of_anybodys() {
        let passwords = Passwords::new(Params::default()).unwrap();
        let work = |hash: &str| hash.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        let real = passwords.hash("correct horse").await.unwrap();
        assert_eq!(work(&real), ["", "argon2id", "v=19", "m=19456,t=2,p=1"]);
        assert_eq!(work(&passwords.nobody), work(&real));
        assert!(!passwords.verify("correct horse", None).await.unwrap());
        assert!(passwords.verify("correct horse", Some(real)).await.unwrap());
        assert_eq!(passwords.verifications(), 2);
    }
}
