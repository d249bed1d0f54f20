//! The stream of events: what changes about tenants, people, keys and apps, as far as a caller may see it, as server-sent
//! events.
//!
//! Triggers write each event with its change, and ids follow the order of commits. Every replica learns of new ids by
//! `LISTEN`; each stream then reads the rows that its caller may see at that moment. [`frame`] and [`slots`] are pure.

pub mod frame;
pub mod slots;
pub mod stream;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::slots::StreamSlots;
use crate::db::change_listener::ChangeListener;
use crate::db::{Database, event};

/// An event without a notification reaches the streams within this time.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
const RECONNECT_DELAY: Duration = Duration::from_millis(500);
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);
/// Bounds what streams ask of the database: each checks its caller twice a second, and reads at most as often.
const MAX_STREAMS: usize = 256;
/// The number of latest events that a stream can replay.
const MAX_KEPT: i64 = 10_000;

/// The streams of this process.
#[derive(Debug)]
pub struct Events {
    /// The id of the last event that this process knows of; 0 before the first read.
    head: watch::Sender<i64>,
    slots: StreamSlots,
}

impl Events {
    /// `max_streams`: of all callers together, at most `MAX_STREAMS`.
    pub fn new(max_streams: usize) -> Self {
        let slots = StreamSlots::new(max_streams.min(MAX_STREAMS));
        Self { head: watch::Sender::new(0), slots }
    }

    /// Follows the last id for as long as the future is polled.
    pub async fn run(&self, database: &Database) {
        loop {
            if let Err(error) = self.follow_head(database).await {
                tracing::warn!(error = format!("{error:#}"), "reading events failed");
            }
            sleep(RECONNECT_DELAY).await;
        }
    }

    /// Follows the last id until the connection ends.
    async fn follow_head(&self, database: &Database) -> anyhow::Result<()> {
        let mut changes = ChangeListener::connect(database).await?;
        let mut refresh = interval(REFRESH_INTERVAL);
        let mut prune = interval(PRUNE_INTERVAL);
        for timer in [&mut refresh, &mut prune] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                _ = refresh.tick() => {}
                change = changes.next_change() => change?,
                _ = prune.tick() => {
                    event::prune(&mut *database.conn().await?, MAX_KEPT).await?;
                    continue;
                }
            }
            let head = event::bounds(&mut *database.conn().await?).await?.head;
            self.head.send_if_modified(|known| std::mem::replace(known, head) != head);
        }
    }
}
