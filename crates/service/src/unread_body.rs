//! Keeps a connection usable when a request is answered before its body was read, or announces its end.
//!
//! Without this layer hyper closes such a connection in silence, and the client's next request on it is lost.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::poll_fn;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::timeout;

/// A longer rest is not drained: reading it would cost more than a new connection.
const MAX_DRAINED_BYTES: u64 = 64 << 10;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Middleware: drains the short rest of an unread body after the response, and sends `Connection: close` with a longer
/// rest (RFC 9112 §9.6).
pub async fn layer(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // A client that waits for `100 Continue` sends no body after a final response: there is nothing to drain.
    let expects_continue = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let body = SharedBody(Arc::new(Mutex::new(body)));
    let request = Request::from_parts(parts, Body::new(body.clone()));
    let mut response = next.run(request).await;
    let is_read = body.is_end_stream() || (!expects_continue && body.drain().await);
    if !is_read {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The handler and the layer share one body: the layer reads on where the handler stopped.
#[derive(Clone)]
struct SharedBody(Arc<Mutex<Body>>);

impl SharedBody {
    fn with<R>(&self, work: impl FnOnce(&mut Body) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns whether the body ended within the bounds.
    async fn drain(mut self) -> bool {
        if self.size_hint().lower() > MAX_DRAINED_BYTES {
            return false;
        }
        let drained = async {
            let mut bytes = 0;
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {
                let Ok(frame) = frame else { return false };
                bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if bytes > MAX_DRAINED_BYTES {
                    return false;
                }
            }
            true
        };
        timeout(DRAIN_TIMEOUT, drained).await.unwrap_or(false)
    }
}

impl HttpBody for SharedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.with(|body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}
