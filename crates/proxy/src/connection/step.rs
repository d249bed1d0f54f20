//! The outcomes of forwarding one request, as far as the connection that carries the request must know.

use tokio::sync::mpsc;

use crate::error::ProxyError;
use crate::policy::PendingAction;
use crate::response::Response;

/// Why a request gets no response from its upstream.
pub(crate) enum ForwardError {
    Error(ProxyError),
    ClientGone,
    /// The upstream was not reached, or closed before the first byte of a response.
    UpstreamLost(ProxyError),
}

/// Where a forwarded request stands after a poll.
pub(crate) enum Step<E> {
    Done(End),
    Wait(Pause<E>),
}

/// A wait that is rare enough to cost a boxed future.
pub(crate) enum Pause<E> {
    Connect,
    Interim(Vec<u8>),
    Retry(PendingAction<E>),
}

/// How a forwarded request ended.
pub(crate) enum End {
    /// Request and response are complete; the connection continues.
    KeepAlive,
    /// The response is complete, the request is not. A plain close with unread input would reset the connection and
    /// destroy the response.
    LingeringClose,
    Close,
    /// The upstream switched protocols. Holds the head of the 101.
    Tunnel(Vec<u8>),
    /// Replaces the response of the upstream.
    Respond(Response),
    Stream(Response, mpsc::Receiver<Vec<u8>>),
}
