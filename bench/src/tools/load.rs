//! The load: a closed loop or an open one. In a closed loop, each connection sends its next request
//! after a response. In an open loop, requests are due at fixed times, regardless of earlier ones.

use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::responses::Connection;
use super::schedule::{self, Schedule};
use crate::figure::quantile;
use crate::now;

/// The host of every request, the same for all peers.
pub(crate) const HOST: &str = "bench.localhost";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The proxy's port on loopback.
    #[arg(long, conflicts_with = "socket")]
    port: Option<u16>,
    /// The socket of the backend itself, instead of a proxy.
    #[arg(long, required_unless_present = "port")]
    socket: Option<PathBuf>,
    #[arg(long)]
    path: String,
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// End after this many milliseconds, …
    #[arg(long, required_unless_present = "requests")]
    milliseconds: Option<u64>,
    /// … or after this many requests.
    #[arg(long)]
    requests: Option<u64>,
    /// Open loop: send this many requests per second in total.
    #[arg(long)]
    rate: Option<u32>,
}

/// State that all connections share.
struct Work {
    request: Vec<u8>,
    left: Cell<u64>,
    deadline: Option<std::time::Instant>,
    /// Microseconds from when a request was due (open loop) or sent (closed loop) to the end of its
    /// response.
    took: RefCell<Vec<f64>>,
}

/// Returns `{completed, seconds, p50_us, p99_us}`. One invalid response makes the whole run an
/// error.
pub(crate) async fn run(args: Args) -> Result<Value> {
    let start = now();
    let work = Rc::new(Work {
        request: format!(
            "GET {} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n",
            args.path
        )
        .into_bytes(),
        left: Cell::new(args.requests.unwrap_or(u64::MAX)),
        deadline: args.milliseconds.map(|ms| start + Duration::from_millis(ms)),
        took: RefCell::default(),
    });
    let mut dues = args.rate.map(|rate| {
        schedule::start(args.connections, Duration::from_secs(1) / rate.max(1)).into_iter()
    });
    let connections = (0..args.connections).map(|_| {
        let (work, args, dues) = (work.clone(), &args, dues.as_mut().and_then(Iterator::next));
        async move {
            match (args.port, &args.socket) {
                (Some(port), _) => {
                    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                    stream.set_nodelay(true)?;
                    work.by(stream, dues).await
                }
                (None, Some(path)) => work.by(UnixStream::connect(path).await?, dues).await,
                (None, None) => anyhow::bail!("nobody to ask"),
            }
        }
    });
    try_join_all(connections).await?;
    let (seconds, took) = (start.elapsed().as_secs_f64(), work.took.borrow());
    let at = |fraction| quantile(&took, fraction);
    Ok(
        json!({ "completed": took.len(), "seconds": seconds, "p50_us": at(0.5), "p99_us": at(0.99) }),
    )
}

impl Work {
    async fn by<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        mut dues: Option<Schedule>,
    ) -> Result<()> {
        let mut conversation = Connection::new(stream);
        while self.take() {
            let since = match &mut dues {
                Some(dues) => dues.recv().await.context("the schedule has ended")?,
                None => now(),
            };
            conversation.ask(&self.request).await.context("an answer went wrong")?;
            self.took.borrow_mut().push(since.elapsed().as_secs_f64() * 1e6);
        }
        Ok(())
    }

    /// Returns whether to send another request.
    fn take(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0 && self.deadline.is_none_or(|deadline| now() < deadline)
    }
}
