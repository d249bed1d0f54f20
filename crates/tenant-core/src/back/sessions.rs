//! Sessions as requests see them: the ledger and its disk behind one lock. No answer waits for another's write
//! longer than that write takes, and a session exists only once it is on disk.

use std::io;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use thiserror::Error;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::cookie;
use crate::ledger::{Hash, Session, Spent};
use crate::now;
use crate::store::Store;
use crate::token::Granted;

pub(super) struct Sessions(Arc<Mutex<Store>>);

#[derive(Debug, Error)]
pub(super) enum Ungranted {
    #[error(transparent)]
    Spent(#[from] Spent),
    #[error("cannot record the session: {0}")]
    Unrecorded(#[from] io::Error),
}

impl Sessions {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Store::open(dir, now())?))))
    }

    /// Spends the token and opens a session; what comes back is the secret for the cookie.
    ///
    /// The session that the browser held before ends: its cookie is overwritten anyway.
    pub(super) async fn grant(
        &self,
        token: Granted,
        before: &HeaderMap,
    ) -> Result<String, Ungranted> {
        let secret = fresh_secret()?;
        let hash = Hash::of(&secret);
        let mut store = self.lock().await;
        store.ledger.grant(&token, hash.clone(), now())?;
        if let Some(before) = hash_in(before) {
            store.ledger.close(&before);
        }
        let (mut store, saved) = write(store).await?;
        if let Err(error) = saved {
            // The token stays spent: it may be on disk already.
            store.ledger.close(&hash);
            return Err(error.into());
        }
        Ok(secret)
    }

    /// Whose cookie these headers carry. A use moves the session's end on.
    pub(super) async fn who(&self, headers: &HeaderMap) -> Option<Session> {
        let hash = hash_in(headers)?;
        let mut store = self.lock().await;
        let session = store.ledger.who(&hash, now())?.clone();
        if store.ledger.slide(&hash, now()) {
            // Lost in a crash, it costs a minute of the session.
            tokio::spawn(async move {
                if let Ok((_, Err(error))) = write(store).await {
                    eprintln!("cannot record the use of a session: {error}");
                }
            });
        }
        Some(session)
    }

    /// Ends the session whose cookie these headers carry.
    pub(super) async fn close(&self, headers: &HeaderMap) -> io::Result<()> {
        let Some(hash) = hash_in(headers) else { return Ok(()) };
        let mut store = self.lock().await;
        if !store.ledger.close(&hash) {
            return Ok(());
        }
        write(store).await?.1
    }

    async fn lock(&self) -> OwnedMutexGuard<Store> {
        self.0.clone().lock_owned().await
    }
}

/// Writes while the lock is held, on the thread that may block.
async fn write(
    store: OwnedMutexGuard<Store>,
) -> io::Result<(OwnedMutexGuard<Store>, io::Result<()>)> {
    let writing = tokio::task::spawn_blocking(move || {
        let saved = store.save();
        (store, saved)
    });
    writing.await.map_err(io::Error::other)
}

fn hash_in(headers: &HeaderMap) -> Option<Hash> {
    cookie::read(headers).map(Hash::of)
}

/// 256 bits.
fn fresh_secret() -> io::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
