//! The server behind every proxy. `GET /{bytes}` responds with that many bytes, `GET /ws` becomes a
//! WebSocket that echoes. Every response carries the proof that the router demands; for the other
//! proxies, the proof is an extra header.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::responses::end_of_head;
use super::tunnels::{FRAME, echoed};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    proof: String,
}

/// Body sizes that a bench requests.
pub(crate) const SIZES: [usize; 2] = [600, 65_536];

struct PreparedResponses {
    by_path: HashMap<String, Vec<u8>>,
    upgrade: Vec<u8>,
}

impl PreparedResponses {
    fn new(proof: &str) -> Self {
        let response = |size: usize| {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Cial-Proof: {proof}\r\nContent-Length: {size}\r\n\r\n"
            );
            let mut bytes = head.into_bytes();
            bytes.resize(bytes.len() + size, b'x');
            bytes
        };
        let by_path = SIZES.map(|size| (format!("/{size}"), response(size)));
        let upgrade = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             X-Cial-Proof: {proof}\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
        Self { by_path: by_path.into(), upgrade: upgrade.into_bytes() }
    }
}

pub(crate) async fn serve(args: Args) -> Result<()> {
    let cannot = || format!("cannot listen on {}", args.socket.display());
    let listener = UnixListener::bind(&args.socket).with_context(cannot)?;
    // Peers may run as separate users.
    std::fs::set_permissions(&args.socket, std::fs::Permissions::from_mode(0o777))?;
    let answers = Rc::new(PreparedResponses::new(&args.proof));
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            loop {
                let (stream, _) = listener.accept().await?;
                let answers = answers.clone();
                // A proxy that disconnects early is no failure of the backend.
                tokio::task::spawn_local(async move { converse(stream, &answers).await });
            }
        })
        .await
}

async fn converse(mut stream: UnixStream, answers: &PreparedResponses) -> io::Result<()> {
    let mut held = Vec::with_capacity(2_048);
    loop {
        let head = loop {
            if let Some(end) = end_of_head(&held) {
                break end;
            }
            if stream.read_buf(&mut held).await? == 0 {
                return Ok(());
            }
        };
        let path = path(&held[..head]);
        if path == "/ws" {
            stream.write_all(&answers.upgrade).await?;
            held.drain(..head);
            return echo(stream, held).await;
        }
        let Some(response) = answers.by_path.get(path) else {
            return Err(io::Error::other(format!("no answer to {path:?}")));
        };
        stream.write_all(response).await?;
        held.drain(..head);
    }
}

fn path(head: &[u8]) -> &str {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    std::str::from_utf8(line).ok().and_then(|line| line.split(' ').nth(1)).unwrap_or_default()
}

async fn echo(mut stream: UnixStream, mut held: Vec<u8>) -> io::Result<()> {
    loop {
        while held.len() >= FRAME {
            stream.write_all(&echoed()).await?;
            held.drain(..FRAME);
        }
        if stream.read_buf(&mut held).await? == 0 {
            return Ok(());
        }
    }
}
