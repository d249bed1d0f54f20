//! An HTTP/1.1 reverse-proxy engine: strict framing, streaming both ways, WebSocket tunnels,
//! graceful drain. It holds no policy and knows no tenant.
//!
//! A binary brings a [`Policy`]: the upstream of each request ([`Policy::decide`]) and the response
//! to an error ([`Policy::error_response`]). The [`Exchange`] of a request lives until the last
//! byte of the response body or the end of the tunnel. A guard that marks a tenant as busy
//! therefore belongs inside the exchange.
//!
//! Each thread runs its own [`serve()`]. Threads share nothing; [`bind`] opens one listening socket
//! per thread.

mod connection;
mod descriptors;
mod error;
mod fetch;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod http;
mod policy;
mod response;
mod runtime;
mod settings;
mod stats;
mod upgrade;

pub use descriptors::{DescriptorBudget, DescriptorDemand, TooFewDescriptors};
pub use error::{ErrorOrigin, ProxyError};
pub use fetch::{FetchRequest, FetchResponse, fetch};
pub use http::head::{Header, RequestHead, ResponseHead, Version};
pub use http::headers::Headers;
pub use policy::{
    Action, Decision, ErrorContext, Exchange, Peer, PendingAction, Policy, SendPermission,
    TunnelEnd,
};
pub use response::Response;
pub use runtime::serve::{bind, serve};
pub use runtime::stream::{Address, Listener, Upstream};
pub use settings::{HeadLimit, Settings};
pub use stats::Stats;
