//! The HTTP server: accepts connections, serves requests, and drains on request: it finishes the requests under way
//! and keeps no connection open. At the bound of its connections an idle one gives way to a new one.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use protocol::headers::REQUEST_ID;
use service::connections::{Connections, EvictableStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

use crate::request_body::RequestBody;
use crate::{Request, RequestContext, Response};

/// Less than the 10 s after which PID 1 kills a service.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);
/// The pause after a failed accept, so that a lack of descriptors does not become a busy loop.
pub(crate) const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The shutdown of a service: requested by a token, complete when every tracked task has ended.
#[derive(Clone)]
pub struct Drain {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop, tasks: TaskTracker::new() }
    }

    /// Resolves once the service must stop.
    pub fn requested(&self) -> WaitForCancellationFuture<'_> {
        self.stop.cancelled()
    }

    /// Runs a task that the drain waits for.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Waits for every tracked task, at most `DRAIN_TIMEOUT`.
    pub async fn finish(&self) {
        self.tasks.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.tasks.wait()).await.is_err() {
            eprintln!("drain timed out: unfinished_tasks={}", self.tasks.len());
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

/// A listener with a bound on its open connections.
pub struct BoundedListener<L> {
    listener: L,
    connections: Arc<Connections>,
    cancels_on_disconnect: bool,
}

impl<L: Listener> BoundedListener<L> {
    /// Allows `max_connections` at once.
    pub fn new(listener: L, max_connections: usize) -> Self {
        let connections = Connections::new(max_connections);
        Self { listener, connections, cancels_on_disconnect: false }
    }

    /// Drops a request whose client ends its input. For the edge as the client: it ends the input only when it gives the
    /// request up. Other clients may have shut down their writing side and still receive the response.
    #[must_use]
    pub fn cancel_on_disconnect(self) -> Self {
        Self { cancels_on_disconnect: true, ..self }
    }

    /// The connections that this listener bounds.
    pub fn connections(&self) -> Arc<Connections> {
        self.connections.clone()
    }

    async fn accept(&self) -> io::Result<EvictableStream<L::Stream>> {
        Ok(self.connections.admit(self.listener.accept().await?).await)
    }
}

/// Serves until `drain` is requested and done.
pub async fn serve<L, H, F>(listener: BoundedListener<L>, drain: Drain, handle: H)
where
    L: Listener,
    H: Fn(RequestContext, Request) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    loop {
        tokio::select! {
            biased;
            // First the accept: a client that connected before the stop is still served.
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    let http = http(listener.cancels_on_disconnect);
                    drain.spawn(serve_connection(http, stream, drain.clone(), handle.clone()));
                }
                Err(error) => {
                    eprintln!("accept failed: {error}");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            },
            () = drain.requested() => break,
        }
    }
    drop(listener);
    drain.finish().await;
}

fn http(cancels_on_disconnect: bool) -> http1::Builder {
    let mut http = http1::Builder::new();
    // Above the limit of the edge: a request that the edge accepts is not refused here.
    http.max_headers(128).half_close(!cancels_on_disconnect);
    http
}

async fn serve_connection<S, H, F>(
    mut http: http1::Builder,
    stream: EvictableStream<S>,
    drain: Drain,
    handle: H,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(RequestContext, Request) -> F + Send,
    F: Future<Output = Response> + Send,
{
    let connection = stream.connection();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let context = RequestContext::from_headers(request.headers());
        let id = HeaderValue::from_str(&context.request_id);
        let (head, body) = request.into_parts();
        let headers = head.headers.clone();
        let (body, remainder) = RequestBody::new(body);
        let active = connection.clone().begin_request();
        let handling = handle(context, Request::from_parts(head, body));
        async move {
            let mut response = handling.await;
            if !remainder.drain(&headers).await {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            if let Ok(id) = id {
                response.headers_mut().insert(REQUEST_ID, id);
            }
            Ok::<_, Infallible>(active.track(response))
        }
    });
    let connection = http
        .keep_alive(!drain.stop.is_cancelled())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    // A broken connection is not an error of this service.
    if drain.stop.is_cancelled() {
        let _ = connection.await;
        return;
    }
    tokio::select! {
        _ = connection.as_mut() => return,
        () = drain.requested() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A service that answers 404 and reads no body.
    async fn connect() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::new(CancellationToken::new());
        tokio::spawn(serve(
            BoundedListener::new(listener, 2),
            drain,
            |context, _request| async move { context.not_found() },
        ));
        TcpStream::connect(address).await.unwrap()
    }

    /// Reads one response with a `Content-Length`.
    async fn read_response(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        loop {
            text.push(stream.read_u8().await.expect("a response"));
            let Some(head) = text.strip_suffix(b"\r\n\r\n") else { continue };
            let head = String::from_utf8(head.to_ascii_lowercase()).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.unwrap().parse().unwrap()];
            stream.read_exact(&mut body).await.unwrap();
            return head;
        }
    }

    #[tokio::test]
    async fn a_connection_survives_a_short_body_that_nobody_read() {
        let mut stream = connect().await;
        for round in 0..3 {
            stream
                .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n")
                .await
                .unwrap();
            stream.write_all(&[b'x'; 20_000]).await.unwrap();
            let head = read_response(&mut stream).await;
            assert!(head.starts_with("http/1.1 404"), "{round} {head}");
            assert!(!head.contains("connection: close"), "{round} {head}");
        }
    }

    #[tokio::test]
    async fn the_close_after_a_long_unread_body_is_announced() {
        for request in [
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\nbegun",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        ] {
            let mut stream = connect().await;
            stream.write_all(request.as_bytes()).await.unwrap();
            let head = read_response(&mut stream).await;
            assert!(head.starts_with("http/1.1 404"), "{head}");
            assert!(head.contains("connection: close"), "{head}");
        }
    }

    #[tokio::test]
    async fn silent_connections_beyond_the_bound_shut_nobody_out() {
        let silent = connect().await;
        let address = silent.peer_addr().unwrap();
        let mut others = Vec::new();
        for _ in 0..8 {
            others.push(TcpStream::connect(address).await.unwrap());
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_response(&mut stream).await.starts_with("http/1.1 404"));
    }

    #[tokio::test]
    async fn a_half_closed_client_receives_the_response() {
        let mut stream = connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(read_response(&mut stream).await.starts_with("http/1.1 404"));
    }
}
