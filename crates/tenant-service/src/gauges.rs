//! The gauges of one service, on a unix socket in a directory that only `cial` may enter. Each connection receives them
//! once, as JSON.

use std::io;
use std::path::Path;
use std::time::Duration;

use protocol::gauges::{Gauge, GaugeReport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::serve::ACCEPT_RETRY_DELAY;

const FETCH_TIMEOUT: Duration = Duration::from_millis(100);
/// Far above any report. It also fits into the buffer of a socket, so that no reader can delay the service.
const MAX_REPORT_BYTES: u64 = 16 << 10;

/// Serves `gauges` at `path` for as long as the runtime lives.
///
/// # Errors
/// When the socket cannot be bound.
pub fn serve_gauges(
    path: &Path,
    gauges: impl Fn() -> Vec<Gauge> + Send + 'static,
) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // An earlier process of the same container may have left its socket.
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    tokio::spawn(async move {
        loop {
            let sent = match listener.accept().await {
                Ok((mut stream, _)) => {
                    let report = serde_json::to_vec(&GaugeReport { gauges: gauges() });
                    stream.write_all(&report.unwrap_or_default()).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                eprintln!("gauges not reported: error={error}");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    });
    Ok(())
}

/// Reads the gauges that a service serves at `path`.
///
/// # Errors
/// When nothing valid arrives within 100 ms.
pub async fn fetch_gauges(path: &Path) -> io::Result<Vec<Gauge>> {
    let read = async {
        let stream = UnixStream::connect(path).await?;
        let mut report = Vec::new();
        stream.take(MAX_REPORT_BYTES).read_to_end(&mut report).await?;
        Ok::<_, io::Error>(serde_json::from_slice::<GaugeReport>(&report)?.gauges)
    };
    tokio::time::timeout(FETCH_TIMEOUT, read).await?
}
