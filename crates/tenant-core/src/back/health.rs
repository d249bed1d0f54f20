//! Health: ready once PID 1 has reported that all five services accept connections.

use std::time::Duration;

use protocol::inside::link;
use tokio::net::UnixDatagram;
use tokio::sync::watch;

/// How long a health request waits for readiness.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Readiness(watch::Receiver<bool>);

/// Reports readiness. Dropped without a report, the tenant never becomes ready.
pub struct ReadinessReporter(watch::Sender<bool>);

impl Readiness {
    pub fn new() -> (Self, ReadinessReporter) {
        let (reporter, readiness) = watch::channel(false);
        (Self(readiness), ReadinessReporter(reporter))
    }

    /// Waits until all services are ready; `false` after a timeout.
    pub(super) async fn wait_ready(&self) -> bool {
        let mut readiness = self.0.clone();
        let waiting = readiness.wait_for(|ready| *ready);
        matches!(tokio::time::timeout(READY_TIMEOUT, waiting).await, Ok(Ok(_)))
    }
}

impl ReadinessReporter {
    pub fn report_ready(&self) {
        self.0.send_replace(true);
    }
}

/// Waits for the report of PID 1 and passes it on.
pub(super) async fn watch_link(socket: UnixDatagram, reporter: ReadinessReporter) {
    let mut message = [0; 64];
    loop {
        match socket.recv(&mut message).await {
            Ok(length) if message.get(..length) == Some(link::ALL_READY) => {
                break reporter.report_ready();
            }
            Ok(_) => {}
            Err(error) => break eprintln!("readiness link failed: error={error}"),
        }
    }
    // The reporter lives as long as its receivers, so that the reported value stays.
    reporter.0.closed().await;
}
