//! `LISTEN tenants`: receives a hint whenever the table changes, on a connection of its own.
//!
//! Every role of the server may notify, as often as it likes, tenants' roles included. Hints therefore take a constant amount
//! of memory, and the reads that they cause have a bounded rate.

use std::future::poll_fn;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{AsyncMessage, Client, Connection, Socket};

use super::Database;

/// Hints follow each other this far apart once [`BURST`] is used up.
pub const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Hints that need not wait for each other: the few changes of a tenant that wakes pass without delay.
pub const BURST: u32 = 10;

pub struct ChangeListener {
    hints: Hints,
    /// The connection ends with its client.
    _client: Client,
}

impl ChangeListener {
    /// Starts listening. Earlier changes are not announced: read the table once afterwards.
    pub async fn connect(database: &Database) -> anyhow::Result<Self> {
        let (client, connection) = database.connect_listener().await?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(forward_hints(connection, sender));
        client.batch_execute("LISTEN tenants").await?;
        Ok(Self { hints: Hints::new(receiver), _client: client })
    }

    /// Waits for the next hint, which stands for all that arrived since the last: one read of the table covers them.
    /// Cancel-safe.
    ///
    /// # Errors
    /// When the connection ended.
    pub async fn next_change(&mut self) -> anyhow::Result<()> {
        self.hints.next().await
    }
}

/// A change, or the error that ended the connection. The channel holds one item.
type Hint = Result<(), tokio_postgres::Error>;

/// Drives the connection until it ends. Receives at once whatever arrives: a listener that does not read would hold up the
/// server's queue of notifications.
async fn forward_hints(mut connection: Connection<Socket, NoTlsStream>, hints: mpsc::Sender<Hint>) {
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notification(_)) => add_hint(&hints),
            Ok(_) => {}
            Err(error) => {
                // The send fails when the listener is gone, and then nobody needs the error.
                let _ = hints.send(Err(error)).await;
                return;
            }
        }
    }
}

/// Adds nothing while a hint waits: that one covers this change, too.
fn add_hint(hints: &mpsc::Sender<Hint>) {
    let _ = hints.try_send(Ok(()));
}

struct Hints {
    receiver: mpsc::Receiver<Hint>,
    /// Each hint moves this moment by [`MIN_INTERVAL`]; it may lie [`BURST`] of them in the future.
    spent_until: Instant,
}

#[expect(clippy::disallowed_methods, reason = "the listener spaces its own hints")]
impl Hints {
    fn new(receiver: mpsc::Receiver<Hint>) -> Self {
        Self { receiver, spent_until: Instant::now() }
    }

    async fn next(&mut self) -> anyhow::Result<()> {
        // Before a hint is taken: a caller that stops waiting loses none.
        sleep_until(self.spent_until - MIN_INTERVAL * (BURST - 1)).await;
        self.receiver.recv().await.context("the database closed the connection")??;
        self.spent_until = self.spent_until.max(Instant::now()) + MIN_INTERVAL;
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the clock is paused")]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_changes_lead_to_few_reads_and_the_last_one_is_seen() {
        let (sender, receiver) = mpsc::channel(1);
        let mut hints = Hints::new(receiver);
        let begin = Instant::now();
        let sending = tokio::spawn(async move {
            let mut last_sent = Instant::now();
            for _ in 0..1_000 {
                for _ in 0..10 {
                    add_hint(&sender);
                }
                last_sent = Instant::now();
                sleep(Duration::from_millis(1)).await;
            }
            last_sent
        });
        let (mut reads, mut last_read) = (0_u128, begin);
        while hints.next().await.is_ok() {
            (reads, last_read) = (reads + 1, Instant::now());
        }
        let last_sent = sending.await.unwrap();
        // All at once, one in each interval that follows, and the last.
        let most = u128::from(BURST) + (last_read - begin).as_millis() / MIN_INTERVAL.as_millis();
        assert!((1..=most + 1).contains(&reads), "{reads} of {most}");
        assert!(most < 50, "{most}");
        assert!(last_read >= last_sent, "a change that nobody reads");
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_changes_wait_for_nothing_and_a_wait_that_ends_early_loses_none() {
        let (sender, receiver) = mpsc::channel(1);
        let mut hints = Hints::new(receiver);
        let begin = Instant::now();
        for _ in 0..BURST {
            add_hint(&sender);
            hints.next().await.unwrap();
        }
        // Timers are exact to a millisecond.
        assert!(begin.elapsed() < MIN_INTERVAL / 2);
        add_hint(&sender);
        let early = tokio::time::timeout(MIN_INTERVAL / 4, hints.next()).await;
        assert!(early.is_err(), "a hint beyond the burst waits");
        hints.next().await.unwrap();
        drop(sender);
        assert!(hints.next().await.is_err());
    }
}
