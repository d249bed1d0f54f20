//! Upgraded connections that sent one message each and then stay idle.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::load::HOST;
use super::responses::end_of_head;
use crate::print_line;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    port: u16,
    #[arg(long)]
    connections: usize,
}

const PAYLOAD: usize = 100;
/// A client's frame: two bytes, a mask of zeros, the payload.
pub(super) const FRAME: usize = 6 + PAYLOAD;
/// The number of tunnels that open concurrently, because a listener's queue is short.
const AT_ONCE: usize = 64;

/// Builds a binary frame of a client, whose mask leaves the payload unchanged.
fn sent() -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | PAYLOAD as u8, 0, 0, 0, 0];
    frame.resize(FRAME, b'x');
    frame
}

/// Builds the same frame as a server echoes it.
pub(super) fn echoed() -> Vec<u8> {
    let mut frame = vec![0x82, PAYLOAD as u8];
    frame.resize(2 + PAYLOAD, b'x');
    frame
}

/// Prints `open` once all tunnels are open, each after one echo; returns when stdin ends.
pub(crate) async fn hold(args: Args) -> Result<()> {
    let mut open = Vec::with_capacity(args.connections);
    while open.len() < args.connections {
        let count = AT_ONCE.min(args.connections - open.len());
        open.extend(try_join_all((0..count).map(|_| one(args.port))).await?);
    }
    print_line("open");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    drop(open);
    Ok(())
}

async fn one(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let ask = format!(
        "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await?;
    let mut held = Vec::new();
    let head = loop {
        if let Some(end) = end_of_head(&held) {
            break end;
        }
        ensure!(stream.read_buf(&mut held).await? > 0, "closed instead of an upgrade");
    };
    let said = String::from_utf8_lossy(&held[..head]);
    ensure!(said.starts_with("HTTP/1.1 101"), "no upgrade: {said}");
    stream.write_all(&sent()).await?;
    let expected = echoed();
    while held.len() < head + expected.len() {
        let count = stream.read_buf(&mut held).await.context("no echo")?;
        ensure!(count > 0, "closed instead of an echo");
    }
    ensure!(held[head..] == expected, "another echo than expected");
    Ok(stream)
}
