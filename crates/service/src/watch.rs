//! Both ends of list-and-watch: [`Feed`] serves a watch, [`follow`] reads one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use protocol::watch::{HEARTBEAT, Keyed, Message, Replica};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;
use tokio::time::timeout;

use crate::client::{CallError, Client};

/// A set of items that is listed and watched. Clones share one set.
pub struct Feed<T: Keyed> {
    shared: Arc<Mutex<Shared<T>>>,
}

struct Shared<T: Keyed> {
    revision: u64,
    items: HashMap<T::Key, T>,
    lines: broadcast::Sender<Message<T>>,
}

/// A watcher that lags by more messages is disconnected and lists again.
const MAX_WATCHER_LAG: usize = 4_096;
const MAX_LINE_BYTES: usize = 16 << 20;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

impl<T: Keyed> Clone for Feed<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T> Feed<T>
where
    T: Keyed + Clone + PartialEq + Serialize + Send + Sync + 'static,
    T::Key: Serialize + Send + Sync + 'static,
{
    /// `epoch` is the first revision. Use a revision that no earlier run of this process can have
    /// reached, such as the clock's milliseconds: a reader must not take a revision of an earlier
    /// run for one of this run.
    pub fn new(epoch: u64) -> Self {
        let shared = Shared {
            revision: epoch,
            items: HashMap::new(),
            lines: broadcast::channel(MAX_WATCHER_LAG).0,
        };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    pub fn revision(&self) -> u64 {
        self.with(|s| s.revision)
    }

    pub fn get(&self, key: &T::Key) -> Option<T> {
        self.with(|s| s.items.get(key).cloned())
    }

    pub fn list(&self) -> Vec<T> {
        self.with(|s| s.items.values().cloned().collect())
    }

    /// Puts an item and notifies the watchers; `false` when the item is unchanged.
    pub fn put(&self, item: T) -> bool {
        self.with(|s| s.put(item))
    }

    /// Removes an item and notifies the watchers; `false` when there was none.
    pub fn remove(&self, key: &T::Key) -> bool {
        self.with(|s| s.remove(key))
    }

    /// Makes the set equal to `items`: puts the items that differ and removes the others.
    pub fn replace(&self, items: Vec<T>) {
        self.with(|s| {
            let kept: std::collections::HashSet<_> = items.iter().map(Keyed::key).collect();
            let gone: Vec<_> = s.items.keys().filter(|k| !kept.contains(*k)).cloned().collect();
            gone.iter().for_each(|key| {
                s.remove(key);
            });
            items.into_iter().for_each(|item| {
                s.put(item);
            });
        });
    }

    /// Subscribes to changes within this process. A receiver that lags loses messages: read the set, not the message.
    pub fn subscribe(&self) -> broadcast::Receiver<Message<T>> {
        self.with(|s| s.lines.subscribe())
    }

    /// The response to a watch request: a snapshot, then deltas and heartbeats, until the watcher lags or leaves.
    pub fn watch_response(&self) -> Response {
        let (snapshot, lines) = self.with(|s| {
            let items = s.items.values().cloned().collect();
            (Message::Snapshot { revision: s.revision, items }, s.lines.subscribe())
        });
        let feed = self.clone();
        let start = futures_util::stream::once(async move { line(&snapshot) });
        let rest = futures_util::stream::unfold((feed, lines), |(feed, mut lines)| async move {
            let message = loop {
                match timeout(HEARTBEAT, lines.recv()).await {
                    Ok(Ok(message)) => break message,
                    Ok(Err(_)) => return None,
                    Err(_) => {
                        // A watcher with unread deltas would take the newest revision for a gap.
                        let idle = |s: &mut Shared<T>| lines.is_empty().then_some(s.revision);
                        if let Some(revision) = feed.with(idle) {
                            break Message::Heartbeat { revision };
                        }
                    }
                }
            };
            Some((line(&message), (feed, lines)))
        });
        let mut response = Body::from_stream(start.chain(rest)).into_response();
        let kind = HeaderValue::from_static("application/x-ndjson");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    fn with<R>(&self, work: impl FnOnce(&mut Shared<T>) -> R) -> R {
        work(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Keyed + Clone + PartialEq> Shared<T> {
    fn put(&mut self, item: T) -> bool {
        if self.items.get(&item.key()) == Some(&item) {
            return false;
        }
        let follows = self.advance();
        self.items.insert(item.key(), item.clone());
        // An error means that no watcher is connected.
        let _ = self.lines.send(Message::Changed { follows, revision: self.revision, item });
        true
    }

    fn remove(&mut self, key: &T::Key) -> bool {
        if self.items.remove(key).is_none() {
            return false;
        }
        let follows = self.advance();
        let _ =
            self.lines.send(Message::Gone { follows, revision: self.revision, key: key.clone() });
        true
    }

    /// Returns the revision before.
    fn advance(&mut self) -> u64 {
        self.revision += 1;
        self.revision - 1
    }
}

fn line<T>(message: &Message<T>) -> Result<Bytes, serde_json::Error>
where
    T: Keyed + Serialize,
    T::Key: Serialize,
{
    let mut text = serde_json::to_vec(message)?;
    text.push(b'\n');
    Ok(text.into())
}

/// Why a watch ended. Every watch ends at some point; the reader then lists again.
#[derive(Debug, thiserror::Error)]
pub enum WatchEnded {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the stream broke: {0}")]
    Broken(String),
    #[error("silent for three heartbeats")]
    Silent,
    #[error("a gap: held {:?}, offered {}", .0.held, .0.offered)]
    Gap(protocol::watch::Gap),
}

impl From<protocol::watch::Gap> for WatchEnded {
    fn from(gap: protocol::watch::Gap) -> Self {
        Self::Gap(gap)
    }
}

/// Reads one watch from its snapshot to its end and calls `on_message` after each message, with the replica that holds it.
///
/// Dropping the future closes the connection.
pub async fn follow<T>(
    client: &Client,
    path: &str,
    mut on_message: impl FnMut(&Replica<T>, &Message<T>),
) -> WatchEnded
where
    T: Keyed + Clone + DeserializeOwned,
    T::Key: DeserializeOwned,
{
    let mut body = match client.stream(path, HEAD_TIMEOUT).await {
        Ok(response) => response.into_body(),
        Err(error) => return error.into(),
    };
    let (mut replica, mut text) = (Replica::default(), BytesMut::new());
    loop {
        let frame = match timeout(HEARTBEAT * 3, body.frame()).await {
            Err(_) => return WatchEnded::Silent,
            Ok(None) => return WatchEnded::Broken("closed by the other end".into()),
            Ok(Some(Err(error))) => return WatchEnded::Broken(error.to_string()),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        text.extend_from_slice(&data);
        while let Some(end) = text.iter().position(|b| *b == b'\n') {
            let line = text.split_to(end + 1);
            let message: Message<T> = match serde_json::from_slice(&line) {
                Ok(message) => message,
                Err(error) => return WatchEnded::Broken(error.to_string()),
            };
            if let Err(gap) = replica.take(message.clone()) {
                return gap.into();
            }
            on_message(&replica, &message);
        }
        if text.len() > MAX_LINE_BYTES {
            return WatchEnded::Broken(format!("a line of over {MAX_LINE_BYTES} bytes"));
        }
    }
}
