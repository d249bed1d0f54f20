//! Requests the busy declarations, the gauges and the summaries of conversations of a tenant from its core-back, over
//! [`ORCHESTRATOR_SOCKET`](protocol::inside::ORCHESTRATOR_SOCKET). The response is not trusted: a tenant can only keep itself
//! awake with it, and misreport itself.

use std::io;
use std::path::Path;
use std::time::Duration;

use connect::{connect_unix, is_local_shortage};
use protocol::busy::{BusyList, is_printable};
use protocol::gauges::GaugeReport;
use protocol::summaries::SummaryReport;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A tenant that does not respond within this time counts as not busy.
pub const CORE_BACK_TIMEOUT: Duration = Duration::from_millis(200);
/// The history may have to be opened, and to be checked after a start.
pub const SUMMARIES_TIMEOUT: Duration = Duration::from_secs(5);

const GAUGES_REQUEST: &[u8] =
    b"GET /gauges HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const BUSY_REQUEST: &[u8] = b"GET /busy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// The largest accepted response, far above the largest list that a tenant may declare.
const MAX_RESPONSE_BYTES: u64 = 256 << 10;

/// The reason why there is no busy list, as the end of a sentence for the tenant's owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusyError {
    /// The tenant gave no valid response: it counts as not busy.
    #[error("{0}")]
    NoResponse(String),
    /// This process could not send the request: nothing is known, and the tenant stays awake.
    #[error("the orchestrator could not ask: {0}")]
    Local(String),
}

/// Fetches the busy list over the tenant's unix socket at `socket`.
///
/// # Errors
/// [`BusyError`], within [`CORE_BACK_TIMEOUT`].
pub async fn fetch_busy_list(socket: &Path) -> Result<BusyList, BusyError> {
    fetch(socket, BUSY_REQUEST).await.map(truncate_list)
}

/// Fetches the gauges over the tenant's unix socket at `socket`.
///
/// # Errors
/// [`BusyError`], within [`CORE_BACK_TIMEOUT`].
pub async fn fetch_gauges(socket: &Path) -> Result<GaugeReport, BusyError> {
    fetch(socket, GAUGES_REQUEST).await
}

/// Fetches the summaries that changed after `position` over the tenant's unix socket at `socket`.
///
/// # Errors
/// [`BusyError`], within [`SUMMARIES_TIMEOUT`].
pub async fn fetch_summaries(socket: &Path, position: i64) -> Result<SummaryReport, BusyError> {
    let request = format!(
        "GET /summaries?after={position} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    );
    fetch_within(SUMMARIES_TIMEOUT, socket, request.as_bytes()).await
}

async fn fetch<T: DeserializeOwned>(socket: &Path, request: &[u8]) -> Result<T, BusyError> {
    fetch_within(CORE_BACK_TIMEOUT, socket, request).await
}

async fn fetch_within<T: DeserializeOwned>(
    limit: Duration,
    socket: &Path,
    request: &[u8],
) -> Result<T, BusyError> {
    match tokio::time::timeout(limit, exchange(socket, request)).await {
        Ok(Ok(response)) => parse_response(&response),
        Ok(Err(error)) if is_local_shortage(&error) => Err(BusyError::Local(error.to_string())),
        Ok(Err(error)) => Err(BusyError::NoResponse(describe(&error))),
        Err(_) => {
            let detail = format!("no response within {} ms", limit.as_millis());
            Err(BusyError::NoResponse(detail))
        }
    }
}

fn describe(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        return "its image is too old to report work".to_owned();
    }
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return "nothing listens on its socket".to_owned();
    }
    error.to_string()
}

/// Sends one request with `Connection: close` and returns the whole response, cut at [`MAX_RESPONSE_BYTES`].
pub(crate) async fn exchange(socket: &Path, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = connect_unix(socket).await?;
    stream.write_all(request).await?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response).await?;
    Ok(response)
}

