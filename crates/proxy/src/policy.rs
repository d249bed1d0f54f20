//! What a binary brings: who is asked for what, and what is changed on the way.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::sync::mpsc;

use crate::{Header, Headers, ProxyError, RequestHead, Response, ResponseHead, Upstream};

/// Decides about each request. One per thread; called on that thread only.
pub trait Policy: 'static {
    type Exchange: Exchange;

    /// Where this request goes. Its framing is sound and its hop-by-hop headers are set aside already.
    fn decide(&self, head: &RequestHead<'_>, peer: &Peer) -> Decision<Self::Exchange>;

    /// What the client gets for `fault`. Called once a fault, so this is also where it is logged.
    ///
    /// The engine adds the length, and closes the connection where the fault demands it.
    fn error_response(
        &self,
        error: &ProxyError,
        context: ErrorContext<'_, Self::Exchange>,
    ) -> Response;
}

/// What is known of the request that met a fault.
pub enum ErrorContext<'a, E> {
    /// No head was understood.
    Unparsed,
    /// Not decided about yet.
    Head(&'a RequestHead<'a>),
    /// Under way; its head may be gone by now.
    Exchange(&'a E),
}

/// The other end of a client's connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// `None` over a unix socket.
    pub address: Option<SocketAddr>,
    /// Which of the doors given to [`serve`](crate::serve()) it came through.
    pub listener: usize,
}

pub enum Decision<E> {
    Ready(Action<E>),
    /// Something must be asked first. The future holds what it needs of the head.
    Pending(PendingAction<E>),
}

/// Dropped at once when the client leaves, and after [`Settings::response_timeout`](crate::Settings). Nothing of the
/// request's body is read while it is pending.
pub type PendingAction<E> = Pin<Box<dyn Future<Output = Action<E>>>>;

/// Whether what waits may go on.
pub type SendPermission = Pin<Box<dyn Future<Output = bool>>>;

pub enum Action<E> {
    Forward(E),
    Respond(Response),
    /// An answer of our own that is made as it goes out: [`Response::body`] first, then each part as it comes, until
    /// the sender is dropped. The receiver is dropped when the client leaves, reads nothing for
    /// [`Settings::body_idle_timeout`](crate::Settings), or the drain begins.
    Stream(Response, mpsc::Receiver<Vec<u8>>),
}

/// One request under way, from the decision to the last byte of the answer's body or the end of the tunnel.
///
/// Hooks see end-to-end headers only; framing and hop-by-hop headers (also those that `Connection` names) are
/// the engine's. They are called on fields of trailers too, and `answer_*` on interim (1xx) heads.
pub trait Exchange: 'static {
    fn upstream(&self) -> &Upstream;

    /// The path and query to send; `None` sends what was asked.
    fn target(&self) -> Option<&str> {
        None
    }

    /// Passes a header of the request on, changed or not, or leaves it out.
    fn forward_request_header(&self, header: Header<'_>, to: &mut Headers<'_>) {
        to.keep(header);
    }

    /// Headers of our own, after those of the request.
    fn add_request_headers(&self, _to: &mut Headers<'_>) {}

    /// Looks at the head of an answer before any of it is passed on; an `Err` goes out instead of it.
    fn check_response(&mut self, _head: &ResponseHead<'_>) -> Result<(), Response> {
        Ok(())
    }

    /// Passes a header of the answer on, changed or not, or leaves it out.
    fn forward_response_header(&self, header: Header<'_>, to: &mut Headers<'_>) {
        to.keep(header);
    }

    /// Headers of our own, after those of the answer.
    fn add_response_headers(&self, _to: &mut Headers<'_>) {}

    /// The upstream was not reached (then nothing of any request went out), or it closed before the first byte of an
    /// answer (then only for a request that may be repeated: idempotent and without a body). ErrorContext once a request.
    ///
    /// What the upstream of a new exchange gets is what was written for this one, byte for byte. `None` is the fault.
    fn retry(&mut self, _fault: &ProxyError) -> Option<PendingAction<Self>>
    where
        Self: Sized,
    {
        None
    }

    /// Both ends agreed to a WebSocket; the 101 is about to go out. Once, and before anything passes.
    fn on_tunnel_open(&mut self) {}

    /// The client's data is about to go up a tunnel: part of a data frame at least, not a ping, pong or close alone.
    /// Called once for each read. What is to be waited for first; `false` closes the tunnel with 1001.
    fn before_sending(&mut self) -> Option<SendPermission> {
        None
    }

    /// Data came down, `data` as it was read: of a tunnel (part of a data frame at least), or of an answer's body with
    /// its framing. Not of long bodies whose length was told, which pass without being looked at.
    fn on_data_received(&self, _data: &[u8]) {}
}
