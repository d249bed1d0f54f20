//! The interface between the engine and a binary: where a request goes, and which headers change on the way.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use tokio::sync::mpsc;

use crate::{Header, Headers, ProxyError, RequestHead, Response, ResponseHead, Upstream};

/// Decides about each request. Each thread has its own policy, called on that thread only.
pub trait Policy: 'static {
    type Exchange: Exchange;

    /// The key by which [`Settings::max_connections_per_client`](crate::Settings) counts a
    /// connection. `None` counts with no other connection, as for a proxy that forwards for many
    /// clients.
    fn client_key(&self, _peer: &Peer) -> Option<IpAddr> {
        None
    }

    /// Decides where a request goes. Its framing is sound; hop-by-hop headers are never forwarded.
    fn decide(&self, head: &RequestHead<'_>, peer: &Peer) -> Decision<Self::Exchange>;

    /// Returns the response to an error. Called exactly once per error, so the policy also logs the error here.
    ///
    /// The engine adds the length, and closes the connection where the error requires closing.
    fn error_response(
        &self,
        error: &ProxyError,
        context: ErrorContext<'_, Self::Exchange>,
    ) -> Response;
}

/// The parts of a failed request that are known.
pub enum ErrorContext<'a, E> {
    /// The head was not understood.
    Unparsed,
    /// The head is sound; the policy has not decided yet.
    Head(&'a RequestHead<'a>),
    /// The request is being forwarded; its head may be gone.
    Exchange(&'a E),
}

/// The remote end of a client connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// `None` for a unix socket.
    pub address: Option<SocketAddr>,
    /// The index of the listener, in the order given to [`serve`](crate::serve()).
    pub listener: usize,
}

pub enum Decision<E> {
    Ready(Action<E>),
    /// The decision needs I/O first. The future owns a copy of everything it needs from the head.
    Pending(PendingAction<E>),
}

/// A decision that needs I/O. Dropped as soon as the client leaves, and after
/// [`Settings::response_timeout`](crate::Settings). The engine reads no request body while the future is pending.
pub type PendingAction<E> = Pin<Box<dyn Future<Output = Action<E>>>>;

/// Resolves to whether waiting data may be sent.
pub type SendPermission = Pin<Box<dyn Future<Output = bool>>>;

/// Resolves when a tunnel must end.
pub type TunnelEnd = Pin<Box<dyn Future<Output = ()>>>;

pub enum Action<E> {
    Forward(E),
    Respond(Response),
    /// A response produced while it is sent: [`Response::body`] first, then each part received, until the sender is
    /// dropped. The engine drops the receiver when the client leaves, when the client reads nothing for
    /// [`Settings::body_idle_timeout`](crate::Settings), or when the drain begins.
    Stream(Response, mpsc::Receiver<Vec<u8>>),
}

/// A request being forwarded, from the decision to the last byte of the response body or the end of the tunnel.
///
/// Hooks receive end-to-end headers only; the engine owns framing and hop-by-hop headers, including headers that
/// `Connection` names. Header hooks also receive trailer fields; response hooks also receive interim (1xx) heads.
pub trait Exchange: 'static {
    fn upstream(&self) -> &Upstream;

    /// The path and query to send; `None` sends the received target.
    fn target(&self) -> Option<&str> {
        None
    }

    /// Writes a request header to `to`, changed or unchanged, or omits the header.
    fn forward_request_header(&self, header: Header<'_>, to: &mut Headers<'_>) {
        to.keep(header);
    }

    /// Writes additional headers after those of the request.
    fn add_request_headers(&self, _to: &mut Headers<'_>) {}

    /// Checks a response head before any of the response is forwarded. The client gets the `Err` instead.
    fn check_response(&mut self, _head: &ResponseHead<'_>) -> Result<(), Response> {
        Ok(())
    }

    /// Writes a response header to `to`, changed or unchanged, or omits the header.
    fn forward_response_header(&self, header: Header<'_>, to: &mut Headers<'_>) {
        to.keep(header);
    }

    /// Writes additional headers after those of the response.
    fn add_response_headers(&self, _to: &mut Headers<'_>) {}

    /// Offers another exchange for a request that got no response. Called at most once per request: when the upstream
    /// was not reached, or closed before the first byte of its response to an idempotent request without a body.
    ///
    /// The new upstream receives the same bytes that were written for this exchange. `None` responds with the error.
    fn retry(&mut self, _fault: &ProxyError) -> Option<PendingAction<Self>>
    where
        Self: Sized,
    {
        None
    }

    /// Called once when both ends agreed to a WebSocket, before the 101 and before any frame is forwarded.
    fn on_tunnel_open(&mut self) {}

    /// Called once when a tunnel begins. Once the returned future resolves, no more client data reaches the upstream
    /// and the client gets a close with 1001.
    fn tunnel_end(&mut self) -> Option<TunnelEnd> {
        None
    }

    /// Called once per read before client data enters a tunnel. Data is at least a part of a data frame; pings, pongs
    /// and closes alone do not count. The engine waits for a returned permission; `false` closes the tunnel with 1001.
    fn before_sending(&mut self) -> Option<SendPermission> {
        None
    }

    /// Called once per read when the upstream sent a part of a response body or of a data frame. Control frames of a
    /// tunnel and comments of an event stream do not count: they only keep a connection open.
    fn on_data_received(&self) {}
}
