//! The ways into a tenant, and requests sent through them exactly as written.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::net::{TcpStream, UnixStream};

use super::TenantContainer;
use crate::Response;
use crate::http::exchange;

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
const INGRESS_SOCKET: &str = "/run/cial/ingress/edge.sock";

#[derive(Clone, Copy, Debug)]
pub enum Endpoint<'a> {
    /// The published port.
    Port(u16),
    /// The router's socket, reached from inside the container as its owner.
    Ingress(&'a TenantContainer),
    /// A socket on the engine's own machine, reached as a router does.
    HostSocket(&'a Path),
    /// Another socket, reached from inside the container as one of the users.
    Inside { tenant: &'a TenantContainer, user: &'a str, socket: &'a str },
}

impl Endpoint<'_> {
    /// Sends a plain `GET` with some headers, each a whole line.
    ///
    /// # Errors
    /// No whole response within a minute.
    pub async fn get(self, path: &str, headers: &[&str]) -> Result<Response> {
        let head = head("GET", path, &[&["host: localhost"], headers].concat());
        self.send(format!("{head}\r\n").as_bytes()).await.with_context(|| format!("GET {path}"))
    }

    /// Sends a call of a JSON API with some headers, each a whole line, `host` among them.
    ///
    /// # Errors
    /// No whole response within a minute.
    pub async fn call(
        self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &str,
    ) -> Result<Response> {
        let (head, length) = (head(method, path, headers), body.len());
        let framing = format!("content-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        let sent = self.send([&head, &framing, body].concat().as_bytes()).await;
        sent.with_context(|| format!("{method} {path}"))
    }

    /// Sends a request, which must contain `Connection: close`, and reads the response.
    ///
    /// # Errors
    /// No whole response within a minute.
    pub async fn send(self, request: &[u8]) -> Result<Response> {
        let exchanged = async {
            match self {
                Self::Port(port) => {
                    exchange(TcpStream::connect(("127.0.0.1", port)).await?, request).await
                }
                Self::HostSocket(path) => exchange(UnixStream::connect(path).await?, request).await,
                Self::Ingress(tenant) => {
                    exchange_inside(tenant, "cial", INGRESS_SOCKET, request).await
                }
                Self::Inside { tenant, user, socket } => {
                    exchange_inside(tenant, user, socket, request).await
                }
            }
        };
        let bytes = tokio::time::timeout(RESPONSE_TIMEOUT, exchanged).await;
        Response::parse(&bytes.context("no end of the response")??)
    }
}

impl TenantContainer {
    /// Waits until health answers, and returns the published port.
    ///
    /// # Errors
    /// The tenant is not healthy within a minute.
    pub async fn healthy_port(&self) -> Result<u16> {
        self.wait_for("a healthy tenant", async || {
            let port = self.port().await.ok()?;
            let response = Endpoint::Port(port).get("/.cial/api/healthz", &[]).await.ok()?;
            (response.status == 200).then_some(port)
        })
        .await
    }
}

/// A head that more lines may follow.
fn head(method: &str, path: &str, headers: &[&str]) -> String {
    let lines: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\n{lines}connection: close\r\n")
}

async fn exchange_inside(
    tenant: &TenantContainer,
    user: &str,
    socket: &str,
    request: &[u8],
) -> Result<Vec<u8>> {
    let program = format!(
        r#"use IO::Socket::UNIX;
        my $s = IO::Socket::UNIX->new(Peer => "{socket}") or die "connect: $!";
        $s->print(pack("H*", "{}")); $s->flush;
        local $/; print unpack("H*", <$s>);"#,
        to_hex(request)
    );
    let ran = tenant.exec_perl(user, &program).await?;
    ensure!(ran.exit_code == 0, "through the socket: {}", ran.text);
    from_hex(&ran.text).with_context(|| format!("through the socket: {}", ran.text))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let pair = |at: usize| text.get(at..at + 2).context("half a byte");
    (0..text.len()).step_by(2).map(|at| Ok(u8::from_str_radix(pair(at)?, 16)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips() {
        assert_eq!(from_hex(&to_hex(b"GET /\r\n")).unwrap(), b"GET /\r\n");
        assert!(from_hex("4").is_err());
    }
}
