//! Accepts, answers, and on request drains: what was begun is finished, nothing new is kept open.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use protocol::headers::REQUEST_ID;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

use super::answer::{Answer, Asker};

/// Less than the ten seconds that PID 1 gives.
const LONGEST_DRAIN: Duration = Duration::from_secs(8);
/// After an accept that failed for want of descriptors: time for some to come back.
const BREATH: Duration = Duration::from_millis(50);

/// The end of a service: asked for by a token, reached when every tracked task has ended.
#[derive(Clone)]
pub struct Drain {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop, tasks: TaskTracker::new() }
    }

    /// Resolves once the service was asked to stop.
    pub fn asked(&self) -> WaitForCancellationFuture<'_> {
        self.stop.cancelled()
    }

    /// Runs a task that the drain waits for.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Waits for every tracked task, up to a bound.
    pub async fn finish(&self) {
        self.tasks.close();
        if tokio::time::timeout(LONGEST_DRAIN, self.tasks.wait()).await.is_err() {
            eprintln!("{} tasks were cut off", self.tasks.len());
        }
    }
}

/// A listening socket of either kind.
pub trait Listener {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Serves until `drain` is asked for and done.
pub async fn serve<L, H, F>(listener: L, drain: Drain, handle: H)
where
    L: Listener,
    H: Fn(Asker, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    loop {
        tokio::select! {
            biased;
            // Whoever had connected before the stop is still let in.
            accepted = listener.accept() => match accepted {
                Ok(stream) => drain.spawn(talk(stream, drain.clone(), handle.clone())),
                Err(error) => {
                    eprintln!("accept: {error}");
                    tokio::time::sleep(BREATH).await;
                }
            },
            () = drain.asked() => break,
        }
    }
    drop(listener);
    drain.finish().await;
}

async fn talk<S, H, F>(stream: S, drain: Drain, handle: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Asker, Request<Incoming>) -> F + Send,
    F: Future<Output = Answer> + Send,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let asker = Asker::of(request.headers());
        let id = HeaderValue::from_str(&asker.request_id);
        let answering = handle(asker, request);
        async move {
            let mut answer: Response<_> = answering.await;
            if let Ok(id) = id {
                answer.headers_mut().insert(REQUEST_ID, id);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let talking = http1::Builder::new()
        // More than the edge hands on: what it has taken is not refused here.
        .max_headers(128)
        .keep_alive(!drain.stop.is_cancelled())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut talking = pin!(talking);
    // A connection that breaks is its peer's affair.
    if drain.stop.is_cancelled() {
        let _ = talking.await;
        return;
    }
    tokio::select! {
        _ = talking.as_mut() => return,
        () = drain.asked() => talking.as_mut().graceful_shutdown(),
    }
    let _ = talking.await;
}