fn parse_response<T: DeserializeOwned>(response: &[u8]) -> Result<T, BusyError> {
    let unreadable = || BusyError::NoResponse("its response cannot be parsed".to_owned());
    let end = response.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(unreadable)?;
    if !response.starts_with(b"HTTP/1.1 200 ") {
        return Err(unreadable());
    }
    serde_json::from_slice(&response[end + 4..]).map_err(|_| unreadable())
}

/// Keeps the declarations that last longest, with printable reasons of bounded length.
fn truncate_list(BusyList { mut busy }: BusyList) -> BusyList {
    const MAX_DECLARATIONS: usize = 32;
    const MAX_REASON_CHARS: usize = 200;
    busy.sort_by_key(|busy| std::cmp::Reverse(busy.until));
    busy.truncate(MAX_DECLARATIONS);
    for busy in &mut busy {
        let printable = busy.reason.chars().filter(|c| is_printable(*c));
        busy.reason = printable.take(MAX_REASON_CHARS).collect();
    }
    BusyList { busy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::busy::{Busy, BusyOwner};
    use std::path::PathBuf;
    use tokio::net::UnixListener;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("cial-busy-{}", uuid::Uuid::now_v7()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A tenant that responds to each caller with `text`, or never when `text` is empty.
    fn tenant(path: &Path, text: &'static str) {
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if text.is_empty() {
                    held.push(stream);
                    continue;
                }
                let mut head = [0; BUSY_REQUEST.len()];
                stream.read_exact(&mut head).await.unwrap();
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
    }

    #[tokio::test]
    async fn a_valid_response_is_parsed_and_anything_else_is_an_error() {
        let folder = Folder::new();
        let busy = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"busy\":[{\"reason\":\"backup\",\"owner\":\"core\",\"until\":\"2026-11-22T12:00:00Z\"}]}";
        let table = [
            ("busy", busy, Ok(1)),
            ("idle", "HTTP/1.1 200 OK\r\n\r\n{\"busy\":[]}", Ok(0)),
            ("error", "HTTP/1.1 500 Oh\r\n\r\n{\"busy\":[]}", Err("its response cannot be parsed")),
            ("other", "HTTP/1.1 200 OK\r\n\r\n<html>", Err("its response cannot be parsed")),
            ("cut", "HTTP/1.1 200", Err("its response cannot be parsed")),
            ("mute", "", Err("no response within 200 ms")),
        ];
        for (name, text, expected) in table {
            let path = folder.0.join(name);
            tenant(&path, text);
            let fetched = fetch_busy_list(&path).await.map(|list| list.busy.len());
            assert_eq!(
                fetched,
                expected.map_err(|detail: &str| BusyError::NoResponse(detail.to_owned())),
                "{name}"
            );
        }
        assert!(fetch_busy_list(&folder.0.join("nobody")).await.is_err());
    }

    #[test]
    fn declarations_and_reasons_are_bounded() {
        let busy = |until: i64| Busy {
            reason: "\u{1b}[31m\u{202e}".to_owned() + &"x".repeat(300),
            owner: BusyOwner::Agent,
            until: chrono::DateTime::from_timestamp(until, 0).unwrap(),
        };
        let list = truncate_list(BusyList { busy: (0..100).map(busy).collect() });
        assert_eq!((list.busy.len(), list.busy[0].until.timestamp()), (32, 99));
        assert!(list.busy[0].reason.starts_with("[31mx"));
        assert_eq!(list.busy[0].reason.len(), 200);
    }

    #[tokio::test]
    async fn a_symlink_to_another_socket_is_not_followed() {
        let folder = Folder::new();
        let (theirs, link) = (folder.0.join("theirs"), folder.0.join("link"));
        tenant(&theirs, "HTTP/1.1 200 OK\r\n\r\n{\"busy\":[]}");
        std::os::unix::fs::symlink(&theirs, &link).unwrap();
        assert_eq!(
            fetch_busy_list(&link).await,
            Err(BusyError::NoResponse("link is a symbolic link".to_owned()))
        );
        assert!(fetch_busy_list(&theirs).await.is_ok());
    }
}
