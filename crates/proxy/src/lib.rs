//! One HTTP/1.1 request in, one out: strict framing, streaming both ways, tunnels, drain. No policy; knows no tenant.
//!
//! A binary brings a [`Policy`]: who is asked for what ([`Policy::decide`]), and what an error looks like
//! ([`Policy::error_response`]). While a request is under way its [`Exchange`] is held; it is dropped after the last byte
//! of the answer's body, or when the tunnel ends, so whatever must be known to be busy lives inside it.
//!
//! One thread, one [`serve()`]: nothing is shared between threads, and every door may be opened once a thread.

mod body;
mod buffers;
mod chunks;
mod connection;
mod error;
mod exchange;
mod fetch;
mod fields;
mod frames;
mod framing;
mod head;
mod headers;
mod hop;
mod live;
mod policy;
mod pool;
mod pump;
mod response;
mod scan;
mod serve;
mod settings;
mod stats;
mod step;
mod stream;
mod sweep;
mod thread;
mod tunnel;
mod upgrade;
mod wait;
mod way;
mod write;

pub use error::{ErrorOrigin, ProxyError};
pub use fetch::{FetchRequest, FetchResponse, fetch};
pub use head::{Header, RequestHead, ResponseHead, Version};
pub use headers::Headers;
pub use policy::{
    Action, Decision, ErrorContext, Exchange, Peer, PendingAction, Policy, SendPermission,
};
pub use response::Response;
pub use serve::{bind, serve};
pub use settings::{HeadLimit, Settings};
pub use stats::Stats;
pub use stream::{Address, Listener, Upstream};
