//! Streams that outlive the check of their request: each ends within a second after its session ended.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::app::App;
use crate::db::session;

/// A session that ended is noticed within this time. One query covers all streams of the process.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The open streams by the session that requested them. Clones share one table.
#[derive(Clone, Default)]
pub struct SessionStreams {
    open: Arc<Mutex<HashMap<u64, Entry>>>,
    next: Arc<AtomicU64>,
}

struct Entry {
    session: Uuid,
    ended: CancellationToken,
}

/// Removes the entry of a stream whose response was sent or dropped.
struct OpenStream {
    streams: SessionStreams,
    key: u64,
    ended: CancellationToken,
}

impl SessionStreams {
    /// Ends the body of `response` when `session` ends.
    pub fn until_ended(&self, session: Uuid, response: Response) -> Response {
        let stream = self.insert(session);
        response.map(|body| {
            let ended = stream.ended.clone().cancelled_owned();
            // The entry lives as long as the body.
            let data = body.into_data_stream().take_until(ended);
            Body::from_stream(data.inspect(move |_| {
                let _ = &stream;
            }))
        })
    }

    /// The number of open streams.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn insert(&self, session: Uuid) -> OpenStream {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let ended = CancellationToken::new();
        self.lock().insert(key, Entry { session, ended: ended.clone() });
        OpenStream { streams: self.clone(), key, ended }
    }

    fn sessions(&self) -> Vec<Uuid> {
        let mut sessions: Vec<_> = self.lock().values().map(|entry| entry.session).collect();
        sessions.sort_unstable();
        sessions.dedup();
        sessions
    }

    /// Ends the streams of `checked` sessions that are not among the `live` ones.
    fn end_others(&self, checked: &[Uuid], live: &[Uuid]) {
        for entry in self.lock().values() {
            if checked.contains(&entry.session) && !live.contains(&entry.session) {
                entry.ended.cancel();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.key);
    }
}

/// Checks the sessions of all open streams until the process stops. While the database is unreachable, streams stay:
/// nobody can revoke a session then either.
pub async fn watch(app: App) {
    let mut ticks = tokio::time::interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let checked = app.streams.sessions();
        if checked.is_empty() {
            continue;
        }
        let Ok(mut conn) = app.conn().await else { continue };
        match session::live_ids(&mut conn, &checked, app.clock.now()).await {
            Ok(live) => app.streams.end_others(&checked, &live),
            Err(error) => tracing::warn!(%error, "check of open streams failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn only_streams_of_ended_sessions_end_and_entries_do_not_leak() {
        let streams = SessionStreams::default();
        let (kept, ended) = (Uuid::now_v7(), Uuid::now_v7());
        let endless = || {
            Response::new(Body::from_stream(stream::pending::<Result<String, std::io::Error>>()))
        };
        let stays = streams.until_ended(kept, endless());
        let ends = streams.until_ended(ended, endless());
        let later = Uuid::now_v7();
        let unchecked = streams.until_ended(later, endless());
        streams.end_others(&[kept, ended], &[kept]);
        assert_eq!(to_bytes(ends.into_body(), 10).await.unwrap(), "");
        assert_eq!(streams.count(), 2, "the ended stream left the table");
        drop((stays, unchecked));
        assert_eq!(streams.count(), 0);
    }
}
