//! Health that is true: it waits for PID 1's word that all five services accept.

use std::time::Duration;

use protocol::inside::link;
use tokio::net::UnixDatagram;
use tokio::sync::watch;

/// How long a health request that came early is held.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Readiness(watch::Receiver<bool>);

/// Says that all are ready. Dropped unused, nobody ever is.
pub struct AllReady(watch::Sender<bool>);

impl Readiness {
    pub fn new() -> (Self, AllReady) {
        let (all_ready, readiness) = watch::channel(false);
        (Self(readiness), AllReady(all_ready))
    }

    /// Waits, up to a bound, until all are.
    pub(super) async fn all_ready(&self) -> bool {
        let mut readiness = self.0.clone();
        let waiting = readiness.wait_for(|ready| *ready);
        matches!(tokio::time::timeout(PATIENCE, waiting).await, Ok(Ok(_)))
    }
}

impl AllReady {
    pub fn say(&self) {
        self.0.send_replace(true);
    }
}

/// Passes PID 1's word on.
pub(super) async fn wait_on(socket: UnixDatagram, all_ready: AllReady) {
    let mut word = [0; 64];
    loop {
        match socket.recv(&mut word).await {
            Ok(length) if word.get(..length) == Some(link::ALL_READY) => break all_ready.say(),
            Ok(_) => {}
            Err(error) => break eprintln!("the link to PID 1 broke: {error}"),
        }
    }
    // What was said stays true for as long as someone may ask.
    all_ready.0.closed().await;
}
