//! A scripted control plane for the router: app-api's feed with one route, and an orchestrator that
//! grants every lease on it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::tools::responses::end_of_head;

pub(super) const TENANT: &str = "0192f0c1-2345-7abc-8def-0123456789ab";
pub(super) const MASTER: &str = "8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa";
/// The bearer token of every scripted endpoint.
pub(super) const TOKEN: &str = "bench-7Jk2mQ0zXc5hYt1rKp8sLw3uBn6";
const HEARTBEAT: Duration = Duration::from_secs(3);
/// The lease duration D of the lease protocol, and how long an unused lease is kept.
const LEASE_MS: u32 = 15_000;
const LINGER_MS: u32 = 10_000;

/// Runs on a thread of its own until the process ends.
pub(super) struct Control {
    pub(super) address: SocketAddr,
    calls: Arc<AtomicU64>,
}

/// Returns the tenant's proof: HKDF-SHA256 of the route secret without salt, info
/// `proof/v1/{uuid}`, base64url.
pub(super) fn proof() -> String {
    let extracted = hmac(&[0; 32], &[MASTER.as_bytes()]);
    let info = format!("proof/v1/{TENANT}");
    URL_SAFE_NO_PAD.encode(hmac(&extracted, &[info.as_bytes(), &[1]]))
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

impl Control {
    pub(super) fn start(socket: &Path) -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let calls = Arc::new(AtomicU64::new(0));
        let script = Arc::new(Script {
            upstream: json!({ "unix": super::text(socket)? }),
            calls: calls.clone(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || runtime.block_on(serve(listener, script)));
        Ok(Self { address, calls })
    }

    /// Returns the number of lease calls so far.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

struct Script {
    upstream: Value,
    calls: Arc<AtomicU64>,
}

async fn serve(listener: std::net::TcpListener, script: Arc<Script>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let script = script.clone();
        tokio::spawn(async move {
            if let Err(error) = script.converse(stream).await {
                eprintln!("the scripted control plane: {error:#}");
            }
        });
    }
}

impl Script {
    async fn converse(&self, mut stream: TcpStream) -> Result<()> {
        let mut held = Vec::new();
        loop {
            let head = loop {
                if let Some(end) = end_of_head(&held) {
                    break end;
                }
                if stream.read_buf(&mut held).await? == 0 {
                    return Ok(());
                }
            };
            let (path, length) = read(&held[..head])?;
            while held.len() < head + length {
                if stream.read_buf(&mut held).await? == 0 {
                    bail!("{path}: a body that ends early");
                }
            }
            if path == "/v1/routes/watch" {
                return self.feed(stream).await;
            }
            let body = held[head..head + length].to_vec();
            held.drain(..head + length);
            self.calls.fetch_add(1, Ordering::Relaxed);
            stream.write_all(&self.response(&path, &body)?).await?;
        }
    }

    async fn feed(&self, mut stream: TcpStream) -> Result<()> {
        let route = json!({
            "tenant": TENANT, "slug": "bench", "generation": 1, "desired": "running", "state": "running",
            "upstream": self.upstream,
        });
        let snapshot = json!({ "snapshot": { "revision": 1, "items": [route] } });
        let head =
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n";
        stream.write_all(format!("{head}{snapshot}\n").as_bytes()).await?;
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            let beat = json!({ "heartbeat": { "revision": 1 } });
            // A router that is gone needs no heartbeat.
            if stream.write_all(format!("{beat}\n").as_bytes()).await.is_err() {
                return Ok(());
            }
        }
    }

    fn response(&self, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let said = match path {
            "/v1/leases" => json!({
                "tenant": body["tenant"], "generation": 1, "upstream": self.upstream,
                "expires_in_ms": LEASE_MS, "linger_ms": LINGER_MS, "woke": false,
            }),
            "/v1/leases/renew" => {
                let standing =
                    |used: &Value| json!({ "tenant": used["tenant"], "expires_in_ms": LEASE_MS });
                let leases = body["leases"].as_array().context("a renewal of nothing")?;
                json!({ "leases": leases.iter().map(standing).collect::<Vec<_>>() })
            }
            "/v1/leases/release" => return Ok(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
            other => bail!("nothing is played at {other}"),
        };
        let text = said.to_string();
        let length = text.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        Ok([head, text].concat().into_bytes())
    }
}

/// Returns the path and the body length of a request. A request without the token is an error.
fn read(head: &[u8]) -> Result<(String, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(head)?;
    let value = |name: &str| {
        let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    if value("authorization") != Some(&format!("Bearer {TOKEN}")) {
        bail!("a call without the token");
    }
    let length = value("content-length").map_or(Ok(0), str::parse)?;
    Ok((request.path.unwrap_or_default().to_owned(), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected value comes from another implementation of RFC 5869.
    #[test]
    fn the_proof_is_the_tenants() {
        assert_eq!(proof(), "8ANpJOYSch2I-mgFFcbnh4LPUJ-_uSsCEtdH8LSHOZs");
    }
}
