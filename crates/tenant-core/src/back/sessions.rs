//! The sessions behind one lock: the table and its file. A session exists only once it is on disk.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use protocol::gauges::Gauge;
use tenant_service::site_of;
use thiserror::Error;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use super::cookie;
use crate::now;
use crate::session_file::SessionFile;
use crate::session_table::{SecretHash, Session, TokenReuseError};
use crate::token::VerifiedToken;

#[derive(Clone)]
pub(super) struct Sessions {
    file: Arc<Mutex<SessionFile>>,
    /// Notifies whenever sessions have ended before their time.
    ended: watch::Sender<()>,
}

/// How long a request waits for the end of its session: each request counts as a use of the session.
const MAX_WAIT: Duration = Duration::from_secs(60);

#[derive(Debug, Error)]
pub(super) enum SignInError {
    #[error(transparent)]
    Token(#[from] TokenReuseError),
    #[error("cannot record the session: {0}")]
    Write(#[from] io::Error),
}

impl Sessions {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let file = Arc::new(Mutex::new(SessionFile::open(dir, now())?));
        Ok(Self { file, ended: watch::Sender::default() })
    }

    /// Uses up the token, opens a session and returns the secret for the cookie.
    ///
    /// The browser's previous session ends, because its cookie is overwritten.
    ///
    /// # Errors
    /// [`SignInError`]; without a record on disk there is no session.
    pub(super) async fn sign_in(
        &self,
        token: VerifiedToken,
        before: &HeaderMap,
    ) -> Result<String, SignInError> {
        let secret = fresh_secret()?;
        let hash = SecretHash::of(&secret);
        let mut file = self.lock().await;
        file.table.open_session(&token, hash.clone(), now())?;
        if let Some(before) = hash_in(before) {
            file.table.end_session(&before);
            self.ended.send_replace(());
        }
        let (mut file, saved) = write(file).await?;
        if let Err(error) = saved {
            // The token stays used: the failed write may have reached the disk.
            file.table.end_session(&hash);
            return Err(error.into());
        }
        Ok(secret)
    }

    /// The session of the cookie in these headers. A use extends the session.
    pub(super) async fn find(&self, headers: &HeaderMap) -> Option<Session> {
        let hash = hash_in(headers)?;
        let mut file = self.lock().await;
        let session = file.table.find(&hash, site_of(headers), now())?.clone();
        if file.table.record_use(&hash, now()) {
            // A crash before the write costs one minute of the session.
            tokio::spawn(async move {
                if let Ok((_, Err(error))) = write(file).await {
                    eprintln!("session write failed: error={error}");
                }
            });
        }
        Some(session)
    }

    /// Waits until the session of the cookie in these headers has ended, for a bounded time.
    pub(super) async fn wait_for_end(&self, headers: &HeaderMap) {
        let mut ended = self.ended.subscribe();
        let wait = async {
            while self.find(headers).await.is_some() {
                // The sender lives as long as `self`.
                let _ = ended.changed().await;
            }
        };
        // After the time the caller reads whether the session is alive, and asks again.
        let _ = tokio::time::timeout(MAX_WAIT, wait).await;
    }

    /// The number of requests that wait for the end of a session.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.ended.receiver_count()
    }

    /// Ends the session of the cookie in these headers.
    ///
    /// # Errors
    /// When the end cannot be recorded on disk.
    pub(super) async fn sign_out(&self, headers: &HeaderMap) -> io::Result<()> {
        let Some(hash) = hash_in(headers) else { return Ok(()) };
        let mut file = self.lock().await;
        if !file.table.end_session(&hash) {
            return Ok(());
        }
        self.ended.send_replace(());
        write(file).await?.1
    }

    /// Ends every session that derives from one of these admin sessions.
    ///
    /// # Errors
    /// When the revocation cannot be recorded on disk; in memory the sessions have ended all the same.
    pub(super) async fn revoke(&self, admin_sessions: &[String]) -> io::Result<()> {
        let mut file = self.lock().await;
        if !file.table.revoke(admin_sessions, now()) {
            return Ok(());
        }
        self.ended.send_replace(());
        write(file).await?.1
    }

    pub(super) async fn gauges(&self) -> [Gauge; 3] {
        self.lock().await.table.gauges()
    }

    async fn lock(&self) -> OwnedMutexGuard<SessionFile> {
        self.file.clone().lock_owned().await
    }
}

/// Writes on the blocking thread while the lock is held.
async fn write(
    file: OwnedMutexGuard<SessionFile>,
) -> io::Result<(OwnedMutexGuard<SessionFile>, io::Result<()>)> {
    let writing = tokio::task::spawn_blocking(move || {
        let saved = file.save();
        (file, saved)
    });
    writing.await.map_err(io::Error::other)
}

fn hash_in(headers: &HeaderMap) -> Option<SecretHash> {
    cookie::read_session(headers).map(SecretHash::of)
}

/// 256 bits.
pub(super) fn fresh_secret() -> io::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
