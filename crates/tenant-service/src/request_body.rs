//! A request body that a handler may leave unread without breaking the connection in silence.
//!
//! A server that responds before it has read the whole body must read the rest, or announce the
//! close of the connection (RFC 9112 §9.3). Without either, the next request on the connection is
//! lost.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{EXPECT, HeaderMap};
use tokio::time::timeout;

/// The most that is read of a body after its response.
const MAX_DRAINED_BYTES: usize = 64 << 10;
/// Bounds the read of the rest, and so the delay of the response.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The body of a request. A body that is dropped before its end goes back to its `Remainder`.
pub struct RequestBody {
    body: Option<Incoming>,
    remainder: Remainder,
}

/// The unread rest of a body, once the handler has dropped it.
#[derive(Clone, Default)]
pub(crate) struct Remainder(Arc<Mutex<Option<Incoming>>>);

impl RequestBody {
    pub(crate) fn new(body: Incoming) -> (Self, Remainder) {
        let remainder = Remainder::default();
        (Self { body: Some(body), remainder: remainder.clone() }, remainder)
    }
}

impl Remainder {
    /// Reads a bounded rest of the body. `false` when more is left: then the response must announce the close.
    ///
    /// A client that waits for `100 Continue` has sent nothing, and reading would request the body: it is not read.
    pub(crate) async fn drain(&self, headers: &HeaderMap) -> bool {
        let Some(mut body) = self.take() else { return true };
        if body.is_end_stream() {
            return true;
        }
        let is_large = body.size_hint().lower() > MAX_DRAINED_BYTES as u64;
        if is_large || headers.contains_key(EXPECT) {
            return false;
        }
        let drain = async {
            let mut drained = 0;
            while let Some(frame) =
                std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
            {
                let Ok(frame) = frame else { return false };
                drained += frame.data_ref().map_or(0, Bytes::len);
                if drained > MAX_DRAINED_BYTES {
                    return false;
                }
            }
            true
        };
        timeout(DRAIN_TIMEOUT, drain).await.unwrap_or(false)
    }

    fn take(&self) -> Option<Incoming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        *self.remainder.0.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
