//! How a request goes on, as far as others must know.

use tokio::sync::mpsc;

use crate::error::ProxyError;
use crate::policy::PendingAction;
use crate::response::Response;

/// Why there is no answer.
pub(crate) enum Trouble {
    Error(ProxyError),
    /// The client went away.
    Gone,
    /// The upstream was not reached, or closed before it said anything.
    Lost(ProxyError),
}

/// What comes next.
pub(crate) enum Step<E> {
    Went(Went),
    Wait(Pause<E>),
}

/// What has to be waited for, seldom enough to cost more.
pub(crate) enum Pause<E> {
    Connect,
    Interim(Vec<u8>),
    Again(PendingAction<E>),
}

/// How it went.
pub(crate) enum Went {
    /// All of both is through.
    Well,
    /// So is the answer, but after it the connection cannot go on, and what is unread would take it back.
    Linger,
    Close,
    /// The head of the 101.
    Tunnel(Vec<u8>),
    /// In place of the upstream's answer.
    Respond(Response),
    Stream(Response, mpsc::Receiver<Vec<u8>>),
}
