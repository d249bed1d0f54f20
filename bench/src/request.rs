//! One request on a separate connection, timed from before the connect: the wait of a tenant's
//! visitor.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testkit::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::now;

#[derive(Clone, Debug)]
pub(super) struct TimedResponse {
    pub(super) status: u16,
    pub(super) first_byte: Duration,
    pub(super) whole: Duration,
    /// `Retry-After`, in seconds.
    pub(super) retry_after: Option<u64>,
    /// The beginning of the response, for a failure message.
    beginning: String,
}

/// A small response, so that the figure is the time of the path through the system.
pub(super) const PATH: &str = "/.cial/api/echo-path";
/// Longer than the router holds any request.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Longer than 300 wakes that run one after the other.
const TRIES_FOR: Duration = Duration::from_secs(300);

/// Sends a request as a client that is no browser, which wakes a sleeping tenant.
pub(super) async fn request(port: u16, host: &str) -> Result<TimedResponse> {
    tokio::time::timeout(TIMEOUT, exchange(port, host))
        .await
        .with_context(|| format!("{host}: no response within {TIMEOUT:?}"))?
}

/// Like [`request`], with retries after `Retry-After`; `first_byte` and `whole` count from the
/// first try.
pub(super) async fn request_until_served(port: u16, host: &str) -> Result<TimedResponse> {
    let start = now();
    loop {
        let before = start.elapsed();
        let seen = request(port, host).await?;
        let Some(seconds) = seen.retry_after.filter(|_| seen.status == 503) else {
            let (first_byte, whole) = (before + seen.first_byte, before + seen.whole);
            return Ok(TimedResponse { first_byte, whole, ..seen });
        };
        ensure!(start.elapsed() < TRIES_FOR, "{host} answers Retry-After again and again");
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

async fn exchange(port: u16, host: &str) -> Result<TimedResponse> {
    let start = now();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::with_capacity(2_048);
    ensure!(stream.read_buf(&mut bytes).await? > 0, "{host}: closed without a response");
    let first_byte = start.elapsed();
    stream.read_to_end(&mut bytes).await?;
    TimedResponse::read(&bytes, first_byte, start.elapsed())
}

impl TimedResponse {
    fn read(bytes: &[u8], first_byte: Duration, whole: Duration) -> Result<Self> {
        let response = Response::parse(bytes)?;
        let retry_after = response.header("retry-after").and_then(|seconds| seconds.parse().ok());
        let (status, beginning) = (response.status, response.summary());
        Ok(Self { status, first_byte, whole, retry_after, beginning })
    }

    pub(super) fn good(self) -> Result<Self> {
        ensure!(self.status == 200, "expected 200, saw {:?}", self.beginning);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_from_the_head_alone() {
        let read =
            |text: &str| TimedResponse::read(text.as_bytes(), Duration::ZERO, Duration::ZERO);
        let busy = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 7\r\n\r\nretry-after: 9";
        let seen = read(busy).unwrap();
        assert_eq!((seen.status, seen.retry_after), (503, Some(7)));
        assert!(seen.good().is_err());
        assert_eq!(read("HTTP/1.1 200 OK\r\n\r\nok").unwrap().good().unwrap().retry_after, None);
        assert!(read("HTTP/1.1 200 OK").is_err());
    }
}
